"""FPO's loss against numbers worked out by hand, against TorchRL's PPO, and against its own claims at theta_old."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, set_composite_lp_aggregate
from torch import nn
from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal
from torchrl.objectives import ClipPPOLoss, ValueEstimators

from fpo_torchrl import (
    ASPO,
    SPO,
    Clamp,
    Clip,
    FlowActor,
    FPOLoss,
    Heun,
    ObservationNormalizer,
    RandomNoise,
    UniformTime,
    VelocityMLP,
    VelocityTarget,
)

RATIOS = ["per_action", "per_sample", 2]
REGIONS = [Clip(0.1), Clip((0.1, 0.3)), SPO(0.1), ASPO(0.1)]


def gradients(loss: torch.Tensor, *modules: nn.Module) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [p for module in modules for p in module.parameters()]))


class Offset(nn.Module):
    """A velocity that is one trained number everywhere, 0 at first."""

    action_dim = 1

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1))

    def forward(self, observation, x_t, time):
        return self.offset + 0 * x_t


def by_hand(log_ratios: list[list[float]], advantages: list[float], new: float = 1.0, **kwargs):
    """A loss and a batch whose CFM losses are ``new`` for every pair, and ``new`` plus the log-ratio at collection.

    With velocity 0, action 0 and noise of size n, the velocity target's loss is n^2.
    """
    num_pairs = len(log_ratios[0])
    actor = FlowActor(Offset(), num_mc_samples=num_pairs, target=VelocityTarget(), squash="none")
    shape = (len(advantages), num_pairs, 1)
    batch = TensorDict(
        observation=torch.zeros(len(advantages), 3),
        action=torch.zeros(len(advantages), 1),
        flow_action=torch.zeros(len(advantages), 1),
        flow_noise=torch.full(shape, math.sqrt(new)),
        flow_time=torch.full(shape, 0.5),
        cfm_loss=new + torch.tensor(log_ratios),
        advantage=torch.tensor(advantages).unsqueeze(-1),
        batch_size=len(advantages),
    )
    return FPOLoss(actor, normalize_advantage=False, **kwargs), batch


class TestAtThetaOld:
    @pytest.mark.parametrize("ratio", RATIOS)
    @pytest.mark.parametrize("trust_region", REGIONS, ids=repr)
    def test_ratio_is_exactly_one_and_nothing_is_clipped(self, make_actor, collect, ratio, trust_region):
        actor = make_actor(normalizer=ObservationNormalizer(3), action_noise_std=0.1)
        actor.normalizer.update(3 * torch.randn(50, 3) + 1)
        batch = collect(actor, 20, 5)
        out = FPOLoss(actor, ratio=ratio, trust_region=trust_region, normalize_advantage=False)(batch)
        for key in ("ratio_mean", "ratio_min", "ratio_max"):
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
            assert out["ratio_min"].item() == pytest.approx(1, abs=1e-5)
            assert out["ratio_max"].item() == pytest.approx(1, abs=1e-5)
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
        assert per_action["ratio_mean"] < groups["ratio_mean"] < per_sample["ratio_mean"]
        assert per_action["ratio_max"] < groups["ratio_max"] < per_sample["ratio_max"]
        assert 1 > per_action["ESS"] > groups["ESS"] > per_sample["ESS"] > 0
        assert all(out["ESS"].shape == () for out in (per_action, per_sample, groups))


class TestPullOfTheCFMLoss:
    def test_it_is_the_mean_cfm_loss_and_leaves_the_objective_alone(self):
        """Losses of 2 for every pair, whatever they were at collection, weighted by 0.3."""
        loss, batch = by_hand([[0.2, 0.0], [-0.2, 0.0]], [1.0, -2.0], new=2.0, cfm_coeff=0.3)
        plain, _ = by_hand([[0.2, 0.0], [-0.2, 0.0]], [1.0, -2.0], new=2.0)
        out = loss(batch)
        assert out["loss_cfm"].item() == pytest.approx(0.6)
        assert out["loss_objective"] == plain(batch)["loss_objective"]
        assert "loss_cfm" not in plain(batch)

    def test_at_theta_old_it_acts_as_advantages_that_are_larger_by_the_coefficient(self, make_actor, collect):
        actor = make_actor()
        batch = collect(actor)
        out = FPOLoss(actor, cfm_coeff=0.3, normalize_advantage=False)(batch)
        shifted = FPOLoss(actor, normalize_advantage=False)(batch.clone().set("advantage", batch["advantage"] + 0.3))
        torch.testing.assert_close(
            gradients(out["loss_objective"] + out["loss_cfm"], actor), gradients(shifted["loss_objective"], actor)
        )

    def test_a_flow_that_is_not_its_own_mean_is_pushed_by_a_constant_advantage_and_one_that_is_is_not(self):
        """Without velocity, actions are N(0, 1) like the noise. The mean velocity of the paths between the two is
        (2 t - 1) x / (t^2 + (1 - t)^2), which leads to the same actions: only there the mean gradient is zero."""

        class Scaled(nn.Module):
            action_dim = 1

            def __init__(self, scale: float) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.tensor(scale))

            def forward(self, observation, x_t, time):
                return self.scale * (2 * time - 1) * x_t / (time**2 + (1 - time) ** 2)

        def push(scale: float) -> float:
            actor = FlowActor(Scaled(scale), squash="none", target=VelocityTarget(), time_sampler=UniformTime())
            td = TensorDict(observation=torch.zeros(20_000, 1), batch_size=20_000)
            with torch.no_grad():
                actor(td).set("flow_action", torch.randn(20_000, 1)).set("cfm_loss", actor.cfm_loss(td))
            td["advantage"] = torch.ones(20_000, 1)
            (gradient,) = gradients(FPOLoss(actor, normalize_advantage=False)(td)["loss_objective"], actor)
            return gradient.item()

        assert abs(push(1.0)) < 0.03
        assert push(0.0) < -0.3  # more of the mean velocity raises the objective
        assert push(2.0) > 0.3

    @pytest.mark.parametrize("name", ["cfm_coeff", "prior_coeff"])
    def test_a_negative_coefficient_is_refused(self, make_actor, name):
        with pytest.raises(ValueError, match=rf"{name} must not be negative, got -0\.1"):
            FPOLoss(make_actor(), **{name: -0.1})


class TestPullOfThePrior:
    def test_it_is_the_error_of_the_velocity_for_standard_normal_actions(self):
        """Without velocity the error is (action - noise)^2 of two standard normals, 2 in the mean; weighted by 0.3."""
        loss, batch = by_hand([[0.0, 0.0]] * 20_000, [1.0] * 20_000, prior_coeff=0.3)
        plain, _ = by_hand([[0.0, 0.0]] * 20_000, [1.0] * 20_000)
        out = loss(batch)
        assert out["loss_prior"].item() == pytest.approx(0.6, rel=0.05)
        assert out["loss_objective"] == plain(batch)["loss_objective"]
        assert "loss_prior" not in plain(batch)

    def test_alone_it_makes_a_narrow_policy_standard_normal(self):
        """The network starts at the flow to actions of almost no spread, v = -x / (1 - t)."""

        class Narrow(nn.Module):
            action_dim = 1

            def __init__(self) -> None:
                super().__init__()
                self.net = VelocityMLP(1, 1, hidden_sizes=(32, 32), output_scale=1.0)
                self.start = nn.Parameter(torch.ones(1))

            def forward(self, observation, x_t, time):
                return self.net(observation, x_t, time) - self.start * x_t / (1 - 0.9 * time)

        actor = FlowActor(Narrow(), Heun(10), squash="none")
        loss = FPOLoss(actor, prior_coeff=1.0, normalize_advantage=False, functional=False)
        optimizer = torch.optim.Adam(actor.parameters(), lr=1e-2)
        with torch.no_grad():
            batch = actor(TensorDict(observation=torch.zeros(1000, 1), batch_size=1000))
        batch["advantage"] = torch.zeros(1000, 1)
        assert batch["flow_action"].std() < 0.3
        for _ in range(200):
            optimizer.zero_grad()
            loss(batch)["loss_prior"].backward()
            optimizer.step()
        action = actor(batch)["flow_action"]
        assert action.mean().abs() < 0.15
        assert action.std().item() == pytest.approx(1, abs=0.15)


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
        assert out["ratio_mean"].item() == pytest.approx(sum(ratios) / 4, abs=1e-5)
        assert out["ratio_min"].item() == pytest.approx(0.818731, abs=1e-5)
        assert out["ratio_max"].item() == pytest.approx(1.221403, abs=1e-5)
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

    def test_advantages_are_normalised_by_default(self):
        loss, batch = by_hand([[0.0], [0.1], [-0.1]], [10.0, 20.0, 60.0])
        normalising = FPOLoss(loss.actor_network, normalize_advantage=True, functional=False)
        shifted = batch.clone().set("advantage", 3 * batch["advantage"] + 100)
        objective = normalising(batch)["loss_objective"]
        torch.testing.assert_close(normalising(shifted)["loss_objective"], objective)
        assert abs(objective) < 0.2


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
        assert out["ratio_max"].item() == pytest.approx(math.exp(0.5))
        assert (out["cfm_loss_old"].item(), out["cfm_loss_new"].item()) == (pytest.approx(7), pytest.approx(1))

    @pytest.mark.parametrize(
        ("kwargs", "message"), [({}, "needs a bound"), ({"low": 1.0, "high": 1.0}, "low < high, got low=1.0, high=1.0")]
    )
    def test_a_clamp_without_sense_is_refused(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            Clamp(**kwargs)


class TestAgainstTorchRL:
    """The strongest claim: TorchRL's own loss, unmodified and without set_keys, computes FPO with a FlowActor."""

    @pytest.mark.parametrize("clip_epsilon", [0.05, 0.2, (0.02, 0.3)])
    @pytest.mark.parametrize("batch_size", [(30,), (6, 5)])
    @pytest.mark.parametrize("aggregate", [False, True])
    def test_clip_ppo_gives_the_same_losses_and_gradients(
        self, make_actor, make_critic, collect, move_weights, clip_epsilon, batch_size, aggregate
    ):
        with set_composite_lp_aggregate(aggregate):
            normalizer = ObservationNormalizer(3)
            actor, critic = make_actor(normalizer=normalizer), make_critic(normalizer=normalizer)
            normalizer.update(2 * torch.randn(50, 3))
            settings = {"clip_epsilon": clip_epsilon, "critic_coeff": 0.25, "loss_critic_type": "l2"}
            ppo = ClipPPOLoss(actor, critic, entropy_bonus=False, normalize_advantage=True, **settings)
        fpo = FPOLoss(actor, critic, **settings)
        batch = collect(actor, *batch_size)
        assert ppo(batch)["mean_ratio"] == 1
        move_weights(actor, critic, scale=0.2)
        theirs, ours = ppo(batch), fpo(batch)
        assert 0 < ours["clip_fraction"] < 1
        for key in ("loss_objective", "loss_critic", "clip_fraction"):
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours["ratio_mean"], theirs["mean_ratio"])
        torch.testing.assert_close(ours["ratio_max"], theirs["max_ratio"])
        for key, module in (("loss_objective", actor), ("loss_critic", critic)):
            torch.testing.assert_close(gradients(ours[key], module), gradients(theirs[key], module))

    @pytest.mark.filterwarnings("ignore:.*entropy")
    def test_clip_ppo_with_its_default_entropy_bonus_is_told_what_to_do(self, make_actor, make_critic, collect):
        actor = make_actor()
        with pytest.raises(NotImplementedError, match="entropy_bonus=False"):
            ClipPPOLoss(actor, make_critic())(collect(actor))

    def test_ppo_trains_a_flow_actor_on_a_bandit(self, make_actor, make_critic):
        """One state, reward -(a - 0.5)^2 in each dimension: the mean action should move to 0.5."""
        actor = make_actor(num_mc_samples=8, start_noise=RandomNoise())
        loss = FPOLoss(actor, trust_region=ASPO(0.1))
        optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)

        def rollout(n: int) -> TensorDict:
            with torch.no_grad():
                batch = actor(TensorDict(observation=torch.zeros(n, 3), batch_size=n))
            return batch.set("advantage", -(batch["action"] - 0.5).square().sum(-1, keepdim=True))

        before = rollout(1000)["advantage"].mean()
        for _ in range(15):
            batch = rollout(256)
            for _ in range(4):
                optimizer.zero_grad()
                loss(batch)["loss_objective"].backward()
                optimizer.step()
        assert before < -0.8
        assert rollout(1000)["advantage"].mean() > -0.4


class TestCritic:
    @pytest.fixture
    def oracle(self) -> TensorDictModule:
        """A critic whose value is the first observation."""
        return TensorDictModule(lambda obs: obs[..., :1], in_keys=["observation"], out_keys=["state_value"])

    def test_a_perfect_critic_explains_all_variance_at_no_loss(self, make_actor, oracle, collect):
        actor = make_actor()
        batch = collect(actor, 50)
        batch["value_target"] = batch["observation"][..., :1]
        out = FPOLoss(actor, oracle)(batch)
        assert out["loss_critic"] == 0
        assert out["explained_variance"].item() == pytest.approx(1)
        batch["value_target"] = torch.randn(50, 1)
        assert FPOLoss(actor, oracle)(batch)["explained_variance"] < 0.5

    def test_the_critic_loss_is_a_quarter_of_the_squared_error_by_default(self, make_actor, oracle, collect):
        actor = make_actor()
        batch = collect(actor, 50)
        batch["value_target"] = batch["observation"][..., :1] + 2
        assert FPOLoss(actor, oracle)(batch)["loss_critic"].item() == pytest.approx(0.25 * 4)
        assert FPOLoss(actor, oracle, critic_coeff=1.0)(batch)["loss_critic"].item() == pytest.approx(4)

    def test_value_clipping_by_hand(self, make_actor, oracle, collect):
        """Value 1, value at collection 0, target 2: clipped to 0.1, the larger error (2 - 0.1)^2 counts."""
        actor = make_actor()
        batch = collect(actor, 5)
        batch["observation"] = torch.ones(5, 3)
        batch["value_target"], batch["state_value"] = torch.full((5, 1), 2.0), torch.zeros(5, 1)
        loss = FPOLoss(actor, oracle, clip_value=0.1)
        out = loss(batch)
        assert out["loss_critic"].item() == pytest.approx(0.25 * 1.9**2)
        assert out["value_clip_fraction"] == 1
        assert set(out.keys()) == set(loss.out_keys)

    def test_the_value_estimator_fills_in_a_missing_advantage(self, make_actor, make_critic, collect):
        actor, critic = make_actor(), make_critic()
        batch = collect(actor, 4, 6).exclude("advantage", "value_target")
        batch["next"] = TensorDict(
            observation=torch.randn(4, 6, 3),
            reward=torch.randn(4, 6, 1),
            done=torch.zeros(4, 6, 1, dtype=torch.bool),
            terminated=torch.zeros(4, 6, 1, dtype=torch.bool),
            batch_size=(4, 6),
        )
        loss = FPOLoss(actor, critic, normalize_advantage=False)
        loss.make_value_estimator(ValueEstimators.TD0, gamma=0.5)
        keys = set(batch.keys(True))
        out = loss(batch)
        assert set(batch.keys(True)) == keys  # the batch itself is left alone
        with torch.no_grad():
            value = critic(batch.select("observation"))["state_value"]
            next_value = critic(batch["next"].select("observation"))["state_value"]
        target = batch["next", "reward"] + 0.5 * next_value
        torch.testing.assert_close(out["loss_objective"], -(target - value).mean())
        torch.testing.assert_close(out["loss_critic"], 0.25 * (target - value).square().mean())

    def test_without_a_critic_there_is_a_policy_loss_alone(self, make_actor, collect):
        actor = make_actor()
        loss, batch = FPOLoss(actor), collect(actor)
        out = loss(batch.exclude("value_target"))
        assert "loss_critic" not in out
        assert set(out.keys()) == set(loss.out_keys)
        with pytest.raises(RuntimeError, match="no advantage and FPOLoss has no critic"):
            loss(batch.exclude("advantage"))


class TestAsALossModule:
    @pytest.mark.parametrize(
        "kwargs",
        [
            {},
            {"critic_coeff": 0.0},
            {"log_explained_variance": False},
            {"ratio": "per_sample"},
            {"cfm_coeff": 0.3, "prior_coeff": 0.1},
        ],
    )
    def test_it_returns_exactly_its_out_keys(self, make_actor, make_critic, collect, kwargs):
        actor = make_actor()
        loss = FPOLoss(actor, make_critic(), **kwargs)
        assert set(loss(collect(actor)).keys()) == set(loss.out_keys)

    def test_diagnostics_are_finite_scalars_without_gradient(self, make_actor, make_critic, collect, move_weights):
        actor = make_actor()
        loss, batch = FPOLoss(actor, make_critic(), ratio="per_sample"), collect(actor, 4, 5)
        move_weights(actor)
        for key, value in loss(batch).items():
            assert value.shape == (), key
            assert torch.isfinite(value), key
            assert value.requires_grad == key.startswith("loss_"), key

    def test_batch_dimensions_make_no_difference(self, make_actor, make_critic, collect, move_weights):
        actor = make_actor()
        loss, batch = FPOLoss(actor, make_critic(), ratio=2), collect(actor, 4, 5)
        move_weights(actor)
        out, flat = loss(batch), loss(batch.reshape(20))
        for key in set(loss.out_keys) - {"explained_variance"}:
            torch.testing.assert_close(out[key], flat[key], rtol=1e-5, atol=1e-6)

    def test_reductions_agree(self, make_actor, make_critic, collect, move_weights):
        actor, critic = make_actor(), make_critic()
        batch = collect(actor, 4, 5)
        move_weights(actor)
        none, total, mean = (FPOLoss(actor, critic, reduction=how)(batch) for how in ("none", "sum", "mean"))
        for key in ("loss_objective", "loss_critic"):
            assert none[key].shape == (4, 5)
            torch.testing.assert_close(none[key].sum(), total[key])
            torch.testing.assert_close(none[key].mean(), mean[key])

    def test_padding_marked_by_the_collector_counts_for_nothing(self, make_actor, make_critic, collect):
        actor = make_actor()
        loss, batch = FPOLoss(actor, make_critic(), normalize_advantage=False), collect(actor, 6)
        expected = loss(batch[:4])
        batch["advantage"][4:], batch["value_target"][4:] = 1e6, 1e6
        batch["collector", "mask"] = torch.tensor([True] * 4 + [False] * 2)
        for key in ("loss_objective", "loss_critic"):
            torch.testing.assert_close(loss(batch)[key], expected[key])

    @pytest.mark.parametrize("functional", [True, False])
    def test_its_parameters_are_those_of_actor_and_critic(
        self, make_actor, make_critic, collect, move_weights, functional
    ):
        actor, critic = make_actor(), make_critic()
        loss, batch = FPOLoss(actor, critic, functional=functional), collect(actor)
        ours = {p.data_ptr() for p in loss.parameters()}
        assert ours == {p.data_ptr() for module in (actor, critic) for p in module.parameters()}
        move_weights(actor, critic)
        torch.testing.assert_close(loss(batch)["cfm_loss_new"], actor.cfm_loss(batch).mean())

    def test_functional_or_not_it_is_the_same_loss(self, make_actor, make_critic, collect, move_weights):
        actor, critic = make_actor(), make_critic()
        batch = collect(actor)
        move_weights(actor, critic)
        out, plain = (FPOLoss(actor, critic, functional=functional)(batch) for functional in (True, False))
        for key in out.keys():  # noqa: SIM118 - iterating over a tensordict is iterating over its batch
            torch.testing.assert_close(out[key], plain[key])
        for key in ("loss_objective", "loss_critic"):
            module = actor if key == "loss_objective" else critic
            torch.testing.assert_close(gradients(out[key], module), gradients(plain[key], module))

    def test_each_loss_trains_its_own_network(self, make_actor, make_critic, collect):
        actor, critic = make_actor(), make_critic()
        out = FPOLoss(actor, critic)(collect(actor))
        out["loss_objective"].backward()
        assert all(p.grad.any() for p in actor.parameters())
        assert all(p.grad is None for p in critic.parameters())
        actor.zero_grad(set_to_none=True)
        out["loss_critic"].backward()
        assert all(p.grad is None for p in actor.parameters())
        assert all(p.grad.any() for p in critic.parameters())

    def test_in_keys_name_everything_that_an_update_reads(self, make_actor, make_critic, collect):
        actor = make_actor()
        loss, batch = FPOLoss(actor, make_critic()), collect(actor)
        assert {"observation", *actor.flow_keys, ("next", "reward"), ("next", "done")} <= set(loss.in_keys)
        selected = batch.select(*loss.in_keys, "advantage", "value_target", strict=False)
        assert "action" not in selected
        torch.testing.assert_close(loss(selected)["loss_objective"], loss(batch)["loss_objective"])

    def test_called_by_keyword_it_returns_its_out_keys_in_order(self, make_actor, make_critic, collect):
        actor = make_actor()
        loss, batch = FPOLoss(actor, make_critic()), collect(actor, 5)
        batch["next"] = TensorDict(
            observation=torch.randn(5, 3),
            reward=torch.randn(5, 1),
            done=torch.zeros(5, 1, dtype=torch.bool),
            terminated=torch.zeros(5, 1, dtype=torch.bool),
            batch_size=5,
        )
        batch = batch.exclude("advantage", "value_target")
        kwargs = {"_".join(key) if isinstance(key, tuple) else key: batch[key] for key in loss.in_keys}
        expected = loss(batch.refine_names("time"))
        for key, value in zip(loss.out_keys, loss(**kwargs), strict=True):
            torch.testing.assert_close(value, expected[key], msg=key)

    def test_keys_may_be_renamed_and_those_it_does_not_read_make_no_difference(self, make_actor, make_critic, collect):
        actor = make_actor()
        loss, batch = FPOLoss(actor, make_critic()), collect(actor)
        expected = loss(batch)["loss_objective"]
        loss.set_keys(advantage="gain", action="another", sample_log_prob="absent")
        batch.rename_key_("advantage", "gain")
        torch.testing.assert_close(loss(batch)["loss_objective"], expected)

    def test_a_list_of_keys_as_ppo_allows_it_is_no_obstacle(self, make_actor, make_critic, collect):
        actor = make_actor()
        loss, batch = FPOLoss(actor, make_critic()), collect(actor)
        loss.set_keys(action=["action", "flow_action"], sample_log_prob=["a", "b"])
        assert {"observation", *actor.flow_keys} <= set(loss.in_keys)
        assert loss(batch)["ratio_max"] == 1

    def test_nested_action_keys_need_no_set_keys(self, make_actor, collect):
        actor = make_actor(action_key=("agent", "action"))
        batch = collect(actor)
        out = FPOLoss(actor)(batch)
        assert out["ratio_max"] == 1
        assert ("agent", "flow_noise") in FPOLoss(actor).in_keys

    @pytest.mark.parametrize("action_key", ["high", ("agent", "action")])
    def test_torchrls_loss_finds_an_action_of_any_name(self, make_actor, make_critic, collect, action_key):
        actor, critic = make_actor(action_key=action_key), make_critic()
        batch = collect(actor)
        theirs = ClipPPOLoss(actor, critic, clip_epsilon=0.05, entropy_bonus=False)(batch.clone())
        ours = FPOLoss(actor, critic, normalize_advantage=False)(batch.clone())
        torch.testing.assert_close(ours["loss_objective"], theirs["loss_objective"])

    def test_it_compiles_without_a_break(self, make_actor, make_critic, collect, move_weights, monkeypatch):
        monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # the checks, only there in tests, do not trace
        actor, critic = make_actor(), make_critic()
        batch = collect(actor)
        move_weights(actor)
        loss = FPOLoss(actor, critic, functional=False)
        compiled = torch.compile(loss, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(batch.clone())["loss_objective"], loss(batch.clone())["loss_objective"])

    def test_state_dict_restores_actor_and_critic(self, make_actor, make_critic, collect):
        actor, other = make_actor(), make_actor()
        loss, restored = FPOLoss(actor, make_critic()), FPOLoss(other, make_critic())
        restored.load_state_dict(loss.state_dict())
        batch = collect(actor)
        for key, value in loss(batch).items():
            assert torch.equal(restored(batch)[key], value), key

    def test_double_precision_stays_double(self, make_actor, make_critic, collect):
        actor, critic = make_actor().double(), make_critic().double()
        out = FPOLoss(actor, critic)(collect(actor))
        assert {value.dtype for value in out.values()} == {torch.float64}

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    @pytest.mark.parametrize("ratio", RATIOS)
    def test_on_a_gpu_it_agrees_with_the_cpu(self, make_actor, make_critic, collect, move_weights, ratio):
        actor, critic = make_actor(normalizer=ObservationNormalizer(3)), make_critic()
        batch = collect(actor, 4, 5)
        move_weights(actor, critic)
        expected = FPOLoss(actor, critic, ratio=ratio)(batch)
        out = FPOLoss(actor.cuda(), critic.cuda(), ratio=ratio)(batch.cuda())
        for key, value in expected.items():
            torch.testing.assert_close(out[key].cpu(), value, rtol=1e-4, atol=1e-5)

    @pytest.mark.filterwarnings("error")
    def test_building_and_calling_it_warns_of_nothing(self, make_actor, make_critic, collect):
        actor = make_actor()
        FPOLoss(actor, make_critic())(collect(actor, 4, 5))

    def test_actor_and_critic_may_be_given_by_torchrls_short_names(self, make_actor, make_critic, collect):
        actor, critic = make_actor(), make_critic()
        batch = collect(actor)
        short, long = FPOLoss(actor=actor, critic=critic)(batch), FPOLoss(actor, critic)(batch)
        assert torch.equal(short["loss_critic"], long["loss_critic"])


class TestBadInput:
    def test_an_advantage_without_its_last_dimension(self, make_actor, collect):
        actor = make_actor()
        batch = collect(actor)
        batch["advantage"] = batch["advantage"].squeeze(-1)
        with pytest.raises(ValueError, match=r"shape \(6, 1\), one value per action, got \(6,\).*unsqueeze\(-1\)"):
            FPOLoss(actor)(batch)

    @pytest.mark.parametrize("key", ["flow_action", "flow_noise", "flow_time", "cfm_loss"])
    def test_a_batch_without_a_flow_key(self, make_actor, collect, key):
        actor = make_actor()
        with pytest.raises(KeyError, match=f"the batch lacks.*'{key}'"):
            FPOLoss(actor)(collect(actor).exclude(key))

    def test_old_losses_for_another_number_of_pairs(self, make_actor, collect):
        actor = make_actor()
        batch = collect(actor)
        batch["cfm_loss"] = batch["cfm_loss"][..., :3]
        with pytest.raises(ValueError, match=r"shape \(6, 4\), got \(6, 3\)"):
            FPOLoss(actor)(batch)

    def test_a_batch_collected_with_another_number_of_pairs(self, make_actor, collect):
        batch = collect(make_actor(num_mc_samples=8))
        with pytest.raises(ValueError, match=r"num_mc_samples=4 pairs of an action, the batch has 8"):
            FPOLoss(make_actor(num_mc_samples=4), ratio="per_sample")(batch)

    def test_a_batch_collected_with_gradients(self, make_actor):
        actor = make_actor()
        batch = actor(TensorDict(observation=torch.randn(6, 3), advantage=torch.randn(6, 1), batch_size=6))
        with pytest.raises(RuntimeError, match=r"collect under torch\.no_grad"):
            FPOLoss(actor)(batch)

    @pytest.mark.parametrize("ratio", [3, 0, 8, "per_pair", 1.0])
    def test_groups_that_do_not_divide_the_pairs(self, make_actor, ratio):
        with pytest.raises(ValueError, match=f"divides the actor's num_mc_samples=4, got {ratio!r}"):
            FPOLoss(make_actor(), ratio=ratio)

    def test_an_actor_that_stores_no_pairs(self, make_actor):
        with pytest.raises(ValueError, match="num_mc_samples must be at least 1, got 0"):
            FPOLoss(make_actor().for_inference())

    def test_an_entropy_bonus(self, make_actor):
        with pytest.raises(ValueError, match="no entropy in closed form"):
            FPOLoss(make_actor(), entropy_bonus=True)

    def test_a_trust_region_beside_a_clip(self, make_actor):
        with pytest.raises(ValueError, match=r"clip_epsilon=0\.2 beside ASPO\(0\.05\)"):
            FPOLoss(make_actor(), clip_epsilon=0.2, trust_region=ASPO(0.05))

    @pytest.mark.parametrize("kwargs", [{"delay_actor": True}, {"max_importance_ratio": 100.0}])
    def test_ppo_options_that_act_on_log_probabilities(self, make_actor, kwargs):
        with pytest.raises(ValueError, match=f"does not support {next(iter(kwargs))}"):
            FPOLoss(make_actor(), **kwargs)

    def test_a_gaussian_actor(self, make_critic):
        net = TensorDictModule(
            nn.Sequential(nn.Linear(3, 4), NormalParamExtractor()), in_keys=["observation"], out_keys=["loc", "scale"]
        )
        gaussian = ProbabilisticActor(net, in_keys=["loc", "scale"], distribution_class=TanhNormal)
        with pytest.raises(TypeError, match=r"needs a FlowActor.*got ProbabilisticActor.*ClipPPOLoss"):
            FPOLoss(gaussian, make_critic())

    @pytest.mark.parametrize("clip_epsilon", [0.0, -0.1, (0.1, 0.0), 1.0])
    def test_a_clip_radius_out_of_range(self, make_actor, clip_epsilon):
        with pytest.raises(ValueError, match="0 < low < 1 and high > 0"):
            FPOLoss(make_actor(), clip_epsilon=clip_epsilon)
