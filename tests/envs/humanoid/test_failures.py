"""Motions that are lost often come more often, and none is left out."""

from __future__ import annotations

import pytest
import torch

from fpo_torchrl.envs.humanoid import HumanoidEnv
from fpo_torchrl.envs.humanoid.failures import FailureWeights


def test_without_a_share_every_motion_is_as_likely_whatever_fails():
    weights = FailureWeights(4, share=0.0)
    weights.record(torch.tensor([0, 0, 1]), torch.tensor([False, True, False]))
    assert weights.probabilities.tolist() == pytest.approx([0.25] * 4)
    uniform = torch.tensor([0.0, 0.24, 0.26, 0.5, 0.99, 1 - 1e-7])
    assert weights.draw(uniform).tolist() == [0, 0, 1, 2, 3, 3]


def test_a_share_goes_by_failures():
    """After many episodes the rates are 0, 49/99 (r = 0.98 (0.98 r + 0.02)) and 1: 0.6 is in proportion to them."""
    weights = FailureWeights(3, share=0.6)
    motion, lost = torch.tensor([0, 1, 1, 2]), torch.tensor([False, True, False, True])
    for _ in range(800):
        weights.record(motion, lost)
    assert weights.rates.tolist() == pytest.approx([0, 49 / 99, 1], abs=1e-6)
    assert weights.probabilities.tolist() == pytest.approx(
        [0.4 / 3 + 0.6 * rate / 148 for rate in (0, 49, 99)], abs=1e-3
    )
    drawn = weights.draw(torch.rand(100_000, generator=torch.Generator().manual_seed(0)))
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    torch.testing.assert_close(shares.double(), weights.probabilities, atol=0.01, rtol=0)


def test_if_nothing_is_lost_all_are_as_likely():
    weights = FailureWeights(2, share=0.9)
    for _ in range(1000):
        weights.record(torch.tensor([0, 1]), torch.tensor([False, False]))
    assert weights.probabilities.tolist() == pytest.approx([0.5, 0.5], abs=1e-3)


def test_one_episode_at_a_time_or_all_at_once_is_the_same():
    one, other = FailureWeights(2, share=0.5), FailureWeights(2, share=0.5)
    one.record(torch.tensor([1] * 8), torch.tensor([True] * 8))
    for _ in range(8):
        other.record(torch.tensor([1]), torch.tensor([True]))
    torch.testing.assert_close(one.rates, other.rates)
    motion, lost = torch.tensor([1, 0, 1, 1]), torch.tensor([False, False, True, False])
    one.record(motion, lost)
    for episode in range(4):
        other.record(motion[episode : episode + 1], lost[episode : episode + 1])
        other.rates.clone()  # counts what waits
    torch.testing.assert_close(one.rates, other.rates, rtol=1e-12, atol=0)
    # 0.98 of a rate is kept each time. Of motion 1 eight were lost, then none, one, none; of motion 0 one was not.
    assert one.rates.tolist() == pytest.approx([0.98, (0.98 * 0.98 + 0.02) * 0.98])
    one.record(torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.bool))
    torch.testing.assert_close(one.rates, other.rates)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="failure_share must be at least 0 and below 1"):
        FailureWeights(3, share=share)


def test_the_environment_counts_what_it_loses_and_keeps_it_in_its_state():
    """Put back to the reference before each step, no episode is lost: the rates fall from 1."""
    env = HumanoidEnv("humanoid/planar", num_envs=8, num_threads=1, failure_share=0.5, max_episode_steps=2)
    td = env.reset()
    for _ in range(40):
        env._place(torch.arange(8))
        _, td = env.step_and_maybe_reset(td.set("action", torch.zeros(8, 12)))
    assert (env.failures.rates < 0.5).all()
    other = HumanoidEnv("humanoid/planar", num_envs=8, num_threads=1, failure_share=0.5, max_episode_steps=2)
    other.set_state(env.get_state())
    assert torch.equal(other.failures.rates, env.failures.rates)
    env.set_seed(0)
    env.reset()
    assert (env.failures.rates == 1).all()


def test_an_episode_without_a_step_counts_for_nothing():
    env = HumanoidEnv("humanoid/planar", num_envs=8, num_threads=1)
    env.reset()
    env.reset()
    assert (env.failures.rates == 1).all()


def test_an_episode_that_is_reset_in_the_middle_counts_for_nothing():
    env = HumanoidEnv("humanoid/planar", num_envs=8, num_threads=1, max_distance=9.0, spread_episodes=False)
    for _ in range(5):
        env.rollout(1, break_when_any_done=False)
    assert not env.lost.any()
    assert (env.failures.rates == 1).all()
