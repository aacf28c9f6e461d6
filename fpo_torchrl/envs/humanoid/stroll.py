"""A walk that nobody recorded, so that the humanoid tasks need no data."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from fpo_torchrl.envs.humanoid import rotations
from fpo_torchrl.envs.humanoid.clip import MotionClip
from fpo_torchrl.envs.humanoid.kinematics import Kinematics
from fpo_torchrl.envs.humanoid.motion import joint_positions
from fpo_torchrl.envs.humanoid.skeleton import HUMANOID, PLANAR_HINGE

_FPS, _NUM_FRAMES = 30.0, 37  # 1.2 s
_STRIDE, _LIFT, _CROUCH = 0.38, 0.9, 0.12  # rad: swing of the thigh, bend of the lifted knee, and of the other
_ARM_SWING, _ELBOW = 0.35, -0.35  # rad


def stroll() -> MotionClip:
    """One cycle of a slow walk made of sines, about 1 m/s, that loops.

    The feet stay level and the one that stands does not slide: the pelvis goes where that foot lets it.
    """
    phase = torch.linspace(0, 2 * math.pi, _NUM_FRAMES, dtype=torch.float64)
    quats = torch.zeros(4, len(HUMANOID.bodies), _NUM_FRAMES, dtype=torch.float64)
    quats[0] = 1

    def bend(name: str, turn: torch.Tensor) -> None:
        quats[:, HUMANOID.names.index(name)] = rotations.about(PLANAR_HINGE, turn)

    for side, lead in (("right", phase), ("left", phase + math.pi)):
        thigh = -_STRIDE * lead.sin() - _CROUCH / 2
        knee = _CROUCH + _LIFT * lead.cos().clamp_min(0)  # bent while the thigh swings forward
        bend(f"{side}_thigh", thigh)
        bend(f"{side}_shin", knee)
        bend(f"{side}_foot", -thigh - knee)
        bend(f"{side}_upper_arm", _ARM_SWING * lead.sin())
        bend(f"{side}_lower_arm", torch.full_like(lead, _ELBOW))

    still = MotionClip("stroll", _FPS, torch.zeros(3, _NUM_FRAMES, dtype=torch.float64), quats, loops=True)
    kinematics = Kinematics(HUMANOID)
    qpos = joint_positions(still, kinematics)
    bodies = kinematics(qpos, qpos.new_zeros(_NUM_FRAMES, HUMANOID.num_velocities))
    ankles = bodies.pos[:, HUMANOID.index(["right_foot", "left_foot"])]
    right_stands = (phase[1:] + phase[:-1]).div(2).cos() < 0
    back = torch.where(right_stands, *ankles[0].diff(dim=-1))
    root_pos = torch.zeros(3, _NUM_FRAMES, dtype=torch.float64)
    root_pos[0, 1:] = -back.cumsum(0)
    root_pos[2] = qpos[:, 2] - kinematics.lowest_point(bodies)
    return replace(still, root_pos=root_pos)
