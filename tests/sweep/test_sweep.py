"""A sweep: what state its runs are in, what is run again, and that a kill changes nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny

from fpo_torchrl.files import locked
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.preemption import Preempted
from fpo_torchrl.provenance import read_provenance
from fpo_torchrl.runs.hold import LOCK
from fpo_torchrl.sweep import command, workers
from fpo_torchrl.sweep.manifest import Entry, Sweep
from fpo_torchrl.sweep.workers import Workers, claim_of, in_directory, log_of, state_of

TIMES = ("collect_s", "update_s", "frames_per_s")
RUN = (
    *(*(o for o in tiny.GRIDWORLD if o != "progress=false"), "trainer.num_epochs=1"),
    *("total_frames=1024", "checkpoint_interval_frames=64"),
)


def fpo_sweep(log: Path, child: type, *arguments: str) -> None:
    """``fpo-sweep`` in a process group of its own, to be called by ``tiny.start``."""
    os.setpgrp()
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    workers.Popen = child
    sys.argv = ["fpo-sweep", *arguments]
    command.main()


class TestState:
    @pytest.fixture
    def run_dir(self, tmp_path):
        path = tmp_path / "run"
        path.mkdir()
        return path

    @pytest.mark.parametrize(
        ("found", "state"),
        [
            ({"status": "finished", "frames": 64}, "done"),
            ({"status": "finished", "frames": 32}, "waiting"),
            ({"status": "running", "frames": 32}, "waiting"),
            ({"status": "interrupted", "error": "Preempted: SIGTERM", "frames": 32}, "waiting"),
            ({"status": "interrupted", "error": "KeyboardInterrupt", "frames": 32}, "waiting"),
            ({"status": "interrupted", "error": "OSError: [Errno 28] No space left", "frames": 32}, "failed"),
            ({"status": "diverged", "error": "NonFiniteError: loss", "frames": 32}, "failed"),
        ],
    )
    def test_by_its_account_of_itself(self, run_dir, found, state):
        (run_dir / "provenance.json").write_text(json.dumps(found))
        assert state_of(run_dir, 64) == state

    def test_whose_account_is_damaged(self, run_dir):
        (run_dir / "provenance.json").write_text('{"status": "fini')
        assert state_of(run_dir, 64) == "failed"
        assert command.needs_work(Sweep(run_dir.parent), Entry(run_dir.name, "PointMass", "", 0, 64, ()))

    @pytest.mark.parametrize(("had", "has", "needs"), [(0, 0, False), (0, 3, True), (3, 3, False), (None, 1, True)])
    def test_a_diverged_run_is_tried_again_with_more_rollbacks(self, run_dir, had, has, needs):
        """``had`` None: its config is of a version without them."""
        (run_dir / "provenance.json").write_text(json.dumps({"status": "diverged", "frames": 32}))
        (run_dir / "config.yaml").write_text(
            "task: PointMass\n" + (f"nan_rollbacks: {had}\n" if had is not None else "")
        )
        entry = Entry(run_dir.name, "PointMass", "", 0, 64, (), has)
        assert command.needs_work(Sweep(run_dir.parent), entry) == needs

    def test_before_it_began(self, run_dir):
        assert state_of(run_dir / "absent", 64) == state_of(run_dir, 64) == "waiting"
        log_of(run_dir).write_text("SLURM job 3, its output is elsewhere\n")  # killed while it imported
        assert state_of(run_dir, 64) == "waiting"
        for said in ("error: some setting is wrong", "Traceback ...\nModuleNotFoundError: No module named 'torch'\n"):
            log_of(run_dir).write_text(said)
            assert state_of(run_dir, 64) == "failed"

    def test_while_someone_holds_it(self, run_dir):
        for path in (run_dir / LOCK, claim_of(run_dir)):
            with locked(path):
                assert state_of(run_dir, 64) == "running"
            assert state_of(run_dir, 64) == "waiting"


class TestWorkers:
    def test_arguments_survive_hydras_grammar(self, tmp_path):
        strange = tmp_path / "a b,c='d'"
        (argument, *_) = in_directory(strange)
        from hydra.core.override_parser.overrides_parser import OverridesParser

        assert OverridesParser.create().parse_override(argument).value() == str(strange)

    @pytest.mark.parametrize(
        ("given", "of_user", "threads"), [(None, None, "2"), (None, "7", "7"), (3, "7", "3"), (3, None, "3")]
    )
    def test_threads_are_the_users_or_a_share_of_the_cores_it_may_use(self, monkeypatch, given, of_user, threads):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5})
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if of_user is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", of_user)
        assert Workers(2, num_threads=given).environment["OMP_NUM_THREADS"] == threads

    def test_a_signal_stops_the_children_and_starts_no_more(self, tmp_path, monkeypatch):
        told, started = [], []

        class Child:
            """Waits until it is told to stop."""

            def __init__(self, command, **kwargs) -> None:
                started.append(command)
                os.kill(os.getpid(), signal.SIGUSR1)

            def wait(self) -> int:
                while not told:
                    time.sleep(0.01)
                return 75

            def send_signal(self, number: int) -> None:
                told.append(number)

        monkeypatch.setattr(workers, "Popen", Child)
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
        crew = Workers(1)
        with pytest.raises(Preempted, match="SIGUSR1"):
            crew.run_all([1, 2, 3], lambda job: str(crew.train([], tmp_path / str(job))))
        for number, handler in before.items():
            signal.signal(number, handler)
        assert len(started) == 1
        assert told == [signal.SIGTERM]

    def test_to_be_told_to_stop_ends_the_wait_for_a_run_of_another_process(self, tmp_path):
        crew, begun = Workers(1), threading.Event()

        def waits(job: str) -> str:
            begun.set()
            return str(crew.train_or_wait([], tmp_path / job, has_ended=lambda: False))

        with locked(claim_of(tmp_path / "run")):
            assert crew.run_all(["run"], waits, stop_when=begun.is_set) == {"run": "75"}

    def test_an_error_of_who_decides_stops_the_children_and_is_raised_at_once(self, tmp_path, monkeypatch):
        class Child:
            """Waits until it is told to stop."""

            def __init__(self, command, **kwargs) -> None:
                self.told = threading.Event()
                begun.set()

            def wait(self) -> int:
                return 75 if self.told.wait(30) else pytest.fail("not told to stop")

            def send_signal(self, number: int) -> None:
                self.told.set()

        def decide() -> bool:
            if begun.is_set():
                raise RuntimeError("database is locked")
            return False

        begun = threading.Event()
        monkeypatch.setattr(workers, "Popen", Child)
        crew, started = Workers(1), time.monotonic()
        with pytest.raises(RuntimeError, match="database is locked"):
            crew.run_all(["run"], lambda job: str(crew.train([], tmp_path / job)), stop_when=decide)
        assert time.monotonic() - started < 15


class TestKilled:
    """Two runs: one killed with its sweep, and repaired by the same command."""

    @pytest.fixture(scope="class")
    def story(self, tmp_path_factory):
        directory = tmp_path_factory.mktemp("sweep")
        arguments = ("run", str(directory / "sweep"), *RUN, "seed=0,1", "--jobs", "2")
        straight = tiny.start(
            tiny.fpo_train, directory / "straight.log", *RUN, "seed=1", f"run_dir={directory}/straight"
        )
        first = tiny.start(fpo_sweep, directory / "log", tiny.Child, *arguments)
        deadline = time.monotonic() + 250
        while not list((directory / "sweep").glob("*/seed1/checkpoints/checkpoint-*")):
            assert time.monotonic() < deadline, (directory / "log").read_text()
            assert first.is_alive(), (directory / "log").read_text()
            time.sleep(0.002)
        os.killpg(first.pid, signal.SIGKILL)
        first.join()
        second = tiny.start(fpo_sweep, directory / "log", tiny.Child, *arguments)
        for process in (second, straight):
            process.join(200)
            assert process.exitcode == 0, (directory / "log").read_text()
        return directory

    def test_it_went_on_in_the_middle(self, story):
        (run,) = (story / "sweep").glob("*/seed1")
        starts = read_provenance(run)["starts"]
        assert 0 == starts[0]["from_frame"] < starts[1]["from_frame"] < 1024

    def test_the_result_is_that_of_the_undisturbed_run(self, story):
        (run,) = (story / "sweep").glob("*/seed1")
        one, other = (tiny.read_checkpoint(path) for path in (run, story / "straight"))
        unused = ("rng.python", "rng.numpy")  # of generators that nothing draws from
        assert not [
            key for key in one if not tiny.same({key: one[key]}, {key: other[key]}) and not key.startswith(unused)
        ]
        rows = [read_metrics(path / "metrics.csv") for path in (run, story / "straight")]
        for row in (*rows[0], *rows[1]):
            for name in TIMES:
                row.pop(name)
        assert rows[0] == rows[1]

    def test_the_command_says_how_it_went(self, story):
        log = (story / "log").read_text()
        assert f"2 runs in {story}/sweep, 2 of them to be trained" in log
        assert "2 runs: 2 done, 0 running, 0 waiting, 0 failed" in log
        assert "[2/2] gridworld/two_walls" in log

    def test_what_is_done_is_not_run_again(self, story, monkeypatch, capsys):
        monkeypatch.setattr(workers, "Popen", None)
        monkeypatch.setattr(sys, "argv", ["fpo-sweep", "run", str(story / "sweep")])
        with pytest.raises(SystemExit) as stopped:
            command.main()
        assert stopped.value.code == 0
        assert "2 runs in" in (out := capsys.readouterr().out)
        assert "0 of them to be trained" in out


class TestCommand:
    def call(self, monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fpo-sweep", *arguments])
        code = 0
        try:
            command.main()
        except SystemExit as stopped:
            code = stopped.code
        return code, *capsys.readouterr()

    def test_a_failed_run_is_shown_and_tried_again(self, tmp_path, monkeypatch, capsys):
        class Fails:
            def __init__(self, command, *, stdout, **kwargs) -> None:
                print("error: no such device", file=stdout)

            def wait(self) -> int:
                return 2

        monkeypatch.setattr(workers, "Popen", Fails)
        for _ in range(2):
            code, out, _ = self.call(monkeypatch, capsys, "run", str(tmp_path), "experiment=bandit")
            assert code == 1
            assert "1 of them to be trained" in out
            assert "ended with exit code 2, see " in out
            assert "0 done, 0 running, 0 waiting, 1 failed" in out

    def test_a_diverged_run_goes_on_with_the_same_command_and_rollbacks(self, tmp_path, monkeypatch, capsys):
        """A real one, whose environment meets a NaN each time."""
        monkeypatch.setattr(workers, "Popen", tiny.Child)
        run = ("run", str(tmp_path), *RUN, "env._target_=tiny.breaking_env")
        trained = []
        for more in ((), (), ("nan_rollbacks=1",), ("nan_rollbacks=1",)):
            _, out, _ = self.call(monkeypatch, capsys, *run, *more)
            trained.append("1 of them to be trained" in out)
        assert trained == [True, False, True, False]
        (config,) = tmp_path.glob("*/seed0/config.yaml")
        assert "nan_rollbacks: 1\n" in config.read_text()

    def test_a_run_of_another_process_is_left_to_it(self, tmp_path, monkeypatch, capsys):
        (entry,) = Sweep(tmp_path).add([["experiment=bandit"]])
        run_dir = tmp_path / entry.path
        run_dir.mkdir(parents=True)
        monkeypatch.setattr(workers, "Popen", None)
        with locked(run_dir / LOCK):
            code, out, _ = self.call(monkeypatch, capsys, "run", str(tmp_path))
        assert code == 1  # not all runs are there yet, for what comes after it in a script
        assert "another process is training it" in out
        assert "1 running" in out

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["walk"], 2, "the commands are run, status, search"),
            (["status", "nowhere"], 2, "nowhere holds no sweep"),
            (["run", "nowhere", "seed=0", "--jobs", "0"], 2, "--jobs 0 is out of range"),
            (["run", "nowhere", "experiment=bandit", "resume=auto"], 2, "the runs of a sweep go on by themselves"),
            (["--help"], 0, ""),
        ],
    )
    def test_wrong_arguments(self, monkeypatch, capsys, arguments, code, words):
        actual, _, err = self.call(monkeypatch, capsys, *arguments)
        assert (actual, words in err) == (code, True)
