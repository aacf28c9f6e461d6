"""The distributions that flow policies show to TorchRL's policy-gradient losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution


class StoredActionLikelihood(Distribution):
    """Scores the action that is stored in a batch, and no other; it cannot be sampled from.

    Args:
        score: what ``log_prob`` answers, ``[*batch]``.
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


class FlowLikelihood(StoredActionLikelihood):
    """Stands in for the likelihood of a flow policy's stored action: ``log_prob = -mean CFM loss``.

    The difference of two such values, under new and old parameters, is FPO's log-ratio (FPO Eq. 6). It is
    a surrogate and no log-probability: it has no normalisation, and only differences mean anything.

    Args:
        cfm_loss: loss of the stored action at its stored pairs, ``[*batch, mc]``.
        action_dim (int): size of the action.
    """

    def __init__(self, cfm_loss: Tensor, action_dim: int) -> None:
        self.cfm_loss = cfm_loss
        super().__init__(-cfm_loss.mean(-1), action_dim)


class PathLikelihood(StoredActionLikelihood):
    """Log-likelihood of a stored denoising path given its start: the sum over its Gaussian steps.

    Args:
        step_log_prob: log-likelihood of each step, ``[*batch, steps]``.
        action_dim (int): size of the action.
    """

    def __init__(self, step_log_prob: Tensor, action_dim: int) -> None:
        self.step_log_prob = step_log_prob
        super().__init__(step_log_prob.sum(-1), action_dim)
