"""What several processes tell each other about environments that cannot be restored."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from torchrl.envs import GymEnv, ParallelEnv

from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.states import States
from fpo_torchrl.training.parallel import Processes


@pytest.fixture
def trainer() -> Iterator[Any]:
    env = ParallelEnv(2, partial(GymEnv, "Pendulum-v1"))
    env.reset()
    yield SimpleNamespace(env=env, workers=None)
    env.close()


def test_workers_of_torchrl_are_not_asked_for_a_state_that_they_lack(trainer):
    processes = Processes()
    processes.size = 2
    states = States(processes)
    states.gather(trainer)
    assert states.state_dict() == {}
    run: Any = SimpleNamespace(trainer=trainer, cfg=SimpleNamespace(task="mine"))
    assert Run._what_is_new(run) == "mine: its simulator's state cannot be restored, episodes"
