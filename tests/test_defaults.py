"""Settings that are left out have the values of their sources."""

from __future__ import annotations

import inspect

import pytest
import torch

from fpo_torchrl import DenoisingMDPLoss, FPOLoss
from fpo_torchrl.advantage import GAE
from fpo_torchrl.optim import AgentOptimizer


def default(component: type, name: str):
    return inspect.signature(component).parameters[name].default


@pytest.mark.parametrize(
    ("component", "name", "value"),
    [
        # arXiv 2507.21053, section 4.2 and Table A.2; the clip radii are the best of those tried for each
        (FPOLoss, "clip_epsilon", 0.05),
        (DenoisingMDPLoss, "clip_epsilon", 0.2),
        (GAE, "gamma", 0.995),
        (GAE, "lmbda", 0.95),
        (AgentOptimizer, "lr", 3e-4),
        # torch's
        (AgentOptimizer, "betas", default(torch.optim.Adam, "betas")),
        (AgentOptimizer, "eps", default(torch.optim.Adam, "eps")),
    ],
)
def test_default(component, name, value):
    assert default(component, name) == value
