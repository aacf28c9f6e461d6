"""A run that is stopped by signals, again and again, and started by the same command is the run that never was."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
from omegaconf import OmegaConf

from fpo_torchrl.errors import ConfigError, InUseError
from fpo_torchrl.files import is_held, locked
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.preemption import SIGNALS, Preempted, StopOnSignal, ending_process
from fpo_torchrl.provenance import read_provenance
from fpo_torchrl.runs.auto_resume import ensure_trained, unfinished_run
from fpo_torchrl.runs.run import Run

OVERRIDES = (
    *(*tiny.GRIDWORLD, "task=gridworld/two_walls", "normalizer=running", "trainer.num_epochs=1"),
    *("total_frames=4096", "eval_interval_frames=4096", "checkpoint_interval_frames=4096", "resume=auto"),
)
"""64 iterations, without any checkpoint before the end but those of signals."""
STOPS = {
    "SIGTERM": ([signal.SIGTERM], 75),
    "SIGUSR1": ([signal.SIGUSR1], 75),
    "many": ([signal.SIGUSR2, signal.SIGTERM] * 200, 75),
    "Ctrl-C": ([signal.SIGINT], 130),
    "Ctrl-C twice": ([signal.SIGINT] * 2, 130),
    "SIGHUP": ([signal.SIGHUP], 75),
}
TIMES = ("collect_s", "update_s", "frames_per_s")


@dataclass
class Story:
    """The directories of the undisturbed run and of the stopped one, whose every start is told."""

    straight: Path
    stopped: Path
    exit_codes: list[int | None]
    rows: list[int]
    checkpoints: list[list[str]]
    outputs: list[str]


def num_rows(run_dir: Path) -> int:
    path = run_dir / "metrics.csv"
    return len(read_metrics(path)) if path.exists() else 0


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Story:
    directory = tmp_path_factory.mktemp("signals")
    straight, stopped = directory / "straight", directory / "stopped"
    other = tiny.start(tiny.fpo_train, directory / "straight.log", *OVERRIDES, f"run_dir={straight}")
    story = Story(straight, stopped, [], [], [], [])
    command = (*OVERRIDES, f"run_dir={stopped}")
    for name, (signals, _) in STOPS.items():
        before = num_rows(stopped)
        process = tiny.start(tiny.fpo_train, directory / f"{name}.log", *command)
        deadline = time.monotonic() + 120
        while num_rows(stopped) <= before:
            assert process.is_alive(), (directory / f"{name}.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        for number in signals:
            with contextlib.suppress(ProcessLookupError):  # several signals: it may have left by now
                os.kill(process.pid, number)
            time.sleep(0.001)
        process.join(120)
        story.exit_codes.append(process.exitcode)
        story.rows.append(num_rows(stopped))
        story.checkpoints.append(sorted(path.stem for path in (stopped / "checkpoints").glob("checkpoint-*")))
        story.outputs.append((directory / f"{name}.log").read_text())
    last = tiny.start(tiny.fpo_train, directory / "last.log", *command)
    for process in (other, last):
        process.join(120)
        assert process.exitcode == 0, (directory / "last.log").read_text()
    return story


def test_each_exit_code_is_the_documented_one(story):
    assert story.exit_codes == [code for _, code in STOPS.values()]


def test_a_stop_leaves_a_checkpoint_of_the_last_row(story):
    for rows, checkpoints in list(zip(story.rows, story.checkpoints, strict=True))[:4]:
        assert checkpoints[-1] == f"checkpoint-{64 * rows:012d}"


def test_it_says_what_happened_and_what_to_do(story):
    for name, output in zip(("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT"), story.outputs, strict=False):
        assert f"{name}: the run stops after this iteration" in output
        assert f"{name}: stopped, and nothing is lost; fpo-train resume={story.stopped} goes on" in output
        assert "Traceback" not in output


def test_each_start_went_on_where_the_one_before_had_stopped(story):
    content = read_provenance(story.stopped)
    assert content["status"] == "finished"
    starts = [start["from_frame"] for start in content["starts"]]
    assert starts[0] == 0
    assert starts[1:5] == [64 * rows for rows in story.rows[:4]]
    assert 0 < story.rows[0] < story.rows[1] < story.rows[2] < story.rows[3] < 64


def test_every_weight_and_all_other_state_is_equal(story):
    straight, stopped = tiny.read_checkpoint(story.straight), tiny.read_checkpoint(story.stopped)
    unused = ("rng.python", "rng.numpy")  # of generators that nothing draws from; each process has its own
    assert straight.keys() == stopped.keys()
    assert straight["trainer.frames"] == 4096
    assert not [k for k in straight if not tiny.same({k: straight[k]}, {k: stopped[k]}) and not k.startswith(unused)]


def test_every_row_is_there_once_and_equal_but_for_the_times(story):
    straight, stopped = (read_metrics(run / "metrics.csv") for run in (story.straight, story.stopped))
    assert [row["frames"] for row in stopped] == [64.0 * i for i in range(1, 65)]
    for row in (*straight, *stopped):
        for name in TIMES:
            row.pop(name)
    assert stopped == straight


def stop_on(number: signal.Signals) -> None:
    """As a run that gets the signal."""
    with StopOnSignal() as stop:
        os.kill(os.getpid(), number)
        stop.check()


class TestStopOnSignal:
    @pytest.fixture(autouse=True)
    def handlers(self):
        before = {number: signal.getsignal(number) for number in SIGNALS}
        yield
        for number, handler in before.items():
            signal.signal(number, handler)

    def test_the_first_signal_is_noted_until_it_is_safe(self, capfd):
        before = [signal.getsignal(number) for number in SIGNALS]
        with pytest.raises(Preempted, match="SIGUSR1"), StopOnSignal() as stop:  # noqa: PT012
            stop.check()
            for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
            stop.check()
        assert "SIGUSR1: the run stops" in capfd.readouterr().err
        assert [signal.getsignal(number) for number in SIGNALS] == before

    def test_a_second_interrupt_is_heard_at_once_also_after_another_signal(self):
        with pytest.raises(KeyboardInterrupt), StopOnSignal():  # noqa: PT012
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)  # a scheduler may send both
            os.kill(os.getpid(), signal.SIGINT)

    def test_a_process_on_its_way_out_hears_no_more(self):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with ending_process(), pytest.raises(Preempted), StopOnSignal() as stop:  # noqa: PT012
            os.kill(os.getpid(), signal.SIGUSR1)
            stop.check()
        os.kill(os.getpid(), signal.SIGTERM)  # late, and without harm

    def test_a_handler_from_outside_python_becomes_the_default(self, monkeypatch):
        install = signal.signal
        monkeypatch.setattr(signal, "signal", lambda n, handler: install(n, handler) and None)
        with StopOnSignal():
            pass
        assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_DFL] * len(SIGNALS)

    def test_a_process_that_is_to_outlive_its_terminal_does(self):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
        try:
            with StopOnSignal() as stop:
                os.kill(os.getpid(), signal.SIGHUP)
                stop.check()
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_handlers_are_restored(self):
        before = [signal.getsignal(number) for number in SIGNALS]
        with StopOnSignal():
            assert signal.getsignal(signal.SIGTERM) != before[0]
        assert [signal.getsignal(number) for number in SIGNALS] == before

    @pytest.mark.parametrize("stops", [True, False])
    def test_a_handler_of_before_is_called_once_the_run_has_stopped(self, monkeypatch, stops):
        """As submitit's, which requeues the job; not for a run that finished nonetheless."""
        calls = []
        before = signal.signal(signal.SIGUSR2, lambda number, frame: calls.append(number))
        try:
            with pytest.raises(Preempted) if stops else StopOnSignal(), StopOnSignal() as stop:
                os.kill(os.getpid(), signal.SIGUSR2)
                assert not calls
                if stops:
                    stop.check()
        finally:
            signal.signal(signal.SIGUSR2, before)
        assert calls == [signal.SIGUSR2] * stops

    @pytest.mark.parametrize(
        ("executor", "number", "waits"),
        [("slurm", signal.SIGTERM, True), ("slurm", signal.SIGUSR1, False), ("local", signal.SIGTERM, False)],
    )
    def test_under_submitit_it_waits_for_slurm_to_kill_what_it_preempts(self, monkeypatch, executor, number, waits):
        def bypass(number, frame):
            """As submitit's handler of SIGTERM."""

        def killed():
            raise TimeoutError("as if by SIGKILL")

        bypass.__module__ = "submitit.core.job_environment"
        monkeypatch.setattr(signal, "pause", killed)
        monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
        before = signal.signal(number, bypass)
        try:
            with pytest.raises(TimeoutError if waits else Preempted):
                stop_on(number)
        finally:
            signal.signal(number, before)


class TestAutoResume:
    @pytest.fixture(autouse=True)
    def no_pictures(self, monkeypatch):
        monkeypatch.setattr("fpo_torchrl.runs.run.draw_learning_curve", lambda *args, **kwargs: None)

    @staticmethod
    def compose(run_dir: Path, *changes: str):
        return tiny.compose(*tiny.GRIDWORLD, "total_frames=64", "resume=auto", f"run_dir={run_dir}", *changes)

    def test_a_finished_run_is_left_alone(self, tmp_path, capsys, monkeypatch):
        mean = ensure_trained(self.compose(tmp_path / "run"))
        monkeypatch.setattr(Run, "train", None)
        assert ensure_trained(self.compose(tmp_path / "run", "progress=true", "num_threads=2")) == mean
        assert "holds the finished run already" in capsys.readouterr().out
        assert not is_held(tmp_path / "run" / ".lock")

    @pytest.mark.parametrize("change", ["seed=1", "total_frames=128", "optim.lr=0.5"])
    def test_other_settings_are_refused(self, tmp_path, change, monkeypatch):
        monkeypatch.setattr(Run, "finish", lambda self: {"random": type("Evaluation", (), {"mean": 0.0})})
        ensure_trained(self.compose(tmp_path))
        before = (tmp_path / "config.yaml").read_text()
        key, _, value = change.partition("=")
        with pytest.raises(ConfigError, match=rf"holds a run with other settings: {key}=.* \(not {value}\)\. Choose"):
            ensure_trained(self.compose(tmp_path, change))
        assert (tmp_path / "config.yaml").read_text() == before

    @pytest.mark.parametrize(("there", "here"), [("none", "running"), ("running", "none")])
    def test_so_is_a_component_that_only_one_of_them_has(self, tmp_path, there, here):
        tiny.begin(self.compose(tmp_path, f"normalizer={there}"))
        with pytest.raises(ConfigError, match="holds a run with other settings: normalizer="):
            ensure_trained(self.compose(tmp_path, f"normalizer={here}"))

    def test_so_is_a_setting_that_only_one_of_them_has(self, tmp_path):
        """It was given with a +, and the run has been going on without it."""
        tiny.begin(self.compose(tmp_path))
        cfg = self.compose(tmp_path)
        OmegaConf.update(cfg, "env.goal_reward", 5.0, force_add=True)
        with pytest.raises(ConfigError, match=r"other settings: env.goal_reward=\(absent\) \(not 5.0\)"):
            ensure_trained(cfg)

    def test_a_setting_that_the_older_version_did_not_have_is_as_by_default(self, tmp_path):
        cfg = self.compose(tmp_path)
        tiny.begin(cfg)
        old = OmegaConf.load(tmp_path / "config.yaml")
        del old.trainer.critic_warmup_frames, old.actor.solver.num_steps
        OmegaConf.save(old, tmp_path / "config.yaml")
        with pytest.raises(ConfigError, match=r"other settings: actor.solver.num_steps=10 \(not 2\)\. It has no"):
            ensure_trained(cfg)  # the preset's is not the default
        cfg.actor.solver.num_steps = 10
        assert unfinished_run(cfg, tmp_path) is not None

    def test_a_run_killed_before_its_first_checkpoint_starts_again(self, tmp_path):
        run = tiny.begin(self.compose(tmp_path))
        run.log({"frames": 64.0, "return": 0.5})
        ensure_trained(self.compose(tmp_path))
        assert [row["frames"] for row in read_metrics(tmp_path / "metrics.csv")] == [64]
        assert read_provenance(tmp_path)["starts"][-1]["from_frame"] == 0

    def test_it_needs_a_directory(self):
        with pytest.raises(ConfigError, match="resume=auto goes on in a directory that you name: give run_dir="):
            ensure_trained(tiny.compose(*tiny.GRIDWORLD, "resume=auto"))

    def test_a_directory_in_use_is_refused(self, tmp_path):
        with locked(tmp_path / ".lock"), pytest.raises(InUseError, match="is being trained in by another process"):
            ensure_trained(self.compose(tmp_path))
