"""Every control task by the paper's name."""

from __future__ import annotations

import difflib

from fpo_torchrl.envs.control.ball_in_cup import BALL_IN_CUP
from fpo_torchrl.envs.control.cartpole import CARTPOLE_BALANCE
from fpo_torchrl.envs.control.cheetah import CHEETAH_RUN
from fpo_torchrl.envs.control.finger import FINGER_SPIN, FINGER_TURN_EASY, FINGER_TURN_HARD
from fpo_torchrl.envs.control.fish import FISH_SWIM
from fpo_torchrl.envs.control.point_mass import POINT_MASS
from fpo_torchrl.envs.control.reacher import REACHER_EASY, REACHER_HARD
from fpo_torchrl.envs.control.task import ControlTask

CONTROL_TASKS: dict[str, ControlTask] = {
    task.name: task
    for task in (
        BALL_IN_CUP,
        CARTPOLE_BALANCE,
        CHEETAH_RUN,
        FINGER_SPIN,
        FINGER_TURN_EASY,
        FINGER_TURN_HARD,
        FISH_SWIM,
        POINT_MASS,
        REACHER_EASY,
        REACHER_HARD,
    )
}


def find_task(task: str | ControlTask) -> ControlTask:
    """The task of that name, or ``task`` itself if it is one already; ``ValueError`` for an unknown name."""
    if isinstance(task, ControlTask):
        return task
    if task not in CONTROL_TASKS:
        raise ValueError(f"unknown control task {task!r}{did_you_mean(task, list(CONTROL_TASKS))}")
    return CONTROL_TASKS[task]


def did_you_mean(name: str, known: list[str]) -> str:
    """The end of an error message: the closest known name, if one is close, and all of them."""
    lowered = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.5)
    hint = f"; did you mean {lowered[close[0]]!r}?" if close else "."
    return f"{hint} Known: {', '.join(sorted(known))}"
