"""Physics that breaks down: in a copy, in more of them during the same step, and for good."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import pytest
import torch

from fpo_torchrl.envs.humanoid import HumanoidEnv
from fpo_torchrl.envs.physics import PhysicsError
from fpo_torchrl.errors import NonFiniteError


def make(num_envs: int, **settings) -> HumanoidEnv:
    return HumanoidEnv("humanoid/planar", num_envs=num_envs, num_threads=1, spread_episodes=False, **settings)


def breaking(env: HumanoidEnv, monkeypatch: pytest.MonkeyPatch, turns: Sequence[list[int]]) -> list[torch.Tensor]:
    """Let the physics break down in these copies, turn by turn, in none if there are none, and then no more.

    Returns:
        The controls of each turn.
    """
    step, left, controls = env.physics.step, iter(turns), []

    def broken(control: torch.Tensor) -> None:
        controls.append(control)
        if rows := next(left, []):
            raise PhysicsError(rows, "mjWARN_BADQACC")
        step(control)

    monkeypatch.setattr(env.physics, "step", broken)
    return controls


def test_a_copy_whose_physics_breaks_down_terminates_alone_and_is_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its log
    env = make(num_envs=3)
    td = env.reset()
    env.physics.state.qvel[2] = torch.nan
    step = env.step(td.set("action", torch.zeros(3, 12)))["next"]
    assert step["terminated"].flatten().tolist() == [False, False, True]
    assert step["reward"][2] == 0
    assert step["observation"].isfinite().all()
    assert env.num_diverged == 1
    disabled = env.physics.model.opt.disableflags
    assert disabled & mujoco.mjtDisableBit.mjDSBL_AUTORESET.value


def test_physics_that_breaks_down_again_and_again_is_an_error(monkeypatch):
    env = make(num_envs=4)
    td = env.reset()
    breaking(env, monkeypatch, [[0, 1], []] * 6)
    for _ in range(5):
        _, td = env.step_and_maybe_reset(td.set("action", torch.zeros(4, 12)))
    with pytest.raises(NonFiniteError, match=r"broke down 12 times in 24 steps, last in env 0, 1 \(mjWARN_BADQACC\)"):
        env.step(td.set("action", torch.zeros(4, 12)))


def test_copies_that_break_down_one_after_the_other_in_a_step_all_terminate(monkeypatch):
    """Each is put back when it fails, is left without an action, and the others keep theirs."""
    env = make(num_envs=4, max_distance=100.0)
    td = env.reset()
    controls = breaking(env, monkeypatch, [[2], [0], []])
    step = env.step(td.set("action", torch.full((4, 12), 0.5)))["next"]
    assert [(control != 0).any(-1).tolist() for control in controls] == [
        [True, True, True, True],
        [True, True, False, True],
        [False, True, False, True],
    ]
    assert step["terminated"].flatten().tolist() == [True, False, True, False]
    assert step["reward"].flatten()[[0, 2]].tolist() == [0, 0]
    assert env.num_diverged == 2


@pytest.mark.parametrize("turns", [[[2], [2]], [[2], [0, 2], [2]], [[2], []]])
def test_a_copy_that_breaks_down_in_the_state_of_the_reference_is_an_error(monkeypatch, turns):
    """So is a breakdown that names no copy: the step could be tried for ever."""
    env = make(num_envs=4)
    td = env.reset()
    again = iter(turns)

    def broken(control: torch.Tensor) -> None:
        raise PhysicsError(next(again), "mjWARN_BADQACC")

    monkeypatch.setattr(env.physics, "step", broken)
    with pytest.raises(NonFiniteError, match=r"humanoid/planar: .*\(mjWARN_BADQACC, in the reference's state too\)"):
        env.step(td.set("action", torch.zeros(4, 12)))


def test_the_log_counts_the_breakdowns_since_it_last_did(monkeypatch):
    env = make(num_envs=4)
    td, logged = env.reset(), []
    breaking(env, monkeypatch, [[0, 1], [], [3]])
    for _ in range(3):
        _, td = env.step_and_maybe_reset(td.set("action", torch.zeros(4, 12)))
        logged.append(env.metrics()["num_diverged"])
    assert logged == [2, 1, 0]
    other = make(num_envs=4)
    other.set_state(env.get_state())
    assert (other.num_diverged, other.metrics()["num_diverged"]) == (3, 0)
