"""What every flow policy shares: from an observation and noise to an action inside its bounds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, Self

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, composite_lp_aggregate, dispatch
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type

from fpo_torchrl.checks import check_choice, check_kinds, check_observations, entries, misfit
from fpo_torchrl.flow import Euler, RandomNoise, Solver, StartNoise, ZeroNoise
from fpo_torchrl.flow.solver import VelocityField
from fpo_torchrl.modules.hooks import is_hooked
from fpo_torchrl.modules.squash import SQUASHES, action_bounds


class FlowSampler(TensorDictModuleBase):
    """Policy that carries noise to an action along a velocity field; base of the policies that can be trained.

    A subclass extends :meth:`forward` by what its loss needs and lists that in ``flow_keys``.

    Keys: reads ``in_keys``; writes ``"action"`` ``[*batch, act]`` and ``"flow_action"``, the action before
    squashing, ``[*batch, act]``. The second stands beside ``action_key``; if that does not end in "action"
    but in, say, "high", its name begins with it: ``"high_flow_action"``, so that several actors can share
    a TensorDict.

    Args:
        velocity_net: module called as ``velocity_net(*observations, x_t=..., time=...)``; leading
            dimensions of its inputs broadcast.
        solver: from noise to action; any :class:`~fpo_torchrl.flow.Solver`.
        start_noise: where the flow starts. Default: TorchRL's exploration type decides, random noise for
            RANDOM and where none is set, zero noise for the others, which also leave out a stochastic solver's noise.
        squash: ``"tanh"``, ``"clip"`` or ``"none"``, after the flow; the first two map [-1, 1] to the bounds.
        squash_gain (float): positive factor on the flow's action before squashing. Untrained, a flow is close to
            standard normal, so a gain above 1 widens the first actions.
        action_low, action_high: bounds of the action, floats or tensors ``[act]``; ignored for ``"none"``.
        normalizer: applied to the observation (one input key only).
        action_dim (int, optional): size of the action; default ``velocity_net.action_dim``.
        in_keys: where the observations are, in the order in which ``velocity_net`` takes them. A nested key goes into a
            list: ``[("agents", "observation")]``.
        action_key: where the action is written.

    Raises:
        ValueError: for a setting out of range, observations that would broadcast against the TensorDict's batch size,
            or a velocity of another size than the action.
        KeyError: for a TensorDict without an observation.
    """

    action_low: Tensor
    action_high: Tensor
    log_prob_key: NestedKey
    flow_keys: list[NestedKey]

    def __init__(
        self,
        velocity_net: nn.Module,
        solver: Solver | None = None,
        *,
        start_noise: StartNoise | None = None,
        squash: Literal["tanh", "clip", "none"] = "tanh",
        squash_gain: float = 1.0,
        action_low: float | Tensor = -1.0,
        action_high: float | Tensor = 1.0,
        normalizer: nn.Module | None = None,
        action_dim: int | None = None,
        in_keys: str | Sequence[NestedKey] = ("observation",),
        action_key: NestedKey = "action",
    ) -> None:
        super().__init__()
        check_kinds("Euler(num_steps=10)", Solver, solver=solver)
        check_kinds("ZeroNoise()", StartNoise, start_noise=start_noise)
        in_keys = [in_keys] if isinstance(in_keys, str) else [*in_keys]
        action_dim = action_dim if action_dim is not None else getattr(velocity_net, "action_dim", None)
        if action_dim is None:
            raise ValueError(
                f"{type(self).__name__} needs the size of the action: give {type(velocity_net).__name__} an attribute "
                "action_dim, or pass action_dim="
            )
        check_choice("squash", squash, SQUASHES)
        if normalizer is not None and len(in_keys) > 1:
            raise ValueError(
                f"normalizer works on one observation, got in_keys={in_keys}; normalise inside velocity_net"
            )
        self.velocity_net = velocity_net
        self.normalizer = normalizer
        self.solver = solver if solver is not None else Euler(num_steps=10)
        self.start_noise = start_noise
        if not 0 < squash_gain < float("inf"):
            raise ValueError(f"squash_gain must be positive and finite, got {squash_gain}")
        if squash == "none" and squash_gain != 1:
            raise ValueError(f'squash_gain={squash_gain} has no effect with squash="none": leave it at 1')
        self.squash, self.squash_gain = squash, float(squash_gain)
        self.action_dim = action_dim
        bounds = action_bounds(action_low, action_high, squash=squash, action_dim=action_dim)
        for name, bound in bounds.items():
            self.register_buffer(name, bound)

        self.in_keys = in_keys
        self.action_key = action_key = unravel_key(action_key)
        self._parent, leaf = (action_key[:-1], action_key[-1]) if isinstance(action_key, tuple) else ((), action_key)
        self._prefix = "" if leaf == "action" else f"{leaf}_"
        self.flow_action_key = self._beside("flow_action")
        # TorchRL's own actors choose the name of the log-probability by this global flag.
        log_prob = f"{self._prefix}sample_log_prob" if composite_lp_aggregate(nowarn=True) else f"{leaf}_log_prob"
        self.log_prob_key = (*self._parent, log_prob) if self._parent else log_prob
        self.out_keys = [self.action_key, self.flow_action_key]
        self.flow_keys = []

    def _beside(self, name: str) -> NestedKey:
        """The key ``name`` beside the action, whatever that is nested in and called."""
        name = self._prefix + name
        return (*self._parent, name) if self._parent else name

    def _also_writes(self, *flow_keys: NestedKey) -> None:
        """Declare what :meth:`forward` writes for the update, with the log-probability as the last."""
        self.flow_keys = [*flow_keys]
        written = [key for key in flow_keys if key not in self.out_keys]
        self.out_keys = [*self.out_keys, *written, self.log_prob_key]

    @property
    def log_prob_keys(self) -> list[NestedKey]:
        """Where TorchRL's losses find the stored log-probability."""
        return [self.log_prob_key]

    @property
    def dist_sample_keys(self) -> list[NestedKey]:
        """Where TorchRL's losses find the action."""
        return [self.action_key]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Draw an action for each observation and write it with what an update needs."""
        return self._write(tensordict, self.flow_points(tensordict)[-1])

    def flow_points(self, tensordict: TensorDictBase) -> list[Tensor]:
        """Draw an action for each observation and return the points ``[*batch, act]`` that its flow passes.

        The first is the noise, the last the action before squashing.
        """
        return self._flow(tensordict, self.observations(tensordict))

    def for_inference(self, *, solver: Solver | None = None, start_noise: StartNoise | None = None) -> Self:
        """A view of this actor, on the same weights, that writes the action only; it may sample in another way.

        Move the actor to its device and precision before: the weights are shared, the bounds are not.
        """
        actor = copy.copy(self)
        for name, table in self.__dict__.items():
            if isinstance(table, dict):  # a module, buffer or hook set on the view is not the actor's
                actor.__dict__[name] = table.copy()
        actor.out_keys, actor.flow_keys = [self.action_key, self.flow_action_key], []
        actor.solver = solver if solver is not None else self.solver
        actor.start_noise = start_noise if start_noise is not None else self.start_noise
        return actor

    def observations(self, tensordict: TensorDictBase) -> list[Tensor]:
        """The inputs of ``velocity_net`` under ``in_keys``, normalised."""
        advice = "give its in_keys, or rename the entries"
        return self._normalized(entries(tensordict, self.in_keys, reader=type(self).__name__, advice=advice))

    def act(self, observations: Sequence[Tensor], noise: Tensor) -> Tensor:
        """The action ``[*batch, act]`` that the solver carries ``noise`` ``[*batch, act]`` to, of plain tensors.

        ``observations`` are those under ``in_keys``, before normalisation, with the same ``*batch``.
        """
        return self._squashed(self.solver(self._field(self._normalized(observations)), noise))

    def unsquash(self, action: Tensor) -> Tensor:
        """The action before squashing; the inverse of tanh is cut at +-0.999 of the bounds."""
        squash = SQUASHES[self.squash]
        if squash is None:
            return action
        return squash.inverse((action - self._centre) / self.half_range) / self.squash_gain

    def _normalized(self, observations: Sequence[Tensor]) -> list[Tensor]:
        return [*observations] if self.normalizer is None else [self.normalizer(observations[0])]

    def _flow(self, tensordict: TensorDictBase, observations: list[Tensor]) -> list[Tensor]:
        """The points ``[*batch, act]`` that the flow passes, from noise to the action before squashing."""
        explores = is_exploring()
        start_noise = self.start_noise or (RandomNoise() if explores else ZeroNoise())
        batch = self._batch_shape(tensordict, observations)
        check_observations(batch, observations)
        noise = start_noise.sample((*batch, self.action_dim), like=self.action_low)
        solver = self.solver if explores else self.solver.without_noise()
        try:
            points = solver.points(self._checked_field(observations), noise)
        except RuntimeError as error:
            if observations[0].ndim > noise.ndim:
                error.add_note(f"Unless velocity_net has a fault of its own: {misfit(batch, observations[0])}")
            raise
        if points[-1].shape != noise.shape:
            raise ValueError(misfit(batch, observations[0]))
        return points

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
        if getattr(type(net), "has_condition", False) and not is_hooked(net):
            return net.condition(*observations)
        return lambda x_t, time: net(*observations, x_t=x_t, time=time)

    def _checked_field(self, observations: list[Tensor]) -> VelocityField:
        """As :meth:`_field`, but velocities of another size than the action, which would broadcast, are refused."""
        try:
            field = self._field(observations)
        except RuntimeError as error:
            self._note_precision(error, observations)
            raise

        def checked(x_t: Tensor, time: Tensor) -> Tensor:
            try:
                velocity = field(x_t, time)
            except RuntimeError as error:
                self._note_precision(error, (*observations, x_t, time))
                shapes = ", ".join(str(tuple(value.shape)) for value in (*observations, x_t, time))
                error.add_note(
                    f"velocity_net was called with observations, x_t and time of shapes {shapes}. Their leading "
                    "dimensions broadcast: a network that concatenates expands them first, to torch.broadcast_shapes"
                )
                raise
            if velocity.shape[-1] != self.action_dim:
                raise ValueError(
                    f"velocity_net should return one number for each of the {self.action_dim} entries of the action, "
                    f"got {tuple(velocity.shape)}"
                )
            return velocity

        return checked

    def _note_precision(self, error: RuntimeError, inputs: Sequence[Tensor]) -> None:
        """Tell an ``error`` of a network whose ``inputs`` have another precision than the actor."""
        own = self.action_low.dtype
        others = [str(value.dtype) for value in inputs if value.is_floating_point() and value.dtype != own]
        if others:
            error.add_note(
                f"velocity_net was given {others[0]} by an actor of {own}: bring observations, actions and the actor "
                "to one precision, the actor before it collects or is given to a loss"
            )

    def _write(self, tensordict: TensorDictBase, flow_action: Tensor) -> TensorDictBase:
        """Write the action, and what it was before squashing."""
        tensordict.set(self.action_key, self._squashed(flow_action))
        tensordict.set(self.flow_action_key, flow_action)
        return tensordict

    @property
    def _centre(self) -> Tensor:
        return (self.action_high + self.action_low) / 2

    @property
    def half_range(self) -> Tensor:
        """Half the range of each action coordinate ``[act]``, the unit of distances; 1 where there is no bound."""
        half = (self.action_high - self.action_low) / 2  # infinite too for bounds that stand for none, as TorchRL's do
        return half.where(half.isfinite(), torch.ones_like(half))

    def _squashed(self, flow_action: Tensor) -> Tensor:
        squash = SQUASHES[self.squash]
        if squash is None:
            return flow_action.clone()  # an environment may clip its action in place, and the flow's is to stay
        action = self._centre + self.half_range * squash.forward(self.squash_gain * flow_action)
        return action.clamp(self.action_low, self.action_high)  # rounding may have passed them

    __repr__ = nn.Module.__repr__  # TensorDictModuleBase's own leaves extra_repr out

    def extra_repr(self) -> str:
        """Arguments shown by ``repr``."""
        return f"solver={self.solver}, start_noise={self.start_noise}, squash={self.squash!r}" + (
            f", squash_gain={self.squash_gain}" if self.squash_gain != 1 else ""
        )


def is_exploring() -> bool:
    """Whether TorchRL's exploration type asks for random actions; where none is set it does."""
    return exploration_type() in (ExplorationType.RANDOM, None)
