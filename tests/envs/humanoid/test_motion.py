"""Resampling, loops, mirrors, joint velocities and the library, on motions whose numbers are known."""

from __future__ import annotations

import os
from dataclasses import replace

import mujoco
import numpy as np
import pytest
import torch
from motions import write_npz

from fpo_torchrl.envs.humanoid import (
    HUMANOID,
    SKELETONS,
    MotionClip,
    MotionError,
    MotionLibrary,
    goal_ambiguity,
    load_clip,
    rotations,
)
from fpo_torchrl.envs.humanoid.kinematics import Kinematics
from fpo_torchrl.envs.humanoid.model import build_spec
from fpo_torchrl.envs.humanoid.motion import aligned, joint_differences, joint_velocities, mirrored, repeated, resample
from fpo_torchrl.envs.humanoid.stroll import stroll

RECORDED = os.environ.get("FPO_MOTIONS")


def wandering(num_frames: int = 13, fps: float = 60.0) -> MotionClip:
    """A clip of random smooth motion."""
    generator = torch.Generator().manual_seed(3)

    def smooth(*shape: int) -> torch.Tensor:
        ends = torch.randn(*shape, 2, dtype=torch.float64, generator=generator)
        share = torch.linspace(0, 1, num_frames, dtype=torch.float64)
        return ends[..., :1] * (1 - share) + 0.5 * ends[..., 1:] * share.sin()

    return MotionClip("wandering", fps, smooth(3), rotations.from_rotvec(smooth(3, 15)), loops=False)


def test_resampling_keeps_the_ends_and_halves_the_rate():
    clip, half = wandering(), resample(wandering(), 30.0)
    assert (half.num_frames, half.fps) == (7, 30.0)
    for frame, original in ((0, 0), (3, 6), (6, 12)):
        torch.testing.assert_close(half.root_pos[:, frame], clip.root_pos[:, original])
        same = (half.quats[..., frame] * clip.quats[..., original]).sum(0).abs()
        torch.testing.assert_close(same, torch.ones_like(same))


def test_resampling_takes_the_shorter_way_between_rotations():
    """Halfway between no turn and half a turn about z, given as its negative, is a quarter turn."""
    quats = torch.zeros(4, 15, 2, dtype=torch.float64)
    quats[0] = 1
    quats[:, 0, 1] = torch.tensor([-(0.5**0.5), 0, 0, -(0.5**0.5)])
    clip = MotionClip("turn", 30.0, torch.zeros(3, 2, dtype=torch.float64), quats, loops=False)
    middle = resample(clip, 60.0).quats[:, 0, 1]
    np.testing.assert_allclose(middle.abs(), [np.cos(np.pi / 8), 0, 0, np.sin(np.pi / 8)], atol=1e-12)


def test_a_mirror_image_twice_is_the_motion_itself():
    twice = mirrored(mirrored(wandering()))
    assert torch.equal(twice.quats, wandering().quats)
    assert torch.equal(twice.root_pos, wandering().root_pos)


def test_a_mirror_image_swaps_the_sides_of_every_body():
    """Body by body: the mirror image of the left hand is where the right hand is, with y turned round."""
    kinematics, swap = Kinematics(HUMANOID), HUMANOID.index([swapped(name) for name in HUMANOID.names])
    pos = [
        MotionLibrary([it], HUMANOID, mirror=False).joints(*all_frames(7))
        for it in (wandering(), mirrored(wandering()))
    ]
    here, there = (kinematics(*joints).pos for joints in pos)
    flip = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(there, flip * here[:, swap], atol=1e-9, rtol=0)


def swapped(name: str) -> str:
    side = {"left": "right", "right": "left"}.get(name.partition("_")[0])
    return name if side is None else f"{side}_{name.partition('_')[2]}"


def all_frames(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(count, dtype=torch.int64), torch.arange(count)


def test_a_clip_starts_above_the_origin_and_goes_ahead():
    clip = aligned(replace(stroll(), root_pos=stroll().root_pos[[1, 0, 2]] + 5.0))
    assert clip.root_pos[:2, 0].abs().max() == 0
    assert clip.root_pos[0, -1] == pytest.approx(stroll().root_pos[0, -1].item())
    assert clip.root_pos[1].abs().max() < 1e-9


def test_cycles_join_without_a_jump():
    once, thrice = stroll(), repeated(stroll(), 3)
    steps = once.num_frames - 1
    assert thrice.num_frames == 3 * steps + 1
    assert thrice.root_pos[0, -1] == pytest.approx(3 * once.root_pos[0, -1].item())
    largest = once.root_pos.diff(dim=-1).norm(dim=0).max()
    assert thrice.root_pos.diff(dim=-1).norm(dim=0).max() <= largest + 1e-9


def test_cycles_go_on_in_the_direction_of_the_last_one():
    """A quarter turn and a metre ahead in each of four cycles lead back to the start, over the corners of a square."""
    quats = torch.zeros(4, 15, 7, dtype=torch.float64)
    quats[0] = 1
    quats[:, 0] = rotations.about(2, torch.linspace(0, np.pi / 2, 7, dtype=torch.float64))
    root_pos = torch.zeros(3, 7, dtype=torch.float64)
    root_pos[0] = torch.linspace(0, 1, 7)
    square = repeated(MotionClip("square", 30.0, root_pos, quats, loops=True), 4).root_pos[:2, ::6]
    np.testing.assert_allclose(square.T, [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], atol=1e-9)


@pytest.mark.parametrize("name", SKELETONS)
def test_joint_differences_are_mujocos(name):
    model, generator = build_spec(SKELETONS[name]).compile(), np.random.default_rng(4)
    start, end, expected = model.qpos0.copy(), model.qpos0.copy(), np.zeros(model.nv)
    for qpos in (start, end):
        mujoco.mj_integratePos(model, qpos, generator.normal(size=model.nv), 1.0)
    mujoco.mj_differentiatePos(model, expected, 1.0, start, end)
    found = joint_differences(torch.tensor(start)[None], torch.tensor(end)[None], SKELETONS[name])
    np.testing.assert_allclose(found[0], expected, atol=1e-9)


def test_velocities_are_central_differences():
    """x = t^2 has the velocity 2t at inner frames, and half a step's error at the ends."""
    qpos = torch.zeros(5, 15, dtype=torch.float64)
    qpos[:, 0] = (0.1 * torch.arange(5, dtype=torch.float64)) ** 2
    found = joint_velocities(qpos, SKELETONS["planar"], 0.1)[:, 0]
    np.testing.assert_allclose(found, [0.1, 0.2, 0.4, 0.6, 0.7], atol=1e-9)


@pytest.mark.parametrize("name", SKELETONS)
def test_the_walk_of_sines_stays_on_the_ground_and_does_not_slide(name):
    library = MotionLibrary([stroll()], SKELETONS[name], cycles=2)
    frames = all_frames(int(library.num_frames[0]))
    kinematics = Kinematics(SKELETONS[name])
    bodies = kinematics(*library.joints(*frames))
    assert kinematics.lowest_point(bodies).abs().max() < 0.01
    feet = bodies.vel[0, SKELETONS[name].index(["left_foot", "right_foot"])]
    assert feet.abs().amin(0)[1:-1].median() < 0.05  # one of them stands
    assert library.names == ["stroll", "stroll_mirrored"]


def test_a_motion_and_its_mirror_image_share_the_root_but_not_the_limbs():
    found = goal_ambiguity(MotionLibrary([stroll()], SKELETONS["planar"]))
    assert found["root_gap_m"] < 1e-6
    assert found["ambiguous"] > 0.3
    with pytest.raises(ValueError, match="mirror=True"):
        goal_ambiguity(MotionLibrary([stroll()], SKELETONS["planar"], mirror=False))


def test_what_makes_no_library_is_refused(tmp_path):
    clip = load_clip(write_npz(tmp_path / "fast.npz", fps=1000.0))
    with pytest.raises(MotionError, match="needs at least 2 control steps, this one has 1 at 30 Hz"):
        MotionLibrary([clip], HUMANOID)
    with pytest.raises(MotionError, match="two motions are called stroll"):
        MotionLibrary([stroll(), stroll()], HUMANOID)
    with pytest.raises(MotionError, match="there is no motion walk; there are fast"):
        MotionLibrary.load(tmp_path, HUMANOID, clips=["walk"])
    (tmp_path / "more").mkdir()
    write_npz(tmp_path / "more" / "fast.npz")
    with pytest.raises(MotionError, match="two motions are called fast: rename one of the files"):
        MotionLibrary.load(tmp_path, HUMANOID, clips=["fast"])
    with pytest.raises(MotionError, match="give at least one"):
        MotionLibrary([], HUMANOID)
    with pytest.raises(ValueError, match="cycles must be at least 1"):
        MotionLibrary([stroll()], HUMANOID, cycles=0)


@pytest.mark.skipif(not RECORDED, reason="FPO_MOTIONS names no folder of recorded motions")
@pytest.mark.parametrize("name", ["humanoid3d_walk", "amp_humanoid_walk"])
def test_recorded_walks_have_their_feet_on_the_ground(name):
    library = MotionLibrary.load(RECORDED, HUMANOID, clips=[name], cycles=1)
    low = Kinematics(HUMANOID).lowest_point(library.bodies(*all_frames(int(library.num_frames[0]))))
    assert low.min() > -0.02
    assert low.max() < 0.1
