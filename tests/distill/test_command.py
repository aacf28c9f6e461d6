"""``fpo-distill`` leaves students that the other commands take for runs, and a comparison."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from omegaconf import OmegaConf
from PIL import Image

from fpo_torchrl import Euler, FlowActor, Heun, VelocityMLP, evaluate
from fpo_torchrl.checkpoint import Checkpointer
from fpo_torchrl.distill import command, report
from fpo_torchrl.export import command as export
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.trained import load_policy


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run of two iterations, without its picture, sampled with Heun's method."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "finish", lambda self: {})
        overrides = [o for o in tiny.CARTPOLE if "solver" not in o]
        start_run(tiny.compose(*overrides, "actor/solver=heun", "total_frames=128", f"run_dir={path}")).train()
    return path


@pytest.fixture
def fpo_distill(run_command, monkeypatch):
    monkeypatch.setattr(command, "NUM_STEPS", 3)
    monkeypatch.setattr(report, "NUM_CALLS", 40)
    return lambda *arguments: run_command(command.main, *arguments, "--updates", 3, "--episodes", 2)


def test_students_are_there_for_the_other_commands(fpo_distill, run_command, run_dir, tmp_path):
    out = tmp_path / "new" / "out"
    code, _, err = fpo_distill(run_dir, "--steps", 1, 3, 1, "--out", out)
    assert code == 0, err
    assert sorted(path.name for path in out.iterdir()) == [
        *("distillation.json", "distillation.md", "distillation.png", "steps1", "steps3")
    ]
    teacher = load_policy(run_dir)
    for steps in (1, 3):
        student = load_policy(out / f"steps{steps}")
        assert repr(student.actor.solver) == repr(Euler(steps))
        assert student.checkpoint.name == teacher.checkpoint.name
        ours, theirs = student.actor.state_dict(), teacher.actor.state_dict()
        assert all(ours[name].equal(theirs[name]) for name in ours if name.startswith("normalizer"))
        assert not ours["velocity_net.layers.0.weight"].equal(theirs["velocity_net.layers.0.weight"])
    assert "Euler(num_steps=3)" in run_command(evaluate.main, out / "steps3", "episodes=2")[1]
    arguments = ("--format", "torchscript", "--out", tmp_path / "policy.ts")
    assert "Euler(num_steps=1), zero noise" in run_command(export.main, out / "steps1", *arguments)[1]
    start = [*tiny.CARTPOLE, "actor/solver=euler", f"init_from={out / 'steps1'}", f"run_dir={tmp_path / 'next'}"]
    begun = start_run(tiny.compose(*start)).agent.actor.state_dict()
    assert all(begun[name].equal(value) for name, value in load_policy(out / "steps1").actor.state_dict().items())


def test_the_comparison_has_the_teacher_with_its_solver_and_with_few_steps_and_the_student(
    fpo_distill, run_dir, tmp_path
):
    code, printed, err = fpo_distill(run_dir, "--steps", 1, "--out", tmp_path)
    assert code == 0, err
    content = json.loads((tmp_path / "distillation.json").read_text())
    assert content["task"] == "CartpoleBalance"
    assert (content["teacher"], content["checkpoint"]) == (str(run_dir), load_policy(run_dir).checkpoint.name)
    assert content["observations"] == 2 * 2 * 3  # with two noises, in two copies, three steps
    assert {"machine", "versions", "commit", "command", "teacher"} <= content.keys()
    rows = content["rows"]
    assert [(row["policy"], row["solver"]) for row in rows] == [
        ("teacher", repr(Heun(10))),
        ("teacher", repr(Euler(1))),
        ("student", repr(Euler(1))),
    ]
    assert rows[0]["action_error"] == 0 < rows[1]["action_error"]
    assert rows[0]["latency"]["cpu_ms"] > 3 * rows[1]["latency"]["cpu_ms"] > 0
    assert all(len(row["returns"][noise]["returns"]) == 2 for row in rows for noise in ("random", "zero"))
    table = (tmp_path / "distillation.md").read_text()
    assert table in printed
    assert f"| student | {Euler(1)} | {rows[2]['action_error']:.3f} |" in table
    assert min(Image.open(tmp_path / "distillation.png").size) > 300


def test_a_solver_of_ones_own_stays_in_its_cell():
    earned = {"mean": 12.5, "low": 11.0, "high": 14.0}
    latency = {"cpu_ms": 0.5, "median_ms": 0.25, "p99_ms": 1.0}
    row = {"policy": "student", "solver": "My(a|b)", "action_error": 0.125, "latency": latency}
    row["returns"] = {"random": earned, "zero": earned}
    assert report.markdown([row]) == (
        "| policy | solver | action error | CPU ms | ms, median / p99 | return, random noise | return, zero noise |\n"
        "|---|---|---|---|---|---|---|\n"
        "| student | My(a\\|b) | 0.125 | 0.500 | 0.25 / 1.00 | 12.5 [11.0, 14.0] | 12.5 [11.0, 14.0] |\n"
    )


def test_the_seed_repeats_a_student(fpo_distill, run_dir, tmp_path):
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert fpo_distill(run_dir, "--steps", 1, "--seed", seed, "--out", tmp_path / name)[0] == 0
        torch.randn(3)
        weights.append(load_policy(tmp_path / name / "steps1").actor.velocity_net.layers[0].weight)
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0", "2"], "--steps must be at least 1, got 0"),
        (["--updates", "0"], "--updates must be at least 1, got 0"),
        (["--episodes", "0"], "--episodes must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
    ],
)
def test_wrong_settings(run_command, run_dir, tmp_path, arguments, words):
    code, _, err = run_command(command.main, run_dir, "--out", tmp_path / "out", *arguments)
    assert code == 2
    assert words in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["file", "file/new/out"])
def test_a_place_that_is_no_directory_is_refused_before_the_run_is_read(run_command, tmp_path, out):
    (tmp_path / "file").touch()
    code, _, err = run_command(command.main, tmp_path / "none", "--out", tmp_path / out)
    assert code == 2
    assert f"--out {tmp_path / out}: expected a directory to write to, and {tmp_path / 'file'} is none" in err


def test_a_student_is_not_overwritten(fpo_distill, run_dir, tmp_path):
    (tmp_path / "steps2").mkdir()
    code, _, err = fpo_distill(run_dir, "--out", tmp_path)
    assert code == 2
    assert "steps2 is there already: remove it, or choose another --out" in err
    assert not (tmp_path / "steps1").exists()


def test_of_a_student_that_is_cut_off_nothing_is_in_the_way(fpo_distill, run_dir, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", lambda self, frames: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fpo_distill(run_dir, "--out", tmp_path)
    assert not [*tmp_path.iterdir()]
    assert fpo_distill(run_dir, "--out", tmp_path)[0] == 0


@pytest.mark.parametrize("policy", [("actor=gaussian", "loss=ppo"), ("actor=denoising", "loss=dppo")])
def test_another_policy(fpo_distill, tmp_path, policy):
    overrides = (*tiny.SMALL, "task=probe/both", *policy, "total_frames=64")
    tiny.begin(tiny.compose(*overrides, f"run_dir={tmp_path}")).checkpointer.save(0)
    code, _, err = fpo_distill(tmp_path)
    assert code == 2
    assert "trained another policy than a FlowActor" in err


def test_a_directory_without_a_run(fpo_distill, tmp_path):
    code, _, err = fpo_distill(tmp_path)
    assert code == 3
    assert "is not the directory of a run" in err


def stubborn(obs_dim: int, action_dim: int, solver=None) -> FlowActor:
    """A FlowActor that samples with another solver than it is told."""
    return FlowActor(VelocityMLP(obs_dim, action_dim), Euler(10), num_mc_samples=2)


def test_a_run_whose_actor_ignores_the_solver_is_refused_before_training(fpo_distill, run_dir, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(run_dir, other)
    cfg = OmegaConf.load(other / "config.yaml")
    cfg.actor = {"_target_": f"{__name__}.stubborn"}
    OmegaConf.save(cfg, other / "config.yaml")
    trained = load_policy(run_dir)
    actor = stubborn(obs_dim=5, action_dim=1)
    Checkpointer(other, actor=actor, critic=trained.critic).save(10_000)
    code, _, err = fpo_distill(other, "--out", tmp_path / "out")
    assert code == 2
    assert "stubborn ignores actor.solver and samples with Euler(num_steps=10)" in err
    assert not (tmp_path / "out").exists()
