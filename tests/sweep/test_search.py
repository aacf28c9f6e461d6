"""A search: what it chooses from, what a trial is worth, and that stopped, killed and failed trials are survived."""
# ruff: noqa: E402

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import matplotlib
import pytest
import tiny

optuna = pytest.importorskip("optuna")

from hydra.errors import HydraException
from optuna.trial import TrialState
from searching import SPACE, Child, child, read_trials  # noqa: F401

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.preemption import Preempted
from fpo_torchrl.sweep import command, workers
from fpo_torchrl.sweep.search import Search
from fpo_torchrl.sweep.space import SearchSpace


def test_a_trial_is_worth_the_mean_over_seeds(tmp_path):
    search = Search(tmp_path, SPACE)
    search.run(3)
    for trial in search.trials():
        assert trial.value == pytest.approx(float(trial.params["optim.lr"]) + 0.5)
        assert sorted(trial.intermediate_values) == list(range(100, 1001, 100))
        assert trial.intermediate_values[500] == pytest.approx(float(trial.params["optim.lr"]) / 2)
    table = read_trials(tmp_path)
    assert [row["number"] for row in table] == ["0", "1", "2"]
    assert {row["state"] for row in table} == {"COMPLETE"}
    best = max(table, key=lambda row: float(row["value"]))
    assert f"optim.lr={best['optim.lr']}" in search.summary()
    assert search.summary().startswith("3 trials: 3 complete\nbest: mean return ")
    for name in ("history.png", "slice.png"):
        assert (tmp_path / name).stat().st_size > 1000


def test_its_pictures_leave_those_of_others_as_they_are(tmp_path):
    before = dict(matplotlib.rcParams)
    Search(tmp_path, SPACE).run(1)
    assert (tmp_path / "history.png").is_file()
    assert dict(matplotlib.rcParams) == before


def test_its_runs_can_be_reported(tmp_path):
    search = Search(tmp_path, SPACE)
    search.run(1)
    (trial,) = search.trials()
    assert [(entry.label, entry.seed) for entry in search.sweep.entries()] == [
        (f"optim.lr={trial.params['optim.lr']}", seed) for seed in (0, 1)
    ]


def test_more_trials_later_without_saying_what_again(tmp_path):
    Search(tmp_path, SPACE).run(1)
    search = Search(tmp_path)
    search.run(2)
    assert len(search.trials()) == 2


def test_another_question_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no search: give settings to choose from"):
        Search(tmp_path)
    with pytest.raises(ConfigError, match="holds no search: give settings to choose from"):
        Search(tmp_path, SearchSpace(("experiment=bandit",), (0,)))
    Search(tmp_path, SPACE)
    with pytest.raises(ConfigError, match=r"over the seeds \(0, 1\): choose another directory"):
        Search(tmp_path, SearchSpace(SPACE.overrides, (0, 1, 2)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("optim.learning_rate=choice(1,2)", "learning_rate"),
        ("num_envs=interval(-2,-1)", "num_envs"),
        ("run_dir=choice(a,b)", "run_dir=a: a sweep gives each of its runs a directory"),
    ],
)
def test_a_search_of_which_nothing_is_right_leaves_nothing(tmp_path, wrong, words):
    directory = tmp_path / "search"
    with pytest.raises((ConfigError, HydraException), match=words):
        Search(directory, SearchSpace((*SPACE.overrides, wrong), (0,)))
    assert not directory.exists()
    Search(directory, SPACE).run(1)  # the corrected command
    assert [row["state"] for row in read_trials(directory)] == ["COMPLETE"]


@pytest.mark.parametrize("storage", ["foo://x", "nonsense", "sqlite:////nowhere/at/all.db", "redis://x"])
def test_a_database_that_cannot_be_opened_leaves_nothing(tmp_path, storage, run_command):
    directory = tmp_path / "search"
    arguments = ("search", directory, *SPACE.overrides, "--storage", storage)
    code, _, err = run_command(command.main, *arguments)
    assert code == 2
    assert err.startswith(f"error: --storage {storage}: ")
    assert not directory.exists()


@pytest.mark.parametrize("content", ['{"overrides": ["a', "{}", '{"overrides": 3, "seeds": [0]}'])
def test_a_damaged_search_is_named(tmp_path, content):
    Search(tmp_path, SPACE)
    (tmp_path / "search.json").write_text(content)
    with pytest.raises(ConfigError, match=rf"{tmp_path}/search.json is damaged \(.*\): put a copy of it back"):
        Search(tmp_path)


def test_a_trial_that_diverges_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    search = Search(tmp_path, SPACE)
    monkeypatch.setattr(Child, "status", "diverged")
    search.run(1)
    monkeypatch.setattr(Child, "status", "finished")
    (first,) = search.trials()
    search.study.enqueue_trial({"optim.lr": next(lr for lr in ("0.1", "0.2") if lr != first.params["optim.lr"])})
    search.run(2)
    failed, complete = read_trials(tmp_path)
    assert (failed["state"], complete["state"]) == ("PRUNED", "COMPLETE")  # which, unlike FAIL, the sampler learns from
    assert set(failed["error"].split("; ")) == {"NonFiniteError: loss_critic became NaN"}


def test_a_run_that_diverges_stops_those_of_the_other_seeds(tmp_path, monkeypatch):
    class Endless(Child):
        """Of seed 0 diverges at once; of the other it trains until it is told to stop."""

        def __init__(self, command: list[str], **kwargs) -> None:
            self.stopped = threading.Event()
            self.status = "diverged" if "seed=0" in command else "running"
            super().__init__(command, **kwargs)

        def wait(self) -> int:
            return 4 if self.status == "diverged" else 75 if self.stopped.wait(30) else pytest.fail("not told to stop")

        def send_signal(self, number: int) -> None:
            self.stopped.set()

    monkeypatch.setattr(workers, "Popen", Endless)
    started = time.monotonic()
    Search(tmp_path, SPACE).run(1)
    assert time.monotonic() - started < 15
    (row,) = read_trials(tmp_path)
    assert (row["state"], row["error"]) == ("PRUNED", "NonFiniteError: loss_critic became NaN")


def test_values_that_no_run_can_have_fail_their_trial_and_the_others_go_on(tmp_path):
    search = Search(tmp_path, SearchSpace((*SPACE.overrides, "num_envs=choice(-1,8)"), SPACE.seeds))
    for num_envs in ("-1", "8", "-1"):
        search.study.enqueue_trial({"num_envs": num_envs})
    with pytest.raises(ConfigError, match="num_envs=-1 is out of range"):  # it might be that nothing is right
        search.run(3)
    search.run(3)
    assert [row["state"] for row in read_trials(tmp_path)] == ["FAIL", "COMPLETE", "FAIL"]


def test_a_trial_that_is_behind_is_pruned_and_its_runs_are_stopped(tmp_path, monkeypatch):
    class Slow(Child):
        """Writes half of its rows, then waits to be told to stop."""

        status, rows = "interrupted", 5
        told: list[int] = []  # noqa: RUF012

        def wait(self) -> int:
            while len(self.told) < 2:
                time.sleep(0.01)
            for path in tmp_path.rglob("provenance.json"):
                path.write_text(json.dumps({"status": "interrupted", "error": "Preempted: SIGTERM", "frames": 500}))
            return 75

        def send_signal(self, number: int) -> None:
            self.told.append(number)

    class Strict(optuna.pruners.BasePruner):
        """Gives up on everything at 500 frames."""

        def prune(self, study, trial) -> bool:
            return 500 in trial.intermediate_values

    monkeypatch.setattr(workers, "Popen", Slow)
    Search(tmp_path, SPACE, pruner=Strict()).run(1)
    assert Slow.told == [signal.SIGTERM] * 2
    assert [row["state"] for row in read_trials(tmp_path)] == ["PRUNED"]


def test_a_stopped_trial_is_put_back_and_goes_on(tmp_path, monkeypatch):
    class Stopped(Child):
        """Hears the signal that its worker gets."""

        status = "interrupted"

        def wait(self) -> int:
            os.kill(os.getpid(), signal.SIGUSR1)
            return 75

    monkeypatch.setattr(workers, "Popen", Stopped)
    search = Search(tmp_path, SPACE)
    with pytest.raises(Preempted):
        search.run(2)
    (before,) = search.study.get_trials(states=(TrialState.FAIL,))
    monkeypatch.setattr(workers, "Popen", Child)
    Search(tmp_path).run(2)
    trials = search.trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert trials[0].params == before.params
    assert trials[0].user_attrs == {"continues": before.number}


def test_a_trial_whose_process_was_killed_is_put_back(tmp_path):
    search = Search(tmp_path, SPACE)
    abandoned = search.study.ask(search.distributions)
    search.run(1)
    (trial,) = search.trials()
    assert (trial.params, trial.state) == (abandoned.params, TrialState.COMPLETE)


def fpo_sweep(log: Path, *arguments: str) -> None:
    """``fpo-sweep`` with children that only pretend, to be called by ``tiny.start``."""
    output = os.open(log, os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    workers.Popen = Child
    sys.argv = ["fpo-sweep", *arguments]
    command.main()


def test_two_processes_share_a_study(tmp_path):
    arguments = ("search", str(tmp_path / "study"), *SPACE.overrides, "--seeds", "2", "--trials", "3")
    for i, process in enumerate([tiny.start(fpo_sweep, tmp_path / f"{i}.log", *arguments) for i in range(2)]):
        process.join(200)
        assert process.exitcode == 0, (tmp_path / f"{i}.log").read_text()
    rows = read_trials(tmp_path / "study")
    assert [row["number"] for row in rows] == [str(i) for i in range(3)]
    assert {row["state"] for row in rows} == {"COMPLETE"}
    assert any("3 trials: 3 complete" in (tmp_path / f"{i}.log").read_text() for i in range(2))


def test_other_seeds_than_before_are_refused(tmp_path, monkeypatch, capsys):
    Search(tmp_path, SPACE)
    monkeypatch.setattr(sys, "argv", ["fpo-sweep", "search", str(tmp_path), "--seeds", "5"])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    err = capsys.readouterr().err
    assert "over the seeds (0, 1): choose another directory" in err


def test_a_search_keeps_the_name_of_its_study(tmp_path):
    """Two of the same directory name may share a database; one that was moved finds its own again."""
    storage = f"sqlite:///{tmp_path}/studies.db"
    names = [Search(tmp_path / parent / "search", SPACE, storage=storage).study.study_name for parent in ("a", "b")]
    assert names[0] != names[1]
    (tmp_path / "a/search").rename(tmp_path / "moved")
    assert Search(tmp_path / "moved", storage=storage).study.study_name == names[0]


def test_without_seeds_they_are_as_before(tmp_path, monkeypatch, capsys):
    Search(tmp_path, SPACE)
    monkeypatch.setattr(sys, "argv", ["fpo-sweep", "search", str(tmp_path), *SPACE.overrides, "--trials", "1"])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 0
    assert "1 trials: 1 complete" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--trials", "--seeds"])
def test_wrong_numbers(option, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fpo-sweep", "search", str(tmp_path), "optim.lr=choice(1,2)", option, "0"])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2
    assert f"{option} 0 is out of range" in capsys.readouterr().err
