"""MuJoCo in JAX (MJX), stepped in a batch on a GPU, or for tests on the CPU."""

# JAX is optional.
# pyright: reportMissingImports=false
from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from fpo_torchrl.checks import check_counts
from fpo_torchrl.envs.jax_bridge import jax_device, load_jax, to_jax, to_torch
from fpo_torchrl.envs.optional import missing
from fpo_torchrl.envs.physics.protocol import MUJOCO_NAMES, NUM_FINITE, PhysicsError, PhysicsState

Layout = dict[str, tuple[slice, tuple[int, ...]]]

_FIELDS = {"control": "ctrl", **MUJOCO_NAMES}  # of a row; of the control too all must be finite


class MJXPhysics:
    """``num_envs`` copies of ``model`` in float32 on one device, one compiled program for a control step.

    All that a step reads, state and control, is one torch tensor ``[num_envs, size]``; the tensors of ``state``
    are views of it. A step hands it to JAX and copies the rows that come back over the old ones on the device.
    Single rows are overwritten (:meth:`copy_rows`) by torch, so that their number never matters to the
    compiler: a program is compiled once for a batch size, and kept on disk.

    Every step reads one boolean on the host, whether all copies are sound, before the new rows replace the old
    ones. TorchRL waits for the device once per step in any case, to see whether an episode has ended.

    Args:
        model (mujoco.MjModel): the compiled model.
        num_envs (int): copies, at least 1.
        num_substeps (int): simulation steps per control step, at least 1.
        device: ``"cpu"``, or a CUDA device that JAX can use too.

    Raises:
        ValueError: if a count is below 1, or JAX cannot use the device.
        ImportError: without the optional dependency ``mjx``.
        NotImplementedError: if the model uses what MJX lacks.
    """

    def __init__(
        self, model: mujoco.MjModel, *, num_envs: int, num_substeps: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        check_counts(num_envs=num_envs, num_substeps=num_substeps)
        self.device = torch.device(device)
        self._program = _compile(_binary(model), jax_device(self.device, "mjx"))
        self._build(model, num_envs, num_substeps)

    def sibling(self, num_envs: int) -> MJXPhysics:
        """Another batch of the same model, with ``num_envs`` copies, that shares the compiled program."""
        like = object.__new__(type(self))
        like.device, like._program = self.device, self._program
        like._build(self.model, num_envs, self.num_substeps)
        return like

    def _build(self, model: mujoco.MjModel, num_envs: int, num_substeps: int) -> None:
        self.model, self.num_envs, self.num_substeps, self.control_dim = model, num_envs, num_substeps, model.nu
        self.draw_size = num_envs  # another size would need another program
        self._layout = _layout(model)
        size = max(part.stop for part, _ in self._layout.values())
        self._rows = torch.zeros(num_envs, size, device=self.device)
        views = {name: self._rows[:, part].view(num_envs, *shape) for name, (part, shape) in self._layout.items()}
        self._control = views.pop("control")
        self.state = PhysicsState.of(model, **views)
        self.state.mocap_quat[..., 0] = 1

    def restart(self, qpos: Tensor, qvel: Tensor, mocap_pos: Tensor, settle_steps: int = 0) -> None:
        """Put every copy at time 0 into the given state, with sensors and warm start that fit it."""
        self._rows.zero_()
        self.state.place(qpos, qvel, mocap_pos)
        # A substep evaluates sensors and acceleration at the state it starts from; where it leads is dropped.
        after = self._advance(num_substeps=1)
        for name in ("warm_start", "sensordata"):
            columns, _ = self._layout[name]
            self._rows[:, columns] = after[:, columns]
        for _ in range(settle_steps):
            self._rows.copy_(self._advance(self.num_substeps))
        self.state.time.zero_()

    def step(self, control: Tensor) -> None:
        """Advance every copy by one control step under ``control`` ``[num_envs, control_dim]``."""
        self._control.copy_(control.detach())
        self._rows.copy_(self._advance(self.num_substeps))

    def copy_rows(self, rows: Tensor, source: MJXPhysics, source_rows: Tensor) -> None:
        """Overwrite the copies ``rows`` (int64 ``[k]``) with the copies ``source_rows`` of a sibling."""
        self._rows[rows] = source._rows[source_rows]

    def _advance(self, num_substeps: int) -> Tensor:
        """The rows after ``num_substeps``; a tensor over memory of JAX's, to be copied at once."""
        after, sound, all_sound = self._program(to_jax(self._rows), num_substeps)
        if not all_sound:
            raise self._find_culprits(to_torch(sound))
        return to_torch(after)

    def _find_culprits(self, sound: Tensor) -> PhysicsError:
        wild = ~self._control.isfinite().all(-1)
        if wild.any():
            return PhysicsError(wild.nonzero().flatten().tolist(), "a control is not finite")
        return PhysicsError((~sound).nonzero().flatten().tolist(), "a state is not finite or too large")


def _layout(model: mujoco.MjModel) -> Layout:
    """The columns of a row that hold each field, and the field's shape in one copy."""
    shapes = {
        "control": (model.nu,),
        "time": (1,),
        "qpos": (model.nq,),
        "qvel": (model.nv,),
        "act": (model.na,),
        "warm_start": (model.nv,),
        "sensordata": (model.nsensordata,),
        "mocap_pos": (model.nmocap, 3),
        "mocap_quat": (model.nmocap, 4),
    }
    layout, start = {}, 0
    for name, shape in shapes.items():
        layout[name] = slice(start, start + math.prod(shape)), shape
        start += math.prod(shape)
    return layout


def _binary(model: mujoco.MjModel) -> bytes:
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()


@functools.lru_cache(maxsize=16)
def _compile(binary: bytes, device: Any) -> Callable[[Any, int], tuple[Any, Any, Any]]:
    """The program of a step: rows in; rows, which of them are sound, and whether all are, out.

    One for all batches of a model, so that an environment built for an evaluation need not compile it again.
    """
    jax = load_jax("mjx")
    try:
        from mujoco import mjx
    except ImportError as error:
        raise missing("mjx", error) from error
    model = mujoco.MjModel.from_binary_path("model.mjb", {"model.mjb": binary})
    jnp, layout = jax.numpy, _layout(model)
    mjx_model = mjx.put_model(model, device=device, impl="jax")
    blank = mjx.make_data(model, device=device, impl="jax")
    num_finite = list(layout.values())[NUM_FINITE][0].stop

    def substep(_: int, row: Any) -> Any:
        fields = {mjx_name: row[layout[name][0]] for name, mjx_name in _FIELDS.items()}
        shaped = {name: field.reshape(getattr(blank, name).shape) for name, field in fields.items()}
        data = mjx.step(mjx_model, blank.replace(**shaped))
        return jnp.concatenate([getattr(data, name).ravel() for name in fields])

    def program(rows: Any, num_substeps: int) -> tuple[Any, Any, Any]:
        with jax.default_matmul_precision("highest"):  # some GPUs would round the factors of a product to 10 bits
            after = jax.vmap(lambda row: jax.lax.fori_loop(0, num_substeps, substep, row))(rows)
        # Written so that NaN fails it.
        sound = (abs(after[:, :num_finite]) < mujoco.mjMAXVAL).all(-1)
        return after, sound, sound.all()

    return jax.jit(program, static_argnums=1)
