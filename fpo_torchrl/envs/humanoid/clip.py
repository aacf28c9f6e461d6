"""Recorded motions: read from files, checked and repaired."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fpo_torchrl.envs.humanoid import rotations
from fpo_torchrl.envs.humanoid.skeleton import HUMANOID, PLANAR_HINGE

_MIN_FRAMES = 5
_FPS = (1, 10_000)  # least and most
_LARGEST_GAP = 1.0  # rad between the ends of a clip that loops
_DEEPMIMIC = (
    *("pelvis", "torso", "head", "right_thigh", "right_shin", "right_foot", "right_upper_arm", "right_lower_arm"),
    *("left_thigh", "left_shin", "left_foot", "left_upper_arm", "left_lower_arm"),
)
"""The bodies of a DeepMimic frame, in its order."""


class MotionError(ValueError):
    """A file holds no usable motion; the message says which file, which frame and why."""


@dataclass(frozen=True)
class MotionClip:
    """A motion of the full skeleton, whatever body later follows it.

    Args:
        name: what reports call it.
        fps: frames per second.
        root_pos: of the pelvis (m), float64 ``[3, num_frames]``, z up.
        quats: rotation of each body of :data:`~fpo_torchrl.envs.humanoid.skeleton.HUMANOID` in its parent, of the
            root in the world: float64 ``[4, num_bodies, num_frames]``.
        loops: whether the last frame leads back to the pose of the first.
    """

    name: str
    fps: float
    root_pos: Tensor
    quats: Tensor
    loops: bool

    @property
    def num_frames(self) -> int:
        """Frames, the last one included."""
        return self.root_pos.shape[-1]


def load_clip(path: str | Path) -> MotionClip:
    """Read a motion: DeepMimic's ``.txt`` or ``.json``, or an ``.npz`` of our own.

    An ``.npz`` holds ``fps``, ``body_names`` ``[15]`` in any order, ``root_pos`` ``[frames, 3]`` (m, z up),
    ``local_quat_wxyz`` ``[frames, 15, 4]``, each body in its parent, and optionally ``loop`` (``"wrap"``
    or ``"none"``). Quaternions are normalised, with a warning if that changes them by more than 1 %.

    Raises:
        MotionError: if the file cannot be read or what it holds is no motion of this skeleton.
    """
    path = Path(path)
    readers = {".txt": _read_deepmimic, ".json": _read_deepmimic, ".npz": _read_npz}
    if path.suffix not in readers:
        raise MotionError(f"{path}: expected a file that ends in {', '.join(readers)}")
    if not path.is_file():
        raise MotionError(f"{path}: there is no such file")
    fps, root_pos, quats, loop = readers[path.suffix](path)
    return _checked(path, fps, root_pos, quats, loop)


def _read_deepmimic(path: Path) -> tuple[Any, np.ndarray, np.ndarray, str]:
    """A frame is its duration (s), the root's position and the joints' rotations; y is up there, and z right."""
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise MotionError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("Frames"), list):
        raise MotionError(f'{path}: a DeepMimic motion is a JSON object with the list "Frames"')
    widths = [3, *(1 if HUMANOID.bodies[HUMANOID.names.index(name)].joint == "hinge" else 4 for name in _DEEPMIMIC)]
    num_columns = 1 + sum(widths)
    for number, frame in enumerate(content["Frames"]):
        if not isinstance(frame, list) or len(frame) != num_columns:
            size = len(frame) if isinstance(frame, list) else type(frame).__name__
            raise MotionError(f"{path}, frame {number}: expected {num_columns} numbers, got {size}")
    try:
        frames = np.array(content["Frames"], dtype=np.float64).reshape(-1, num_columns)
    except (TypeError, ValueError) as error:
        raise MotionError(f"{path}: a frame holds something that is no number ({error})") from error
    durations = frames[:-1, 0]
    if len(durations) and np.ptp(durations) > 1e-4:
        raise MotionError(f"{path}: frames last between {durations.min()} and {durations.max()} s, expected one length")
    root, *joints = np.split(frames[:, 1:], np.cumsum(widths)[:-1], axis=1)
    quats = np.tile([1.0, 0, 0, 0], (len(frames), len(HUMANOID.bodies), 1))
    for name, joint in zip(_DEEPMIMIC, joints, strict=True):
        quats[:, HUMANOID.names.index(name)] = _turned(joint) if joint.shape[1] == 4 else _bent(joint[:, 0])
    if len(durations) and not durations[0] > 0:
        raise MotionError(f"{path}, frame 0: the first number is how long the frame lasts, got {durations[0]} s")
    fps = 1 / durations[0] if len(durations) else _FPS[0]
    return fps, root[:, [0, 2, 1]] * [1, -1, 1], quats, content.get("Loop", "none")


def _turned(quat: np.ndarray) -> np.ndarray:
    return quat[:, [0, 1, 3, 2]] * [1, 1, -1, 1]


def _bent(angle: np.ndarray) -> np.ndarray:
    return rotations.about(PLANAR_HINGE, -torch.from_numpy(angle)).T.numpy()


def _read_npz(path: Path) -> tuple[Any, np.ndarray, np.ndarray, str]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {key: archive[key] for key in archive}
    except Exception as error:  # damaged archives make numpy and zipfile raise all kinds
        raise MotionError(f"{path}: cannot be read as an npz without pickled objects ({error})") from error
    missing = {"fps", "body_names", "root_pos", "local_quat_wxyz"} - set(content)
    if missing:
        raise MotionError(f"{path}: lacks the entries {sorted(missing)}, it has {sorted(content)}")
    names = [str(name) for name in np.atleast_1d(content["body_names"])]
    if sorted(names) != sorted(HUMANOID.names):
        extra, absent = sorted(set(names) - set(HUMANOID.names)), sorted(set(HUMANOID.names) - set(names))
        raise MotionError(f"{path}: its bodies are not those of the skeleton; unknown: {extra}, missing: {absent}")
    root_pos, quats = content["root_pos"], content["local_quat_wxyz"]
    if not {root_pos.dtype.kind, quats.dtype.kind} <= set("fiu"):
        raise MotionError(
            f"{path}: root_pos and local_quat_wxyz must be numbers, they are {root_pos.dtype} and {quats.dtype}"
        )
    if root_pos.ndim != 2 or root_pos.shape[1] != 3 or quats.shape != (len(root_pos), len(names), 4):
        raise MotionError(
            f"{path}: expected root_pos [frames, 3] and local_quat_wxyz [frames, {len(names)}, 4], got "
            f"{list(root_pos.shape)} and {list(quats.shape)}"
        )
    order = [names.index(name) for name in HUMANOID.names]
    fps = content["fps"].item() if content["fps"].size == 1 else math.nan
    return fps, root_pos, quats[:, order], str(content.get("loop", "none"))


def _checked(path: Path, fps: Any, root_pos: np.ndarray, quats: np.ndarray, loop: str) -> MotionClip:
    """The clip, if these numbers make one."""
    if len(root_pos) < _MIN_FRAMES:
        raise MotionError(f"{path}: a motion needs at least {_MIN_FRAMES} frames, this one has {len(root_pos)}")
    if not (isinstance(fps, int | float) and _FPS[0] <= fps <= _FPS[1]):
        raise MotionError(f"{path}: frames per second must be between {_FPS[0]} and {_FPS[1]}, got {fps}")
    if loop not in ("wrap", "none"):
        raise MotionError(f'{path}: Loop must be "wrap" or "none", got {loop!r}')
    finite = np.isfinite(root_pos).all(1) & np.isfinite(quats).all((1, 2))
    if not finite.all():
        raise MotionError(f"{path}, frame {finite.argmin()}: a number is not finite")
    norms = np.linalg.norm(quats, axis=-1)
    off = np.abs(norms - 1).max(1)
    if off.max() > 0.5:
        raise MotionError(
            f"{path}, frame {off.argmax()}: a rotation is a quaternion of length 1, the length of this one is off by "
            f"{off.max():.2g}"
        )
    if off.max() > 1e-2:
        warnings.warn(f"{path}: quaternions are normalised, their length is off by up to {off.max():.2g}", stacklevel=4)
    unit = torch.from_numpy(quats / norms[..., None]).double().permute(2, 1, 0).contiguous()
    clip = MotionClip(
        path.stem, float(fps), torch.from_numpy(root_pos).double().T.contiguous(), unit, loops=loop == "wrap"
    )
    if clip.loops:
        gap = end_gap(clip)
        if gap > _LARGEST_GAP:
            raise MotionError(
                f"{path}: it says that it loops, but a joint of its last frame is {gap:.2f} rad away from the first"
            )
    return clip


def end_gap(clip: MotionClip) -> float:
    """The largest angle (rad) between a joint in the first and in the last frame."""
    ends = clip.quats[:, 1:, 0], clip.quats[:, 1:, -1]
    return rotations.distance(ends[0], ends[1]).max().item()


def find_clips(path: str | Path) -> list[Path]:
    """The motions at ``path``: a file, or all in a folder and those below, by name.

    A folder's ``.txt`` and ``.json`` files count if they have the word "Frames" in them.

    Raises:
        MotionError: if there are none.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    found = sorted(it for it in path.rglob("*") if it.suffix in (".txt", ".json", ".npz") and _may_be_motion(it))
    if not found:
        what = "a folder without motions" if path.is_dir() else "neither a file nor a folder"
        raise MotionError(f"{path} is {what}: give a .txt or .json of DeepMimic's, an .npz, or a folder of them")
    return found


def _may_be_motion(path: Path) -> bool:
    return path.is_file() and (path.suffix == ".npz" or b'"Frames"' in path.read_bytes())


def select_clips(clips: Sequence[MotionClip], names: Sequence[str]) -> list[MotionClip]:
    """The clips of these names, in this order; ``MotionError`` for one that is not there."""
    by_name = {clip.name: clip for clip in clips}
    check_names([clip.name for clip in clips if clip.name in names])
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise MotionError(f"there is no motion {', '.join(unknown)}; there are {', '.join(sorted(by_name))}")
    return [by_name[name] for name in names]


def check_names(names: Sequence[str]) -> None:
    """Refuse motions of one name: ``MotionError`` with those that occur twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise MotionError(f"two motions are called {', '.join(twice)}: rename one of the files")
