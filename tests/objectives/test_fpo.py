"""FPO's loss against numbers worked out by hand, and against its own claims at theta_old."""

from __future__ import annotations

import math

import pytest
import torch
from by_hand import RATIOS, REGIONS, by_hand, gradients

from fpo_torchrl import (
    ASPO,
    SPO,
    Clamp,
    Clip,
    FPOLoss,
    ObservationNormalizer,
)


class TestAtThetaOld:
    @pytest.mark.parametrize("ratio", RATIOS)
    @pytest.mark.parametrize("trust_region", REGIONS, ids=repr)
    def test_ratio_is_exactly_one_and_nothing_is_clipped(self, make_actor, collect, ratio, trust_region):
        actor = make_actor(normalizer=ObservationNormalizer(3), action_noise_std=0.1)
        actor.normalizer.update(3 * torch.randn(50, 3) + 1)
        batch = collect(actor, 20, 5)
        out = FPOLoss(actor, ratio=ratio, trust_region=trust_region, normalize_advantage=False)(batch)
        for key in ("mean_ratio", "min_ratio", "max_ratio"):
            assert out[key] == 1, key
        assert out["ESS"].item() == pytest.approx(1, abs=1e-5)
        for key in ("clip_fraction", "clip_fraction_positive", "clip_fraction_negative"):
            assert out[key] == 0, key
        assert out["cfm_loss_old"] == out["cfm_loss_new"]
        torch.testing.assert_close(out["loss_objective"], -batch["advantage"].mean())

    @pytest.mark.parametrize("ratio", RATIOS)
    def test_shuffled_minibatches_keep_the_ratio_to_rounding_and_clip_nothing(self, make_actor, collect, ratio):
        actor = make_actor(normalizer=ObservationNormalizer(3))
        loss, batch = FPOLoss(actor, ratio=ratio), collect(actor, 20, 50).reshape(1000)
        for minibatch in batch[torch.randperm(1000)].split(37):
            out = loss(minibatch)
            assert out["min_ratio"].item() == pytest.approx(1, abs=1e-5)
            assert out["max_ratio"].item() == pytest.approx(1, abs=1e-5)
            assert out["clip_fraction"] == 0

    @pytest.mark.parametrize("trust_region", REGIONS, ids=repr)
    def test_all_ratios_have_the_gradient_of_the_advantage_weighted_cfm_loss(self, make_actor, collect, trust_region):
        actor = make_actor()
        batch = collect(actor)
        expected = gradients((batch["advantage"] * actor.cfm_loss(batch)).mean(), actor)
        for ratio in RATIOS:
            loss = FPOLoss(actor, ratio=ratio, trust_region=trust_region, normalize_advantage=False)
            torch.testing.assert_close(gradients(loss(batch)["loss_objective"], actor), expected, rtol=1e-4, atol=1e-6)

    def test_the_ratios_part_once_the_weights_have_moved(self, make_actor, collect, move_weights):
        actor = make_actor()
        batch = collect(actor)
        move_weights(actor)
        per_action, per_sample, groups = (FPOLoss(actor, ratio=ratio)(batch) for ratio in RATIOS)
        assert per_action["mean_ratio"] < groups["mean_ratio"] < per_sample["mean_ratio"]
        assert per_action["max_ratio"] < groups["max_ratio"] < per_sample["max_ratio"]
        assert 1 > per_action["ESS"] > groups["ESS"] > per_sample["ESS"] > 0
        assert all(out["ESS"].shape == () for out in (per_action, per_sample, groups))


class TestByHand:
    """Two actions with two pairs each: log-ratios (.2, 0) with advantage 1, (-.2, 0) with advantage -2."""

    LOG_RATIOS, ADVANTAGES = [[0.2, 0.0], [-0.2, 0.0]], [1.0, -2.0]

    @pytest.mark.parametrize(
        ("kwargs", "expected"),
        [
            # per action the ratios are exp(.1) = 1.10517 and exp(-.1) = 0.90484
            ({"clip_epsilon": 0.05}, -(1.05 - 1.9) / 2),
            ({"clip_epsilon": (0.05, 0.5)}, -(1.105171 - 1.9) / 2),
            ({"clip_epsilon": (0.5, 0.05)}, -(1.05 - 2 * 0.904837) / 2),
            ({"trust_region": SPO(0.05)}, -((1.105171 - 0.110609) + (-1.809675 - 0.181118)) / 2),
            ({"trust_region": ASPO(0.05)}, -(1.05 + (-1.809675 - 0.181118)) / 2),
            # per sample they are exp(.2) = 1.22140, 1 and exp(-.2) = 0.81873, 1
            ({"clip_epsilon": 0.05, "ratio": "per_sample"}, -((1.05 + 1) / 2 - (1.9 + 2) / 2) / 2),
            ({"clip_epsilon": 0.5, "ratio": 2}, -((1.221403 + 1) / 2 - (1.637462 + 2) / 2) / 2),
        ],
    )
    def test_objective(self, kwargs, expected):
        loss, batch = by_hand(self.LOG_RATIOS, self.ADVANTAGES, **kwargs)
        assert loss(batch)["loss_objective"].item() == pytest.approx(expected, abs=1e-5)

    def test_assigning_the_clip_radius_moves_the_clip(self):
        loss, batch = by_hand(self.LOG_RATIOS, self.ADVANTAGES, clip_epsilon=0.3)
        loss.clip_epsilon = 0.05
        assert loss.clip_epsilon == 0.05
        assert loss(batch)["loss_objective"].item() == pytest.approx(-(1.05 - 1.9) / 2, abs=1e-5)

    def test_the_clip_radius_may_be_a_tensor(self):
        loss, batch = by_hand(self.LOG_RATIOS, self.ADVANTAGES, clip_epsilon=torch.tensor(0.05))
        assert loss(batch)["loss_objective"].item() == pytest.approx(-(1.05 - 1.9) / 2, abs=1e-5)

    def test_assigning_the_clip_radius_beside_another_trust_region_is_refused(self):
        loss, _ = by_hand(self.LOG_RATIOS, self.ADVANTAGES, trust_region=ASPO(0.1))
        with pytest.raises(ValueError, match=r"ASPO\(0.1\) has its own radius"):
            loss.clip_epsilon = 0.05
        assert loss.clip_epsilon == 0.1

    def test_diagnostics(self):
        loss, batch = by_hand(self.LOG_RATIOS, self.ADVANTAGES, new=2.0, ratio="per_sample", clip_epsilon=0.2)
        out = loss(batch)
        ratios = [1.221403, 1.0, 0.818731, 1.0]
        assert out["mean_ratio"].item() == pytest.approx(sum(ratios) / 4, abs=1e-5)
        assert out["min_ratio"].item() == pytest.approx(0.818731, abs=1e-5)
        assert out["max_ratio"].item() == pytest.approx(1.221403, abs=1e-5)
        assert out["ESS"].item() == pytest.approx(sum(ratios) ** 2 / (4 * sum(r**2 for r in ratios)), abs=1e-5)
        assert out["clip_fraction"] == 0.25  # 1.2214 > 1.2, and 0.8187 > 0.8
        assert out["cfm_loss_new"].item() == pytest.approx(2.0)
        assert out["cfm_loss_old"].item() == pytest.approx(2.0)

    def test_clip_fraction_is_split_by_the_sign_of_the_advantage(self):
        loss, batch = by_hand(
            [[0.2], [0.0], [0.0], [-0.2], [0.2], [0.0]], [1.0, 2.0, 0.5, -1.0, -1.0, -3.0], clip_epsilon=0.1
        )
        out = loss(batch)
        assert out["clip_fraction"].item() == pytest.approx(3 / 6)
        assert out["clip_fraction_positive"].item() == pytest.approx(1 / 3)
        assert out["clip_fraction_negative"].item() == pytest.approx(2 / 3)

    def test_clip_fraction_of_a_sign_that_does_not_occur_is_zero(self):
        loss, batch = by_hand([[0.2], [-0.2]], [1.0, 2.0], clip_epsilon=0.1)
        assert loss(batch)["clip_fraction_positive"] == 1
        assert loss(batch)["clip_fraction_negative"] == 0

    def test_an_advantage_of_zero_counts_as_positive(self):
        loss, batch = by_hand([[0.2], [0.0]], [0.0, -1.0], clip_epsilon=0.1)
        out = loss(batch)
        assert (out["clip_fraction_positive"], out["clip_fraction_negative"]) == (1, 0)

    def test_advantages_are_normalised_by_default(self):
        loss, batch = by_hand([[0.0], [0.1], [-0.1]], [10.0, 20.0, 60.0])
        normalising = FPOLoss(loss.actor_network, normalize_advantage=True, functional=False)
        shifted = batch.clone().set("advantage", 3 * batch["advantage"] + 100)
        objective = normalising(batch)["loss_objective"]
        torch.testing.assert_close(normalising(shifted)["loss_objective"], objective)
        assert abs(objective) < 0.2

    @pytest.mark.parametrize(
        ("bounds", "mean"),
        [
            ({"min_advantage": -3.0}, (5 - 3 + 1) / 3),
            ({"max_advantage": 3.0}, (3 - 7 + 1) / 3),
            ({"min_advantage": -3.0, "max_advantage": 3.0}, (3 - 3 + 1) / 3),
        ],
    )
    def test_bounds_on_advantages(self, bounds, mean):
        """At ratio 1 the objective is the mean advantage, of 5, -7 and 1 within the bounds."""
        loss, batch = by_hand([[0.0]] * 3, [5.0, -7.0, 1.0], **bounds)
        assert loss(batch)["loss_objective"].item() == pytest.approx(-mean)

    def test_bounds_are_on_normalised_advantages(self):
        """One of 256 has advantage -1, the others 0: their standard deviation is 1/16, so normalised they are 1/16."""
        loss, batch = by_hand([[0.0]] * 256, [-1.0] + [0.0] * 255)
        bounded = FPOLoss(loss.actor_network, min_advantage=-3.0, functional=False)
        assert bounded(batch)["loss_objective"].item() == pytest.approx((3 - 255 / 16) / 256, rel=1e-3)

    @pytest.mark.parametrize(("name", "side", "wrong"), [("min", "negative", 1.0), ("max", "positive", -1.0)])
    def test_a_bound_that_leaves_nothing_is_refused(self, name, side, wrong):
        for bound in (wrong, 0.0, float("nan")):
            with pytest.raises(ValueError, match=f"{name}_advantage must be {side} or None, got {bound}"):
                by_hand([[0.0]], [1.0], **{f"{name}_advantage": bound})


class TestClamps:
    """One action 0 of advantage 1 and one pair of noise 1, so that d L_new / d offset is 2."""

    @staticmethod
    def run(log_ratio: float, new: float = 1.0, **kwargs) -> tuple[float, float]:
        loss, batch = by_hand([[log_ratio]], [1.0], new=new, trust_region=Clip((0.99, 10.0)), **kwargs)
        objective = loss(batch)["loss_objective"]
        (gradient,) = torch.autograd.grad(objective, list(loss.parameters()))
        return -objective.item(), gradient.item()

    def test_without_clamps_the_ratio_is_the_plain_exponential(self):
        objective, gradient = self.run(1.5)
        assert objective == pytest.approx(math.exp(1.5))
        # d loss / d offset = ratio * d L_new / d offset, and L_new = (offset + noise)^2
        assert gradient == pytest.approx(math.exp(1.5) * 2)

    def test_a_log_ratio_beyond_a_hard_clamp_gives_its_bound_and_no_gradient(self):
        assert self.run(1.5, log_ratio_clamp=Clamp(-1.0, 1.0)) == (pytest.approx(math.e), 0)
        assert self.run(-1.5, log_ratio_clamp=Clamp(-1.0, 1.0)) == (pytest.approx(1 / math.e), 0)

    def test_a_straight_through_clamp_gives_the_bound_and_keeps_the_gradient(self):
        objective, gradient = self.run(1.5, log_ratio_clamp=Clamp(high=1.0, straight_through=True))
        assert objective == pytest.approx(math.e)
        assert gradient == pytest.approx(math.e * 2)

    def test_a_clamp_leaves_what_is_inside_its_bounds_alone(self):
        assert self.run(0.5, log_ratio_clamp=Clamp(-1.0, 1.0)) == self.run(0.5)

    def test_a_clamp_of_the_cfm_losses_bounds_both_of_them(self):
        """Old 4, new 1, bound 3: a log-ratio of 2. Old 6, new 4: both at the bound, ratio 1 and no gradient."""
        assert self.run(3.0, new=1.0, cfm_loss_clamp=Clamp(high=3.0))[0] == pytest.approx(math.exp(2), rel=1e-5)
        assert self.run(2.0, new=4.0, cfm_loss_clamp=Clamp(high=3.0)) == (1, 0)

    def test_the_reported_cfm_losses_are_unclamped_the_log_ratio_is_clamped(self):
        clamps = {"log_ratio_clamp": Clamp(high=0.5), "cfm_loss_clamp": Clamp(high=3.0)}
        loss, batch = by_hand([[6.0]], [1.0], **clamps)  # old 7, new 1: after the clamp 3 and 1
        out = loss(batch)
        assert out["max_ratio"].item() == pytest.approx(math.exp(0.5))
        assert (out["cfm_loss_old"].item(), out["cfm_loss_new"].item()) == (pytest.approx(7), pytest.approx(1))

    @pytest.mark.parametrize(
        ("kwargs", "message"), [({}, "needs a bound"), ({"low": 1.0, "high": 1.0}, "low < high, got low=1.0, high=1.0")]
    )
    def test_a_clamp_without_sense_is_refused(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            Clamp(**kwargs)
