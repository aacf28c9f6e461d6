"""What a task sees of the simulator: a batch of states as torch tensors, and three ways to change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from fpo_torchrl.errors import UserError

MUJOCO_NAMES = {
    "time": "time",
    "qpos": "qpos",
    "qvel": "qvel",
    "act": "act",
    "warm_start": "qacc_warmstart",
    "sensordata": "sensordata",
    "mocap_pos": "mocap_pos",
    "mocap_quat": "mocap_quat",
}
"""The fields of :class:`PhysicsState` as MuJoCo's data names them; the first five must stay finite."""
NUM_FINITE = 5


class PhysicsError(RuntimeError):
    """The simulation broke down in the copies ``rows``; ``reason`` says how.

    Args:
        rows (list of int): indices of the copies in the batch.
        reason (str): what was found, in words.
    """

    def __init__(self, rows: list[int], reason: str) -> None:
        super().__init__(f"physics broke down in env {', '.join(map(str, rows))}: {reason}")
        self.rows = rows
        self.reason = reason


class CapacityError(UserError, RuntimeError):
    """The simulator has no room for all that a step needs, which says nothing against the state."""


@dataclass(frozen=True)
class PhysicsState:
    """Everything the next step depends on, with the sensor values of the step before it.

    The tensors may be views of the simulator's own memory that the next step overwrites.
    Sensors (and all that MuJoCo derives from ``qpos`` and ``qvel``) are one *simulation* step
    older than ``qpos`` and ``qvel``: ``mj_step`` computes them before it integrates.

    Shapes: ``qpos`` ``[num_envs, nq]``, ``qvel`` ``[num_envs, nv]``, ``act`` ``[num_envs, na]``,
    ``time`` (s) ``[num_envs, 1]``, ``warm_start`` (the solver's first guess of the acceleration)
    ``[num_envs, nv]``, ``mocap_pos`` ``[num_envs, nmocap, 3]``, ``mocap_quat``
    ``[num_envs, nmocap, 4]``, ``sensordata`` ``[num_envs, nsensordata]``; ``sensors`` holds the
    columns of ``sensordata`` by the sensor's name.
    """

    qpos: Tensor
    qvel: Tensor
    act: Tensor
    time: Tensor
    warm_start: Tensor
    mocap_pos: Tensor
    mocap_quat: Tensor
    sensordata: Tensor
    sensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: Any, **tensors: Tensor) -> Self:
        """The state of copies of a ``mujoco.MjModel``; ``tensors`` is every field but ``sensors``."""
        sensors = [model.sensor(index) for index in range(model.nsensor)]
        columns = {sensor.name: slice(sensor.adr[0], sensor.adr[0] + sensor.dim[0]) for sensor in sensors}
        values = tensors["sensordata"]
        return cls(**tensors, sensors={name: values[:, column] for name, column in columns.items()})

    def sensor(self, name: str) -> Tensor:
        """The values of the sensor ``name``, ``[num_envs, dim]``."""
        return self.sensors[name]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its field's name, as a checkpoint wants them."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "sensors"}

    def place(self, qpos: Tensor, qvel: Tensor, mocap_pos: Tensor) -> None:
        """Put every copy into the given state; mocap bodies are not turned."""
        self.qpos.copy_(qpos)
        self.qvel.copy_(qvel)
        self.mocap_pos.copy_(mocap_pos)
        self.mocap_quat.zero_()[..., 0] = 1

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite every copy with what :meth:`tensors` once returned; ``ValueError`` if it is of another model."""
        for name, target in self.tensors().items():
            if tensors[name].shape != target.shape:
                raise ValueError(
                    f"the state is of another task or number of copies: {name} has shape "
                    f"{list(tensors[name].shape)}, expected {list(target.shape)}"
                )
            target.copy_(tensors[name])


class Physics(Protocol):
    """A batch of copies of one model that step together.

    A back end takes a model, ``num_envs`` and the number of simulation steps in a control step,
    and keeps ``state`` between calls; writing to the tensors of ``state`` changes the simulation.
    It may compute in any precision on any ``device``.
    """

    num_envs: int
    control_dim: int
    draw_size: int
    """How many initial states are best prepared at once."""
    device: torch.device
    state: PhysicsState

    def restart(self, qpos: Tensor, qvel: Tensor, mocap_pos: Tensor, settle_steps: int = 0) -> None:
        """Put every copy at time 0 into the given state, with sensors and warm start that fit it.

        ``qpos`` ``[num_envs, nq]``, ``qvel`` ``[num_envs, nv]``, ``mocap_pos``
        ``[num_envs, nmocap, 3]``; ``settle_steps`` control steps without control come first.
        Raises :class:`PhysicsError` if the state is not, or does not stay, finite, :class:`CapacityError` as
        :meth:`step` does.
        """
        ...

    def step(self, control: Tensor) -> None:
        """Advance every copy by one control step under ``control`` ``[num_envs, control_dim]``.

        Raises :class:`PhysicsError` if a control is not finite, a state stops being finite or the
        simulator warns, :class:`CapacityError` if it has no room for all contacts; the batch then still holds the
        state before the step.
        """
        ...

    def copy_rows(self, rows: Tensor, source: Self, source_rows: Tensor) -> None:
        """Overwrite the copies ``rows`` (int64 ``[k]``) with the copies ``source_rows`` of a sibling."""
        ...

    def sibling(self, num_envs: int) -> Self:
        """Another batch of the same model, with ``num_envs`` copies, that shares threads or compiled programs."""
        ...
