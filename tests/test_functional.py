"""The equations against hand arithmetic, autograd and TorchRL's own estimators."""

from __future__ import annotations

import math

import jaxtyping
import pytest
import torch
from torch import tensor
from torchrl.objectives.value.functional import generalized_advantage_estimate

from fpo_torchrl import functional as F


class TestCfmError:
    @pytest.mark.parametrize(("reduction", "expected"), [("mean", 12.5), ("sum", 25.0), ("sqrt", 25 / math.sqrt(2))])
    def test_reduction_over_action_dimensions(self, reduction, expected):
        loss = F.cfm_error(tensor([[4.0, 1.0]]), tensor([[1.0, 5.0]]), 1.0, reduction)
        torch.testing.assert_close(loss, tensor([expected]))

    def test_the_weight_multiplies_the_error_before_it_is_squared(self):
        loss = F.cfm_error(tensor([[2.0], [2.0]]), tensor([[0.0], [0.0]]), tensor([[0.5], [3.0]]))
        torch.testing.assert_close(loss, tensor([1.0, 36.0]))


class TestLogRatio:
    OLD, NEW = tensor([[1.0, 2.0, 3.0, 4.0]]), tensor([[0.0, 2.0, 2.0, 5.0]])

    @pytest.mark.parametrize(
        ("num_groups", "expected"), [(1, [[0.25]]), (2, [[0.5, 0.0]]), (4, [[1.0, 0.0, 1.0, -1.0]])]
    )
    def test_it_is_the_mean_difference_of_each_group(self, num_groups, expected):
        torch.testing.assert_close(F.fpo_log_ratio(self.OLD, self.NEW, num_groups), tensor(expected))

    def test_a_ratio_per_sample_is_on_average_at_least_the_ratio_per_action(self):
        old, new = torch.rand(100, 8), torch.rand(100, 8)
        per_sample = F.fpo_log_ratio(old, new, 8).exp().mean(-1)
        halves = F.fpo_log_ratio(old, new, 2).exp().mean(-1)
        per_action = F.fpo_log_ratio(old, new, 1).exp().squeeze(-1)
        assert (per_sample > halves).all()
        assert (halves > per_action).all()


class TestStraightThroughClamp:
    def test_it_clamps_the_value_and_keeps_the_gradient(self):
        x = tensor([-5.0, 0.5, 5.0], requires_grad=True)
        clamped = F.straight_through_clamp(x, -1.0, 2.0)
        clamped.sum().backward()
        assert clamped.tolist() == [-1.0, 0.5, 2.0]
        assert x.grad.tolist() == [1.0, 1.0, 1.0]

    def test_it_is_exact_far_outside(self):
        x = tensor([3e4, 1e9, -1e9, math.inf], requires_grad=True)
        clamped = F.straight_through_clamp(x, -1.0, 10.0)
        assert clamped.tolist() == [10.0, 10.0, -1.0, 10.0]
        clamped.sum().backward()
        assert x.grad.tolist()[:3] == [1.0, 1.0, 1.0]

    def test_a_side_without_bound_is_left_alone(self):
        assert F.straight_through_clamp(tensor([-5.0, 5.0]), None, 2.0).tolist() == [-5.0, 2.0]


class TestObjectives:
    @pytest.mark.parametrize(
        ("ratio", "advantage", "expected"),
        [(1.3, 1.0, 1.2), (1.1, 1.0, 1.1), (0.5, 1.0, 0.5), (1.3, -1.0, -1.3), (0.95, -1.0, -0.95), (0.5, -1.0, -0.9)],
    )
    def test_ppo_takes_the_pessimistic_side(self, ratio, advantage, expected):
        objective = F.ppo_objective(tensor([[ratio]]), tensor([[advantage]]), low=0.1, high=0.2)
        assert objective.item() == pytest.approx(expected)

    def test_spo_by_hand(self):
        assert F.spo_objective(tensor([[1.1]]), tensor([[2.0]]), epsilon=0.1).item() == pytest.approx(2.1)
        assert F.spo_objective(tensor([[1.1]]), tensor([[-2.0]]), epsilon=0.1).item() == pytest.approx(-2.3)

    @pytest.mark.parametrize(("advantage", "peak"), [(2.0, 1.05), (-0.5, 0.95)])
    def test_spo_peaks_at_the_edge_of_its_band(self, advantage, peak):
        ratio = torch.linspace(0.5, 1.5, 20_001, dtype=torch.float64)
        objective = F.spo_objective(ratio, tensor([advantage], dtype=torch.float64), epsilon=0.05)
        assert ratio[objective.argmax()].item() == pytest.approx(peak, abs=1e-4)

    @staticmethod
    def aspo_gradient(ratio: float, advantage: float) -> float:
        ratio = tensor([[ratio]], dtype=torch.float64, requires_grad=True)
        objective = F.aspo_objective(ratio, tensor([[advantage]], dtype=torch.float64), epsilon=0.05)
        return torch.autograd.grad(objective.sum(), ratio)[0].item()

    def test_aspo_follows_a_positive_advantage_up_to_the_edge_and_no_further(self):
        assert [self.aspo_gradient(ratio, 2.0) for ratio in (0.5, 0.99, 1.04, 1.06, 2.0)] == [2.0, 2.0, 2.0, 0.0, 0.0]

    def test_aspo_turns_back_beyond_the_edge_for_a_negative_advantage(self):
        assert self.aspo_gradient(1.0, -2.0) == pytest.approx(-2.0)
        assert self.aspo_gradient(1.1, -2.0) == pytest.approx(-2.0 - 2.0 * 0.1 / 0.05)
        assert self.aspo_gradient(0.95, -2.0) == pytest.approx(0, abs=1e-9)
        assert self.aspo_gradient(0.90, -2.0) == pytest.approx(2.0)  # plain clip would stop, not pull back

    def test_every_objective_is_the_policy_gradient_at_ratio_one(self):
        advantage = tensor([[1.5], [-0.5]])
        for objective in (lambda r, a: F.ppo_objective(r, a, 0.1, 0.2), F.spo_objective, F.aspo_objective):
            ratio = torch.ones(2, 1, requires_grad=True)
            args = () if objective not in (F.spo_objective, F.aspo_objective) else (0.05,)
            (gradient,) = torch.autograd.grad(objective(ratio, advantage, *args).sum(), ratio)
            torch.testing.assert_close(gradient, advantage)


class TestEffectiveSampleSize:
    def test_equal_ratios_count_fully(self):
        assert F.effective_sample_size(torch.full((4, 3), -2.0)).item() == pytest.approx(1)

    def test_by_hand(self):
        assert F.effective_sample_size(tensor([1.0, 2.0]).log()).item() == pytest.approx(9 / (2 * 5))

    def test_one_dominant_ratio_counts_as_one_sample_without_overflow(self):
        assert F.effective_sample_size(tensor([[800.0, 0.0], [0.0, 0.0]])).item() == pytest.approx(0.25)


class TestBraxAdvantage:
    def test_three_steps_by_hand(self):
        """reward 1, value 0, gamma 1/2, lambda 1/2, one terminated step last."""
        column = lambda *x: tensor(x).reshape(1, 3, 1)  # noqa: E731
        advantage, target = F.brax_advantage(
            reward=column(1.0, 1.0, 1.0),
            terminated=column(False, False, True),
            truncated=column(False, False, False),
            value=torch.zeros(1, 3, 1),
            next_value=column(0.0, 0.0, 100.0),
            gamma=0.5,
            lmbda=0.5,
        )
        # GAE: 1, 1 + 1/4, 1 + 5/16 from the back; the advantage discounts the next target by gamma alone.
        torch.testing.assert_close(target, column(1.3125, 1.25, 1.0))
        torch.testing.assert_close(advantage, column(1 + 0.5 * 1.25, 1 + 0.5 * 1.0, 1.0))

    def test_a_truncated_step_teaches_nothing_and_stops_the_recursion(self):
        """The step after it has a GAE of 4 + 3 - 5 = 2, which must not flow back."""
        column = lambda *x: tensor(x).reshape(1, 3, 1)  # noqa: E731
        advantage, target = F.brax_advantage(
            reward=column(1.0, 50.0, 4.0),
            terminated=column(False, False, False),
            truncated=column(False, True, False),
            value=column(3.0, 4.0, 5.0),
            next_value=column(0.0, 0.0, 6.0),
            gamma=0.5,
            lmbda=0.9,
        )
        torch.testing.assert_close(target, column(1 + 0.5 * 4, 4.0, 4 + 0.5 * 6))
        torch.testing.assert_close(advantage, column(1 + 0.5 * 4 - 3, 0.0, 4 + 0.5 * 6 - 5))

    @pytest.fixture
    def rollout(self) -> dict[str, torch.Tensor]:
        value = torch.randn(3, 10, 1, dtype=torch.float64)
        last = torch.randn(3, 1, 1, dtype=torch.float64)
        terminated = torch.rand(3, 10, 1) < 0.2
        return {
            "value": value,
            "next_value": torch.cat([value[:, 1:], last], 1),
            "reward": torch.randn(3, 10, 1, dtype=torch.float64),
            "terminated": terminated,
        }

    @staticmethod
    def both(rollout, lmbda: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The released advantage, and TorchRL's GAE."""
        gae, _ = generalized_advantage_estimate(
            0.9, lmbda, rollout["value"], rollout["next_value"], rollout["reward"], rollout["terminated"]
        )
        truncated = torch.zeros_like(rollout["terminated"])
        brax, _ = F.brax_advantage(**rollout, truncated=truncated, gamma=0.9, lmbda=lmbda)
        return brax, gae

    def test_lambda_one_is_torchrls_gae(self, rollout):
        torch.testing.assert_close(*self.both(rollout, 1.0))

    def test_it_skips_lambda_on_the_first_hop_only(self, rollout):
        brax, gae = self.both(rollout, 0.8)
        alive = 0.9 * (~rollout["terminated"]).double()
        delta = rollout["reward"] + alive * rollout["next_value"] - rollout["value"]
        next_gae = torch.cat([gae[:, 1:], torch.zeros(3, 1, 1)], 1)
        torch.testing.assert_close(brax, delta + alive * next_gae)
        assert not torch.allclose(brax, gae)


def test_shapes_in_annotations_are_checked_while_testing():
    with pytest.raises(jaxtyping.TypeCheckError, match="advantage"):
        F.ppo_objective(torch.ones(3, 1), torch.ones(3), low=0.1, high=0.1)
