"""The flow policy as a TensorDict module."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, composite_lp_aggregate, dispatch
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type

from fpo_torchrl.flow import (
    Euler,
    GridTime,
    LinearPath,
    NoiseTarget,
    RandomNoise,
    RegressionTarget,
    Solver,
    StartNoise,
    TimeSampler,
    ZeroNoise,
)
from fpo_torchrl.flow.solver import VelocityField
from fpo_torchrl.functional import ACTION_REDUCTIONS, cfm_error
from fpo_torchrl.modules.likelihood import FlowLikelihood
from fpo_torchrl.modules.normalizer import ObservationNormalizer

SQUASHES = {
    "tanh": torch.tanh,
    "clip": lambda x: x.clamp(-1, 1),
    "none": None,
}


class FlowActor(TensorDictModuleBase):
    """Flow policy: integrates a velocity field from noise to an action, and stores what FPO's update needs.

    With the action go ``num_mc_samples`` pairs of noise and time and the CFM loss of the action at them
    (FPO Alg. 1). :meth:`get_dist` scores the stored action at the stored pairs, so TorchRL's own
    ``ClipPPOLoss`` computes the FPO objective with a FlowActor.

    Keys: reads ``in_keys``; writes ``"action"`` ``[*batch, act]``, ``"flow_action"`` (before squashing,
    the CFM target) ``[*batch, act]``, ``"flow_noise"`` ``[*batch, mc, act]``, ``"flow_time"``
    ``[*batch, mc, 1]``, ``"cfm_loss"`` ``[*batch, mc]`` and ``"action_log_prob"``, minus its mean, ``[*batch]``.
    They stand beside ``action_key``; if that does not end in "action" but in, say, "high", their names begin with it:
    ``"high_flow_action"``, so that several actors can share a TensorDict.

    Args:
        velocity_net: module called as ``velocity_net(*observations, x_t=..., time=...)``; leading
            dimensions of its inputs broadcast. Needs ``action_dim``, or pass it here.
        solver: from noise to action; any :class:`~fpo_torchrl.flow.Solver`.
        num_mc_samples (int): (noise, time) pairs stored with each action; 0 stores none.
        start_noise: where the flow starts. Default: TorchRL's exploration type decides, random noise for
            RANDOM, zero noise for DETERMINISTIC and the others, which also leave out a stochastic solver's noise.
        action_noise_std (float): Gaussian noise added to ``flow_action`` under RANDOM exploration.
        squash: ``"tanh"``, ``"clip"`` or ``"none"``, after the flow; the first two map [-1, 1] to the bounds.
        action_low, action_high: bounds of the action, floats or tensors ``[act]``; ignored for ``"none"``.
        normalizer: applied to the observation (one input key only).
        target, action_reduction, time_sampler, path: the CFM loss: what is regressed, how the squared error is
            reduced over action dimensions (``"mean"``, ``"sum"``, ``"sqrt"``), and where on the path.

    Raises:
        ValueError: for a setting out of range. KeyError: in :meth:`cfm_loss`, without the flow keys.

    >>> from fpo_torchrl import VelocityMLP
    >>> from tensordict import TensorDict
    >>> actor = FlowActor(VelocityMLP(obs_dim=3, action_dim=2), Euler(num_steps=10), num_mc_samples=8)
    >>> actor(TensorDict(observation=torch.zeros(4, 3), batch_size=4))["flow_noise"].shape
    torch.Size([4, 8, 2])
    """

    action_low: Tensor
    action_high: Tensor

    def __init__(
        self,
        velocity_net: nn.Module,
        solver: Solver | None = None,
        num_mc_samples: int = 8,
        *,
        start_noise: StartNoise | None = None,
        action_noise_std: float = 0.0,
        squash: Literal["tanh", "clip", "none"] = "tanh",
        action_low: float | Tensor = -1.0,
        action_high: float | Tensor = 1.0,
        normalizer: ObservationNormalizer | None = None,
        target: RegressionTarget | None = None,
        action_reduction: Literal["mean", "sum", "sqrt"] = "mean",
        time_sampler: TimeSampler | None = None,
        path: LinearPath | None = None,
        action_dim: int | None = None,
        in_keys: Sequence[NestedKey] = ("observation",),
        action_key: NestedKey = "action",
    ) -> None:
        super().__init__()
        action_dim = action_dim if action_dim is not None else getattr(velocity_net, "action_dim", None)
        if action_dim is None:
            raise ValueError(
                f"FlowActor needs the size of the action: give {type(velocity_net).__name__} an attribute "
                "action_dim, or pass action_dim="
            )
        if num_mc_samples < 0:
            raise ValueError(f"num_mc_samples must not be negative, got {num_mc_samples}")
        if action_noise_std < 0:
            raise ValueError(f"action_noise_std must not be negative, got {action_noise_std}")
        choices = {"squash": (squash, SQUASHES), "action_reduction": (action_reduction, ACTION_REDUCTIONS)}
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        if normalizer is not None and len(in_keys) > 1:
            raise ValueError(
                f"normalizer works on one observation, got in_keys={list(in_keys)}; normalise inside velocity_net"
            )
        self.velocity_net = velocity_net
        self.normalizer = normalizer
        self.solver = solver if solver is not None else Euler(num_steps=10)
        self.num_mc_samples = num_mc_samples
        self.start_noise = start_noise
        self.action_noise_std = action_noise_std
        self.squash = squash
        self.path = path if path is not None else LinearPath()
        self.target = target if target is not None else NoiseTarget()
        self.action_reduction = action_reduction
        self.time_sampler = time_sampler if time_sampler is not None else GridTime()
        self.action_dim = action_dim
        low, high = torch.as_tensor(action_low), torch.as_tensor(action_high)
        if squash != "none" and not (torch.isfinite(low).all() and torch.isfinite(high).all() and (low < high).all()):
            raise ValueError(
                f"squash={squash!r} needs finite bounds with low < high, got action_low={low.tolist()} and "
                f'action_high={high.tolist()}; use squash="none" for an unbounded action'
            )
        self.register_buffer("action_low", low.to(torch.float32).expand(action_dim).clone())
        self.register_buffer("action_high", high.to(torch.float32).expand(action_dim).clone())
        self._set_keys(in_keys, action_key)

    def _set_keys(self, in_keys: Sequence[NestedKey], action_key: NestedKey) -> None:
        """Place the flow keys beside the action, whatever it is nested in."""
        action_key = unravel_key(action_key)
        self._parent, leaf = (action_key[:-1], action_key[-1]) if isinstance(action_key, tuple) else ((), action_key)
        prefix = "" if leaf == "action" else f"{leaf}_"

        def beside(name: str) -> NestedKey:
            return (*self._parent, name) if self._parent else name

        self.in_keys = list(in_keys)
        self.action_key = action_key
        self.flow_action_key = beside(f"{prefix}flow_action")
        self.flow_noise_key = beside(f"{prefix}flow_noise")
        self.flow_time_key = beside(f"{prefix}flow_time")
        self.cfm_loss_key = beside(f"{prefix}cfm_loss")
        # TorchRL's own actors choose the name of the log-probability by this global flag.
        log_prob = f"{prefix}sample_log_prob" if composite_lp_aggregate(nowarn=True) else f"{leaf}_log_prob"
        self.log_prob_key = beside(log_prob)
        pairs = [self.flow_noise_key, self.flow_time_key, self.cfm_loss_key, self.log_prob_key]
        self.out_keys = [self.action_key, self.flow_action_key, *(pairs if self.num_mc_samples else [])]

    @property
    def log_prob_keys(self) -> list[NestedKey]:
        """Where TorchRL's losses find the stored log-probability."""
        return [self.log_prob_key]

    @property
    def dist_sample_keys(self) -> list[NestedKey]:
        """Where TorchRL's losses find the action."""
        return [self.action_key]

    @property
    def flow_keys(self) -> list[NestedKey]:
        """What an update reads beside the observation: the stored action, its pairs and their CFM loss."""
        return [self.flow_action_key, self.flow_noise_key, self.flow_time_key, self.cfm_loss_key]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Draw an action for each observation and write it with the flow keys."""
        observations = self.observations(tensordict)
        batch = self._batch_shape(tensordict, observations)
        explores = exploration_type() in (ExplorationType.RANDOM, None)
        start_noise = self.start_noise or (RandomNoise() if explores else ZeroNoise())
        noise = start_noise.sample((*batch, self.action_dim), like=self.action_low)
        solver = self.solver if explores else self.solver.without_noise()
        flow_action = solver(self._field(observations), noise)
        if flow_action.shape != noise.shape:
            raise ValueError(
                f"one action was expected per entry of the batch {tuple(batch)}, but the observations have the leading "
                f"dimensions {tuple(flow_action.shape[:-1])}: set the tensordict's batch_size to them"
            )
        if self.action_noise_std and explores:
            flow_action = flow_action + self.action_noise_std * torch.randn_like(flow_action)
        tensordict.set(self.action_key, self._squashed(flow_action))
        tensordict.set(self.flow_action_key, flow_action)
        if self.num_mc_samples:
            shape = (*batch, self.num_mc_samples)
            noise = torch.randn((*shape, self.action_dim), device=flow_action.device, dtype=flow_action.dtype)
            time = self.time_sampler.sample((*shape, 1), like=flow_action)
            cfm_loss = self.pair_loss(observations, flow_action, noise, time)
            tensordict.set(self.flow_noise_key, noise)
            tensordict.set(self.flow_time_key, time)
            tensordict.set(self.cfm_loss_key, cfm_loss)
            tensordict.set(self.log_prob_key, -cfm_loss.mean(-1))
        return tensordict

    def cfm_loss(self, tensordict: TensorDictBase) -> Tensor:
        """CFM loss ``[*batch, mc]`` of the stored action at its stored pairs, under the current weights."""
        flow_action, noise, time = (tensordict.get(key, None) for key in self.flow_keys[:3])
        if flow_action is None or noise is None or time is None:
            missing = [key for key in self.flow_keys[:3] if tensordict.get(key, None) is None]
            raise KeyError(
                f"the batch lacks {missing}, which FlowActor writes at collection. Collect with num_mc_samples of at "
                "least 1, and keep these keys when you select entries from the batch"
            )
        return self.pair_loss(self.observations(tensordict), flow_action, noise, time)

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
        action = flow_action.unsqueeze(-2)
        x_t = self.path.interpolate(noise, action, time)
        velocity = self._field([observation.unsqueeze(flow_action.ndim - 1) for observation in observations])(x_t, time)
        weight, reduction = (target or self.target).weight(time), action_reduction or self.action_reduction
        return cfm_error(velocity, self.path.velocity(noise, action), weight, reduction)

    def unsquash(self, action: Tensor) -> Tensor:
        """The action before squashing; the inverse of tanh is cut at +-0.999 of the bounds."""
        if self.squash == "none":
            return action
        unit = (action - self._centre) / self._half_range
        return torch.atanh(unit.clamp(-0.999, 0.999)) if self.squash == "tanh" else unit

    def get_dist(self, tensordict: TensorDictBase) -> FlowLikelihood:
        """Likelihood surrogate of the stored action; the interface that TorchRL's PPO losses use."""
        return FlowLikelihood(self.cfm_loss(tensordict), self.action_dim)

    def for_inference(self, *, solver: Solver | None = None, start_noise: StartNoise | None = None) -> FlowActor:
        """A view of this actor, on the same weights, without pairs and action noise; it may sample in another way."""
        actor = copy.copy(self)
        actor.num_mc_samples = 0
        actor.action_noise_std = 0.0
        actor._set_keys(self.in_keys, self.action_key)
        actor.solver = solver if solver is not None else self.solver
        actor.start_noise = start_noise if start_noise is not None else self.start_noise
        return actor

    def _batch_shape(self, tensordict: TensorDictBase, observations: list[Tensor]) -> torch.Size:
        """Leading dimensions of the action: those of the tensordict that will hold it."""
        beside = tensordict.get(self._parent, None) if self._parent else None
        batch = (tensordict if beside is None else beside).batch_size
        if not batch and observations[0].ndim > 1:
            # Called by keyword there is no batch size. Only the network knows how many dimensions an observation has.
            x_t, time = self.action_low.new_zeros(self.action_dim), self.action_low.new_zeros(1)
            batch = self.velocity_net(*observations, x_t=x_t, time=time).shape[:-1]
        return batch

    def _field(self, observations: list[Tensor]) -> VelocityField:
        """The velocity as a function of point and time alone."""
        net = self.velocity_net
        # Asked of the class, so that a wrapper which passes attributes on is called as a whole; so is a hooked network.
        if getattr(type(net), "has_condition", False) and not (net._forward_hooks or net._forward_pre_hooks):
            return net.condition(*observations)
        return lambda x_t, time: net(*observations, x_t=x_t, time=time)

    def observations(self, tensordict: TensorDictBase) -> list[Tensor]:
        """The inputs of ``velocity_net`` under ``in_keys``, normalised."""
        observations = [tensordict.get(key) for key in self.in_keys]
        return observations if self.normalizer is None else [self.normalizer(observations[0])]

    @property
    def _centre(self) -> Tensor:
        return (self.action_high + self.action_low) / 2

    @property
    def _half_range(self) -> Tensor:
        return (self.action_high - self.action_low) / 2

    def _squashed(self, flow_action: Tensor) -> Tensor:
        squash = SQUASHES[self.squash]
        if squash is None:
            return flow_action
        return self._centre + self._half_range * squash(flow_action)

    __repr__ = nn.Module.__repr__  # TensorDictModuleBase's own leaves extra_repr out

    def extra_repr(self) -> str:
        """Arguments shown by ``repr``."""
        return (
            f"solver={self.solver}, num_mc_samples={self.num_mc_samples}, start_noise={self.start_noise}, "
            f"target={self.target}, action_reduction={self.action_reduction!r}, squash={self.squash!r}"
        )
