"""Advantage and value target of a collected batch."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives.value.functional import generalized_advantage_estimate

from fpo_torchrl.checks import check_shape, entries
from fpo_torchrl.functional import brax_advantage, group_advantage


class GAE:
    """Generalised advantage estimation, computed by TorchRL, that bootstraps through time limits.

    An episode that ``terminated`` has no future; one that was ``truncated`` is worth what the critic says of
    its true final observation. The critic sees every state once, plus the few successors that do not
    follow in the batch.

    Keys: reads the critic's inputs, also under ``"next"``, and ``("next", "reward" | "done" | "terminated")``;
    writes ``"advantage"``, ``"value_target"`` and ``"state_value"``, each ``[*batch, time, 1]``, or what
    :meth:`set_keys` calls them. Values of several agents, ``[*batch, time, agents, 1]``, get advantages of that shape,
    from rewards of each agent or of their team.

    Args:
        critic: module that writes the value.
        gamma (float): discount per step, in [0, 1].
        lmbda (float): GAE's lambda, in [0, 1].
        reward_scale (float): factor on the reward, positive (the paper's Table A.2: 10).

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(
        self, critic: TensorDictModule, *, gamma: float = 0.995, lmbda: float = 0.95, reward_scale: float = 1.0
    ) -> None:
        for name, value in {"gamma": gamma, "lmbda": lmbda}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        if not 0 < reward_scale < float("inf"):
            raise ValueError(f"reward_scale must be positive and finite, got {reward_scale}")
        self.critic = critic
        self.gamma, self.lmbda, self.reward_scale = gamma, lmbda, reward_scale
        self.advantage_key: NestedKey = "advantage"
        self.value_target_key: NestedKey = "value_target"
        self.value_key: NestedKey = "state_value"

    def set_keys(
        self,
        *,
        advantage: NestedKey | None = None,
        value_target: NestedKey | None = None,
        value: NestedKey | None = None,
    ) -> None:
        """Rename what is written, and the critic's output; None keeps a name."""
        for name, key in {"advantage": advantage, "value_target": value_target, "value": value}.items():
            if key is not None:
                setattr(self, f"{name}_key", key)

    @torch.no_grad()
    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        """Add the advantage to ``batch`` ``[*batch, time]``, in place."""
        value, next_value = self._values(batch)
        advantage, value_target = self._estimate(batch["next"], value, next_value)
        batch.set(self.advantage_key, advantage).set(self.value_target_key, value_target)
        return batch.set(self.value_key, value)

    def _values(self, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Value of each state and of its successor."""
        observations = batch.select(*self.critic.in_keys)
        value = self.critic(observations)[self.value_key]
        time, num_steps = batch.ndim - 1, batch.shape[-1]
        does_not_follow = batch["next"].get("done").flatten(batch.ndim).any(-1)
        does_not_follow[..., -1] = True
        next_value = torch.empty_like(value)
        next_value.narrow(time, 0, num_steps - 1).copy_(value.narrow(time, 1, num_steps - 1))
        last = does_not_follow.nonzero(as_tuple=True)
        successors = batch["next"].select(*self.critic.in_keys)[last]
        next_value[last] = self.critic(successors)[self.value_key]
        return value, next_value

    def _estimate(self, step: TensorDictBase, value: Tensor, next_value: Tensor) -> tuple[Tensor, Tensor]:
        reward, done, terminated = (_of_each_value(step[name], value) for name in ("reward", "done", "terminated"))
        return generalized_advantage_estimate(
            self.gamma,
            self.lmbda,
            value,
            next_value,
            reward * self.reward_scale,
            done=done,
            terminated=terminated,
            time_dim=step.ndim - 1,
        )


def _of_each_value(entry: Tensor, value: Tensor) -> Tensor:
    """``entry`` for each value: what a team of agents shares belongs to every one of them."""
    missing = value.ndim - entry.ndim
    try:
        return entry.view(*entry.shape[:-1], *[1] * missing, entry.shape[-1]).expand_as(value)
    except RuntimeError as error:
        raise ValueError(
            f"rewards and ends of shape {tuple(entry.shape)} do not fit the critic's values, {tuple(value.shape)}: it "
            "should write one value for each reward, or for each agent of a team that shares one"
        ) from error


class BraxGAE(GAE):
    """The variant that Brax and the authors' released code use (:func:`~fpo_torchrl.functional.brax_advantage`).

    It drops truncated steps instead of bootstrapping, and lambda does not enter the first hop.
    """

    def _values(self, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Value of each state, and of the last one's successor: the others are not used."""
        value = self.critic(batch.select(*self.critic.in_keys))[self.value_key]
        check_shape("the value", value, (*batch.shape, 1), "one for each step: BraxGAE knows no agents")
        last = batch["next"].select(*self.critic.in_keys)[..., -1:]
        next_value = torch.zeros_like(value)
        next_value[..., -1:, :] = self.critic(last)[self.value_key]
        return value, next_value

    def _estimate(self, step: TensorDictBase, value: Tensor, next_value: Tensor) -> tuple[Tensor, Tensor]:
        return brax_advantage(
            step["reward"] * self.reward_scale,
            step["terminated"],
            step["done"] & ~step["terminated"],
            value,
            next_value,
            self.gamma,
            self.lmbda,
        )


class GroupAdvantage:
    """Advantage of each action among a group drawn for the same observation: GRPO's, without a critic.

    For actions that earn their reward at once, such as the samples of a pretrained generative model; the equation is
    :func:`~fpo_torchrl.functional.group_advantage` (arXiv 2402.03300). Where trajectories arrive one by one in a
    replay buffer, TorchRL's ``MCAdvantage`` gathers the groups.

    Keys: reads the reward ``[*batch, group, 1]``; writes the advantage, of that shape. Train with
    ``FPOLoss(actor, normalize_advantage=False)``: the advantages are normalised already, and normalising
    them again would take the shift back.

    Args:
        non_negative (bool): shift each group by a constant so that its worst member has advantage 0. The actions
            then are a weighted data set for flow matching, which takes no negative weights (FPO, arXiv 2507.21053,
            appendix A.1.4).
        reward_key, advantage_key: where the reward is, and where the advantage goes.

    Raises:
        KeyError: in a batch without the reward.
        ValueError: for a reward of another shape, or groups of one.

    >>> from tensordict import TensorDict
    >>> reward = torch.tensor([[[0.0], [1.0], [1.0], [2.0]]])
    >>> batch = TensorDict({"next": {"reward": reward}}, batch_size=(1, 4))
    >>> GroupAdvantage()(batch)["advantage"].flatten()
    tensor([-1.4142,  0.0000,  0.0000,  1.4142])
    """

    def __init__(
        self,
        *,
        non_negative: bool = False,
        reward_key: NestedKey = ("next", "reward"),
        advantage_key: NestedKey = "advantage",
    ) -> None:
        self.non_negative = non_negative
        self.reward_key, self.advantage_key = reward_key, advantage_key

    @torch.no_grad()
    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        """Add the advantage to ``batch`` ``[*batch, group]``, in place."""
        advice = "write the reward of each action there, or give its reward_key"
        [reward] = entries(batch, [self.reward_key], reader="GroupAdvantage", advice=advice)
        expected = (*batch.batch_size, 1)
        if not batch.batch_size or reward.shape != expected:
            raise ValueError(
                f"a group is the last dimension of the batch: expected batch_size [*batch, group] and a reward of that "
                f"shape and 1, got batch_size {list(batch.batch_size)} and a reward {list(reward.shape)}"
            )
        if batch.batch_size[-1] < 2:
            raise ValueError("a group of one action has no advantage over itself: draw at least 2 per observation")
        advantage = group_advantage(reward)
        if self.non_negative:
            advantage = advantage - advantage.amin(-2, keepdim=True)
        return batch.set(self.advantage_key, advantage)
