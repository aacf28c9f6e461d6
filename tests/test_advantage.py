"""Advantages worked out by hand on three short rollouts, and against TorchRL's own module on random ones."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.objectives.value import GAE as TorchRLGAE

from fpo_torchrl.advantage import GAE, BraxGAE


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
            ({"reward_scale": 0.0}, "reward_scale must be positive, got 0.0"),
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
