"""What is done to a motion before a body follows it: resampling, loops, mirrors, and the way to joint positions."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fpo_torchrl.checks import check_counts
from fpo_torchrl.envs.humanoid import rotations
from fpo_torchrl.envs.humanoid.clip import MotionClip
from fpo_torchrl.envs.humanoid.kinematics import Kinematics
from fpo_torchrl.envs.humanoid.skeleton import HUMANOID, PLANAR_HINGE, Skeleton

_TRAVELS = 0.3  # m; a clip that gets no farther has no direction
_MIRRORED = [
    HUMANOID.names.index(name.replace("left", "right") if "left" in name else name.replace("right", "left"))
    for name in HUMANOID.names
]

_CLEARANCE = 1e-5  # metres, lest a rounding error decide whether a foot touches the ground


def resample(clip: MotionClip, fps: float) -> MotionClip:
    """The same motion at ``fps`` frames per second, with the same first and last frame.

    If the clip's length is no multiple of ``1 / fps``, it plays a little faster or slower.
    """
    last = clip.num_frames - 1
    places = torch.linspace(0, last, max(1, round(last / clip.fps * fps)) + 1, dtype=torch.float64)
    before = places.floor().long().clamp_max(last - 1)
    share = places - before
    return replace(
        clip,
        fps=fps,
        root_pos=torch.lerp(clip.root_pos[:, before], clip.root_pos[:, before + 1], share),
        quats=rotations.slerp(clip.quats[..., before], clip.quats[..., before + 1], share),
    )


def moved(clip: MotionClip, turn: Tensor, shift: Tensor) -> MotionClip:
    """The clip turned about z by ``turn`` (rad) and then shifted by ``shift`` ``[3]``."""
    yaw = rotations.about(2, turn).unsqueeze(-1)
    quats = clip.quats.clone()
    quats[:, 0] = rotations.multiply(yaw, quats[:, 0])
    return replace(clip, root_pos=rotations.rotate(yaw, clip.root_pos) + shift.unsqueeze(-1), quats=quats)


def aligned(clip: MotionClip) -> MotionClip:
    """The clip moved so that it starts above the origin and travels along x; one that stays in place faces x."""
    way = clip.root_pos[:2, -1] - clip.root_pos[:2, 0]
    if way.norm() > _TRAVELS:
        direction = torch.atan2(way[1], way[0])
    else:
        direction = torch.atan2(*reversed(rotations.heading(clip.quats[:, 0, 0])))
    turned = moved(clip, -direction, torch.zeros(3, dtype=torch.float64))
    start = turned.root_pos[:, 0] * torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    return replace(turned, root_pos=turned.root_pos - start.unsqueeze(-1))


def repeated(clip: MotionClip, cycles: int) -> MotionClip:
    """``cycles`` cycles of a clip that loops, each going on where and in the direction in which the last one ended.

    What the last frame lacks to the pose of the first is spread over the whole cycle.
    """
    check_counts(cycles=cycles)
    if not clip.loops or cycles == 1:
        return clip
    cosine, sine = rotations.heading(rotations.multiply(clip.quats[:, 0, -1], rotations.inverse(clip.quats[:, 0, 0])))
    turn = torch.atan2(sine, cosine)
    closed, step = _closed(clip, turn), clip.num_frames - 1
    parts, shift = [], torch.zeros(3, dtype=torch.float64)
    for cycle in range(cycles):
        part = moved(closed, cycle * turn, torch.zeros(3, dtype=torch.float64))
        if parts:
            shift = parts[-1].root_pos[:, -1] - part.root_pos[:, 0]
        parts.append(replace(part, root_pos=part.root_pos + shift.unsqueeze(-1)))
    frames = [slice(0, step)] * (cycles - 1) + [slice(0, step + 1)]
    return replace(
        clip,
        root_pos=torch.cat([part.root_pos[:, kept] for part, kept in zip(parts, frames, strict=True)], dim=-1),
        quats=torch.cat([part.quats[..., kept] for part, kept in zip(parts, frames, strict=True)], dim=-1),
    )


def _closed(clip: MotionClip, turn: Tensor) -> MotionClip:
    """The clip with its last frame in the pose of the first, the root turned by ``turn`` (rad) about z."""
    wanted = clip.quats[..., 0].clone()
    wanted[:, 0] = rotations.multiply(rotations.about(2, turn), wanted[:, 0])
    gap = rotations.to_rotvec(rotations.multiply(rotations.inverse(clip.quats[..., -1]), wanted))
    share = torch.linspace(0, 1, clip.num_frames, dtype=torch.float64)
    root_pos = clip.root_pos.clone()
    root_pos[2] += share * (root_pos[2, 0] - root_pos[2, -1])
    return replace(
        clip,
        root_pos=root_pos,
        quats=rotations.multiply(clip.quats, rotations.from_rotvec(share * gap.unsqueeze(-1))),
    )


def mirrored(clip: MotionClip) -> MotionClip:
    """The motion seen in a mirror: left and right change places, the way ahead stays."""
    flip_pos = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    flip_quat = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    return replace(
        clip,
        name=f"{clip.name}_mirrored",
        root_pos=clip.root_pos * flip_pos[:, None],
        quats=(clip.quats * flip_quat[:, None, None])[:, _MIRRORED],
    )


def joint_positions(clip: MotionClip, kinematics: Kinematics) -> Tensor:
    """The joints of a body that does the motion, on the ground: ``[num_frames, nq]``.

    A hinge takes the part of a rotation that is about its axis, within its stops. The ground is where the lowest
    point of the body is in 5 % of the frames, or below.
    """
    skeleton = kinematics.skeleton
    parts = []
    for number, body in enumerate(skeleton.bodies):
        quat = clip.quats[:, number]
        if body.joint == "free":
            parts += [clip.root_pos, rotations.canonical(quat)]
        elif body.joint == "planar":
            parts += [clip.root_pos[::2], rotations.twist(quat, PLANAR_HINGE).unsqueeze(0)]
        elif body.joint == "ball":
            parts.append(rotations.canonical(quat))
        elif body.joint == "hinge":
            low, high = body.flexion or (-math.inf, math.inf)
            parts.append(rotations.twist(quat, PLANAR_HINGE).clamp(low, high).unsqueeze(0))
    qpos = torch.cat(parts).T.contiguous()
    bodies = kinematics(qpos, qpos.new_zeros(len(qpos), skeleton.num_velocities))
    ground = kinematics.lowest_point(bodies).double().quantile(0.05) - _CLEARANCE
    qpos[:, 1 if skeleton.is_planar else 2] -= ground
    return qpos


def joint_velocities(qpos: Tensor, skeleton: Skeleton, dt: float) -> Tensor:
    """Velocities ``[num_frames, nv]`` of joint positions ``dt`` seconds apart, by central differences."""
    ends = torch.cat([qpos[:1], qpos[:-1]]), torch.cat([qpos[1:], qpos[-1:]])
    spans = torch.full((len(qpos), 1), 2 * dt, dtype=torch.float64)
    spans[0] = spans[-1] = dt
    return joint_differences(*ends, skeleton) / spans


def joint_differences(start: Tensor, end: Tensor, skeleton: Skeleton) -> Tensor:
    """The velocities ``[n, nv]`` that lead from joint positions ``start`` to ``end`` ``[n, nq]`` in one second."""
    parts = []
    for body in skeleton.bodies:
        columns = skeleton.position_columns[body.name]
        before, after = start.T[columns], end.T[columns]
        if body.joint == "free":
            parts.append(after[:3] - before[:3])
            before, after = before[3:], after[3:]
        if body.joint in ("free", "ball"):
            parts.append(rotations.to_rotvec(rotations.multiply(rotations.inverse(before), after)))
        elif body.joint in ("planar", "hinge"):
            slides = 2 if body.joint == "planar" else 0
            turn = after[slides:] - before[slides:]
            parts += [after[:slides] - before[:slides], torch.remainder(turn + torch.pi, 2 * torch.pi) - torch.pi]
    return torch.cat(parts).T.contiguous()
