"""The batched back end against MuJoCo's own ``mj_step``, one copy at a time."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch

from fpo_torchrl.envs.control import CONTROL_TASKS
from fpo_torchrl.envs.physics import PhysicsError
from fpo_torchrl.envs.physics.c import CPhysics

NUM_ENVS = 5


@pytest.fixture(autouse=True)
def _own_directory(tmp_path, monkeypatch):
    """MuJoCo writes its warnings to a file where the program runs."""
    monkeypatch.chdir(tmp_path)


def make(name: str, *, num_envs: int = NUM_ENVS, num_threads: int = 2) -> CPhysics:
    task = CONTROL_TASKS[name]
    model = task.build_spec().compile()
    substeps = round(task.control_dt / model.opt.timestep)
    physics = CPhysics(model, num_envs=num_envs, num_substeps=substeps, num_threads=num_threads)
    start = task.reset(torch.Generator().manual_seed(3), num_envs)
    physics.restart(start.qpos, start.qvel, start.mocap_pos)
    return physics


def actions(physics: CPhysics, steps: int) -> torch.Tensor:
    return torch.rand(steps, physics.num_envs, physics.control_dim, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.mark.parametrize("name", CONTROL_TASKS)
def test_follows_plain_mj_step_warm_start_included(name):
    physics = make(name)
    singles = []
    for row in range(NUM_ENVS):
        data = mujoco.MjData(physics.model)
        data.qpos[:], data.qvel[:] = physics.state.qpos[row], physics.state.qvel[row]
        data.mocap_pos[:] = physics.state.mocap_pos[row]
        mujoco.mj_forward(physics.model, data)
        # A forward pass does not keep its acceleration as the warm start; a restart of ours does.
        data.qacc_warmstart[:] = data.qacc
        singles.append(data)
    for action in actions(physics, 40):
        physics.step(action)
        for row, data in enumerate(singles):
            data.ctrl[:] = action[row]
            mujoco.mj_step(physics.model, data, physics.num_substeps)
        for name_, tolerance in {"qpos": 1e-9, "qvel": 1e-7, "sensordata": 1e-7, "mocap_pos": 0}.items():
            expected = np.stack([getattr(data, name_) for data in singles])
            np.testing.assert_allclose(getattr(physics.state, name_), expected, atol=tolerance, rtol=0)
        expected = np.stack([data.qacc_warmstart for data in singles])
        np.testing.assert_allclose(physics.state.warm_start, expected, atol=1e-5, rtol=1e-7)
        assert np.allclose(physics.state.time[:, 0], singles[0].time)


def test_restart_evaluates_sensors_and_acceleration_at_the_given_state():
    physics = make("ReacherEasy")
    state = physics.state
    data = mujoco.MjData(physics.model)
    for row in range(NUM_ENVS):
        data.qpos[:], data.qvel[:], data.mocap_pos[:] = state.qpos[row], state.qvel[row], state.mocap_pos[row]
        mujoco.mj_forward(physics.model, data)
        np.testing.assert_allclose(state.sensordata[row], data.sensordata, atol=1e-12)
        np.testing.assert_allclose(state.warm_start[row], data.qacc, atol=1e-9)
    assert state.time.eq(0).all()


def test_settling_is_so_many_steps_without_control():
    stepped, settled = make("BallInCup"), make("BallInCup")
    start = [stepped.state.tensors()[key].clone() for key in ("qpos", "qvel", "mocap_pos")]
    start[0][:, 2] += torch.linspace(-0.1, 0.1, NUM_ENVS)
    stepped.restart(*start)
    for _ in range(6):
        stepped.step(torch.zeros(NUM_ENVS, 2))
    settled.restart(*start, settle_steps=6)
    for key, tensor in settled.state.tensors().items():
        expected = torch.zeros_like(tensor) if key == "time" else stepped.state.tensors()[key]
        torch.testing.assert_close(tensor, expected, atol=1e-7, rtol=1e-7)


def test_sensors_are_one_simulation_step_old():
    physics = make("CartpoleBalance")
    before = physics.state.qpos[:, 1].clone()
    physics.step(torch.ones(NUM_ENVS, 1))
    torch.testing.assert_close(physics.state.sensor("pole_axis")[:, 0], before.sin())
    assert (physics.state.qpos[:, 1] - before).abs().min() > 1e-5


@pytest.mark.parametrize("name", ["BallInCup", "CheetahRun", "FingerSpin"])
def test_the_number_of_threads_does_not_change_a_bit(name):
    one, three = make(name, num_threads=1), make(name, num_threads=3)
    for action in actions(one, 15):
        one.step(action)
        three.step(action)
    for key, tensor in one.state.tensors().items():
        assert torch.equal(tensor, three.state.tensors()[key]), key


def test_copying_rows_leaves_the_others_alone():
    physics, source = make("ReacherEasy"), make("ReacherEasy", num_envs=2)
    source.step(actions(source, 1)[0])
    before = {key: tensor.clone() for key, tensor in physics.state.tensors().items()}
    physics.copy_rows(torch.tensor([3, 1]), source, torch.tensor([0, 1]))
    for key, tensor in physics.state.tensors().items():
        assert torch.equal(tensor[[0, 2, 4]], before[key][[0, 2, 4]]), key
        assert torch.equal(tensor[[3, 1]], source.state.tensors()[key]), key


def test_a_sibling_steps_on_its_own():
    physics = make("BallInCup")
    twin = physics.sibling(NUM_ENVS)
    twin.state.load({key: tensor.clone() for key, tensor in physics.state.tensors().items()})
    before = physics.state.qpos.clone()
    action = actions(physics, 1)[0]
    twin.step(action)
    assert torch.equal(physics.state.qpos, before)
    physics.step(action)
    assert torch.equal(physics.state.qpos, twin.state.qpos)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_control_that_is_not_finite_is_refused_and_changes_nothing(bad):
    physics = make("BallInCup")
    before = {key: tensor.clone() for key, tensor in physics.state.tensors().items()}
    control = torch.zeros(NUM_ENVS, 2)
    control[1, 0] = control[4, 1] = bad
    with pytest.raises(PhysicsError, match="control is not finite") as error:
        physics.step(control)
    assert error.value.rows == [1, 4]
    assert all(torch.equal(tensor, before[key]) for key, tensor in physics.state.tensors().items())


@pytest.mark.parametrize("name", ["CheetahRun", "BallInCup"])  # one substep, and ten
@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [("qpos", float("nan"), "BADQPOS"), ("qvel", float("inf"), "BADQVEL"), ("qvel", 3e10, "BADQVEL")],
)
def test_a_broken_state_is_reported_with_its_row_and_not_reset(name, field, value, reason):
    physics = make(name)
    target = getattr(physics.state, field)
    whole = target.clone()
    target[3, 1] = value
    control = torch.zeros(NUM_ENVS, physics.control_dim)
    for _ in range(2):  # the same again: nothing was advanced, and nothing was forgotten
        with pytest.raises(PhysicsError, match=reason) as error:
            physics.step(control)
        assert error.value.rows == [3]
    target.copy_(whole)
    physics.step(control)
    assert physics.state.time.gt(0).all()


def test_a_warning_from_a_finite_state_is_reported():
    physics = make("CheetahRun")
    physics.state.qvel[2, 2] = 1e9  # finite, but the acceleration that follows is beyond MuJoCo's limit
    with pytest.raises(PhysicsError, match="BADQACC") as error:
        physics.step(torch.zeros(NUM_ENVS, 6))
    assert error.value.rows == [2]


def test_only_the_autoreset_bit_of_the_model_changes():
    model = CONTROL_TASKS["CheetahRun"].build_spec().compile()
    flags = model.opt.disableflags
    CPhysics(model, num_envs=1)
    assert model.opt.disableflags == flags | mujoco.mjtDisableBit.mjDSBL_AUTORESET


@pytest.mark.parametrize("name", ["num_envs", "num_substeps", "num_threads"])
def test_counts_below_one_are_refused(name):
    model = CONTROL_TASKS["CartpoleBalance"].build_spec().compile()
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        CPhysics(model, **{"num_envs": 1, name: 0})


def test_a_state_of_another_model_is_refused():
    with pytest.raises(ValueError, match="another task or number of copies: qpos has shape"):
        make("CartpoleBalance").state.load(make("CheetahRun").state.tensors())
