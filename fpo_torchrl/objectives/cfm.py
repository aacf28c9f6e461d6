"""Supervised flow matching: behaviour cloning and warm starts for the same actor that FPO trains."""

from __future__ import annotations

from dataclasses import dataclass

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictParams, TensorDictSequential, dispatch
from tensordict.utils import NestedKey
from torchrl.objectives import LossModule

from fpo_torchrl.checks import check_choice, check_counts, check_kinds, entries
from fpo_torchrl.flow import (
    IndependentPairs,
    PairSampler,
    RegressionTarget,
    TimeSampler,
    TorchDraws,
    UniformTime,
    VelocityTarget,
)
from fpo_torchrl.functional import ACTION_REDUCTIONS
from fpo_torchrl.modules.actor import FlowActor
from fpo_torchrl.modules.chain import acting_module, check_encoders, encode, require_flow


class CFMLoss(LossModule):
    """Conditional flow-matching loss of given actions, averaged over fresh (noise, time) pairs (FPO Eq. 8).

    Keys: reads the actor's ``in_keys`` and ``"action"`` ``[*batch, act]``, an executed action, whose
    squashing is undone (:meth:`FlowActor.unsquash`). Returns ``"loss_cfm"``.

    Args:
        actor_network: the :class:`FlowActor` to train, or a ``TensorDictSequential`` that ends with one.
        num_mc_samples (int): pairs drawn for each action, at least 1.
        target, time_sampler, pairs, action_reduction: as in :class:`FlowActor`, but by default the plain velocity
            target and uniform times, under which the flow's samples follow the data.
        reduction: over the batch, as in any LossModule: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        TypeError: without a FlowActor, or for a part of another kind.
        ValueError: if ``num_mc_samples`` is below 1 or ``action_reduction`` is unknown.
        KeyError: in a batch without the action.

    >>> import torch
    >>> from fpo_torchrl import VelocityMLP
    >>> loss = CFMLoss(FlowActor(VelocityMLP(3, 2)))
    >>> data = TensorDict(observation=torch.zeros(4, 3), action=torch.zeros(4, 2), batch_size=4)
    >>> loss(data)["loss_cfm"].shape
    torch.Size([])
    """

    @dataclass
    class _AcceptedKeys:
        action: NestedKey = "action"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_cfm"]  # noqa: RUF012  # pyright: ignore[reportAssignmentType] - TorchRL reads a class attribute

    actor_network: FlowActor | TensorDictSequential
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams

    def __init__(
        self,
        actor_network: FlowActor | TensorDictSequential,
        *,
        num_mc_samples: int = 1,
        target: RegressionTarget | None = None,
        time_sampler: TimeSampler | None = None,
        pairs: PairSampler | None = None,
        action_reduction: str = "mean",
        reduction: str = "mean",
    ) -> None:
        check_counts(num_mc_samples=num_mc_samples)
        check_kinds("VelocityTarget()", RegressionTarget, target=target)
        check_kinds("UniformTime()", TimeSampler, time_sampler=time_sampler)
        check_kinds("AntitheticPairs()", PairSampler, pairs=pairs)
        check_choice("action_reduction", action_reduction, ACTION_REDUCTIONS)
        require_flow(FlowActor, actor_network, loss="CFMLoss")
        check_encoders(actor_network)
        super().__init__()
        self.convert_to_functional(actor_network, "actor_network")
        self.num_mc_samples = num_mc_samples
        self.target = target if target is not None else VelocityTarget()
        self.time_sampler = time_sampler if time_sampler is not None else UniformTime()
        self.pairs = pairs if pairs is not None else IndependentPairs()
        self.action_reduction = action_reduction
        self.reduction = reduction
        self.set_keys(action=acting_module(actor_network).action_key)

    @property
    def in_keys(self) -> list[NestedKey]:
        """The actor's inputs and the action."""
        return [*self.actor_network.in_keys, self.tensor_keys.action]

    def _forward_value_estimator_keys(self, **kwargs) -> None:
        pass  # there is no value estimator to forward keys to

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The loss of a batch, a scalar unless ``reduction="none"``."""
        advice = "the action to imitate; rename the entry, or set_keys(action=...)"
        [action] = entries(tensordict, [self.tensor_keys.action], reader="CFMLoss", advice=advice)
        with self.actor_network_params.to_module(self.actor_network):
            actor = acting_module(self.actor_network)
            if action.shape[-1:] != (actor.action_dim,):
                raise ValueError(
                    f"{self.tensor_keys.action!r} should have shape [*batch, {actor.action_dim}], got "
                    f"{tuple(action.shape)}; a missing last dimension (action.unsqueeze(-1)) is the usual cause"
                )
            if not action.is_floating_point():
                raise TypeError(f"{self.tensor_keys.action!r} should be floating-point numbers, got {action.dtype}")
            flow_action = actor.unsquash(action)
            shape = (*action.shape[:-1], self.num_mc_samples, action.shape[-1])
            noise, time = self.pairs.sample(shape, self.time_sampler, TorchDraws(action))
            observations = actor.observations(encode(self.actor_network, tensordict.copy()))
            losses = actor.pair_loss(
                observations, flow_action, noise, time, target=self.target, action_reduction=self.action_reduction
            )
        return TensorDict({"loss_cfm": self._reduce_loss(losses.mean(-1), tensordict)})
