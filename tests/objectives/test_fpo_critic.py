"""FPO's loss against TorchRL's PPO, and its critic."""

from __future__ import annotations

import pytest
import torch
from by_hand import gradients
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, set_composite_lp_aggregate
from torchrl.modules import PercentileValueNorm
from torchrl.objectives import ClipPPOLoss, ValueEstimators

from fpo_torchrl import (
    ASPO,
    FPOLoss,
    ObservationNormalizer,
    RandomNoise,
)


def with_successors(batch: TensorDict) -> TensorDict:
    """``batch`` ``[num_envs, time]`` with a random reward and successor of each step, of which none is an end."""
    flag = torch.zeros(*batch.shape, 1, dtype=torch.bool)
    entries = {"observation": torch.randn(*batch.shape, 3), "reward": torch.randn(*batch.shape, 1)}
    return batch.set("next", TensorDict(**entries, done=flag, terminated=flag.clone(), batch_size=batch.shape))


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
        torch.testing.assert_close(ours["mean_ratio"], theirs["mean_ratio"])
        torch.testing.assert_close(ours["max_ratio"], theirs["max_ratio"])
        for key, module in (("loss_objective", actor), ("loss_critic", critic)):
            torch.testing.assert_close(gradients(ours[key], module), gradients(theirs[key], module))

    def test_returns_count_for_their_norm_only_where_the_loss_estimates_them(self, make_actor, make_critic, collect):
        actor, critic = make_actor(), make_critic()
        batch = with_successors(collect(actor, 4, 6))
        batch["next", "reward"] *= 1e4
        scales = []
        for make, extra in ((FPOLoss, {}), (ClipPPOLoss, {"entropy_bonus": False})):
            norm = PercentileValueNorm(shape=1)
            loss = make(actor, critic, normalize_advantage=False, advantage_norm=norm, **extra)
            loss.make_value_estimator(gamma=0.9, lmbda=0.9)
            loss(batch)
            before = norm.scale().clone()
            loss(batch.exclude("advantage", "value_target"))
            assert not norm.scale().equal(before)
            scales.append((before, norm.scale().clone()))
        torch.testing.assert_close(*scales)

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
        batch = with_successors(collect(actor, 4, 6).exclude("advantage", "value_target"))
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


@pytest.mark.parametrize("normalized", [False, True])
def test_a_team_shares_one_advantage(make_actor, collect, move_weights, normalized):
    """Of a reward in common and a central critic; TorchRL's PPO takes it too."""
    actor = make_actor()
    batch = collect(actor, 6, 3)  # three agents
    move_weights(actor)
    team = TensorDict(dict(batch.items()), batch_size=6)
    team["advantage"] = torch.randn(6, 1)
    settings = {"normalize_advantage": normalized, "clip_epsilon": 0.3}
    found = FPOLoss(actor, **settings)(team)["loss_objective"]
    theirs = ClipPPOLoss(actor, None, entropy_bonus=False, **settings)(team)["loss_objective"]
    torch.testing.assert_close(found, theirs)
    if not normalized:  # over teams, not over actions
        batch["advantage"] = team["advantage"].unsqueeze(1).expand(6, 3, 1)
        torch.testing.assert_close(found, FPOLoss(actor, **settings)(batch)["loss_objective"])
