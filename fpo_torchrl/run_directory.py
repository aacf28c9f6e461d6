"""The directory of a run: a new one, and the hold that keeps other processes from training in it."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from omegaconf import DictConfig

from fpo_torchrl.errors import ConfigError, InUseError, NoLocksError
from fpo_torchrl.files import PARTIAL, locked, make_directory

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


def has_checkpoint(run_dir: Path) -> bool:
    """Whether a directory has a checkpoint, whole or not."""
    return any((run_dir / "checkpoints").glob("checkpoint-*"))


def holds_run(run_dir: Path) -> bool:
    """Whether a run was begun in a directory."""
    return any((run_dir / name).exists() for name in ("config.yaml", "metrics.csv")) or has_checkpoint(run_dir)


def check_unused(directory: Path, run_dirs: Sequence[Path]) -> None:
    """Refuse to begin runs where there are some.

    Args:
        directory: what the user gave. run_dirs: of the runs, it or those in it.

    Raises:
        ConfigError: saying how to go on with them.
    """
    if not (taken := [run_dir for run_dir in run_dirs if holds_run(run_dir)]):
        return
    goes_on = all((run_dir / "config.yaml").is_file() and has_checkpoint(run_dir) for run_dir in run_dirs)
    how = f"resume={directory}" if goes_on else "the same command with resume=auto"
    what, them = ("a run already", "it")
    if taken != [directory]:
        what, them = (f"runs already, in {', '.join(map(str, taken))}", "them")
    raise ConfigError(f"run_dir={directory} holds {what}: {how} continues {them}, or choose another")


@contextlib.contextmanager
def new_run_dir(cfg: DictConfig) -> Iterator[Path]:
    """The directory that ``cfg`` names.

    Else a new one named after the time, the task and the seeds, taken away again if the run cannot be built.
    """
    if cfg.run_dir is not None:
        yield Path(cfg.run_dir)
        return
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
