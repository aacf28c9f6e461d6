"""Advantages worked out by hand on three short rollouts, and against TorchRL's own module on random ones."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.objectives.value import GAE as TorchRLGAE

from fpo_torchrl import FPOLoss
from fpo_torchrl.advantage import GAE, BraxGAE, GroupAdvantage


@pytest.fixture
def critic():
    """The value of an observation is the observation itself."""
    return TensorDictModule(nn.Identity(), in_keys=["observation"], out_keys=["state_value"])


def rollouts(**changes) -> TensorDict:
    """Three environments, three steps: the first only stops with the batch, the others end at the second step.

    Beside the observations (also the values) stand the true successors; 100 and 4 are final observations.
    """
    column = lambda *rows: torch.tensor(rows).unsqueeze(-1)  # noqa: E731
    no, ends = (False, False, False), (False, True, False)
    entries = {
        "observation": column((1.0, 2.0, 3.0), (1.0, 2.0, 5.0), (1.0, 2.0, 5.0)),
        "next": {
            "observation": column((2.0, 3.0, 4.0), (2.0, 100.0, 6.0), (2.0, 4.0, 6.0)),
            "reward": torch.ones(3, 3, 1),
            "terminated": column(no, ends, no),
            "truncated": column(no, no, ends),
            "done": column(no, ends, ends),
        },
    }
    return TensorDict(entries, batch_size=(3, 3))


class TestGAE:
    """With gamma and lambda 1/2, delta = 1 + next / 2 - value, and each later delta counts a quarter."""

    @pytest.fixture
    def batch(self, critic):
        return GAE(critic, gamma=0.5, lmbda=0.5)(rollouts())

    def test_the_end_of_the_batch_bootstraps_from_the_last_successor(self, batch):
        # deltas 1, 1/2, 0
        assert batch["advantage"][0].flatten().tolist() == [1.125, 0.5, 0.0]

    def test_a_terminated_episode_has_no_future(self, batch):
        # deltas 1, 1 + 0 - 2, 1 + 3 - 5; nothing flows back across the end
        assert batch["advantage"][1].flatten().tolist() == [0.75, -1.0, -1.0]

    def test_a_truncated_episode_is_worth_its_true_final_observation(self, batch):
        # deltas 1, 1 + 4 / 2 - 2, 1 + 3 - 5; nothing flows back across the end
        assert batch["advantage"][2].flatten().tolist() == [1.25, 1.0, -1.0]

    def test_the_value_target_is_advantage_plus_value(self, batch):
        assert batch["value_target"][0].flatten().tolist() == [2.125, 2.5, 3.0]
        assert batch["state_value"].equal(batch["observation"])

    def test_the_reward_scale_multiplies_rewards_only(self, critic):
        batch = GAE(critic, gamma=0.5, lmbda=0.5, reward_scale=10.0)(rollouts())
        # each delta grows by 9
        assert batch["advantage"][0].flatten().tolist() == [1.125 + 9 * (1 + 1 / 4 + 1 / 16), 0.5 + 9 * 1.25, 9.0]

    def test_other_keys(self, batch):
        critic = TensorDictModule(nn.Identity(), in_keys=["observation"], out_keys=["v"])
        gae, usual = GAE(critic, gamma=0.5, lmbda=0.5), batch.clone()
        gae.set_keys(advantage="adv", value_target=("nested", "target"), value="v")
        found = gae(batch.exclude("advantage", "value_target", "state_value"))
        for here, there in {"adv": "advantage", ("nested", "target"): "value_target", "v": "state_value"}.items():
            assert torch.equal(found[here], usual[there])

    def test_keys_are_renamed_one_by_one_as_those_of_the_loss(self):
        gae = GAE(TensorDictModule(nn.Identity(), in_keys=["observation"], out_keys=["state_value"]))
        gae.set_keys(advantage="adv")
        gae.set_keys(value_target="target")
        assert (gae.advantage_key, gae.value_target_key, gae.value_key) == ("adv", "target", "state_value")

    def test_no_gradient_reaches_the_critic(self):
        critic = TensorDictModule(nn.Linear(1, 1), in_keys=["observation"], out_keys=["state_value"])
        assert not GAE(critic)(rollouts())["value_target"].requires_grad

    @pytest.mark.parametrize("settings", [{"gamma": 0.97, "lmbda": 0.9}, {"gamma": 1.0, "lmbda": 0.0}])
    def test_equals_torchrl_on_random_rollouts(self, settings):
        critic = TensorDictModule(nn.Linear(2, 1), in_keys=["observation"], out_keys=["state_value"])
        terminated, truncated = torch.rand(6, 30, 1) < 0.1, torch.rand(6, 30, 1) < 0.1
        done = terminated | truncated
        after = {"terminated": terminated, "truncated": truncated, "done": done, "reward": torch.randn(6, 30, 1)}
        observation, final = torch.randn(6, 31, 2), torch.randn(6, 30, 2)
        after["observation"] = torch.where(done, final, observation[:, 1:])
        batch = TensorDict({"observation": observation[:, :-1], "next": after}, batch_size=(6, 30))
        theirs = TorchRLGAE(value_network=critic, **settings)(batch.clone())
        ours = GAE(critic, **settings)(batch)
        for key in ("advantage", "value_target"):
            torch.testing.assert_close(ours[key], theirs[key])

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"gamma": 1.5}, "gamma must be between 0 and 1, got 1.5"),
            ({"lmbda": -0.1}, "lmbda must be between 0 and 1, got -0.1"),
            ({"reward_scale": 0.0}, "reward_scale must be positive and finite, got 0.0"),
            ({"reward_scale": float("inf")}, "reward_scale must be positive and finite, got inf"),
        ],
    )
    def test_settings_out_of_range_are_refused(self, critic, setting, message):
        with pytest.raises(ValueError, match=message):
            GAE(critic, **setting)


class TestBraxGAE:
    """The target is value + GAE; the advantage is 1 + half the next target - value."""

    @pytest.fixture
    def batch(self, critic):
        return BraxGAE(critic, gamma=0.5, lmbda=0.5)(rollouts())

    def test_lambda_does_not_enter_the_first_hop(self, batch):
        assert batch["value_target"][0].flatten().tolist() == [2.125, 2.5, 3.0]
        assert batch["advantage"][0].flatten().tolist() == [1 + 2.5 / 2 - 1, 1 + 3.0 / 2 - 2, 1 + 4.0 / 2 - 3]

    def test_a_terminated_episode_has_no_future(self, batch):
        # targets of the first two steps: 1 + 0.75 and 2 - 1
        assert batch["advantage"][1].flatten().tolist() == [1 + 1.0 / 2 - 1, 1 - 2.0, 1 + 6.0 / 2 - 5]

    def test_a_truncated_step_teaches_nothing(self, batch):
        # its target is its value, 2, so the step before it gains 1 + 2 / 2 - 1
        assert batch["advantage"][2].flatten().tolist() == [1.0, 0.0, -1.0]
        assert batch["value_target"][2].flatten().tolist() == [2.0, 2.0, 4.0]

    def test_the_reward_scale_multiplies_rewards_only(self, critic):
        batch = BraxGAE(critic, gamma=0.5, lmbda=0.5, reward_scale=3.0)(rollouts())
        assert batch["advantage"][1, 1:].flatten().tolist() == [3 - 2.0, 3 + 6.0 / 2 - 5]


def groups(reward: torch.Tensor) -> TensorDict:
    """Actions in groups, of which only the reward matters."""
    return TensorDict({"next": {"reward": reward}}, batch_size=reward.shape[:-1])


class TestGroupAdvantage:
    def test_by_hand(self):
        # means 2 and 0; standard deviations sqrt((4 + 0 + 0 + 4) / 4) and 3
        reward = torch.tensor([[0.0, 2.0, 2.0, 4.0], [-3.0, 3.0, -3.0, 3.0]]).unsqueeze(-1)
        advantage = GroupAdvantage()(groups(reward))["advantage"].squeeze(-1)
        expected = torch.tensor([[-(2**0.5), 0.0, 0.0, 2**0.5], [-1.0, 1.0, -1.0, 1.0]])
        torch.testing.assert_close(advantage, expected)

    def test_equals_scipys_z_score_along_the_group(self):
        reward = torch.randn(3, 5, 7, 1, dtype=torch.float64)
        advantage = GroupAdvantage()(groups(reward))["advantage"]
        torch.testing.assert_close(advantage, torch.from_numpy(scipy.stats.zscore(reward.numpy(), axis=-2)))

    def test_a_group_that_did_alike_teaches_nothing(self):
        reward = torch.full((2, 1000, 1), 0.1)
        reward[1, 0] = 0.2
        alike, apart = GroupAdvantage()(groups(reward))["advantage"]
        assert not alike.any()
        assert apart[0] > 30

    @pytest.mark.parametrize("level", [0.1, 3.3, 1000.1])
    @pytest.mark.parametrize("size", [2, 3, 7, 8, 63])
    def test_equal_rewards_leave_no_rounding_that_would_be_normalised(self, level, size):
        assert not GroupAdvantage()(groups(torch.full((1, size, 1), level)))["advantage"].any()

    def test_rewards_that_differ_by_rounding_are_equal(self):
        below = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
        rewards = torch.stack([torch.tensor(1.0)] * 3 + [below]).view(1, 4, 1)
        assert not GroupAdvantage()(groups(rewards))["advantage"].any()

    def test_the_unit_of_the_reward_does_not_count(self):
        small = torch.tensor([[[0.0], [1e-8]]])
        assert GroupAdvantage()(groups(small))["advantage"].flatten().tolist() == [-1.0, 1.0]

    def test_the_shift_makes_the_worst_of_each_group_zero_and_keeps_the_differences(self):
        reward = torch.randn(6, 8, 1)
        plain = GroupAdvantage()(groups(reward))["advantage"]
        shifted = GroupAdvantage(non_negative=True)(groups(reward))["advantage"]
        assert shifted.amin(-2).eq(0).all()
        torch.testing.assert_close(shifted.diff(dim=-2), plain.diff(dim=-2))

    def test_the_reward_may_be_kept_under_another_key(self):
        batch = TensorDict(score=torch.tensor([[0.0], [1.0]]), batch_size=2)
        assert GroupAdvantage(reward_key="score")(batch)["advantage"].flatten().tolist() == [-1.0, 1.0]

    def test_the_advantage_may_go_under_another_key(self):
        batch = TensorDict(score=torch.tensor([[0.0], [1.0]]), batch_size=2)
        found = GroupAdvantage(reward_key="score", advantage_key="adv")(batch)
        assert (found["adv"].flatten().tolist(), "advantage" in found) == ([-1.0, 1.0], False)

    def test_it_trains_an_actor_without_a_critic_toward_the_reward(self, make_actor):
        """Every action of one observation; the reward is the action's first coordinate."""
        actor = make_actor()
        loss = FPOLoss(actor, normalize_advantage=False)
        optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
        means = []
        for _ in range(15):
            with torch.no_grad():
                batch = actor(TensorDict(observation=torch.zeros(256, 3), batch_size=256))
            means.append(batch["action"][:, 0].mean().item())
            batch["next", "reward"] = batch["action"][:, :1]
            batch = GroupAdvantage()(batch)
            for _ in range(4):
                optimizer.zero_grad()
                loss(batch)["loss_objective"].backward()
                optimizer.step()
        assert means[-1] > means[0] + 0.2

    @pytest.mark.parametrize(
        ("batch", "error", "message"),
        [
            (
                TensorDict(reward=torch.zeros(4, 1), batch_size=4),
                KeyError,
                r"reads .*'next', 'reward'.*reward_key",
            ),
            (groups(torch.zeros(4, 1, 1)), ValueError, "draw at least 2"),
            (TensorDict(next=TensorDict(reward=torch.zeros(4)), batch_size=4), ValueError, r"a reward \[4\]"),
            (TensorDict(next=TensorDict(reward=torch.zeros(4, 1))), ValueError, r"batch_size \[\]"),
        ],
    )
    def test_a_batch_that_is_no_group_is_refused(self, batch, error, message):
        with pytest.raises(error, match=message):
            GroupAdvantage()(batch)


class TestAgents:
    """A batch ``[env, time]`` whose values are of three agents each: TorchRL's estimator computes the same."""

    @pytest.mark.parametrize("of_team", [False, True])
    def test_each_agent_has_its_own_advantage(self, critic, of_team):
        agents, many = (1 if of_team else 3), (2, 5)
        done = torch.rand(*many, 1, 1) < 0.3
        states = torch.randn(2, 6, 3, 1)
        following = torch.where(done, torch.randn(*many, 3, 1), states[:, 1:])
        reward = torch.randn(*many, agents, 1)
        batch = TensorDict(
            {"observation": states[:, :-1], "next": {"observation": following, "reward": reward}}, batch_size=many
        )
        batch["next", "terminated"] = batch["next", "done"] = done.expand(*many, 3, 1).clone()
        if of_team:
            batch["next", "reward"] = batch["next", "reward"].squeeze(-2)
            batch["next", "done"] = batch["next", "terminated"] = done.squeeze(-1)
        found = GAE(critic, gamma=0.9, lmbda=0.8)(batch.clone())["advantage"]
        for name in ("reward", "done", "terminated"):
            entry = batch["next", name]
            batch["next", name] = (entry.unsqueeze(-2) if of_team else entry).expand(*many, 3, 1)
        theirs = TorchRLGAE(gamma=0.9, lmbda=0.8, value_network=critic, average_gae=False, time_dim=1)
        torch.testing.assert_close(found, theirs(batch)["advantage"])

    def test_rewards_of_agents_for_one_value(self):
        critic = TensorDictModule(lambda it: it.mean(-2), in_keys=["observation"], out_keys=["state_value"])
        batch = TensorDict(
            {
                "observation": torch.zeros(2, 5, 3, 1),
                "next": {
                    "observation": torch.zeros(2, 5, 3, 1),
                    "reward": torch.zeros(2, 5, 3, 1),
                    "done": torch.zeros(2, 5, 1, dtype=torch.bool),
                    "terminated": torch.zeros(2, 5, 1, dtype=torch.bool),
                },
            },
            batch_size=(2, 5),
        )
        with pytest.raises(ValueError, match=r"of shape \(2, 5, 3, 1\) do not fit the critic's values"):
            GAE(critic)(batch)


def test_rewards_of_a_group_may_be_whole_numbers():
    batch = TensorDict({"next": {"reward": torch.tensor([[[0], [1], [1], [2]]])}}, batch_size=(1, 4))
    assert GroupAdvantage()(batch)["advantage"].flatten().tolist() == pytest.approx([-(2**0.5), 0, 0, 2**0.5])
