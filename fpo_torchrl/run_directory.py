"""The directory of a run: a new one, and the hold that keeps other processes from training in it."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from omegaconf import DictConfig

from fpo_torchrl.files import PARTIAL, InUseError, NoLocksError, locked, make_directory

LOCK = ".lock"
"""The file in its directory that a run holds while it trains."""


@contextlib.contextmanager
def held(run_dir: Path) -> Iterator[ExitStack]:
    """Hold a directory while a run is built in it; the run takes the hold over with ``pop_all`` and trains under it.

    The directory is made if need be. What was made is taken away again if the run cannot be built. On a file system
    without locks, nothing holds it, and a warning says so.

    Raises:
        ConfigError: if it cannot be a directory. InUseError: if another process trains in it.
    """
    made = [path for path in (run_dir, *run_dir.parents) if not path.exists()]
    make_directory(run_dir)
    fresh = not (run_dir / LOCK).exists()
    with ExitStack() as hold:
        try:
            hold.enter_context(locked(run_dir / LOCK, wait=False))
        except InUseError as error:
            raise InUseError(f"run_dir={run_dir} is being trained in by another process") from error
        except NoLocksError as error:  # as on Lustre mounted without them: see to it that a cluster job can run there
            print(f"warning: {error}; nothing keeps another process from training in it as well")
        else:
            remove_remains(run_dir)
        try:
            yield hold
        except BaseException:
            if fresh:
                (run_dir / LOCK).unlink(missing_ok=True)
            remove_empty(made)
            raise


def remove_remains(run_dir: Path) -> None:
    """Remove what processes left that were killed while they wrote; only who holds the directory may."""
    half_written = re.compile(rf".+\.[0-9a-f]{{8}}\{PARTIAL}|\.checkpoint-.+\.(stage|archive|backup|delete)-[0-9a-f]+")
    for path in [*run_dir.glob(f"*{PARTIAL}"), *(run_dir / "checkpoints").glob(".checkpoint-*")]:
        if half_written.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def new_run_dir(cfg: DictConfig) -> Iterator[Path]:
    """A new directory named after the time, the task and the seeds, taken away again if the run cannot be built."""
    seeds = f"seed{cfg.seed}" if cfg.num_seeds == 1 else f"seeds{cfg.seed}-{cfg.seed + cfg.num_seeds - 1}"
    stem = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{cfg.task.replace('/', '-')}_{seeds}"
    for number in itertools.count(1):
        path = Path("runs") / (stem if number == 1 else f"{stem}_{number}")
        with contextlib.suppress(FileExistsError):  # another process may have just taken it
            path.mkdir(parents=True)
            break
    try:
        yield path
    except BaseException:
        remove_empty([path, path.parent])
        raise


def remove_empty(directories: list[Path]) -> None:
    """Remove directories that hold nothing, in this order."""
    for directory in directories:
        with contextlib.suppress(OSError):  # holds something
            directory.rmdir()
