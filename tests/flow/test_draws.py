"""Numbers that are drawn again are the same bits, wherever they stand; and the streams are random."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from fpo_torchrl import AntitheticPairs, BetaTime, GridTime, IndependentPairs, LogitNormalTime, UniformTime
from fpo_torchrl.flow.draws import SeededDraws, TorchDraws, splitmix64

CPU = torch.device("cpu")


def test_the_stream_is_splitmix64():
    """The first outputs of the public-domain splitmix64.c of Sebastiano Vigna, started at 1234567."""
    bits = splitmix64(torch.tensor(1234567), torch.arange(1, 6))
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [int(it) % 2**64 for it in bits] == [*published, 16408922859458223821]


@pytest.mark.parametrize(("kind", "distribution"), [("normal", stats.norm()), ("uniform", stats.uniform())])
def test_distributions(kind, distribution):
    numbers = getattr(SeededDraws(SeededDraws.random_seeds((500,), CPU)), kind)((500, 4, 10)).double()
    assert stats.kstest(numbers.flatten(), distribution.cdf).pvalue > 1e-3
    within, between = torch.corrcoef(numbers.flatten(1).T), torch.corrcoef(numbers.flatten(1)[:40])
    for correlation in (within, between):
        assert (correlation - torch.eye(40, dtype=correlation.dtype)).abs().max() < 0.75


def test_seeds_are_all_different():
    """Of 2^63 seeds 100 000 differ but for a chance of 1e-9; of 2^31 about two would meet."""
    assert len(SeededDraws.random_seeds((100_000,), CPU).unique()) == 100_000


def test_calls_go_on_along_the_stream():
    seeds = torch.tensor([3, 4])
    draws = SeededDraws(seeds)
    parts = [draws.uniform((2, 3)), draws.uniform((2, 2))]
    assert torch.cat(parts, -1).equal(SeededDraws(seeds).uniform((2, 5)))


@pytest.mark.parametrize("pairs", [IndependentPairs(), AntitheticPairs()])
@pytest.mark.parametrize("times", [GridTime(), UniformTime(), BetaTime(2.0, 3.0), LogitNormalTime(1.2, 1.2)])
def test_a_part_of_a_batch_in_another_order_has_the_same_bits(pairs, times):
    seeds = SeededDraws.random_seeds((37, 5), CPU)
    batch = pairs.sample((37, 5, 7, 3), times, SeededDraws(seeds))
    order = torch.randperm(37 * 5)[:71]
    part = pairs.sample((71, 7, 3), times, SeededDraws(seeds.flatten()[order]))
    assert all(whole.flatten(0, 1)[order].equal(some) for whole, some in zip(batch, part, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_have_the_dtype_asked_for_and_uniforms_stay_below_one(dtype):
    seeds = SeededDraws.random_seeds((20_000,), CPU)
    uniform = SeededDraws(seeds, dtype).uniform((20_000, 20))
    assert uniform.dtype == dtype == SeededDraws(seeds, dtype).normal((20_000, 1)).dtype
    assert 0 <= uniform.min() < 1e-4
    assert 1 - 1e-4 < uniform.max() < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_they_are_rounded(dtype):
    seeds = SeededDraws.random_seeds((100,), CPU)
    uniform = SeededDraws(seeds, dtype).uniform((100, 20))
    assert uniform.equal(SeededDraws(seeds).uniform((100, 20)).to(dtype))
    assert uniform.max() <= 1


@pytest.mark.parametrize("bits", [-1, 0], ids=["all ones", "all zeros"])
def test_the_rarest_numbers_are_finite(bits, monkeypatch):
    """Of 52 bits the extremes are 2^-53 from 0 and 1, 8.2 standard deviations away."""
    monkeypatch.setattr(SeededDraws, "_bits", lambda self, shape: torch.full(tuple(shape), bits))
    number = SeededDraws(torch.zeros(1, dtype=torch.int64)).normal((1,)).item()
    assert abs(number) == pytest.approx(8.2095, abs=1e-3)


def test_torchs_own_numbers_are_those_of_its_generator():
    torch.manual_seed(3)
    expected = torch.randn(4, 2), torch.rand(4, 2)
    torch.manual_seed(3)
    draws = TorchDraws(torch.empty(0))
    assert draws.normal((4, 2)).equal(expected[0])
    assert draws.uniform((4, 2)).equal(expected[1])
