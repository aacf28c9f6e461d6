"""``num_seeds``: the directories it leaves are those of lone runs, and it stops and goes on as they do."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import tiny
import torch

from fpo_torchrl.errors import CheckpointError, ConfigError, DamagedFileError, InUseError, NonFiniteError
from fpo_torchrl.files import locked, read_json, write_json
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.preemption import Preempted
from fpo_torchrl.provenance import read_provenance
from fpo_torchrl.report.runs import read_results, read_run
from fpo_torchrl.runs.auto_resume import AUTO
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.settings import load_run_config
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.seeds.run import SeedRuns, _postfix, configs_of_seeds, evaluation_across, resume, train_seeds
from fpo_torchrl.sweep.manifest import Sweep
from fpo_torchrl.trained import load_policy

SHORT = (*tiny.GRIDWORLD, "task=gridworld/two_walls", "normalizer=running", "trainer.num_epochs=1")
LONE = ("rng.python", "rng.numpy")
"""Generators that nothing draws from."""


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("fpo_torchrl.runs.run.draw_learning_curve", lambda *args, **kwargs: None)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[int, Path]:
    """The directories of the runs with seeds 1 and 2, each trained alone."""
    directories = {seed: tmp_path_factory.mktemp("alone") for seed in (1, 2)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fpo_torchrl.runs.run.draw_learning_curve", lambda *args, **kwargs: None)
        for seed, directory in directories.items():
            start_run(tiny.compose(*SHORT, f"seed={seed}", f"run_dir={directory}")).train()
    return directories


def config(directory: Path, *overrides: str):
    return tiny.compose(*SHORT, "seed=1", "num_seeds=2", f"run_dir={directory}", *overrides)


def content(run_dir: Path) -> dict:
    """Everything that a run computed: its checkpoint, and its metrics without the times."""
    rows = [{k: v for k, v in row.items() if not k.endswith("_s")} for row in read_metrics(run_dir / "metrics.csv")]
    checkpoint = {k: v for k, v in tiny.read_checkpoint(run_dir).items() if not k.startswith(LONE)}
    return {**checkpoint, **tiny.flat(rows)}


def assert_as_alone(directory: Path, alone: dict[int, Path]) -> None:
    for seed, lone in alone.items():
        assert tiny.same(content(directory / f"seed{seed}"), content(lone)), seed


class TestDirectories:
    @pytest.fixture(scope="class")
    def directory(self, tmp_path_factory) -> Path:
        directory = tmp_path_factory.mktemp("seeds")
        train_seeds(config(directory))
        return directory

    def test_each_is_that_of_the_lone_run(self, directory, alone):
        assert sorted(path.name for path in directory.iterdir()) == ["seed1", "seed2", "seeds.json"]
        assert_as_alone(directory, alone)
        expected = load_run_config(alone[2])
        expected.run_dir = str(directory / "seed2")
        assert load_run_config(directory / "seed2") == expected

    def test_evaluation_and_report_read_them(self, directory, alone):
        found, lone = load_policy(directory / "seed2"), load_policy(alone[2])
        for mine, theirs in zip(found.actor.parameters(), lone.actor.parameters(), strict=True):
            assert mine.equal(theirs)
        results = read_results([directory], metric="random", worst=0, best=1000)
        assert [(run.seed, run.status, run.frames) for run in results.runs] == [
            (1, "finished", 256),
            (2, "finished", 256),
        ]

    def test_a_second_time_is_refused(self, directory):
        with pytest.raises(ConfigError, match=r"holds runs already, in .*seed1, .*seed2: resume=.* continues them"):
            train_seeds(config(directory))

    def test_one_goes_on_alone(self, directory, tmp_path):
        run = resume([f"resume={directory / 'seed2'}", "total_frames=320"])
        assert isinstance(run, Run)
        run.train()
        assert read_metrics(directory / "seed2" / "metrics.csv")[-1]["frames"] == 320


def test_together_they_leave_the_same_files(tmp_path, capsys):
    returned = train_seeds(config(tmp_path, "vmap=true", "progress=true"))
    means = []
    for seed in (1, 2):
        assert read_metrics(tmp_path / f"seed{seed}" / "metrics.csv")[-1]["frames"] == 256
        policy = load_policy(tmp_path / f"seed{seed}")
        means.append(read_run(policy.checkpoint.parents[1]).score("random", worst=0))
    assert returned == pytest.approx(sum(means) / 2)
    output = capsys.readouterr().out
    assert "seeds 1, 2 vectorized: 256 frames each" in output
    assert "512/512 frames" in output
    assert "2 seeds, return " in output.rpartition("100%")[2]
    assert "means of 2 seeds" in output


def test_the_progress_bar_has_the_mean_and_spread_of_the_returns():
    """Returns 1 and 3: 2, and one to each side. A seed without an episode counts for the reward alone."""
    rows = [{"return": r, "episodes": n, "reward": x} for r, n, x in ((1, 2, 0.1), (3, 1, 0.2), (float("nan"), 0, 0.6))]
    assert _postfix(rows) == "3 seeds, return 2.0 ± 1.0, reward per step 0.300"


def test_an_evaluation_across_seeds_has_the_mean_of_each(tmp_path):
    run_dirs = [tmp_path / "seed0", tmp_path / "seed1"]
    for run_dir, mean, spread in zip(run_dirs, (1.0, 5.0), (0.2, 0.6), strict=True):
        random = {"mean": mean, "policy_s": 0.01, "action_spread": spread}
        run_dir.mkdir()
        write_json(run_dir / "evaluation.json", {"random": random, "zero": random | {"mean": mean + 1}})
    found = evaluation_across(run_dirs, "task")
    assert (found["random"].returns, found["zero"].returns) == ([1.0, 5.0], [2.0, 6.0])
    assert found["random"].action_spread == pytest.approx(0.4)


@pytest.mark.parametrize("vmap", [False, True])
def test_stopped_by_a_signal_they_go_on_together(tmp_path, alone, monkeypatch, vmap):
    record = Run.record

    def interrupted(run: Run, metrics, **kwargs):
        if run.cfg.seed == 1 and metrics["frames"] == 128:
            os.kill(os.getpid(), signal.SIGTERM)  # in the middle of an iteration: seed 2 is not recorded yet
        return record(run, metrics, **kwargs)

    settings = (f"vmap={str(vmap).lower()}", "checkpoint_interval_frames=256")
    monkeypatch.setattr(Run, "record", interrupted)
    with pytest.raises(Preempted) as stopped:
        train_seeds(config(tmp_path, *settings, f"resume={AUTO}"))
    assert stopped.value.directory == tmp_path
    monkeypatch.setattr(Run, "record", record)
    for seed in (1, 2):
        provenance = read_provenance(tmp_path / f"seed{seed}")
        assert (provenance["status"], provenance["frames"]) == ("interrupted", 192)
        names = [path.stem for path in (tmp_path / f"seed{seed}" / "checkpoints").glob("checkpoint-*")]
        assert names == ["checkpoint-000000000192"]
    resumed = resume([f"resume={tmp_path}", f"vmap={str(vmap).lower()}"])
    assert isinstance(resumed, SeedRuns)
    resumed.train()
    if not vmap:
        assert_as_alone(tmp_path, alone)
    for seed in (1, 2):
        assert [row["frames"] for row in read_metrics(tmp_path / f"seed{seed}" / "metrics.csv")] == [64, 128, 192, 256]


def test_a_seed_that_is_added_is_reported_beside_those_that_had_finished(tmp_path, capsys):
    train_seeds(config(tmp_path, "resume=auto"))
    capsys.readouterr()
    mean = train_seeds(config(tmp_path, "resume=auto", "num_seeds=3"))
    means = [read_json(tmp_path / f"seed{seed}" / "evaluation.json")["random"]["mean"] for seed in (1, 2, 3)]
    assert mean == pytest.approx(sum(means) / 3)
    printed = capsys.readouterr().out
    assert printed.count("means of") == 1
    assert "means of 3 seeds" in printed
    of_an_older_version = tmp_path / "seed1" / "evaluation.json"
    report = read_json(of_an_older_version)
    for noise in ("random", "zero"):
        del report[noise]["action_spread"]
    write_json(of_an_older_version, report)
    assert train_seeds(config(tmp_path, "resume=auto", "num_seeds=3")) == mean
    write_json(of_an_older_version, {"random": report["random"]})
    with pytest.raises(DamagedFileError, match=rf"{of_an_older_version} is damaged \(KeyError: 'zero'\)"):
        train_seeds(config(tmp_path, "resume=auto", "num_seeds=3"))


def test_other_settings_are_given_to_all_seeds(tmp_path):
    train_seeds(config(tmp_path))
    with pytest.raises(ConfigError, match=rf"; resume={tmp_path} with a changed value continues what is there with it"):
        train_seeds(config(tmp_path, "resume=auto", "optim.lr=1e-4"))
    with pytest.raises(CheckpointError, match=rf"it holds those of several seeds, give one, such as {tmp_path}/seed1"):
        load_policy(tmp_path, num_envs=1)


def test_the_same_command_with_resume_auto_trains_what_is_not_finished(tmp_path, alone, capsys):
    own, _ = [*configs_of_seeds(config(tmp_path, f"resume={AUTO}"), tmp_path)][1]
    start_run(own).train()
    first = train_seeds(config(tmp_path, f"resume={AUTO}"))
    assert "seeds 1 in turn" in capsys.readouterr().out
    assert_as_alone(tmp_path, alone)
    assert train_seeds(config(tmp_path, f"resume={AUTO}")) == first
    assert "frames each" not in capsys.readouterr().out
    with locked(tmp_path / "seed2" / ".lock"), pytest.raises(InUseError, match=r"seed2 is being trained in"):
        train_seeds(config(tmp_path, f"resume={AUTO}"))


@pytest.mark.parametrize("vmap", [False, True])
def test_one_that_diverges_is_reported_once_the_others_have_finished(tmp_path, alone, vmap):
    runs = SeedRuns((start_run(own) for own, _ in configs_of_seeds(config(tmp_path), tmp_path)), vmap=vmap)
    _, diverging = runs.runs.values()
    with torch.no_grad():
        next(diverging.agent.actor.parameters()).fill_(torch.nan)
    with pytest.raises(NonFiniteError, match=r"^1 of 2 seeds diverged, the others finished. seed 2: "):
        runs.train()
    assert [read_provenance(tmp_path / f"seed{seed}")["status"] for seed in (1, 2)] == ["finished", "diverged"]
    assert (tmp_path / "seed1" / "evaluation.json").exists()
    if not vmap:
        assert_as_alone(tmp_path, {1: alone[1]})


@pytest.mark.parametrize("vmap", [False, True])
@pytest.mark.parametrize("method", ["evaluate", "finish"])
def test_one_whose_evaluation_diverges_leaves_the_others_alone(tmp_path, monkeypatch, vmap, method):
    runs = SeedRuns((start_run(own) for own, _ in configs_of_seeds(config(tmp_path), tmp_path)), vmap=vmap)
    whole = getattr(Run, method)

    def breaking(self, *args):
        if self.cfg.seed == 2:
            raise NonFiniteError("a NaN in its evaluation")
        return whole(self, *args)

    monkeypatch.setattr(Run, method, breaking)
    with pytest.raises(NonFiniteError, match=r"^1 of 2 seeds diverged, the others finished. seed 2: a NaN in its"):
        runs.train()
    assert [read_provenance(tmp_path / f"seed{seed}")["status"] for seed in (1, 2)] == ["finished", "diverged"]


@pytest.mark.parametrize("change", ["nan_rollbacks=1", "logger.kind=wandb", "vmap=3"])
def test_what_several_seeds_cannot_do_is_refused_when_they_are_resumed_too(tmp_path, change):
    for own, _ in configs_of_seeds(config(tmp_path), tmp_path):
        tiny.begin(own)
    saved = (tmp_path / "seed1/config.yaml").read_text()
    with pytest.raises(ConfigError, match=change.partition("=")[0].replace(".kind", "")):
        resume([f"resume={tmp_path}", change])
    assert (tmp_path / "seed1/config.yaml").read_text() == saved


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_seeds=0", "num_seeds=0 is out of range: it must be at least 1"),
        ("logger.kind=wandb", "logger=wandb takes one run in a process"),
        ("resume=auto", "resume=auto goes on in a directory that you name"),
        ("optim.lr=-1", "lr must be positive"),
        ("nan_rollbacks=1", "nan_rollbacks=1 takes a single run back: it needs num_seeds=1"),
        ("trainer.compile=true vmap=true", "compiles the loss of a single agent: it needs vmap=false"),
        ("trainer.critic_warmup_frames=64 vmap=true", "changes what a single agent descends: it needs vmap=false"),
        ("actor/solver=random_steps vmap=true", "draws its own number of steps for each agent: it needs vmap=false"),
        ("actor/solver=random_steps_per_rollout vmap=true", "draws its own number of steps for each agent"),
    ],
)
def test_wrong_settings_leave_nothing_behind(tmp_path, monkeypatch, override, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        train_seeds(tiny.compose(*SHORT, "num_seeds=2", *override.split()))
    assert not [*tmp_path.iterdir()]


def test_by_default_the_directory_is_named_after_the_seeds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda format: "now")
    train_seeds(tiny.compose(*SHORT, "seed=3", "num_seeds=2", "total_frames=64"))
    assert sorted(str(path.parent) for path in Path("runs").rglob("config.yaml")) == [
        "runs/now_gridworld-two_walls_seeds3-4/seed3",
        "runs/now_gridworld-two_walls_seeds3-4/seed4",
    ]


def test_a_sweep_names_its_seeds(tmp_path):
    with pytest.raises(ConfigError, match=r"num_seeds=2: a sweep has a run for each seed, give seed=0,1,2"):
        Sweep(tmp_path).add([["num_seeds=2"]])
