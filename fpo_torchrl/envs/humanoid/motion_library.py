"""Every frame of every motion, ready to be looked up on any device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fpo_torchrl.envs.humanoid.clip import MotionClip, MotionError, check_names, find_clips, load_clip, select_clips
from fpo_torchrl.envs.humanoid.kinematics import BodyStates, Kinematics
from fpo_torchrl.envs.humanoid.motion import aligned, joint_positions, joint_velocities, mirrored, repeated, resample
from fpo_torchrl.envs.humanoid.skeleton import Skeleton
from fpo_torchrl.envs.humanoid.stroll import stroll

_MIN_FRAMES = 3
_SHOWN = 5  # motions in a message


class MotionLibrary:
    """Motions as a body does them, a frame for each control step.

    Args:
        clips: what to do, in the order of their numbers.
        skeleton: the body.
        fps (float): control steps per second.
        mirror (bool): after each motion, also its mirror image. From the root alone the two cannot be told apart.
        cycles (int): how often a motion that loops is repeated.
        device: where the states are looked up.
        dtype: of the states of bodies.

    Raises:
        MotionError: for a motion of fewer than two control steps, two of one name, or none at all.
    """

    def __init__(
        self,
        clips: Sequence[MotionClip],
        skeleton: Skeleton,
        *,
        fps: float = 30.0,
        mirror: bool = True,
        cycles: int = 3,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        prepared = [aligned(repeated(resample(clip, fps), cycles)) for clip in clips]
        if mirror:
            prepared = [it for clip in prepared for it in (clip, mirrored(clip))]
        _check(prepared, fps)
        self.skeleton, self.fps, self.has_mirrors = skeleton, fps, mirror
        self.names = [clip.name for clip in prepared]
        kinematics = Kinematics(skeleton)
        qpos = [joint_positions(clip, kinematics) for clip in prepared]
        qvel = [joint_velocities(it, skeleton, 1 / fps) for it in qpos]
        lengths = torch.tensor([len(it) for it in qpos])
        self.num_frames = lengths.to(device)
        self._lengths = dict(zip(self.names, lengths.tolist(), strict=True))
        self._first = (lengths.cumsum(0) - lengths).to(device)
        self._qpos, self._qvel = torch.cat(qpos), torch.cat(qvel)
        bodies = kinematics(self._qpos, self._qvel)
        states = torch.cat([bodies.pos, bodies.quat, bodies.vel, bodies.angvel]).flatten(0, 1).T
        self._states = states.to(device, dtype).contiguous()  # a row for each frame, to read memory in order
        num_frames, width = self._states.shape
        self._pairs = self._states.as_strided((num_frames - 1, 2 * width), (width, 1))  # a view; its rows overlap
        self._qpos, self._qvel = self._qpos.to(device), self._qvel.to(device)

    @classmethod
    def load(
        cls, path: str | Path | None, skeleton: Skeleton, *, clips: Sequence[str] | None = None, **settings
    ) -> MotionLibrary:
        """The motions at ``path``, a file or a folder; without one, a walk made of sines.

        Args:
            path: where the motions are.
            skeleton: the body.
            clips: names of those to take, a file's without its ending; None for all.
            settings: as for the class.
        """
        found = [stroll()] if path is None else [load_clip(it) for it in find_clips(path)]
        return cls(found if clips is None else select_clips(found, clips), skeleton, **settings)

    def __len__(self) -> int:
        """Motions, mirror images among them."""
        return len(self.names)

    @property
    def inventory(self) -> Tensor:
        """Names and lengths of the motions, in order: JSON, as uint8 ``[n]`` that a state can be saved with."""
        return torch.frombuffer(bytearray(json.dumps(self._lengths).encode()), dtype=torch.uint8)

    def check_inventory(self, saved: Tensor) -> None:
        """Refuse a state that was saved with the :attr:`inventory` of other motions: ``ValueError`` with those."""
        there, here = json.loads(bytes(saved.tolist())), self._lengths
        if list(there.items()) == list(here.items()):
            return
        frames = {name: (there.get(name, 0), here.get(name, 0)) for name in {**there, **here}}
        other = [f"{name} ({one} frames then, {two} now)" for name, (one, two) in frames.items() if one != two]
        more = f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
        raise ValueError(
            f"the state was saved with other motions: {', '.join(other[:_SHOWN]) or 'in another order'}{more}. Take "
            "the motions, clips, mirror and cycles that it was saved with"
        )

    def joints(self, clip: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Joint positions ``[n, nq]`` and velocities ``[n, nv]`` in these frames; both int64 ``[n]``."""
        row = self._first[clip] + frame
        return self._qpos[row], self._qvel[row]

    def bodies(self, clip: Tensor, frame: Tensor) -> BodyStates:
        """The bodies in these frames; the batch is ``[n]``."""
        return self._unpacked(self._states.index_select(0, self._first[clip] + frame).T.contiguous())

    def now_and_next(self, clip: Tensor, frame: Tensor) -> tuple[BodyStates, BodyStates]:
        """The bodies in these frames and in those that follow."""
        now, following = self._pairs.index_select(0, self._first[clip] + frame).T.contiguous().chunk(2)
        return self._unpacked(now), self._unpacked(following)

    def _unpacked(self, states: Tensor) -> BodyStates:
        """The bodies of ``states`` ``[13 * num_bodies, n]``."""
        return BodyStates(*states.unflatten(0, (13, -1)).split([3, 4, 3, 3]))


def _check(clips: Sequence[MotionClip], fps: float) -> None:
    if not clips:
        raise MotionError("there is no motion: give at least one")
    check_names([clip.name for clip in clips])
    for clip in clips:
        if clip.num_frames < _MIN_FRAMES:
            raise MotionError(
                f"{clip.name}: a motion needs at least 2 control steps, this one has {clip.num_frames - 1} "
                f"at {fps:g} Hz"
            )


def goal_ambiguity(library: MotionLibrary, *, radius: float = 0.25) -> dict[str, float]:
    """How little the root's path tells: the comparison of every motion with its mirror image, frame by frame.

    Returns:
        ``root_gap_m``, the mean distance of the two roots, and ``ambiguous``, the share of frames in which some body
        is more than ``radius`` metres from where the mirror image has it.

    Raises:
        ValueError: if the library has no mirror images.
    """
    if not library.has_mirrors:
        raise ValueError("goal_ambiguity compares motions with their mirror images: build the library with mirror=True")
    gaps, far = [], []
    for number in range(0, len(library), 2):
        frames = torch.arange(int(library.num_frames[number]), device=library.num_frames.device)
        one, other = (library.bodies(torch.full_like(frames, number + i), frames).pos for i in (0, 1))
        distance = (one - other).norm(dim=0)
        gaps.append(distance[0])
        far.append((distance > radius).any(0))
    return {"root_gap_m": torch.cat(gaps).mean().item(), "ambiguous": torch.cat(far).double().mean().item()}
