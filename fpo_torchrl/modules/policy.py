"""A trained flow policy as a plain function of tensors, to be compiled or exported."""

from __future__ import annotations

from torch import Tensor, nn

from fpo_torchrl.flow import RandomNoise, Solver, StartNoise
from fpo_torchrl.modules.sampler import FlowSampler


class FlowPolicy(nn.Module):
    """From observations to an action without a TensorDict: normaliser, flow and squashing in one module.

    It is a deterministic view of ``actor``, on the same weights, whose every operation ``torch.export``, ONNX and
    TorchScript know. A stochastic solver runs without its noise, as under TorchRL's DETERMINISTIC exploration.

    Args:
        actor: the flow policy.
        solver: from noise to action; default the actor's.
        start_noise: where the flow starts, ``ZeroNoise()`` or ``FixedNoise(seed)``; None if the caller passes
            the noise as a last argument ``[batch, act]``.

    Raises:
        ValueError: for random start noise, which is drawn outside: pass None.

    >>> import torch
    >>> from fpo_torchrl import FlowActor, VelocityMLP, ZeroNoise
    >>> policy = FlowPolicy(FlowActor(VelocityMLP(obs_dim=3, action_dim=2)), start_noise=ZeroNoise())
    >>> policy(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    start: Tensor | None

    def __init__(self, actor: FlowSampler, *, solver: Solver | None = None, start_noise: StartNoise | None) -> None:
        super().__init__()
        if isinstance(start_noise, RandomNoise):
            raise ValueError(
                "start_noise must be fixed, zero or None; with None the caller draws the noise and passes it"
            )
        self.actor = actor.for_inference(solver=(solver or actor.solver).without_noise())
        like = actor.action_low
        start = start_noise.sample((1, actor.action_dim), like=like).clone() if start_noise is not None else None
        self.register_buffer("start", start)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Action ``[batch, act]`` for observations ``[batch, ...]``, and the start noise where none was fixed."""
        if self.start is None:
            *observations, noise = inputs
            return self.actor.act(observations, noise)
        return self.actor.act(inputs, self.start.expand(inputs[0].shape[0], -1))
