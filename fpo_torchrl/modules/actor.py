"""The flow policy that FPO trains, as a TensorDict module."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from tensordict import TensorDictBase
from tensordict.nn import dispatch
from tensordict.utils import NestedKey
from torch import Tensor, nn

from fpo_torchrl.checks import check_choice, check_kinds, check_shape, entries, misfit
from fpo_torchrl.flow import (
    Draws,
    GridTime,
    IndependentPairs,
    LinearPath,
    NoiseTarget,
    PairSampler,
    RegressionTarget,
    SeededDraws,
    Solver,
    StartNoise,
    TimeSampler,
    TorchDraws,
    VelocityTarget,
)
from fpo_torchrl.functional import ACTION_REDUCTIONS, cfm_error
from fpo_torchrl.modules.likelihood import StoredActionLikelihood
from fpo_torchrl.modules.sampler import FlowSampler, is_exploring


class FlowActor(FlowSampler):
    """Flow policy: integrates a velocity field from noise to an action, and stores what FPO's update needs.

    With the action go ``num_mc_samples`` pairs of noise and time and the CFM loss of the action at them
    (FPO Alg. 1). :meth:`get_dist` scores the stored action at the stored pairs, so TorchRL's own
    ``ClipPPOLoss`` computes the FPO objective with a FlowActor.

    Keys: as :class:`FlowSampler`; it also writes ``"flow_noise"`` ``[*batch, mc, act]``, ``"flow_time"``
    ``[*batch, mc, 1]``, ``"cfm_loss"`` ``[*batch, mc]`` and ``"action_log_prob"``, minus its mean, ``[*batch]``.

    Args:
        velocity_net, solver: as in :class:`FlowSampler`, and so are the further keywords.
        num_mc_samples (int): (noise, time) pairs stored with each action; 0 stores none.
        action_noise_std (float): Gaussian noise added to ``flow_action`` under RANDOM exploration.
        target: what the CFM loss regresses; default :class:`~fpo_torchrl.flow.NoiseTarget`, the paper's choice.
        action_reduction: of the squared error over action dimensions: ``"mean"``, ``"sum"`` or ``"sqrt"``.
        time_sampler: where on the path; default ``GridTime(10)``, whatever the solver's number of steps.
        pairs: how the pairs of an action are drawn; default :class:`~fpo_torchrl.flow.IndependentPairs`.
            :class:`~fpo_torchrl.flow.AntitheticPairs` cost the same and vary less.
        noise_storage: ``"stored"`` keeps noise and time; ``"seed"`` keeps in their place ``"flow_seed"`` ``[*batch]``,
            8 bytes an action, and computes the same pairs from it whenever they are needed.

    Raises:
        ValueError: for a setting out of range.
        KeyError: in :meth:`cfm_loss` and :meth:`redraw_pairs`, without the flow keys.

    >>> from fpo_torchrl import Euler, VelocityMLP
    >>> from tensordict import TensorDict
    >>> actor = FlowActor(VelocityMLP(obs_dim=3, action_dim=2), Euler(num_steps=10), num_mc_samples=8)
    >>> actor(TensorDict(observation=torch.zeros(4, 3), batch_size=4))["flow_noise"].shape
    torch.Size([4, 8, 2])
    """

    def __init__(
        self,
        velocity_net: nn.Module,
        solver: Solver | None = None,
        num_mc_samples: int = 8,
        *,
        action_noise_std: float = 0.0,
        target: RegressionTarget | None = None,
        action_reduction: Literal["mean", "sum", "sqrt"] = "mean",
        time_sampler: TimeSampler | None = None,
        pairs: PairSampler | None = None,
        noise_storage: Literal["stored", "seed"] = "stored",
        **sampler_settings: Any,
    ) -> None:
        super().__init__(velocity_net, solver, **sampler_settings)
        check_kinds("8", int, num_mc_samples=num_mc_samples)
        check_kinds("NoiseTarget()", RegressionTarget, target=target)
        check_kinds("UniformTime()", TimeSampler, time_sampler=time_sampler)
        check_kinds("AntitheticPairs()", PairSampler, pairs=pairs)
        if num_mc_samples < 0:
            raise ValueError(f"num_mc_samples must not be negative, got {num_mc_samples}")
        if not action_noise_std >= 0:
            raise ValueError(f"action_noise_std must not be negative, got {action_noise_std}")
        check_choice("action_reduction", action_reduction, ACTION_REDUCTIONS)
        check_choice("noise_storage", noise_storage, ("stored", "seed"))
        self.num_mc_samples = num_mc_samples
        self.action_noise_std = action_noise_std
        self.target = target if target is not None else NoiseTarget()
        self.action_reduction = action_reduction
        self.time_sampler = time_sampler if time_sampler is not None else GridTime()
        self.pairs = pairs if pairs is not None else IndependentPairs()
        self.path = LinearPath()
        self.flow_noise_key = self._beside("flow_noise")
        self.flow_time_key = self._beside("flow_time")
        self.flow_seed_key = self._beside("flow_seed")
        self.cfm_loss_key = self._beside("cfm_loss")
        self.seeded = noise_storage == "seed"
        self.pair_keys = [self.flow_seed_key] if self.seeded else [self.flow_noise_key, self.flow_time_key]
        if num_mc_samples:
            self._also_writes(self.flow_action_key, *self.pair_keys, self.cfm_loss_key)

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Draw an action for each observation and write it with the flow keys."""
        observations = self.observations(tensordict)
        flow_action = self._flow(tensordict, observations)[-1]
        if self.action_noise_std and is_exploring():
            flow_action = flow_action + self.action_noise_std * torch.randn_like(flow_action)
        self._write(tensordict, flow_action)
        if self.flow_keys:
            self._write_pairs(tensordict, observations, flow_action)
        return tensordict

    def redraw_pairs(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Replace the pairs ``[*batch, mc]`` of the stored actions, with the CFM losses under these weights."""
        [flow_action] = self._stored(tensordict, self.flow_action_key)
        return self._write_pairs(tensordict, self.observations(tensordict), flow_action)

    def _write_pairs(
        self, tensordict: TensorDictBase, observations: list[Tensor], flow_action: Tensor
    ) -> TensorDictBase:
        noise, time = self._new_pairs(tensordict, flow_action)
        cfm_loss = self.pair_loss(observations, flow_action, noise, time)
        tensordict.set(self.cfm_loss_key, cfm_loss)
        tensordict.set(self.log_prob_key, -cfm_loss.mean(-1))
        return tensordict

    def cfm_loss(self, tensordict: TensorDictBase) -> Tensor:
        """CFM loss ``[*batch, mc]`` of the stored action at its stored pairs, under the current weights."""
        flow_action, *_ = self._stored(tensordict, self.flow_action_key, *self.pair_keys)
        noise, time = self._old_pairs(tensordict, flow_action)
        return self.pair_loss(self.observations(tensordict), flow_action, noise, time)

    @staticmethod
    def _stored(tensordict: TensorDictBase, *keys: NestedKey) -> list[Tensor]:
        advice = (
            "collect with num_mc_samples of at least 1, and keep these keys when you select from the batch. A loss "
            "that hands the actor its inputs alone, as A2CLoss does, cannot train it"
        )
        return entries(tensordict, keys, reader="the update of a FlowActor", advice=advice)

    def _new_pairs(self, tensordict: TensorDictBase, flow_action: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs for ``flow_action``, with what :meth:`_old_pairs` needs written into ``tensordict``."""
        if self.seeded:
            tensordict.set(self.flow_seed_key, SeededDraws.random_seeds(flow_action.shape[:-1], flow_action.device))
            return self._old_pairs(tensordict, flow_action)
        noise, time = self._sample_pairs(flow_action.shape[:-1], TorchDraws(flow_action))
        tensordict.set(self.flow_noise_key, noise)
        tensordict.set(self.flow_time_key, time)
        return noise, time

    def _old_pairs(self, tensordict: TensorDictBase, flow_action: Tensor) -> tuple[Tensor, Tensor]:
        """The pairs that :meth:`_new_pairs` drew for ``flow_action``, in any order and part of the batch."""
        if self.seeded:
            draws = SeededDraws(tensordict.get(self.flow_seed_key), flow_action.dtype)
            return self._sample_pairs(flow_action.shape[:-1], draws)
        return tensordict.get(self.flow_noise_key), tensordict.get(self.flow_time_key)

    def _sample_pairs(self, batch: torch.Size, draws: Draws) -> tuple[Tensor, Tensor]:
        return self.pairs.sample((*batch, self.num_mc_samples, self.action_dim), self.time_sampler, draws)

    def pair_loss(
        self,
        observations: list[Tensor],
        flow_action: Tensor,
        noise: Tensor,
        time: Tensor,
        *,
        target: RegressionTarget | None = None,
        action_reduction: str | None = None,
    ) -> Tensor:
        """CFM loss ``[*batch, mc]`` of any ``flow_action`` at any pairs, given :meth:`observations`."""
        action, target = flow_action.unsqueeze(-2), target or self.target
        x_t = self.path.interpolate(noise, action, time)
        velocity = self._checked_field([observation.unsqueeze(flow_action.ndim - 1) for observation in observations])(
            x_t, time
        )
        weight = target.weight(time)
        check_shape("the times of the pairs", time, (*x_t.shape[:-1], 1), "[*batch, mc, 1]")
        check_shape("the weights of the target", weight, time.shape, "that of the times, [*batch, mc, 1]")
        if velocity.shape != x_t.shape:
            raise ValueError(
                f"velocity_net should return a velocity for each of the points {tuple(x_t.shape)} [*batch, mc, act], "
                f"got {tuple(velocity.shape)}. {misfit(flow_action.shape[:-1], observations[0])}"
            )
        return cfm_error(velocity, self.path.velocity(noise, action), weight, action_reduction or self.action_reduction)

    def prior_loss(self, tensordict: TensorDictBase) -> Tensor:
        """CFM loss ``[*batch]`` of standard normal actions, before squashing, with the velocity as target.

        One fresh pair for each observation, at a time uniform over the whole flow. Making it smaller
        draws the policy toward that prior in the direction that leaves out none of its actions, as a larger
        entropy would.
        """
        observations = self.observations(tensordict)
        [like] = self._stored(tensordict, self.flow_action_key)
        action, noise = torch.randn((2, *like.shape), device=like.device, dtype=like.dtype)
        time = torch.rand((*like.shape[:-1], 1, 1), device=like.device, dtype=like.dtype)
        return self.pair_loss(observations, action, noise.unsqueeze(-2), time, target=VelocityTarget()).squeeze(-1)

    def get_dist(self, tensordict: TensorDictBase) -> StoredActionLikelihood:
        """Likelihood surrogate of the stored action; the interface that TorchRL's PPO losses use.

        Its ``log_prob`` is minus the mean CFM loss. The difference of two, under new and old weights, is FPO's
        log-ratio (FPO Eq. 6); it has no normalisation, and one alone means nothing.
        """
        return StoredActionLikelihood(-self.cfm_loss(tensordict).mean(-1), self.action_dim)

    def for_inference(self, *, solver: Solver | None = None, start_noise: StartNoise | None = None) -> Self:
        """A view of this actor, on the same weights, without pairs and action noise; it may sample in another way."""
        actor = super().for_inference(solver=solver, start_noise=start_noise)
        actor.action_noise_std = 0.0
        return actor

    def extra_repr(self) -> str:
        """Arguments shown by ``repr``."""
        return (
            f"{super().extra_repr()}, num_mc_samples={self.num_mc_samples}, target={self.target}, "
            f"action_reduction={self.action_reduction!r}, time_sampler={self.time_sampler}, pairs={self.pairs}"
        )
