"""Runs trained in processes of their own, some at a time, and what state they are in."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from subprocess import STDOUT, Popen
from threading import Event
from typing import Any, TypeVar

from fpo_torchrl.cli import EXIT_PREEMPTED, quoted
from fpo_torchrl.errors import DamagedFileError, InUseError
from fpo_torchrl.files import is_held, locked
from fpo_torchrl.machine import available_cores
from fpo_torchrl.preemption import StopOnSignal
from fpo_torchrl.provenance import read_provenance
from fpo_torchrl.runs.auto_resume import is_finished
from fpo_torchrl.runs.hold import LOCK
from fpo_torchrl.text import duration

Job = TypeVar("Job")
ERROR = re.compile(r"^(error|[\w.]*(Error|Exception)):", flags=re.M)
"""Of our messages, and of Python's tracebacks."""


class Workers:
    """Trains runs, at most ``num_workers`` at a time.

    A signal stops all of them as it would stop each: the runs leave a checkpoint, and :meth:`run_all` raises
    ``Preempted``. Whatever was killed, the same calls go on from there.

    Args:
        num_workers (int): processes at a time.
        num_threads (int): of torch in each; default ``OMP_NUM_THREADS`` if it is set, else its share of the cores that
            this process may use.
    """

    def __init__(self, num_workers: int = 1, *, num_threads: int | None = None) -> None:
        self.num_workers = num_workers
        self.environment = dict(os.environ)
        if num_threads is not None or "OMP_NUM_THREADS" not in os.environ:
            self.environment["OMP_NUM_THREADS"] = str(num_threads or max(1, available_cores() // num_workers))
        self.stop = StopOnSignal()
        self._stopping = Event()
        self._children: set[Popen] = set()
        self._told: set[Popen] = set()

    def train_alone(self, overrides: Sequence[str], run_dir: Path) -> int | None:
        """:meth:`train`, unless another process looks after the run already: then None."""
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        try:
            with locked(claim_of(run_dir), wait=False):
                return None if is_held(run_dir / LOCK) else self.train(overrides, run_dir)
        except InUseError:
            return None

    def train_or_wait(self, overrides: Sequence[str], run_dir: Path, *, has_ended: Callable[[], bool]) -> int:
        """:meth:`train_alone`, as soon as no other process looks after the run; the exit code, 0 once it has ended."""
        while not has_ended():
            if self._is_stopping():
                return EXIT_PREEMPTED
            if (code := self.train_alone(overrides, run_dir)) is not None:
                return code
            self._stopping.wait(1)
        return 0

    def _is_stopping(self) -> bool:
        return self.stop.received is not None or self._stopping.is_set()

    def train(self, overrides: Sequence[str], run_dir: Path) -> int:
        """``fpo-train`` until the run has ended, from its newest checkpoint if there is one; returns the exit code.

        What it prints goes to the file of :func:`log_of`.
        """
        if self._is_stopping():
            return EXIT_PREEMPTED
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "fpo_torchrl.train", *overrides, *in_directory(run_dir)]
        with log_of(run_dir).open("a") as log:
            child = Popen(command, stdout=log, stderr=STDOUT, env=self.environment)
        self._children.add(child)
        if self._is_stopping():  # since it was looked at last
            self._tell(child)
        try:
            return child.wait()
        finally:
            self._children.discard(child)

    def run_all(
        self, jobs: Sequence[Job], run: Callable[[Job], str], *, stop_when: Callable[[], bool] = lambda: False
    ) -> dict[Job, str]:
        """Call ``run`` for each job, which may call :meth:`train`, and print what it returns and how long is left.

        An exception in one job does not stop the others. As soon as ``stop_when`` says so, the runs are stopped.

        Raises:
            Preempted: on a signal, after the runs have stopped.
        """
        results: dict[Job, str] = {}
        self._stopping.clear()
        with self.stop, ThreadPoolExecutor(self.num_workers) as pool:
            futures: dict[Future[str], Job] = {pool.submit(run, job): job for job in jobs}
            try:
                for future, left in self._ended(futures, stop_when):
                    error = future.exception()
                    result = future.result() if error is None else f"failed: {type(error).__name__}: {error}"
                    results[futures[future]] = result
                    where = f"[{len(results)}/{len(jobs)}] {futures[future]}"
                    print(f"{where}: {result}; about {duration(left)} left", flush=True)
            except BaseException:
                self._stop_children(futures)
                raise
            self.stop.check()
        return results

    def _ended(
        self, futures: Collection[Future[str]], stop_when: Callable[[], bool]
    ) -> Iterator[tuple[Future[str], float]]:
        """The futures as they end, but for cancelled ones, with the seconds that all others may take."""
        started, waiting, num_ended = time.monotonic(), set(futures), 0
        while waiting:
            ended, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in (future for future in ended if not future.cancelled()):
                num_ended += 1
                yield future, (time.monotonic() - started) / num_ended * (len(futures) - num_ended)
            if self.stop.received is not None or stop_when():
                self._stop_children(waiting)

    def _stop_children(self, waiting: Iterable[Future[str]]) -> None:
        self._stopping.set()
        for future in waiting:
            future.cancel()
        for child in [*self._children]:
            self._tell(child)

    def _tell(self, child: Popen) -> None:
        if child not in self._told:
            self._told.add(child)
            child.send_signal(signal.SIGTERM)  # of Ctrl-C they would take a second one to mean "at once"


def in_directory(run_dir: Path) -> list[str]:
    """The arguments of ``fpo-train`` that make it start or go on in a directory, without a progress bar."""
    return [f"run_dir={quoted(run_dir)}", "resume=auto", "progress=false"]


def log_of(run_dir: Path) -> Path:
    """The file, beside its directory, with what a run has printed."""
    return run_dir.with_name(f"{run_dir.name}.log")


def claim_of(run_dir: Path) -> Path:
    """The file that the process which looks after a run holds."""
    return run_dir.with_name(f"{run_dir.name}.lock")


def state_of(run_dir: Path, total_frames: int) -> str:
    """What there is to do about a run: "done", "running", "failed" (diverged, or ended by an error), or "waiting".

    A run that was stopped or killed is waiting for someone to go on with it; so is one that was killed before it began,
    which leaves no error in its log.
    """
    held = is_held(run_dir / LOCK) or is_held(claim_of(run_dir))  # first: a run says how it ended, then lets go
    found = account_of(run_dir)
    if is_finished(found, total_frames):
        return "done"
    if held:
        return "running"
    stopped = str(found.get("error")).startswith(("Preempted", "KeyboardInterrupt"))
    crashed = found.get("status") == "interrupted" and not stopped
    could_not_begin = (
        not found and log_of(run_dir).is_file() and ERROR.search(log_of(run_dir).read_text(errors="replace"))
    )
    return "failed" if crashed or could_not_begin or found.get("status") == "diverged" else "waiting"


def has_diverged(run_dir: Path) -> bool:
    """Whether a run ended with a NaN, as it would if it went on."""
    return account_of(run_dir).get("status") == "diverged"


def account_of(run_dir: Path) -> dict[str, Any]:
    """What a run says of itself in ``provenance.json``; that it failed, if that is damaged, as ``fpo-train`` will."""
    try:
        return read_provenance(run_dir)
    except DamagedFileError as error:
        return {"status": "interrupted", "error": str(error)}
