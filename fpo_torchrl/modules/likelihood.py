"""The distributions that flow policies show to TorchRL's policy-gradient losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution


class StoredActionLikelihood(Distribution):
    """Scores the action that is stored in a batch, and no other; it cannot be sampled from.

    Args:
        score: what ``log_prob`` answers, ``[*batch]``: of a DenoisingActor the log-likelihood of the path to the
            action, of a FlowActor a surrogate, minus the mean CFM loss, of which only differences mean anything.
        action_dim (int): size of the action.
    """

    arg_constraints: dict = {}  # noqa: RUF012 - torch declares it as a class attribute
    has_rsample = False

    def __init__(self, score: Tensor, action_dim: int) -> None:
        self.score = score
        super().__init__(score.shape, torch.Size([action_dim]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """The score ``[*batch]`` of the action stored in the tensordict.

        ``value`` must be that action. It is not looked at: squashing cannot be undone exactly, so the score
        was computed from what the actor stored beside it.
        """
        if value.shape != self.batch_shape + self.event_shape:
            raise ValueError(
                f"a flow policy can only score the stored action of shape "
                f"{tuple(self.batch_shape + self.event_shape)}, got a tensor of shape {tuple(value.shape)}"
            )
        return self.score

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Not available: actions come from the solver, and there is no entropy to estimate from samples."""
        raise NotImplementedError(
            "a flow policy has no likelihood to sample from or to take an entropy of: "
            "build the loss with entropy_bonus=False, and draw actions by calling the actor"
        )
