"""Motion files made in memory, so that no test needs a recording."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fpo_torchrl.envs.humanoid.skeleton import HUMANOID


def standing(num_frames: int) -> dict:
    """The entries of an npz whose pelvis moves along x at 1 m/s (30 fps), in the rest pose."""
    quats = np.zeros((num_frames, 15, 4))
    quats[..., 0] = 1
    root_pos = np.zeros((num_frames, 3))
    root_pos[:, 0], root_pos[:, 2] = np.arange(num_frames) / 30, 0.9
    return {"fps": 30.0, "body_names": np.array(HUMANOID.names), "root_pos": root_pos, "local_quat_wxyz": quats}


def write_npz(path: Path, **changes) -> Path:
    """An npz of :func:`standing` with some entries changed; None leaves one out."""
    content = {**standing(changes.pop("num_frames", 10)), **changes}
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    return path


def deepmimic_frame(duration: float = 1 / 30, **joints: list[float]) -> list[float]:
    """A DeepMimic frame at rest; joints by its names, and ``position`` of the root."""
    one = [1.0, 0.0, 0.0, 0.0]
    order = {"position": [0.0, 0.9, 0.0], "root": one, "chest": one, "neck": one}
    for side in ("right", "left"):
        order |= {f"{side}_hip": one, f"{side}_knee": [0.0], f"{side}_ankle": one}
        order |= {f"{side}_shoulder": one, f"{side}_elbow": [0.0]}
    return [duration, *(number for values in (order | joints).values() for number in values)]


def write_deepmimic(path: Path, frames: list, loop: str = "none") -> Path:
    """A DeepMimic file."""
    path.write_text(json.dumps({"Loop": loop, "Frames": frames}))
    return path
