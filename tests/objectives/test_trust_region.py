from __future__ import annotations

import numpy as np
import pytest
import torch

from fpo_torchrl import ASPO, SPO, Clip, FPOLoss

RATIO = torch.tensor([[0.8], [0.96], [1.0], [1.04], [1.3]], dtype=torch.float64)


def slope(region, ratio: float, advantage: float) -> float:
    """How the objective changes with the ratio."""
    ratio = torch.tensor([[ratio]], dtype=torch.float64, requires_grad=True)
    objective = region(ratio, torch.tensor([[advantage]], dtype=torch.float64))
    return torch.autograd.grad(objective.sum(), ratio)[0].item()


def test_clip_stops_the_gradient_outside_its_radii_and_only_in_the_direction_of_progress():
    region = Clip((0.1, 0.3))
    assert [slope(region, ratio, 1.0) for ratio in (0.5, 1.2, 1.31)] == [1.0, 1.0, 0.0]
    assert [slope(region, ratio, -1.0) for ratio in (0.89, 0.95, 2.0)] == [0.0, -1.0, -1.0]


def test_a_single_radius_is_both_radii():
    advantage = torch.randn(5, 1, dtype=torch.float64)
    assert torch.equal(Clip(0.2)(RATIO, advantage), Clip((0.2, 0.2))(RATIO, advantage))


def test_spo_pulls_back_on_both_sides():
    region = SPO(0.1)
    for advantage in (1.0, -1.0):
        edge = 1 + 0.1 * advantage
        assert slope(region, edge, advantage) == pytest.approx(0, abs=1e-9)
        assert slope(region, edge + 0.05 * advantage, advantage) * advantage < 0
        assert slope(region, edge - 0.05 * advantage, advantage) * advantage > 0


def test_aspo_is_clip_for_good_actions_and_spo_for_bad_ones():
    good, bad = torch.ones(5, 1, dtype=torch.float64), -torch.ones(5, 1, dtype=torch.float64)
    assert torch.equal(ASPO(0.1)(RATIO, good), Clip(0.1)(RATIO, good))
    assert torch.equal(ASPO(0.1)(RATIO, bad), SPO(0.1)(RATIO, bad))
    assert not torch.allclose(ASPO(0.1)(RATIO, bad), Clip(0.1)(RATIO, bad))


@pytest.mark.parametrize("region", [Clip(0.1), SPO(0.1), ASPO(0.1), Clip((0.1, 0.3))])
def test_outside_is_beyond_the_band_and_not_its_edge(region):
    ratio = torch.tensor([1 - region.low - 1e-6, 1 - region.low, 1.0, 1 + region.high, 1 + region.high + 1e-6]).double()
    ratio[1], ratio[3] = 1 - region.low, 1 + region.high
    assert region.is_outside(ratio).tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("region", [Clip, SPO, ASPO])
@pytest.mark.parametrize("epsilon", [0.0, -0.1, 1.0])
def test_a_radius_that_is_no_radius_is_refused(region, epsilon):
    with pytest.raises(ValueError, match=f"0 < low < 1 and high > 0.*got low={epsilon}"):
        region(epsilon)


@pytest.mark.parametrize("epsilon", [(0.1,), (0.1, 0.2, 0.3), (0.1, "high")])
def test_radii_that_are_no_pair_are_refused(epsilon):
    with pytest.raises(ValueError, match=r"a number or a pair of them \(low, high\), got"):
        Clip(epsilon)


def test_repr_shows_the_radius():
    assert repr(ASPO(0.05)) == "ASPO(0.05)"
    assert repr(Clip((0.1, 0.3))) == "Clip((0.1, 0.3))"


def test_a_radius_may_be_a_number_of_numpy():
    assert repr(Clip(np.float64(0.25))) == "Clip(0.25)"


def test_an_objective_that_is_not_one_of_each_ratio_is_refused(make_actor, collect):
    class Mean(Clip):
        def __call__(self, ratio, advantage):
            return super().__call__(ratio, advantage).mean(-1)

    actor = make_actor()
    with pytest.raises(
        ValueError, match=r"Mean\(0.1\) should return an objective for each ratio, shape \(6, 1\), got \(6,\)"
    ):
        FPOLoss(actor, trust_region=Mean(0.1))(collect(actor))


@pytest.mark.parametrize("name", ["cfm_loss_clamp", "log_ratio_clamp"])
@pytest.mark.parametrize("wrong", [3.0, (0, 5)])
def test_a_clamp_that_is_none_is_refused(make_actor, name, wrong):
    with pytest.raises(TypeError, match=rf"{name} must be a Clamp such as Clamp\(high=3\), got"):
        FPOLoss(make_actor(), **{name: wrong})
