"""Environments: one name in, one batched TorchRL environment out (:func:`make_env`)."""

from .base import BatchedEnv
from .gridworld import GridWorld, gridworld_step
from .gridworld_layout import LAYOUTS, Layout, make_layout
from .probe import PROBES, BimodalBandit, Probe, ProbeEnv, bimodal_reward, modes_found
from .registry import list_tasks, make_env

__all__ = [
    "LAYOUTS",
    "PROBES",
    "BatchedEnv",
    "BimodalBandit",
    "GridWorld",
    "Layout",
    "Probe",
    "ProbeEnv",
    "bimodal_reward",
    "gridworld_step",
    "list_tasks",
    "make_env",
    "make_layout",
    "modes_found",
]
