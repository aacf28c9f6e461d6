"""Small fixtures that many tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from fpo_torchrl import FlowActor, ValueMLP, VelocityMLP

OBS_DIM, ACTION_DIM = 3, 2

torch.set_num_threads(1)  # networks of this size are slower, and on busy cores much slower, on several threads


@pytest.fixture(autouse=True)
def seed():
    """Every test draws the same random numbers each time it runs."""
    torch.manual_seed(0)


@pytest.fixture
def make_actor():
    """A small flow actor; keywords are FlowActor's."""

    def make(**kwargs) -> FlowActor:
        net = VelocityMLP(OBS_DIM, ACTION_DIM, hidden_sizes=(16, 16), output_scale=1.0)
        return FlowActor(kwargs.pop("velocity_net", net), **{"num_mc_samples": 4, **kwargs})

    return make


@pytest.fixture
def make_critic():
    """A small critic that writes "state_value"."""

    def make(**kwargs) -> TensorDictModule:
        net = ValueMLP(OBS_DIM, hidden_sizes=(16,), **kwargs)
        return TensorDictModule(net, in_keys=["observation"], out_keys=["state_value"])

    return make


@pytest.fixture
def collect():
    """A batch as an update sees it: the actor's own actions with their flow keys, an advantage and a value target."""

    @torch.no_grad()
    def collect(actor: FlowActor, *batch: int) -> TensorDict:
        batch = batch or (6,)
        observation = torch.randn(*batch, OBS_DIM, dtype=actor.action_low.dtype)
        td = actor(TensorDict(observation=observation, batch_size=batch))
        td["advantage"] = torch.randn(*batch, 1, dtype=observation.dtype)
        td["value_target"] = torch.randn(*batch, 1, dtype=observation.dtype)
        return td

    return collect


@pytest.fixture
def move_weights():
    """Step away from the parameters that collected the data, as some updates would."""

    @torch.no_grad()
    def move(*modules: torch.nn.Module, scale: float = 0.05) -> None:
        for module in modules:
            for parameter in module.parameters():
                parameter += scale * torch.randn_like(parameter)

    return move


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Call the ``main`` of a command as if its arguments had been typed.

    Returns its exit code, its output and what it says on standard error.
    """

    def run(main: Callable[[], None], *arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code or 0
        return code, *capsys.readouterr()

    return run
