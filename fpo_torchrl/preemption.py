"""Signals that ask a run to stop: it does so between two iterations, with a checkpoint of all it did."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
"""What schedulers send before they kill, Ctrl-C, and what a closed terminal sends."""


class Preempted(BaseException):
    """A run stopped on a signal and lost nothing: the same command with ``resume=auto`` goes on.

    ``directory`` is the run's; None of a sweep, and of a process that follows another.

    No ``Exception``, as ``KeyboardInterrupt`` is none: it is to stop a sweep too, not to count as a failed run.
    """

    def __init__(self, received: signal.Signals, directory: Path | None = None) -> None:
        super().__init__(received.name)
        self.signal, self.directory = received, directory


_ends_process: ContextVar[bool] = ContextVar("_ends_process", default=False)


@contextlib.contextmanager
def ending_process() -> Iterator[None]:
    """Inside, a run that stops is the last thing that the process does: later signals do not kill it on its way out."""
    token = _ends_process.set(True)
    try:
        yield
    finally:
        _ends_process.reset(token)


class StopOnSignal:
    """Takes note of the first signal, so that :meth:`check` can stop the run where it is safe.

    As a context manager it handles signals inside, in the main thread; in another one it hears nothing. Further
    signals change nothing, but a second Ctrl-C interrupts at once. If the run stops, the handler that was there before
    is called on the way out: submitit's, which requeues the job. Afterwards the handlers of before are back; one that
    was not installed from Python cannot be read, and its signal then does what it does by default.

    In a SLURM job of submitit a run that stops on SIGTERM waits for SLURM's SIGKILL: a job that SLURM preempts is
    requeued once it was killed, but not if it ends by itself in the time of grace. One that is cancelled is killed
    too; after a SIGTERM alone it waits until its time limit.

    Args:
        directory: of the run, where it can be continued.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        self.received: signal.Signals | None = None
        self._interrupted = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in SIGNALS if number != signal.SIGHUP or not _ignores_hangup()]
            self._previous = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stops = isinstance(error, Preempted)
        for number, handler in self._previous.items():
            restored = signal.SIG_DFL if handler is None else handler
            leaves = stops and _ends_process.get() and restored is signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if leaves else restored)
        if stops:
            before = self._previous.get(error.signal)
            if callable(before) and before is not signal.default_int_handler:
                before(error.signal, None)
            if error.signal == signal.SIGTERM and _is_submitit_in_slurm(before):
                while True:
                    signal.pause()  # submitit's handler of the time limit is back, and would end this

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = self._interrupted or number == signal.SIGINT
        if self.received is None:
            self.received = signal.Signals(number)
            with contextlib.suppress(OSError):  # print() could find its buffer in use
                os.write(2, f"\n{self.received.name}: the run stops after this iteration\n".encode())

    def agree(self, largest: Callable[[int], int]) -> bool:
        """Whether to stop here, which processes that train together decide together.

        Args:
            largest: of the numbers that the processes give it.
        """
        number = largest(self.received or 0)
        if number:
            self.received = signal.Signals(number)
        return number > 0

    def check(self) -> None:
        """Stop here if a signal came.

        Raises:
            Preempted: if one did.
        """
        if self.received is not None:
            raise Preempted(self.received, self.directory)


def _ignores_hangup() -> bool:
    """Whether this process was told to outlive its terminal, as by nohup."""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def _is_submitit_in_slurm(handler: Any) -> bool:
    module = getattr(handler, "__module__", None) or ""
    return module.partition(".")[0] == "submitit" and os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
