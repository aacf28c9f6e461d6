"""The paper's control tasks over any physics back end, one definition each."""

from fpo_torchrl.envs.control.catalogue import CONTROL_TASKS
from fpo_torchrl.envs.control.env import ControlEnv
from fpo_torchrl.envs.control.task import ControlTask

__all__ = ["CONTROL_TASKS", "ControlEnv", "ControlTask"]
