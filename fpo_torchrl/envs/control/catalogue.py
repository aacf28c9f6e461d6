"""Every control task by the paper's name."""

from __future__ import annotations

from fpo_torchrl.checks import check_choice
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
    check_choice("control task", task, CONTROL_TASKS)
    return CONTROL_TASKS[task]
