"""The hold of its directory, which keeps other processes from training in it, and what comes with it."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from fpo_torchrl.errors import InUseError, NoLocksError
from fpo_torchrl.files import PARTIAL, locked, make_directory

LOCK = ".lock"
"""The file in its directory that a run holds until it has trained."""


class Hold(AbstractContextManager):
    """Keeps other processes from training in a directory until :meth:`close`, or the end of a ``with``.

    The directory is made if need be. What was made for the hold goes when it ends, unless it was told to :meth:`keep`
    it. On a file system without locks nothing keeps other processes out, and a warning says so.

    Raises:
        ConfigError: if it cannot be a directory.
        InUseError: if another process trains in it.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, lock = run_dir, run_dir / LOCK
        self._made = [path for path in (lock, run_dir, *run_dir.parents) if not path.exists()]
        make_directory(run_dir)
        with ExitStack() as locks:
            try:
                locks.enter_context(locked(lock, wait=False))
            except InUseError as error:
                raise InUseError(f"run_dir={run_dir} is being trained in by another process") from error
            except NoLocksError as error:  # as on Lustre mounted without them: see to it that a job can run there
                print(f"warning: {error}; nothing keeps another process from training in it as well")
            else:
                remove_remains(run_dir)
            self._locks = locks.pop_all()

    def keep(self) -> None:
        """Let what was made stay: a run has begun there."""
        self._made.clear()

    def close(self) -> None:
        """Let the directory go."""
        remove_unused(self._made)
        self.keep()
        self._locks.close()

    def __exit__(self, *error: Any) -> None:
        self.close()


@contextlib.contextmanager
def held(run_dir: Path) -> Iterator[Hold]:
    """The hold for a run that is built meanwhile, which then has it; it ends if the run cannot be built."""
    hold = Hold(run_dir)
    try:
        yield hold
    except BaseException:
        hold.close()
        raise


def remove_remains(run_dir: Path) -> None:
    """Remove what processes left that were killed while they wrote; only who holds the directory may."""
    half_written = re.compile(
        rf".+\.[0-9a-f]{{8}}{re.escape(PARTIAL)}|\.(checkpoint-|best\.).+\.(stage|archive|backup|delete)-[0-9a-f]+"
    )
    for path in [*run_dir.glob(f"*{PARTIAL}"), *(run_dir / "checkpoints").glob(".*")]:
        if half_written.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_unused(paths: Sequence[Path]) -> None:
    """Remove files, and directories that hold nothing, in this order."""
    for path in paths:
        with contextlib.suppress(OSError):  # it is gone, or holds something
            path.rmdir() if path.is_dir() else path.unlink()
