"""The flow policy whose denoising steps are trained one by one, as DPPO does: the baseline FPO is compared with."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import dispatch
from torch import Tensor, nn

from fpo_torchrl.checks import check_kinds, check_shape, entries
from fpo_torchrl.flow import NoisyEuler
from fpo_torchrl.functional import denoising_log_prob
from fpo_torchrl.modules.likelihood import StoredActionLikelihood
from fpo_torchrl.modules.sampler import FlowSampler


class DenoisingActor(FlowSampler):
    """Flow policy with a likelihood for every denoising step: noise is added to each, and the path is stored.

    The start noise counts as part of the observation, each step as an action of its own (DPPO, arXiv
    2409.00588; FPO section 3.5). :meth:`get_dist` scores the stored path, so TorchRL's own ``ClipPPOLoss``
    trains it too, with one ratio for the whole path.

    Keys: reads ``in_keys``; writes ``"action"`` and ``"flow_action"``, each ``[*batch, act]``,
    ``"denoising_path"`` ``[*batch, steps + 1, act]``, ``"denoising_log_prob"`` ``[*batch, steps]`` and
    ``"action_log_prob"``, its sum, ``[*batch]``; named and placed as by :class:`FlowSampler`.

    Args:
        velocity_net: as for :class:`FlowSampler`, as are all others not named here.
        solver: Euler steps with Gaussian noise; its ``noise_std`` is the policy's in every step.
        num_final_steps (int, optional): how many steps at the end of the path are stored and trained; None
            for all. The released code's ``final_steps_only`` is half of them.

    Raises:
        TypeError: for a solver whose steps have no Gaussian likelihood.
        ValueError: for a setting out of range.
        KeyError: in :meth:`step_log_prob`, without the path.

    >>> from fpo_torchrl import VelocityMLP
    >>> from tensordict import TensorDict
    >>> actor = DenoisingActor(VelocityMLP(obs_dim=3, action_dim=2), NoisyEuler(10, noise_std=0.05))
    >>> actor(TensorDict(observation=torch.zeros(4, 3), batch_size=4))["denoising_log_prob"].shape
    torch.Size([4, 10])
    """

    solver: NoisyEuler

    def __init__(
        self,
        velocity_net: nn.Module,
        solver: NoisyEuler | None = None,
        *,
        num_final_steps: int | None = None,
        **sampler_settings: Any,
    ) -> None:
        solver = solver if solver is not None else NoisyEuler()
        if getattr(type(solver), "step", None) is not NoisyEuler.step:  # a step of another kind has another likelihood
            raise TypeError(f"the steps of {solver} have no Gaussian likelihood: DenoisingActor needs NoisyEuler")
        super().__init__(velocity_net, solver, **sampler_settings)
        check_kinds("5", int, num_final_steps=num_final_steps)
        if num_final_steps is not None and not 1 <= num_final_steps <= solver.num_steps:
            raise ValueError(
                f"num_final_steps must be between 1 and the solver's {solver.num_steps} steps, got {num_final_steps}"
            )
        self.num_final_steps = num_final_steps
        self.denoising_path_key = self._beside("denoising_path")
        self.denoising_log_prob_key = self._beside("denoising_log_prob")
        self._also_writes(self.denoising_path_key, self.denoising_log_prob_key)

    @property
    def num_scored_steps(self) -> int:
        """Steps that are stored and trained."""
        return self.num_final_steps if self.num_final_steps is not None else self.solver.num_steps

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Draw an action for each observation and write it with the path and the likelihood of its steps."""
        observations = self.observations(tensordict)
        points = self._flow(tensordict, observations)
        self._write(tensordict, points[-1])
        if self.flow_keys:
            path = torch.stack(points[-self.num_scored_steps - 1 :], -2)
            log_prob = self._score(observations, path)
            tensordict.set(self.denoising_path_key, path)
            tensordict.set(self.denoising_log_prob_key, log_prob)
            tensordict.set(self.log_prob_key, log_prob.sum(-1))
        return tensordict

    def step_log_prob(self, tensordict: TensorDictBase) -> Tensor:
        """Log-likelihood ``[*batch, steps]`` of the steps of the stored path, under the current weights."""
        reader, advice = "the update of a DenoisingActor", "keep what it writes when you select from the batch"
        [path] = entries(tensordict, [self.denoising_path_key], reader=reader, advice=advice)
        return self._score(self.observations(tensordict), path)

    def get_dist(self, tensordict: TensorDictBase) -> StoredActionLikelihood:
        """Likelihood of the stored path given its start; the interface that TorchRL's PPO losses use."""
        return StoredActionLikelihood(self.step_log_prob(tensordict).sum(-1), self.action_dim)

    def _score(self, observations: list[Tensor], path: Tensor) -> Tensor:
        field = self._field([observation.unsqueeze(path.ndim - 2) for observation in observations])
        times = self.solver.times(like=path)[-self.num_scored_steps :]
        check_shape(
            "the stored path", path, (*path.shape[:-2], len(times) + 1, self.action_dim), "[*batch, steps + 1, act]"
        )
        x = path[..., :-1, :]
        return denoising_log_prob(path, x + field(x, times) / self.solver.num_steps, self.solver.noise_std)
