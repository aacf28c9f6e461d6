"""The physics back ends by name."""

from __future__ import annotations

import mujoco
import torch

from fpo_torchrl.checks import check_choice
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
    num_threads: int | None = None,
    max_contacts: int | None = None,
) -> Physics:
    """``num_envs`` copies of ``model``.

    Args:
        backend (str): ``"c"``, native MuJoCo on the CPU; ``"mjx"`` or ``"warp"``, on ``device``.
        model (mujoco.MjModel): the compiled model.
        num_envs (int): copies, at least 1.
        num_substeps (int): simulation steps per control step, at least 1.
        device: of the copies; without effect for ``"c"``.
        num_threads (int, optional): threads of ``"c"``; None means every core.
        max_contacts (int, optional): room for contacts that ``"warp"`` has in a copy; None means 64.

    Raises:
        ValueError: for an unknown back end, a count below 1, or a setting of another back end.
        ImportError: for a back end whose package is not installed.
    """
    check_choice("backend", backend, BACKENDS)
    settings = {"c": {"num_threads": num_threads}, "mjx": {}, "warp": {"max_contacts": max_contacts}}
    given = {key: {name: it for name, it in own.items() if it is not None} for key, own in settings.items()}
    for owner, own in given.items():
        for name, value in own.items():
            if owner != backend:
                raise ValueError(
                    f"{name} is a setting of backend={owner!r}, got {name}={value} with {backend!r}; give {name}=null"
                )
    sizes = {"num_envs": num_envs, "num_substeps": num_substeps}
    if backend == "c":
        return CPhysics(model, **sizes, **given[backend])
    return DEVICE_BACKENDS[backend](model, **sizes, **given[backend], device=device)
