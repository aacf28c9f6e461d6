"""A trained flow policy as a plain function of tensors, to be compiled or exported."""

from __future__ import annotations

from collections.abc import Sequence

from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor, nn

from fpo_torchrl.flow import RandomNoise, Solver, StartNoise
from fpo_torchrl.modules.chain import acting_module, encode, for_inference
from fpo_torchrl.modules.sampler import FlowSampler


class FlowPolicy(nn.Module):
    """From observations to an action without a TensorDict: normaliser, encoder, flow and squashing in one module.

    It is a deterministic view of ``actor``, on the same weights, whose every operation ``torch.export``, ONNX and
    TorchScript know. A stochastic solver runs without its noise, as under TorchRL's DETERMINISTIC exploration.

    Args:
        actor: the flow policy, alone or at the end of a ``TensorDictSequential`` of encoders.
        solver: from noise to action; default the actor's.
        start_noise: where the flow starts, ``ZeroNoise()`` or ``FixedNoise(seed)``; None if the caller passes
            the noise as a last argument ``[batch, act]``.

    Raises:
        ValueError: for random start noise, which is drawn outside: pass None. For a recurrent policy, whose action is
            not a function of one observation.

    >>> import torch
    >>> from fpo_torchrl import FlowActor, VelocityMLP, ZeroNoise
    >>> policy = FlowPolicy(FlowActor(VelocityMLP(obs_dim=3, action_dim=2)), start_noise=ZeroNoise())
    >>> policy(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    start: Tensor | None

    def __init__(
        self,
        actor: FlowSampler | TensorDictSequential,
        *,
        solver: Solver | None = None,
        start_noise: StartNoise | None,
    ) -> None:
        super().__init__()
        if isinstance(start_noise, RandomNoise):
            raise ValueError(
                "start_noise must be fixed, zero or None; with None the caller draws the noise and passes it"
            )
        if carried := [key for key in actor.out_keys if isinstance(key, tuple) and key[0] == "next"]:
            raise ValueError(
                f"the policy is recurrent: with each action it writes {carried} for the next one, so the action is no "
                "function of one observation alone"
            )
        solver = (solver or acting_module(actor).solver).without_noise()
        self.actor = for_inference(actor, solver=solver)
        like = self.flow.action_low
        start = start_noise.sample((1, self.flow.action_dim), like=like).clone() if start_noise is not None else None
        self.register_buffer("start", start)

    @property
    def flow(self) -> FlowSampler:
        """The flow itself, without what comes before it."""
        return acting_module(self.actor)

    @property
    def in_keys(self) -> list[NestedKey]:
        """Where a TensorDict has the observations, in the order of the arguments."""
        return list(self.actor.in_keys)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Action ``[batch, act]`` for observations ``[batch, ...]``, and the start noise where none was fixed.

        Raises:
            TypeError: for too few or too many inputs.
            ValueError: for an observation without a batch dimension.
        """
        names = [*map(str, self.in_keys), *(["noise"] if self.start is None else [])]
        if len(inputs) != len(names):
            raise TypeError(f"the policy takes {', '.join(names)}, {len(names)} in all; got {len(inputs)}")
        if inputs[0].ndim < 2:
            raise ValueError(
                f"observations need a batch dimension, got the shape {list(inputs[0].shape)}: unsqueeze(0) adds one"
            )
        if self.start is None:
            *observations, noise = inputs
        else:
            observations, noise = inputs, self.start.expand(inputs[0].shape[0], -1)
        return self.flow.act(self._encoded(observations), noise)

    def _encoded(self, observations: Sequence[Tensor]) -> Sequence[Tensor]:
        if isinstance(self.actor, FlowSampler):
            return observations
        encoded = encode(self.actor, TensorDict(dict(zip(self.in_keys, observations, strict=True)), []))
        return [encoded.get(key) for key in self.flow.in_keys]
