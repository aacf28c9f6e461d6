"""Multimodality metrics on samples whose answer is known."""

from __future__ import annotations

import pytest
import torch

from fpo_torchrl.report.multimodality import both, commit, goal_entropy, minor, path_efficiency, valley


def normal(std: float, *, mean: float = 0.0, draws: int = 10, k: int = 2000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return mean + std * torch.randn(draws, k, generator=generator)


def mixture(std: float, *, weight: float = 0.5, draws: int = 10, k: int = 2000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    side = torch.where(torch.rand(draws, k, generator=generator) < weight, 1.0, -1.0)
    return side + std * torch.randn(draws, k, generator=generator)


@pytest.mark.parametrize(
    ("std", "highest"), [(0.1, 0.01), (0.3, 0.01), (0.5, 0.01), (0.7, 0.01), (1.5, 0.10), (3.0, 0.22)]
)
@pytest.mark.parametrize("mean", [0.0, 0.4])
def test_one_gaussian_has_no_valley(std, highest, mean):
    assert valley(normal(std, mean=mean)).max() < highest


@pytest.mark.parametrize(("std", "expected"), [(0.1, 1.0), (0.3, 0.957), (0.5, 0.644)])
def test_two_modes_have_one(std, expected):
    # A kernel of width h turns s^2 into s^2 + h^2, so f(0) / f(1) = 2 exp(-1 / (2 (s^2 + 0.04))) for infinite K.
    assert valley(mixture(std)).mean() == pytest.approx(expected, abs=0.05)


def test_a_mode_with_too_little_mass_does_not_count():
    assert valley(mixture(0.1, weight=0.05)).max() < 0.01
    assert valley(mixture(0.1, weight=0.05), min_mass=0.02).min() > 0.9


def test_valley_of_hand_made_densities():
    # Half at 0, half at 0.4 = two bandwidths: f(middle) = e^-0.5, f(peak) = (1 + e^-2) / 2, so 1 - 0.6065 / 0.5677
    # is negative: kernels that close make one mode. At 0.8: 2 e^-2 / (1 + e^-8) below the peak: 1 - 0.2707 / 1.0003.
    assert valley(torch.tensor([0.0, 0.4] * 500)) == pytest.approx(0, abs=1e-5)
    assert valley(torch.tensor([0.0, 0.8] * 500), num_points=1001) == pytest.approx(1 - 0.27067 / 1.000335, abs=1e-3)


def test_valley_of_equal_actions_is_zero():
    assert valley(torch.full((3, 100), 0.7)).tolist() == [0.0, 0.0, 0.0]


def test_valley_keeps_leading_dimensions():
    assert valley(normal(0.3, draws=6, k=50).reshape(2, 3, 50)).shape == (2, 3)


def test_minor_and_commit_count_moves():
    actions = torch.tensor([[1.0, 0.6, -0.6, 0.5, -0.5], [2.0, 3.0, 0.9, 0.7, 0.0]])
    assert minor(actions).tolist() == pytest.approx([0.2, 0.0])
    assert commit(actions).tolist() == pytest.approx([0.6, 0.8])


def test_both_needs_two_sides_and_a_valley():
    two_modes, broad, one_sided = mixture(0.2), normal(1.0), mixture(0.2, weight=0.12)
    actions = torch.cat([two_modes, broad, one_sided])
    assert both(minor(two_modes), valley(two_modes)) == 1
    assert both(minor(broad), valley(broad)) == 0
    assert both(minor(one_sided), valley(one_sided)) == 0
    assert both(minor(actions), valley(actions)).item() == pytest.approx(1 / 3)


def test_the_bars_of_both_are_inclusive():
    assert both(torch.tensor([0.15, 0.1499]), torch.tensor([0.3, 0.9])) == 0.5


@pytest.mark.parametrize(
    ("goal", "num_goals", "bits"),
    [
        ([0, 1, 0, 1], 2, 1.0),
        ([1, 1, 1], 2, 0.0),
        ([0, 1, 2, 3], 4, 2.0),
        ([0, 0, 0, 1], 2, 0.811278),
        ([0, 1, -1, -1, -1], 2, 1.0),  # a rollout that reached nothing does not count
        ([-1, -1], 2, 0.0),
    ],
)
def test_goal_entropy(goal, num_goals, bits):
    assert goal_entropy(torch.tensor(goal), num_goals).item() == pytest.approx(bits, abs=1e-5)


def test_goal_entropy_of_many_cells():
    assert goal_entropy(torch.tensor([[0, 1], [1, 1]]), 2).tolist() == [1.0, 0.0]


def test_path_efficiency():
    efficiency = path_efficiency(
        torch.tensor([11.0, 11.0, 4.0]), torch.tensor([11, 44, 100]), torch.tensor([True, True, False])
    )
    assert efficiency.tolist() == [1.0, 0.25, 0.0]
