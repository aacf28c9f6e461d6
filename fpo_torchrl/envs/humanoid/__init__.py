"""A humanoid that tracks motions, from all of the reference's body, from root and hands, or from the root alone."""

from fpo_torchrl.envs.humanoid.clip import MotionClip, MotionError, load_clip
from fpo_torchrl.envs.humanoid.env import HUMANOID_TASKS, HumanoidEnv
from fpo_torchrl.envs.humanoid.motion_library import MotionLibrary, goal_ambiguity
from fpo_torchrl.envs.humanoid.skeleton import HUMANOID, SKELETONS, Skeleton

__all__ = [
    "HUMANOID",
    "HUMANOID_TASKS",
    "SKELETONS",
    "HumanoidEnv",
    "MotionClip",
    "MotionError",
    "MotionLibrary",
    "Skeleton",
    "goal_ambiguity",
    "load_clip",
]
