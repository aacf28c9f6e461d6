"""Each pair alone has the right distribution, however the pairs of an action hang together."""

from __future__ import annotations

import pytest
import torch

from fpo_torchrl import AntitheticPairs, BetaTime, GridTime, IndependentPairs, LogitNormalTime, UniformTime
from fpo_torchrl.flow import TorchDraws

LIKE = torch.empty(0, dtype=torch.float64)


@pytest.mark.parametrize("pairs", [IndependentPairs(), AntitheticPairs()])
@pytest.mark.parametrize("num_pairs", [1, 2, 5, 8])
def test_one_pair_alone_is_a_normal_noise_and_a_time_independent_of_it(pairs, num_pairs):
    noise, time = pairs.sample((20_000, num_pairs, 2), UniformTime(), TorchDraws(LIKE))
    assert (noise.shape, time.shape) == ((20_000, num_pairs, 2), (20_000, num_pairs, 1))
    torch.testing.assert_close(noise.mean((0, 1)), torch.zeros_like(noise[0, 0]), atol=0.03, rtol=0)
    torch.testing.assert_close(noise.var((0, 1)), torch.ones_like(noise[0, 0]), atol=0.03, rtol=0)
    times = time.flatten()
    assert abs(times.mean() - 1 / 2) < 0.01
    assert abs(times.var() - 1 / 12) < 0.005
    columns = torch.cat([noise, time], -1).flatten(0, 1)
    torch.testing.assert_close(torch.corrcoef(columns.T), torch.eye(3, dtype=LIKE.dtype), atol=0.03, rtol=0)


def test_antithetic_neighbours_have_mirrored_noise_and_one_time():
    noise, time = AntitheticPairs().sample((6, 8, 3), UniformTime(), TorchDraws(LIKE))
    assert torch.equal(noise[:, 0::2], -noise[:, 1::2])
    assert torch.equal(time[:, 0::2], time[:, 1::2])


@pytest.mark.parametrize("num_pairs", [8, 7])
def test_antithetic_times_are_one_from_each_equal_share(num_pairs):
    _, time = AntitheticPairs().sample((50, num_pairs, 3), UniformTime(), TorchDraws(LIKE))
    shares = (time[:, ::2].squeeze(-1) * 4).floor()
    assert torch.equal(shares.sort(-1).values, torch.arange(4.0, dtype=LIKE.dtype).expand(50, 4))
    assert len(shares.unique(dim=0)) > 10  # in random order


@pytest.mark.parametrize("times", [GridTime(), UniformTime(0.1, 0.9), LogitNormalTime(1.2, 1.2), BetaTime(2.0, 0.7)])
def test_stratified_times_follow_the_same_distribution(times):
    independent = times.sample((20_000, 4, 1), TorchDraws(LIKE)).flatten()
    stratified = times.sample_stratified((20_000, 4, 1), TorchDraws(LIKE)).flatten()
    levels = torch.linspace(0.05, 0.95, 19, dtype=LIKE.dtype).unsqueeze(-1)
    below = [(drawn < levels).to(LIKE.dtype).mean(-1) for drawn in (stratified, independent)]
    torch.testing.assert_close(*below, atol=0.01, rtol=0)


def test_what_is_odd_in_the_noise_cancels():
    noise, _ = AntitheticPairs().sample((50, 8, 3), UniformTime(), TorchDraws(LIKE))
    assert not noise.mean(-2).abs().gt(1e-12).any()


@pytest.mark.parametrize(("pairs", "variance"), [(IndependentPairs(), 1 / 12 / 8), (AntitheticPairs(), 1 / 12 / 4**3)])
def test_the_variance_of_a_mean_time_worked_out_by_hand(pairs, variance):
    """Of n independent uniforms 1 / 12 n; of one from each of n shares, which are n times narrower, 1 / 12 n^3."""
    _, time = pairs.sample((20_000, 8, 1), UniformTime(), TorchDraws(LIKE))
    assert time.mean((-2, -1)).var().item() == pytest.approx(variance, rel=0.05)
