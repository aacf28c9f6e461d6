"""Tolerance rewards at points worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fpo_torchrl.envs.control import rewards
from fpo_torchrl.envs.control.rewards import tolerance

INF = math.inf
SHAPES = ["gaussian", "linear", "quadratic"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bounds", [(0.0, 0.0), (1.0, 1.0), (-1.0, 2.0), (-INF, 2.0), (-1.0, INF)])
def test_one_inside_and_the_asked_value_at_the_margin(shape, bounds):
    lower, upper = bounds
    inside = [bound for bound in bounds if math.isfinite(bound)]
    at_margin = [bound for bound in (lower - 0.7, upper + 0.7) if math.isfinite(bound)]
    keywords = {
        "lower": lower,
        "upper": upper,
        "margin": 0.7,
        "shape": getattr(rewards, shape),
        "value_at_margin": 0.3,
    }
    torch.testing.assert_close(tolerance(torch.tensor(inside), **keywords), torch.ones(len(inside)))
    torch.testing.assert_close(tolerance(torch.tensor(at_margin), **keywords), torch.full((len(at_margin),), 0.3))


@pytest.mark.parametrize(
    ("shape", "value_at_margin", "distance_in_margins", "expected"),
    [
        ("gaussian", 0.1, 2.0, 0.1**4),
        ("linear", 0.0, 0.25, 0.75),
        ("linear", 0.5, 3.0, 0.0),
        ("quadratic", 0.0, 0.5, 0.75),
        ("quadratic", 0.0, 1.5, 0.0),
    ],
)
@pytest.mark.parametrize("sign", [-1, 1])
def test_values_beyond_the_margin(shape, value_at_margin, distance_in_margins, expected, sign):
    x = torch.tensor(sign * distance_in_margins * 2.0, dtype=torch.float64)
    value = tolerance(x, margin=2.0, shape=getattr(rewards, shape), value_at_margin=value_at_margin)
    assert float(value) == pytest.approx(expected, abs=1e-12)


def test_without_a_margin_it_is_a_step_that_includes_its_bounds():
    x = torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.1])
    assert tolerance(x, lower=0.0, upper=1.0).tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"lower": 1.0}, "lower must be at most upper"),
        ({"margin": -1.0}, "margin must be at least 0"),
        ({"margin": 1.0, "value_at_margin": 0.0}, r"must be in \(0, 1\)"),
        ({"margin": 1.0, "value_at_margin": 1.0, "shape": rewards.linear}, r"must be in \[0, 1\)"),
    ],
)
def test_bad_arguments_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        tolerance(torch.zeros(1), **keywords)
