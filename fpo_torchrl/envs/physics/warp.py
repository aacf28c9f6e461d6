"""MuJoCo Warp, stepped in a batch on a GPU, or for tests on the CPU; torch reads and writes its arrays in place."""

# Warp is optional.
# pyright: reportMissingImports=false
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import mujoco
import torch
from torch import Tensor

from fpo_torchrl.checks import check_counts
from fpo_torchrl.devices import with_index
from fpo_torchrl.envs.optional import missing
from fpo_torchrl.envs.physics.protocol import MUJOCO_NAMES, NUM_FINITE, CapacityError, PhysicsError, PhysicsState


class WarpPhysics:
    """``num_envs`` copies of ``model`` in float32 on one device, without JAX.

    The tensors of ``state`` are views of Warp's arrays. On a GPU the simulation steps of a control step are captured
    into one CUDA graph at the first :meth:`step`, and queued behind torch's current stream; each step reads one
    boolean on the host, whether all copies are sound. The capture needs a driver for CUDA 12.4 or later. On a GPU Warp
    adds up in no fixed order, so the same step twice may differ in the last digit.

    Warp has room for a fixed number of contacts and constraints, and drops those beyond it. Here that is an error.

    Args:
        model (mujoco.MjModel): the compiled model.
        num_envs (int): copies, at least 1.
        num_substeps (int): simulation steps per control step, at least 1.
        device: ``"cpu"`` or a CUDA device.
        max_contacts (int): room for contacts: this number times ``num_envs`` in all copies together, and in each copy
            for the constraints of this number of sliding contacts beside those of its joints.

    Raises:
        ValueError: if a count is below 1, or Warp cannot use the device.
        ImportError: without the optional dependency ``warp``.
        NotImplementedError: if the model uses what Warp lacks.
        CapacityError: when stepping, if contacts or constraints do not find room; nothing is advanced.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        *,
        num_envs: int,
        num_substeps: int = 1,
        device: torch.device | str = "cpu",
        max_contacts: int = 64,
    ) -> None:
        check_counts(num_envs=num_envs, num_substeps=num_substeps, max_contacts=max_contacts)
        self.device, self._max_contacts = with_index(torch.device(device)), max_contacts
        self._warp, self._engine = _load()
        self._place = _warp_device(self._warp, self.device)
        with self._in_torchs_order():
            self._constants = self._engine.put_model(model)
        self._build(model, num_envs, num_substeps)

    def sibling(self, num_envs: int) -> WarpPhysics:
        """Another batch of the same model, with ``num_envs`` copies, that shares its constants and kernels."""
        like = object.__new__(type(self))
        for name in ("device", "_max_contacts", "_warp", "_engine", "_place", "_constants"):
            setattr(like, name, getattr(self, name))
        like._build(self.model, num_envs, self.num_substeps)
        return like

    def _build(self, model: mujoco.MjModel, num_envs: int, num_substeps: int) -> None:
        self.model, self.num_envs, self.num_substeps, self.control_dim = model, num_envs, num_substeps, model.nu
        self.draw_size = num_envs
        # A pyramid of four for a contact; joints have limits and friction, of a ball or tendon one or two rows.
        constraints = 4 * self._max_contacts + 2 * (model.nv + model.njnt + model.ntendon) + 6 * model.neq
        with self._in_torchs_order():
            self._data = self._engine.make_data(model, nworld=num_envs, nconmax=self._max_contacts, njmax=constraints)
            # What every simulation step needed: constraints by copy, contacts of all copies before and after a test.
            self._used = [self._warp.zeros((num_substeps, size), dtype=int) for size in (num_envs, 1, 1)]
        views = {name: self._view(warp_name) for name, warp_name in MUJOCO_NAMES.items()}
        views["time"] = views["time"].unsqueeze(-1)
        self._control, self._graph = self._view("ctrl"), None
        self._used_views = [self._warp.to_torch(it) for it in self._used]
        room = [self._data.njmax, self._data.naconmax, self._data.naconmax]
        self._room = torch.tensor(room, device=self.device)
        self.state = PhysicsState.of(model, **views)
        self._before = {name: torch.empty_like(tensor) for name, tensor in self.state.tensors().items()}

    def _view(self, name: str) -> Tensor:
        return self._warp.to_torch(getattr(self._data, name), requires_grad=False)

    def restart(self, qpos: Tensor, qvel: Tensor, mocap_pos: Tensor, settle_steps: int = 0) -> None:
        """Put every copy at time 0 into the given state, with sensors and warm start that fit it."""
        state = self.state
        for tensor in (self._control, state.act, state.time, state.warm_start):
            tensor.zero_()
        state.place(qpos, qvel, mocap_pos)
        # A substep evaluates sensors and acceleration at the state it starts from; where it leads is dropped.
        self._advance(measure=True)
        for _ in range(settle_steps):
            self._advance()
        state.time.zero_()

    def step(self, control: Tensor) -> None:
        """Advance every copy by one control step under ``control`` ``[num_envs, control_dim]``."""
        self._control.copy_(control.detach())
        self._advance()

    def copy_rows(self, rows: Tensor, source: WarpPhysics, source_rows: Tensor) -> None:
        """Overwrite the copies ``rows`` (int64 ``[k]``) with the copies ``source_rows`` of a sibling."""
        theirs = source.state.tensors()
        for name, tensor in self.state.tensors().items():
            tensor[rows] = theirs[name][source_rows]

    def _advance(self, *, measure: bool = False) -> None:
        """A control step; or, to ``measure``, a substep that keeps nothing but sensors and warm start."""
        now, num_substeps = self.state.tensors(), 1 if measure else self.num_substeps
        for name, tensor in self._before.items():
            tensor.copy_(now[name])
        in_graph = not (measure or self._place.is_cpu)
        if in_graph and self._graph is None:
            self._capture()
        with self._in_torchs_order():
            if in_graph:
                self._warp.capture_launch(self._graph)
            else:
                self._simulate(num_substeps)
        moved = [self._control, *(now[name] for name in list(MUJOCO_NAMES)[:NUM_FINITE])]
        # Written so that NaN fails it.
        sound = (torch.cat(moved, -1).abs() < mujoco.mjMAXVAL).all(-1)
        needed = torch.stack([it[:num_substeps].amax() for it in self._used_views])
        if not (sound.all() & (needed <= self._room).all()):
            self._restore()
            raise self._explain(sound, needed)
        if measure:
            self._restore(keep=("warm_start", "sensordata"))

    def _simulate(self, num_substeps: int) -> None:
        for number in range(num_substeps):
            self._engine.step(self._constants, self._data)
            counts = (self._data.nefc, self._data.nacon, self._data.ncollision)
            for used, count in zip(self._used, counts, strict=True):
                self._warp.copy(used[number], count)

    def _capture(self) -> None:
        """Make the CUDA graph of a control step."""
        with self._in_torchs_order():
            self._simulate(num_substeps=1)  # loads every kernel, which a capture may not
            with self._warp.ScopedCapture(device=self._place) as capture:
                self._simulate(self.num_substeps)
        self._graph = capture.graph
        self._restore()

    @contextlib.contextmanager
    def _in_torchs_order(self) -> Iterator[None]:
        """On Warp's stream, behind what torch has queued on its own and ahead of what it queues next."""
        with self._warp.ScopedDevice(self._place):
            if self._place.is_cpu:
                yield
                return
            own, theirs = self._place.stream, self._warp.stream_from_torch(torch.cuda.current_stream(self.device))
            own.wait_stream(theirs)
            try:
                yield
            finally:
                theirs.wait_stream(own)

    def _restore(self, keep: tuple[str, ...] = ()) -> None:
        for name, tensor in self.state.tensors().items():
            if name not in keep:
                tensor.copy_(self._before[name])

    def _explain(self, sound: Tensor, needed: Tensor) -> Exception:
        wild = ~self._control.isfinite().all(-1)
        if wild.any():
            return PhysicsError(wild.nonzero().flatten().tolist(), "a control is not finite")
        if not sound.all():
            return PhysicsError((~sound).nonzero().flatten().tolist(), "a state is not finite or too large")
        (constraints, *contacts), (most_constraints, most_contacts, _) = needed.tolist(), self._room.tolist()
        return CapacityError(
            f"MuJoCo Warp found no room for what touches: {constraints} constraints in one copy and {max(contacts)} "
            f"contacts in all {self.num_envs}, with room for {most_constraints} and {most_contacts}. Give max_contacts "
            f"more than {self._max_contacts}"
        )


def _warp_device(warp: Any, device: torch.device) -> Any:
    try:
        return warp.device_from_torch(device)
    except (IndexError, RuntimeError) as error:
        known = ", ".join(map(str, warp.get_devices()))
        raise ValueError(f"Warp cannot use the device {str(device)!r}; it sees {known}") from error


def _load() -> tuple[Any, Any]:
    """The modules of Warp and of MuJoCo Warp."""
    try:
        import warp

        if warp.config.log_level == warp.LOG_INFO:
            warp.config.log_level = warp.LOG_WARNING  # no banner
        warp.init()
        import mujoco_warp
    except ImportError as error:
        raise missing("warp", error) from error
    return warp, mujoco_warp
