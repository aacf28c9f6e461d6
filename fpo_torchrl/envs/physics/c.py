"""Native MuJoCo, stepped in a batch on all cores by ``mujoco.rollout``."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import torch
from mujoco.rollout import Rollout
from torch import Tensor

from fpo_torchrl.checks import check_counts
from fpo_torchrl.envs.physics.acceleration import acceleration_from_sensors
from fpo_torchrl.envs.physics.protocol import PhysicsError, PhysicsState
from fpo_torchrl.machine import available_cores

_FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
_CONTROL = mujoco.mjtState.mjSTATE_CTRL.value
_MOCAP = mujoco.mjtState.mjSTATE_MOCAP_POS.value | mujoco.mjtState.mjSTATE_MOCAP_QUAT.value
_MAX_DRAWN = 64  # keeps all threads busy


class CPhysics:
    """``num_envs`` copies of ``model`` on the CPU, in float64, one ``MjData`` per thread.

    ``mujoco.rollout`` returns positions and velocities but not the solver's warm start, so that
    is recovered as the last simulation step's change of velocity over the timestep. For the Euler
    integrator without implicit damping this *is* the acceleration that MuJoCo would have kept, to
    rounding. The implicit integrators damp the velocity on its way, so there it is read from sensors
    of the angular acceleration where a planar model has them for all its joints (the finger's does;
    see :func:`~fpo_torchrl.envs.physics.acceleration.acceleration_from_sensors`). Without those
    sensors, the change of velocity is close to it.

    A copy whose state turns bad stays bad (``mjDSBL_AUTORESET`` is set on the model), so it is
    found and reported rather than silently put back to ``qpos0``.

    Args:
        model (mujoco.MjModel): the compiled model; its ``opt.disableflags`` gains that one bit.
        num_envs (int): copies, at least 1.
        num_substeps (int): simulation steps per control step, at least 1.
        num_threads (int, optional): threads that step, at least 1; None means every core.

    Raises:
        ValueError: if a count is below 1.
    """

    def __init__(
        self, model: mujoco.MjModel, *, num_envs: int, num_substeps: int = 1, num_threads: int | None = None
    ) -> None:
        num_threads = available_cores() if num_threads is None else num_threads
        check_counts(num_envs=num_envs, num_substeps=num_substeps, num_threads=num_threads)
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        threads = Rollout(nthread=num_threads if num_threads > 1 else 0)
        data = [mujoco.MjData(model) for _ in range(num_threads)]
        self._acceleration = acceleration_from_sensors(model)
        self._build(model, num_envs, num_substeps, threads, data)

    def sibling(self, num_envs: int) -> CPhysics:
        """Another batch of the same model, with ``num_envs`` copies, that shares the threads."""
        return self._like(num_envs, self.num_substeps)

    def _like(self, num_envs: int, num_substeps: int) -> CPhysics:
        like = object.__new__(type(self))
        like._acceleration = self._acceleration
        like._build(self.model, num_envs, num_substeps, self._threads, self._data)
        return like

    def _build(
        self, model: mujoco.MjModel, num_envs: int, num_substeps: int, threads: Rollout, data: list[mujoco.MjData]
    ) -> None:
        """Make every array that a step touches, once; ``state`` is a set of views of them."""
        self.model, self.num_envs, self.num_substeps, self.control_dim = model, num_envs, num_substeps, model.nu
        self.device, self.draw_size = torch.device("cpu"), min(num_envs, _MAX_DRAWN)
        self._threads, self._data, self._models = threads, data, [model] * num_envs
        self._last_warnings = [thread_data.warning.lastinfo for thread_data in data]
        self._forget_warnings()
        self._no_warning = self._last_warnings[0].tobytes()

        def zeros(*shape: int) -> np.ndarray:
            return np.zeros((num_envs, *shape))

        # The layout of mjSTATE_FULLPHYSICS is time, qpos, qvel, act, ...; that of the control is ctrl, mocap.
        nq, nv, na, nmocap = model.nq, model.nv, model.na, model.nmocap
        state_size = mujoco.mj_stateSize(model, _FULL)
        self._velocity = slice(1 + nq, 1 + nq + nv)
        self._control_spec = _CONTROL | (_MOCAP if nmocap else 0)
        self._now, self._path = zeros(state_size), zeros(num_substeps, state_size)
        self._warm_start, self._rate = zeros(nv), zeros(state_size)
        self._control, self._mocap = zeros(num_substeps, model.nu + 7 * nmocap), zeros(7 * nmocap)
        self._sensor_path, self._sensordata = zeros(num_substeps, model.nsensordata), zeros(model.nsensordata)

        now, mocap, sensordata = map(torch.from_numpy, (self._now, self._mocap, self._sensordata))
        self.state = PhysicsState.of(
            model,
            time=now[:, :1],
            qpos=now[:, 1 : 1 + nq],
            qvel=now[:, self._velocity],
            act=now[:, self._velocity.stop : self._velocity.stop + na],
            warm_start=torch.from_numpy(self._warm_start),
            mocap_pos=mocap[:, : 3 * nmocap].view(num_envs, nmocap, 3),
            mocap_quat=mocap[:, 3 * nmocap :].view(num_envs, nmocap, 4),
            sensordata=sensordata,
        )
        self.state.mocap_quat[..., 0] = 1

    def restart(self, qpos: Tensor, qvel: Tensor, mocap_pos: Tensor, settle_steps: int = 0) -> None:
        """Put every copy at time 0 into the given state, with sensors and warm start that fit it."""
        for array in (self._now, self._warm_start, self._control, self._mocap):
            array.fill(0)
        self.state.place(qpos, qvel, mocap_pos)
        # The first substep evaluates sensors and acceleration at the given state; where it leads is dropped.
        self._roll_and_measure(substep=0)
        self._keep_measurements(substep=0)
        if settle_steps:
            self._settle(settle_steps)

    def _settle(self, num_steps: int) -> None:
        """Take ``num_steps`` control steps without control as one long one, which costs far less."""
        everyone, long = torch.arange(self.num_envs), self._like(self.num_envs, num_steps * self.num_substeps)
        long.copy_rows(everyone, self, everyone)
        long.step(torch.zeros(self.num_envs, self.control_dim))
        self.copy_rows(everyone, long, everyone)
        self.state.time.zero_()

    def step(self, control: Tensor) -> None:
        """Advance every copy by one control step under ``control`` ``[num_envs, control_dim]``."""
        np.copyto(self._control[..., : self.control_dim], control.numpy(force=True)[:, None])
        if not math.isfinite(self._control.sum()):  # native MuJoCo would take such a control as 0
            rows = np.flatnonzero(~np.isfinite(self._control).all((1, 2)))
            raise PhysicsError(rows.tolist(), "a control is not finite")
        self._roll_and_measure(substep=self.num_substeps - 1)
        self._keep_measurements(substep=self.num_substeps - 1)
        np.copyto(self._now, self._path[:, -1])

    def copy_rows(self, rows: Tensor, source: CPhysics, source_rows: Tensor) -> None:
        """Overwrite the copies ``rows`` (int64 ``[k]``) with the copies ``source_rows`` of a sibling."""
        to, of = rows.numpy(force=True), source_rows.numpy(force=True)
        self._now[to] = source._now[of]
        self._warm_start[to] = source._warm_start[of]
        self._mocap[to] = source._mocap[of]
        self._sensordata[to] = source._sensordata[of]

    def _roll_and_measure(self, substep: int) -> None:
        """Roll, set ``_rate`` to the change per second over one substep, and raise if that is not sound."""
        if not self._roll(substep):
            raise self._find_culprits(substep)

    def _roll(self, substep: int) -> bool:
        if self.model.nmocap:
            self._control[..., self.control_dim :] = self._mocap[:, None]
        self._threads.rollout(
            self._models,
            self._data,
            self._now,
            self._control,
            control_spec=self._control_spec,
            skip_checks=True,
            nstep=self.num_substeps,
            initial_warmstart=self._warm_start,
            state=self._path,
            sensordata=self._sensor_path,
        )
        before = self._path[:, substep - 1] if substep else self._now
        np.subtract(self._path[:, substep], before, out=self._rate)
        self._rate *= 1 / self.model.opt.timestep
        # Written so that NaN fails it. (A dot product would wake the threads of the BLAS library.)
        sound = -mujoco.mjMAXVAL < self._rate.min() and self._rate.max() < mujoco.mjMAXVAL
        return sound and all(last.tobytes() == self._no_warning for last in self._last_warnings)

    def _keep_measurements(self, substep: int) -> None:
        """Keep the sensors of a substep just taken, and its acceleration as the next warm start."""
        np.copyto(self._sensordata, self._sensor_path[:, substep])
        if self._acceleration is None:
            np.copyto(self._warm_start, self._rate[:, self._velocity])
        else:
            np.einsum("es,vs->ev", self._sensordata, self._acceleration, out=self._warm_start)

    def _forget_warnings(self) -> None:
        # rollout zeroes the warning counters before each copy, but leaves ``lastinfo``, which a warning sets.
        for last in self._last_warnings:
            last[:] = -1

    def _find_culprits(self, substep: int) -> PhysicsError:
        """Replay the step copy by copy to learn which copies fail, and how."""
        alone, rows, reasons = self.sibling(1), [], []
        for row in range(self.num_envs):
            for name in ("_now", "_warm_start", "_control", "_mocap"):
                getattr(alone, name)[0] = getattr(self, name)[row]
            alone._forget_warnings()
            if not alone._roll(substep):
                rows.append(row)
                warned = self._data[0].warning.number.nonzero()[0]
                reasons += [mujoco.mjtWarning(kind).name for kind in warned] or ["a state is not finite or too large"]
        self._forget_warnings()
        return PhysicsError(rows, ", ".join(dict.fromkeys(reasons)))
