"""Scores of tracking: position errors by hand and by SciPy, and episodes whose course is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from scipy.spatial.transform import Rotation
from tensordict.nn import TensorDictModule

from fpo_torchrl.envs.humanoid import HumanoidEnv
from fpo_torchrl.report.humanoid_scores import evaluate_tracking, position_errors


def make(num_envs: int = 2, **settings) -> HumanoidEnv:
    return HumanoidEnv(
        "humanoid/planar", num_envs=num_envs, num_threads=1, spread_episodes=False, random_start=False, **settings
    )


def scripted(env: HumanoidEnv, put_back) -> TensorDictModule:
    """A policy that acts on nothing and calls ``put_back`` before each step."""

    def act(observation: torch.Tensor) -> torch.Tensor:
        put_back()
        return torch.zeros(env.action_spec.shape)

    return TensorDictModule(act, in_keys=["observation"], out_keys=["action"])


def test_errors_of_a_shifted_body():
    """All bodies 0.3 m off along y: 300 mm, nothing from the root, and nothing after alignment."""
    reference = torch.randn(3, 15, 2)
    errors = position_errors(reference + torch.tensor([0.0, 0.3, 0.0])[:, None, None], reference)
    assert errors["global"].tolist() == pytest.approx([300.0] * 2, abs=1e-3)
    assert errors["local"].abs().max() < 1e-3
    assert errors["procrustes"].abs().max() < 1e-3


def test_errors_of_one_body():
    """One of 15 bodies 0.15 m off: 10 mm; if it is the root, the other 14 are off from it: 140 mm."""
    reference = torch.randn(3, 15, 1)
    for body, local in ((7, 10.0), (0, 140.0)):
        own = reference.clone()
        own[2, body] += 0.15
        errors = position_errors(own, reference)
        assert errors["global"].item() == pytest.approx(10.0, abs=1e-3)
        assert errors["local"].item() == pytest.approx(local, abs=1e-3)
    assert position_errors(reference[:, :1] + 1, reference[:, :1])["procrustes"].item() == pytest.approx(0, abs=1e-6)


def test_alignment_forgives_turn_scale_and_shift_and_is_scipys():
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(15, 3))
    similar = 1.7 * Rotation.from_rotvec([0.3, -1.0, 2.0]).apply(reference) + [4.0, 5.0, 6.0]
    other = reference + 0.2 * generator.normal(size=(15, 3))

    def aligned(points: np.ndarray) -> float:
        as_bodies = [torch.tensor(it.T).unsqueeze(-1) for it in (points, reference)]
        return position_errors(*as_bodies)["procrustes"].item()

    assert aligned(similar) == pytest.approx(0, abs=1e-6)
    standard, moved, _ = procrustes(reference, other)
    size = np.linalg.norm(reference - reference.mean(0))
    expected = 1000 * size * np.linalg.norm(standard - moved, axis=1).mean()
    assert aligned(other) == pytest.approx(expected)
    mirror = reference * [1, -1, 1]
    assert aligned(mirror) > 100  # a mirror image is no turn


def test_a_body_that_is_put_where_the_reference_is_scores_nearly_perfectly():
    """Put back into the reference's state before each step, it strays for a thirtieth of a second only."""
    env = make(conditioning="root_hands")
    everyone = torch.arange(env.num_envs)
    scores = evaluate_tracking(scripted(env, lambda: env._place(everyone)), env)
    assert list(scores.clips) == ["stroll", "stroll_mirrored"]
    for row in scores.clips.values():
        assert row["success"] == 1
        assert row["alive_s"] == pytest.approx((env.motion_library.num_frames[0].item() - 2) / 30)
        assert row["mpjpe_global_all_mm"] < 25
        assert row["mpjpe_global_conditioned_mm"] < 25


def test_counting_stops_where_the_reference_is_lost(monkeypatch):
    """Copy 0 is lost at its fourth step, copy 1 never; every step has an error of 100 mm until then, later 900 mm."""
    env = make(num_envs=3, mirror=False)
    everyone, advance = torch.arange(3), env.advance

    def step(action: torch.Tensor):
        reward, _ = advance(action)
        shift = torch.full((1, 1, 3), 0.1)
        if env.frame[1] >= 4:
            shift[..., 0] = 0.9
        object.__setattr__(env.bodies, "pos", env.reference.pos + shift * torch.tensor([1.0, 0, 0])[:, None, None])
        env.lost = torch.tensor([bool(env.frame[1] == 4), False, False])
        return reward, env.lost

    monkeypatch.setattr(env, "advance", step)
    scores = evaluate_tracking(scripted(env, lambda: env._place(everyone)), env)
    row = scores.clips["stroll"]
    full = env.motion_library.num_frames[0].item() - 2
    assert row["success"] == pytest.approx(2 / 3)
    assert row["alive_s"] == pytest.approx((4 + 2 * full) / 3 / 30)
    assert row["mpjpe_global_all_mm"] == pytest.approx((300.0 / 4 + 900 / 4 + 100 + 100) / 3, abs=0.01)
    assert scores.mean == row


def test_without_a_policy_nothing_succeeds():
    env = make(num_envs=4, distance="mean", max_distance=0.5)
    mean = evaluate_tracking(scripted(env, lambda: None), env).mean
    assert mean["success"] == 0
    assert 0.1 < mean["alive_s"] < 1.5
    assert mean["mpjpe_global_all_mm"] > mean["mpjpe_procrustes_all_mm"] > 0


@pytest.mark.parametrize("settings", [{"num_envs": 1}, {"max_episode_steps": 70}])
def test_an_environment_that_would_leave_something_out_is_refused(settings):
    env = make(**settings)
    with pytest.raises(ValueError, match=r"random_start=False, num_envs of at least 2 and max_episode_steps .* 71"):
        evaluate_tracking(scripted(env, lambda: None), env)
