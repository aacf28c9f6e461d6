"""Time distributions have the support and the moments that their names promise."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from fpo_torchrl import BetaTime, GridTime, LogitNormalTime, UniformTime
from fpo_torchrl.flow import TorchDraws

FLOAT32, FLOAT64 = torch.empty(0), torch.empty(0, dtype=torch.float64)
DRAWS = 40_000


def test_grid_takes_each_left_edge_equally_often_and_no_other_value():
    values, counts = GridTime(10).sample((DRAWS,), TorchDraws(FLOAT32)).unique(return_counts=True)
    expected = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert torch.equal(values, expected)
    torch.testing.assert_close(counts / DRAWS, torch.full((10,), 0.1), atol=0.01, rtol=0)


def test_one_itself_is_in_the_last_cell_of_the_grid():
    """Uniform numbers of half precision are rounded to 1 too; no step starts at time 1."""
    assert GridTime(10).quantile(torch.ones(3, dtype=torch.float64)).tolist() == [0.9] * 3


def test_uniform_fills_its_interval():
    time = UniformTime(0.005, 0.995).sample((DRAWS,), TorchDraws(FLOAT64))
    assert 0.005 <= time.min() < 0.007
    assert 0.993 < time.max() <= 0.995
    assert abs(time.mean() - 0.5) < 0.01
    assert abs(time.var() - 0.99**2 / 12) < 0.002


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.2, 1.2)])
def test_logit_normal_has_its_quantiles_where_the_normal_has_them(mean, std):
    time = LogitNormalTime(mean, std).sample((DRAWS,), TorchDraws(FLOAT64))
    for quantile, normal_quantile in [(0.1587, -1.0), (0.5, 0.0), (0.8413, 1.0)]:
        expected = 1 / (1 + math.exp(-(mean + std * normal_quantile)))
        assert abs(time.quantile(quantile) - expected) < 0.01
    assert time.min() > 0
    assert time.max() < 1


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 1.0), (1.0, 1.0), (1.0, 3.0), (0.5, 0.5), (600.0, 600.0)])
def test_beta_has_the_moments_of_its_parameters(alpha, beta):
    time = BetaTime(alpha, beta).sample((DRAWS,), TorchDraws(FLOAT64))
    total = alpha + beta
    assert abs(time.mean() - alpha / total) < 0.01
    assert abs(time.var() - alpha * beta / (total**2 * (total + 1))) < 0.005
    assert time.min() >= 0
    assert time.max() <= 1


@pytest.mark.parametrize(("alpha", "beta"), [(0.05, 0.05), (0.1, 2.0), (2.0, 0.7), (600.0, 600.0)])
def test_beta_has_scipys_quantiles(alpha, beta):
    unit = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    expected = torch.from_numpy(stats.beta(alpha, beta).ppf(unit.numpy()))
    torch.testing.assert_close(BetaTime(alpha, beta).quantile(unit), expected, atol=1e-3, rtol=0)


def test_beta_two_one_looks_more_often_near_the_action():
    time = BetaTime(2.0, 1.0).sample((DRAWS,), TorchDraws(FLOAT64))
    assert abs((time > 0.5).double().mean() - 0.75) < 0.01  # its distribution function is t^2


@pytest.mark.parametrize("sampler", [GridTime(), UniformTime(), LogitNormalTime(), BetaTime()])
@pytest.mark.parametrize("like", [FLOAT32, FLOAT64])
def test_shape_and_dtype_follow_the_request(sampler, like):
    time = sampler.sample((4, 8, 1), TorchDraws(like))
    assert time.shape == (4, 8, 1)
    assert time.dtype == like.dtype
    assert len(time.unique()) > 4  # drawn for each pair, not once


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("sampler", [GridTime(), UniformTime(), LogitNormalTime(), BetaTime()])
def test_times_are_drawn_on_the_device_of_the_request(sampler):
    assert sampler.sample((4, 1), TorchDraws(torch.empty(0, device="cuda"))).is_cuda


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GridTime(0), "at least 1, got 0"),
        (lambda: GridTime(2.5), "whole number.*got 2.5"),
        (lambda: UniformTime(0.5, 0.5), "low < high, got low=0.5, high=0.5"),
        (lambda: UniformTime(-0.1, 1.0), r"\[0, 1\]"),
        (lambda: UniformTime(0.0, 1.1), r"\[0, 1\]"),
        (lambda: LogitNormalTime(0.0, 0.0), "std must be positive, got 0"),
        (lambda: BetaTime(0.0, 1.0), "must be positive, got alpha=0"),
        (lambda: BetaTime(1.0, -1.0), "must be positive.*beta=-1"),
    ],
)
def test_a_parameter_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_beta_is_tabulated_on_the_cpu_whatever_torchs_default_device_is():
    with torch.device("meta"):
        sampler = BetaTime(2, 1)
    assert sampler.sample((5,), TorchDraws(torch.zeros(1))).device.type == "cpu"
