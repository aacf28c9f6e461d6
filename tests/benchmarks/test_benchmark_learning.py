"""The benchmark's loop: what it runs, skips, resumes and stores, and that a kill changes nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny

from fpo_torchrl.files import locked
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.provenance import read_provenance
from fpo_torchrl.sweep import workers
from fpo_torchrl.sweep.workers import Workers

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import learning
import suites

SIZE = (*(o for o in tiny.GRIDWORLD if o not in ("progress=false", "render=false")), "trainer.num_epochs=1")
TINY = suites.Suite(
    {"gridworld/two_walls": SIZE},
    {"fpo": ("total_frames=384",), "diverging": ("optim.lr=1e30",)},
    max_return=20.0,
    measure=lambda directory: {"answer": 42.0},
)
TIMES = ("collect_s", "update_s", "frames_per_s")


def run_benchmark(directory: Path, child: type | None, *arguments: str) -> None:
    """The benchmark of a tiny suite in ``directory``, in a process group of its own; called by ``tiny.start``.

    ``child`` stands in for ``subprocess.Popen`` of fpo-train.
    """
    os.setpgrp()
    os.chdir(directory)
    output = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    learning.SUITES["tiny"] = TINY
    if child is not None:
        workers.Popen = child
    sys.argv = ["learning.py", "--only", "tiny", "--seeds", "0", *arguments]
    learning.main()


class TestKilled:
    @pytest.fixture(scope="class")
    def story(self, tmp_path_factory):
        """Directories of a benchmark that went straight, and of one that was killed with its run and started again."""
        straight, killed = (tmp_path_factory.mktemp(name) for name in ("straight", "killed"))
        first = tiny.start(run_benchmark, killed, tiny.Child, "--algorithms", "fpo")
        other = tiny.start(run_benchmark, straight, None, "--algorithms", "fpo")
        checkpoints = killed / "runs/benchmark/tiny/gridworld-two_walls/fpo/seed0/checkpoints"
        deadline = time.monotonic() + 120
        while not list(checkpoints.glob("checkpoint-*")):
            assert time.monotonic() < deadline, (killed / "log").read_text()
            assert first.is_alive(), (killed / "log").read_text()
            time.sleep(0.002)
        os.killpg(first.pid, signal.SIGKILL)
        first.join()
        assert not (killed / "benchmarks").exists()
        second = tiny.start(run_benchmark, killed, tiny.Child)
        for process in (other, second):
            process.join(150)
            assert process.exitcode == 0, (killed / "log").read_text() + (straight / "log").read_text()
        return straight, killed

    @staticmethod
    def stored(directory: Path, label: str) -> Path:
        return directory / "benchmarks/results/tiny/gridworld-two_walls" / label / "seed0"

    def test_the_run_was_resumed_in_the_middle(self, story):
        starts = read_provenance(self.stored(story[1], "fpo"))["starts"]
        assert len(starts) == 2
        assert 0 == starts[0]["from_frame"] < starts[1]["from_frame"] < 384

    def test_its_result_is_that_of_the_undisturbed_one(self, story):
        straight, killed = (read_metrics(self.stored(it, "fpo") / "metrics.csv") for it in story)
        assert [row["frames"] for row in killed] == [64 * i for i in range(1, 7)]
        for row in (*straight, *killed):
            for name in TIMES:
                row.pop(name)
        assert killed == straight
        final = [json.loads((self.stored(it, "fpo") / "evaluation.json").read_text()) for it in story]
        assert final[0]["random"]["returns"] == final[1]["random"]["returns"]

    def test_a_diverged_run_is_stored_as_such(self, story):
        run = self.stored(story[1], "diverging")
        assert read_provenance(run)["status"] == "diverged"
        assert not (run / "evaluation.json").exists()
        assert "tiny/gridworld-two_walls/diverging/seed0: diverged" in (story[1] / "log").read_text()

    def test_only_the_small_files_are_stored(self, story):
        names = {path.name for path in self.stored(story[0], "fpo").iterdir()}
        assert names == set(learning.STORED)

    def test_the_report_is_beside_them(self, story):
        table = (story[1] / "benchmarks/results/tiny/table.md").read_text()
        assert table.startswith("| task | fpo | diverging |")
        assert "0.00 (1, 1 diverged) |" in table.splitlines()[2]
        report = (story[1] / "benchmarks/results/tiny/report.md").read_text()
        assert "| gridworld/two_walls | fpo | answer | 42 |" in report

    def test_what_is_stored_is_not_run_again(self, story):
        before = self.stored(story[1], "fpo").stat().st_mtime_ns
        again = tiny.start(run_benchmark, story[1], None)
        again.join(100)
        assert again.exitcode == 0
        assert "2 runs, 2 of them are stored already" in (story[1] / "log").read_text()
        assert self.stored(story[1], "fpo").stat().st_mtime_ns == before

    def test_a_stored_run_of_another_length_is_not_taken_for_this_one(self, story):
        longer = tiny.start(run_benchmark, story[1], None, "--frames", "999")
        longer.join(100)
        assert longer.exitcode == 2
        assert "was made with total_frames=384 (not 999): give its --frames" in (story[1] / "log").read_text()

    def test_nor_is_a_run_that_was_made_and_not_stored_here(self, story, tmp_path):
        before = tiny.start(run_benchmark, story[1], None, "--out", str(tmp_path), "--frames", "999")
        before.join(100)
        assert before.exitcode == 2
        assert not list(tmp_path.rglob("*.json"))


class TestOneJob:
    JOB = learning.Job("tiny", "gridworld/two_walls", "fpo", 3)

    @pytest.fixture
    def benchmark(self, tmp_path, monkeypatch):
        monkeypatch.setitem(learning.SUITES, "tiny", TINY)
        return learning.Benchmark(tmp_path / "work", tmp_path / "out", ["num_threads=1"], Workers())

    @staticmethod
    def ends(status: str, code: int):
        """Stands in for fpo-train: a run that ends so."""

        def train(self, overrides, directory) -> int:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "config.yaml").write_text("seed: 3\n")
            (directory / "provenance.json").write_text(json.dumps({"status": status}))
            return code

        return train

    @pytest.mark.parametrize(("status", "code"), [("finished", 0), ("diverged", 4)])
    def test_a_run_that_ended_is_stored_and_left_alone(self, benchmark, monkeypatch, status, code):
        monkeypatch.setattr(Workers, "train", self.ends(status, code))
        assert benchmark.run(self.JOB) == status
        monkeypatch.setattr(Workers, "train", None)
        assert benchmark.run(self.JOB) == status
        assert read_provenance(benchmark.out / self.JOB.path) == {"status": status}

    def test_a_run_killed_by_the_system_is_shown_and_tried_again(self, benchmark, monkeypatch):
        monkeypatch.setattr(Workers, "train", self.ends("running", -9))
        assert re.fullmatch("failed with exit code -9: .*seed3.log", benchmark.run(self.JOB))
        assert read_provenance(benchmark.out / self.JOB.path) == {"status": "running"}
        monkeypatch.setattr(Workers, "train", self.ends("finished", 0))
        assert benchmark.run(self.JOB) == "finished"
        assert read_provenance(benchmark.out / self.JOB.path) == {"status": "finished"}

    def test_a_run_that_the_user_stopped_is_not_stored(self, benchmark, monkeypatch):
        monkeypatch.setattr(Workers, "train", self.ends("interrupted", 130))
        assert benchmark.run(self.JOB).startswith("failed with exit code 130")
        assert not (benchmark.out / self.JOB.path).exists()

    def test_a_finished_run_that_was_not_stored_is_stored(self, benchmark, monkeypatch):
        self.ends("finished", 0)(None, [], benchmark.work / self.JOB.path)
        self.ends("running", -9)(None, [], benchmark.out / self.JOB.path)
        (benchmark.out / self.JOB.path / "evaluation.json.partial").write_text("{")  # killed while it stored
        (benchmark.out / self.JOB.path / "evaluation.json").write_text("{}")  # which this one does not have
        monkeypatch.setattr(Workers, "train", None)
        assert benchmark.run(self.JOB) == "finished"
        assert json.loads((benchmark.out / self.JOB.path / "measures.json").read_text()) == {"answer": 42.0}
        assert read_provenance(benchmark.out / self.JOB.path) == {"status": "finished"}
        assert not (benchmark.out / self.JOB.path / "evaluation.json").exists()

    def test_a_kill_while_storing_leaves_it_to_be_done_again(self, benchmark, monkeypatch):
        """Whatever file is the last to be copied, a run without all of them is none that has ended."""
        self.ends("finished", 0)(None, [], benchmark.work / self.JOB.path)
        (benchmark.work / self.JOB.path / "measures.json").write_text("{}")
        complete = {"config.yaml", "measures.json", "provenance.json"}
        replace, target = os.replace, benchmark.out / self.JOB.path
        for allowed in range(len(complete)):
            left = [allowed]

            def replace_some(*paths, left=left):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                replace(*paths)

            monkeypatch.setattr(os, "replace", replace_some)
            with pytest.raises(KeyboardInterrupt):
                learning.store(benchmark.work / self.JOB.path, target)
            assert not benchmark.is_stored(self.JOB)
        monkeypatch.setattr(os, "replace", replace)
        learning.store(benchmark.work / self.JOB.path, target)
        assert benchmark.is_stored(self.JOB)

    def test_a_signal_ends_the_wait_for_another_process(self, benchmark, monkeypatch):
        """Where a killed benchmark left its run behind, which nobody tells to stop."""
        directory = benchmark.work / self.JOB.path
        directory.mkdir(parents=True)
        threading.Timer(0.5, lambda: setattr(benchmark.workers.stop, "received", signal.SIGTERM)).start()
        started = time.monotonic()
        with locked(directory / ".lock"):
            assert benchmark.run(self.JOB).startswith("failed with exit code 75")
        assert 0.4 < time.monotonic() - started < 5

    def test_a_wrong_setting_leaves_nothing_to_store(self, benchmark, monkeypatch):
        monkeypatch.setattr(Workers, "train", lambda *arguments: 2)
        assert benchmark.run(self.JOB).startswith("failed with exit code 2")
        assert not benchmark.out.exists()

    def test_what_a_run_is_told(self, benchmark, monkeypatch):
        calls = []
        monkeypatch.setattr(Workers, "train", lambda *arguments: calls.append(arguments[1:]) or 1)
        benchmark.run(self.JOB)
        ((overrides, directory),) = calls
        assert directory == benchmark.work / self.JOB.path
        assert {"task=gridworld/two_walls", "label=fpo", "seed=3", "num_threads=1", "render=false"} < set(overrides)

    def test_an_error_in_one_job_does_not_stop_the_others(self, benchmark, monkeypatch, capsys):
        jobs = [learning.Job("tiny", "gridworld/two_walls", "fpo", seed) for seed in range(3)]

        def train(self, overrides, directory) -> int:
            if "seed=1" in overrides:
                raise OSError(28, "No space left on device")
            return TestOneJob.ends("finished", 0)(self, overrides, directory)

        monkeypatch.setattr(Workers, "train", train)
        statuses = benchmark.workers.run_all(jobs, benchmark.run)
        assert [statuses[job] for job in jobs][::2] == ["finished", "finished"]
        assert statuses[jobs[1]] == "failed: OSError: [Errno 28] No space left on device"
        printed = capsys.readouterr().out  # in the order in which they end
        assert re.search(r"^\[./3\] tiny/gridworld-two_walls/fpo/seed0: finished; about", printed, flags=re.M)
        assert "about 0 s left" in printed


class TestChoice:
    def test_seeds_come_one_after_the_other(self):
        arguments = learning.parse(["--tasks", "PointMass", "ReacherEasy", "--seeds", "7", "8"])
        jobs = learning.select(arguments)
        assert len(jobs) == 4 * len(suites.ALGORITHMS)
        assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)
        assert {job.task for job in jobs} == {"PointMass", "ReacherEasy"}

    @pytest.mark.parametrize("name", learning.SUITES)
    def test_every_algorithm_composes(self, name):
        suite = learning.SUITES[name]
        task = next(iter(suite.tasks))
        for label in suite.algorithms:
            cfg = tiny.compose(*learning.Job(name, task, label, 3).overrides())
            assert (cfg.task, cfg.label, cfg.seed) == (task, label, 3)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--jobs", "0"], "--jobs 0: it must be at least 1"),
            (["--tasks", "bandit/bimodal"], "no run of control has these tasks and algorithms; --only names other"),
            (["--tasks", "Nothing"], "invalid choice: 'Nothing'"),
            (["--only", "nothing"], "invalid choice: 'nothing'"),
        ],
    )
    def test_wrong_options(self, capsys, arguments, words):
        with pytest.raises(SystemExit) as stopped:
            learning.parse(arguments)
        assert stopped.value.code == 2
        assert words in capsys.readouterr().err
