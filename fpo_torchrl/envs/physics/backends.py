"""The physics back ends by name."""

from __future__ import annotations

# MuJoCo ships no type stubs.
import mujoco  # pyright: ignore[reportMissingTypeStubs]
import torch

from fpo_torchrl.envs.physics.c import CPhysics
from fpo_torchrl.envs.physics.mjx import MJXPhysics
from fpo_torchrl.envs.physics.protocol import Physics
from fpo_torchrl.envs.physics.warp import WarpPhysics

DEVICE_BACKENDS: dict[str, type[MJXPhysics | WarpPhysics]] = {"mjx": MJXPhysics, "warp": WarpPhysics}
"""Those that step on a device of torch's, in float32."""
BACKENDS = ("c", *DEVICE_BACKENDS)


def make_physics(
    backend: str,
    model: mujoco.MjModel,
    *,
    num_envs: int,
    num_substeps: int,
    device: torch.device | str,
    num_threads: int | None,
) -> Physics:
    """``num_envs`` copies of ``model``.

    Args:
        backend (str): ``"c"``, native MuJoCo on the CPU; ``"mjx"`` or ``"warp"``, on ``device``.
        model (mujoco.MjModel): the compiled model.
        num_envs (int): copies, at least 1.
        num_substeps (int): simulation steps per control step, at least 1.
        device: of the copies; without effect for ``"c"``.
        num_threads (int, optional): threads of ``"c"``; None means every core.

    Raises:
        ValueError: for an unknown back end, a count below 1, or ``num_threads`` with another back end than ``"c"``.
        ImportError: for a back end whose package is not installed.
    """
    if backend == "c":
        return CPhysics(model, num_envs=num_envs, num_substeps=num_substeps, num_threads=num_threads)
    if backend not in DEVICE_BACKENDS:
        raise ValueError(f"unknown physics backend {backend!r}. Known: {', '.join(BACKENDS)}")
    if num_threads is not None:
        raise ValueError(f"num_threads is a setting of backend='c', got num_threads={num_threads} with {backend!r}")
    return DEVICE_BACKENDS[backend](model, num_envs=num_envs, num_substeps=num_substeps, device=device)
