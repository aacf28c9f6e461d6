"""The commands as a user types them, with their exit codes and messages."""

from __future__ import annotations

import csv
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

from fpo_torchrl import EulerMaruyama, FlowActor, VelocityMLP, evaluate, train
from fpo_torchrl.evaluate import EvalConfig, evaluate_run
from fpo_torchrl.evaluation import Evaluation
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.start import start_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of two iterations, without its picture."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "finish", lambda self: {})
        start_run(tiny.compose(*tiny.GRIDWORLD, "total_frames=128", f"run_dir={path}")).train()
    return path


def test_the_installed_command_finds_its_configs_from_any_directory(tmp_path):
    fpo_train = Path(sys.executable).with_name("fpo-train")
    arguments = [fpo_train, "experiment=bandit", "seed=7", "--cfg", "job"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "task: bandit/bimodal\nseed: 7\n" in done.stdout
    assert not list(tmp_path.iterdir())


class TestFpoTrain:
    def test_a_sweep_makes_a_run_directory_for_each_job(self, run_command, tmp_path, monkeypatch):
        monkeypatch.setattr("fpo_torchrl.runs.run.draw_learning_curve", lambda *args, **kwargs: None)
        monkeypatch.chdir(tmp_path)
        arguments = ("-m", *tiny.BANDIT, "total_frames=64", "seed=0,1", "hydra.sweep.dir=sweep")
        code, out, _ = run_command(train.main, *arguments)
        assert code == 0
        for seed in (0, 1):
            assert f"seed: {seed}\n" in Path(f"sweep/{seed}/config.yaml").read_text()
            for name in ("metrics.csv", "evaluation.json", "checkpoints/checkpoint-000000000064.torchrl"):
                assert Path(f"sweep/{seed}", name).is_file()
            assert f"sweep/{seed}/metrics.csv" in out
        losses = [read_metrics(f"sweep/{seed}/metrics.csv")[0]["loss_critic"] for seed in (0, 1)]
        assert losses[0] != losses[1]
        assert not [path for path in Path().rglob("*") if path.name == "multirun.yaml" and path.parent != Path("sweep")]
        code, out, _ = run_command(train.main, *arguments)  # again: there is nothing left to do
        assert code == 0
        assert out.count("holds the finished run already") == 2

    def test_a_checkpoint_that_is_missing_exits_with_3(self, run_command, tmp_path):
        code, _, err = run_command(train.main, f"resume={tmp_path}")
        assert code == 3
        assert f"{tmp_path} is not the directory of a run" in err

    def test_divergence_exits_with_4_and_keeps_the_last_good_checkpoint(self, run_command, run_dir, tmp_path):
        copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
        before = tiny.read_checkpoint(copy)
        code, _, err = run_command(train.main, f"resume={copy}", "optim.lr=1e30", "total_frames=256", "progress=false")
        assert code == 4
        assert "became NaN or infinite in the update after frame 128" in err
        assert "go on from the last checkpoint, or start again if there is none, with a smaller step size" in err
        after = tiny.read_checkpoint(copy)
        assert all(tiny.same({key: before[key]}, {key: after[key]}) for key in before)
        assert [row["frames"] for row in read_metrics(copy / "metrics.csv")] == [64, 128]

    def test_actions_that_are_not_finite_exit_with_4(self, run_command, tmp_path):
        """The physics refuses them before the trainer sees the batch."""
        # one gradient step to weights of 1e30, whose actions are the first to show it
        overrides = (*tiny.CARTPOLE, "trainer.num_epochs=1", "trainer.minibatch_size=64", "actor.squash=none")
        code, _, err = run_command(train.main, *overrides, "optim.lr=1e30", f"run_dir={tmp_path / 'run'}")
        assert code == 4
        assert "CartpoleBalance: the action of env 0, 1, 2, 3, 4, 5, 6, 7 is not finite" in err
        assert "of its episode). Look for a diverged policy" in err

    def test_a_full_disk_exits_with_3(self, run_command, tmp_path):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # room for the texts, not for a checkpoint
        try:
            code, _, err = run_command(
                train.main, *tiny.GRIDWORLD, f"run_dir={tmp_path / 'run'}", "critic.hidden_sizes=[999]"
            )
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert code == 3
        assert "could not write the checkpoint of frame 64" in err


def test_text_that_hydra_cannot_read_is_told_how_to_quote(run_command):
    code, _, err = run_command(train.main, "run_dir=lr=0.1")
    assert code == 2
    assert "run_dir=lr=0.1 cannot be read as setting=value" in err
    assert "\"run_dir='/my=runs/a'\"" in err


class TestFpoEval:
    def test_every_combination_is_evaluated(self, run_command, run_dir, tmp_path):
        output = tmp_path / "table.json"
        settings = ("solvers=[euler,rk4]", "steps=[1,3]", "noise=[zero,fixed]", "episodes=2", f"output={output}")
        code, out, _ = run_command(evaluate.main, run_dir, *settings)
        assert code == 0
        written = json.loads(output.read_text())
        assert (Path(written["checkpoint"]).parents[1], written["seed"]) == (run_dir, 0)
        assert written["versions"]["torch"] == torch.__version__
        table = written["rows"]
        assert [(row["solver"], row["noise"]) for row in table] == [
            (f"{solver}(num_steps={steps})", noise)
            for solver in ("Euler", "RK4")
            for steps in (1, 3)
            for noise in ("zero", "fixed")
        ]
        for row in table:
            assert row["solver"] in out
            assert len(row["returns"]) == 2

    def test_tables_and_a_picture(self, run_command, run_dir, tmp_path):
        paths = [tmp_path / "new" / name for name in ("table.csv", "table.md", "table.json", "samplers.png")]
        settings = ("solvers=[euler,rk4]", "steps=[1,3]", "episodes=2", f"output=[{','.join(map(str, paths[:3]))}]")
        code, out, _ = run_command(evaluate.main, run_dir, *settings, f"plot={paths[3]}")
        assert code == 0
        assert all(str(path) in out for path in paths)
        rows = list(csv.DictReader(paths[0].open()))
        assert [(row["name"], row["steps"], row["evaluations"]) for row in rows[::2]] == [
            *(("Euler", "1", "1"), ("Euler", "3", "3"), ("RK4", "1", "4"), ("RK4", "3", "12"))
        ]
        returns = [row["returns"] for row in json.loads(paths[2].read_text())["rows"]]
        assert [float(row["mean"]) for row in rows] == pytest.approx([sum(it) / 2 for it in returns])
        lines = paths[1].read_text().splitlines()
        assert "checkpoint-000000000128.torchrl, 2 episodes from seed 0, 20" in lines[0]
        assert len(lines) == 4 + len(rows)
        sampler, (mean, interval) = lines[4].split(" | ")[:3], lines[4].split(" | ")[3:5]
        assert sampler == ["| Euler", "1", "random"]
        assert float(mean) == pytest.approx(float(rows[0]["mean"]), rel=0.01)
        assert f"{mean}   {interval} " in out
        with Image.open(paths[3]) as picture:
            assert min(picture.size) > 300

    def test_by_default_the_newest_checkpoint_and_its_own_solver(self, run_command, run_dir):
        code, out, _ = run_command(evaluate.main, run_dir, "episodes=2")
        assert code == 0
        assert "checkpoint-000000000128.torchrl" in out
        assert out.count("Euler(num_steps=2)") == 2  # random and zero

    def test_other_steps_keep_the_other_settings_of_the_solver(self):
        actor = FlowActor(VelocityMLP(1, 1), EulerMaruyama(10, noise_scale=0.2))
        assert repr(evaluate.solver_of(actor, None, 5)) == "EulerMaruyama(num_steps=5, noise_scale=0.2)"
        assert actor.solver.num_steps == 10

    def test_a_device_that_is_not_there(self, run_command, run_dir):
        code, _, err = run_command(evaluate.main, run_dir, "device=cuda:9")
        assert code == 2
        assert "device 'cuda:9' is not there" in err

    def test_an_older_checkpoint(self, run_dir):
        """Its weights are used: a policy of other weights takes other actions."""
        older = run_dir / "checkpoints" / "checkpoint-000000000064.torchrl"
        actors = []
        for path in (None, str(older)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    evaluate, "evaluate", lambda actor, *a, **k: actors.append(actor) or Evaluation([0.0], 0.0, 0.0)
                )
                evaluate_run(str(run_dir), EvalConfig(noise="zero", episodes=1, checkpoint=path))
        newest = tiny.read_checkpoint(run_dir)
        weights = [tiny.flat({"actor": actor.state_dict()}) for actor in actors]
        assert tiny.same(weights[0], {key: value for key, value in newest.items() if key.startswith("actor.")})
        assert not tiny.same(weights[1], weights[0])

    def test_the_seed_repeats_the_episodes(self, run_dir):
        runs = [evaluate_run(str(run_dir), EvalConfig(noise="random", episodes=8, seed=1)) for _ in range(2)]
        assert runs[0][0]["returns"] == runs[1][0]["returns"]

    def test_it_records(self, run_command, run_dir, tmp_path):
        path = tmp_path / "episode.gif"
        code, out, _ = run_command(evaluate.main, run_dir, "episodes=1", "noise=zero", f"render={path}")
        assert code == 0
        assert f"recorded {path}" in out
        assert path.stat().st_size > 0

    @pytest.mark.parametrize(
        ("settings", "code", "words"),
        [
            (["output=table.txt"], 2, "output=table.txt must end in .json or .csv or .md"),
            (["output=."], 2, "output=. is a directory; name a file in it that ends in .json"),
            (["plot=returns.xyz"], 2, "plot=returns.xyz must end in .png"),
            (["render=episode.avi"], 2, "render=episode.avi must end in .gif or .mp4"),
            (["episodes=0"], 2, "episodes=0 is out of range"),
            (["episodes=few"], 2, "episodes"),
            (["step=3"], 2, "step"),
            (["heun"], 2, "usage: fpo-eval RUN_DIRECTORY [setting=value ...]"),
            (["checkpoint=none.torchrl"], 3, "none.torchrl does not exist"),
        ],
    )
    def test_wrong_settings_stop_before_any_episode(self, run_command, run_dir, settings, code, words):
        actual, out, err = run_command(evaluate.main, run_dir, *settings)
        assert actual == code
        assert words in err
        assert "return" not in out

    def test_random_steps_with_a_number_of_steps_is_euler(self, run_command, run_dir):
        code, out, _ = run_command(evaluate.main, run_dir, "solvers=[euler,random_steps]", "steps=2", "noise=zero")
        assert code == 0
        assert out.count("Euler(num_steps=2)") == 1

    def test_a_directory_without_a_run(self, run_command, tmp_path):
        code, _, err = run_command(evaluate.main, tmp_path)
        assert code == 3
        assert "is not the directory of a run" in err

    def test_a_directory_may_be_named_after_settings(self, run_command, run_dir, tmp_path):
        (tmp_path / "lr=2,seed=1").symlink_to(run_dir)
        code, out, _ = run_command(evaluate.main, tmp_path / "lr=2,seed=1", "episodes=1")
        assert code == 0
        assert "Euler(num_steps=2)" in out

    def test_solvers_are_no_setting_of_a_gaussian(self, run_command, tmp_path):
        overrides = (*tiny.SMALL, "task=probe/both", "actor=gaussian", "loss=ppo", "total_frames=64")
        run = tiny.begin(tiny.compose(*overrides, f"run_dir={tmp_path}"))
        run.checkpointer.save(0)
        code, _, err = run_command(evaluate.main, tmp_path, "solvers=heun")
        assert code == 2
        assert "this run trained a Gaussian" in err
        code, _, err = run_command(evaluate.main, tmp_path, "plot=samplers.png")
        assert code == 2
        assert "plot draws the samplers of a flow policy" in err
        code, out, _ = run_command(evaluate.main, tmp_path, "episodes=2")
        assert code == 0
        assert "Gaussian" in out

    def test_usage(self, run_command):
        code, out, _ = run_command(evaluate.main)
        assert code == 2
        assert run_command(evaluate.main, "--help")[0] == 0
        assert f"  episodes={EvalConfig.episodes} " in out
        for words in ("solvers=", "steps=", "noise=[random,zero]", "render=", "output="):
            assert words in out
