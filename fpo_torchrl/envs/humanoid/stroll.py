"""A walk that nobody recorded, so that the humanoid tasks need no data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fpo_torchrl.envs.humanoid import rotations
from fpo_torchrl.envs.humanoid.clip import MotionClip
from fpo_torchrl.envs.humanoid.skeleton import HUMANOID, PLANAR_HINGE

_FPS, _NUM_FRAMES = 30.0, 25  # 0.8 s
_STEP, _HIP_HEIGHT, _LIFT = 0.24, 0.80, 0.10  # m: length of a step, hips above ankles, lift of the foot that swings
_ANKLE_HEIGHT = 0.05  # m above the sole
_ARM_SWING, _ELBOW = 0.3, -0.35  # rad
_THIGH, _SHIN = (-HUMANOID.bodies[HUMANOID.names.index(name)].offset[2] for name in ("left_shin", "left_foot"))


def stroll() -> MotionClip:
    """One cycle of a slow walk, 0.6 m/s, that loops: level hips at constant speed, one foot on the ground at a time."""
    phase = torch.linspace(0, 1, _NUM_FRAMES, dtype=torch.float64)
    quats = torch.zeros(4, len(HUMANOID.bodies), _NUM_FRAMES, dtype=torch.float64)
    quats[0] = 1
    for side, turn in (("right", phase), ("left", (phase + 0.5) % 1)):
        thigh, knee = _leg(*_ankle(turn))
        arm = _ARM_SWING * (2 * math.pi * turn).cos()
        bends = {"thigh": thigh, "shin": knee, "foot": -thigh - knee}
        bends |= {"upper_arm": arm, "lower_arm": torch.full_like(turn, _ELBOW)}
        for name, bend in bends.items():
            quats[:, HUMANOID.names.index(f"{side}_{name}")] = rotations.about(PLANAR_HINGE, bend)
    root_pos = torch.zeros(3, _NUM_FRAMES, dtype=torch.float64)
    root_pos[0], root_pos[2] = 2 * _STEP * phase, _HIP_HEIGHT + _ANKLE_HEIGHT
    return MotionClip("stroll", _FPS, root_pos, quats, loops=True)


def _ankle(phase: Tensor) -> tuple[Tensor, Tensor]:
    """Where an ankle is ahead of and below its hip (m): on the ground in the first half, in the air in the second."""
    swing = (2 * phase - 1).clamp_min(0)
    ahead = torch.where(phase < 0.5, 0.5 - 2 * phase, -0.5 * (math.pi * swing).cos())
    return _STEP * ahead, _HIP_HEIGHT - _LIFT * (math.pi * swing).sin()


def _leg(ahead: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """Angles (rad) of thigh and knee that bring the ankle there, by the law of cosines."""
    reach = torch.hypot(ahead, below)
    knee = math.pi - torch.acos((_THIGH**2 + _SHIN**2 - reach**2) / (2 * _THIGH * _SHIN))
    return torch.atan2(-ahead, below) - torch.asin(_SHIN * knee.sin() / reach), knee
