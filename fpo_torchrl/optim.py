"""One fused Adam for actor and critic, each with its own step size and gradient-norm limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class AgentOptimizer(torch.optim.Adam):
    """Adam with a parameter group for the actor and one for the critic.

    The norms are limited apart, because the critic's gradient would drown the actor's in a joint norm.

    Args:
        actor_parameters, critic_parameters: what to train; what they share counts as the actor's.
        lr (float): step size of the actor, positive (the paper's Table A.2: 3e-4).
        critic_lr (float): step size of the critic; default the actor's.
        betas, eps: as in ``torch.optim.Adam``.
        max_grad_norm (float): limit on the norm of the actor's gradient; None for no limit.
        critic_max_grad_norm (float): limit for the critic; None for no limit.

    Raises:
        ValueError: for a step size or limit that is not positive, or betas out of range.
    """

    def __init__(
        self,
        actor_parameters: Iterable[nn.Parameter],
        critic_parameters: Iterable[nn.Parameter],
        *,
        lr: float = 3e-4,
        critic_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        max_grad_norm: float | None = None,
        critic_max_grad_norm: float | None = None,
    ) -> None:
        positive = {"lr": lr, "critic_lr": critic_lr, "max_grad_norm": max_grad_norm}
        for name, value in {**positive, "critic_max_grad_norm": critic_max_grad_norm}.items():
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if len(betas) != 2:
            raise ValueError(f"betas must be two numbers in [0, 1), got {betas}")
        actor_parameters = [*actor_parameters]
        of_actor = {id(parameter) for parameter in actor_parameters}
        critic_parameters = [parameter for parameter in critic_parameters if id(parameter) not in of_actor]
        step_sizes = [(actor_parameters, lr), (critic_parameters, critic_lr if critic_lr is not None else lr)]
        groups = [
            {"params": [parameter for parameter in parameters if parameter.requires_grad], "lr": step_size}
            for parameters, step_size in step_sizes
        ]
        super().__init__(groups, betas=tuple(betas), eps=eps, fused=True)
        self.limits = {"actor": max_grad_norm, "critic": critic_max_grad_norm}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore moments and step counts.

        The settings of this object win over the saved ones, except step sizes that a scheduler has set.
        """
        settings = [{name: value for name, value in g.items() if name != "params"} for g in self.param_groups]
        super().load_state_dict(state_dict)
        for group, own in zip(self.param_groups, settings, strict=True):
            is_scheduled = "initial_lr" in group and "initial_lr" in own  # torch's schedulers go on from the last one
            group.update({name: value for name, value in own.items() if not (is_scheduled and name == "lr")})

    @torch.no_grad()
    def largest_weight(self) -> Tensor:
        """The largest absolute weight, a scalar; NaN if one is NaN."""
        return nn.utils.get_total_norm([p for group in self.param_groups for p in group["params"]], torch.inf)

    def backward(self, loss: Tensor) -> None:
        """Replace the gradients by those of a scalar."""
        self.zero_grad(set_to_none=True)
        loss.backward()

    def keep_actor(self) -> None:
        """Drop the actor's gradients, so that the next step leaves it as it is."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    def limited_step(self, average: Callable[[Sequence[Tensor]], None] = lambda gradients: None) -> dict[str, Tensor]:
        """Norm limits and one step with the gradients that are there; returns their norms before limiting.

        Args:
            average: changes the gradients in place before their norms are taken, to their means over processes.
        """
        trained = [p for group in self.param_groups for p in group["params"]]
        average([p.grad for p in trained if p.grad is not None])
        norms = {}
        for (name, limit), group in zip(self.limits.items(), self.param_groups, strict=True):
            gradients = [p.grad for p in group["params"] if p.grad is not None]
            norm = nn.utils.get_total_norm(gradients) if gradients else trained[0].new_zeros(())
            if limit is not None:
                nn.utils.clip_grads_with_norm_(group["params"], limit, norm)
            norms[f"grad_norm_{name}"] = norm
        self.step()
        return norms
