"""The directory of a run, or of several seeds: what it holds, what that refuses, and a new one."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from fpo_torchrl.errors import CheckpointError, ConfigError
from fpo_torchrl.files import intact, read_json, write_json
from fpo_torchrl.runs.hold import remove_unused

SEEDS = "seeds.json"
"""The file that names the runs in the directory of several seeds; older versions wrote none."""


def has_checkpoint(run_dir: Path) -> bool:
    """Whether a directory has a checkpoint, whole or not."""
    return any((run_dir / "checkpoints").glob("checkpoint-*"))


def holds_run(run_dir: Path) -> bool:
    """Whether a run was begun in a directory."""
    return any((run_dir / name).exists() for name in ("config.yaml", "metrics.csv")) or has_checkpoint(run_dir)


def seed_dirs(directory: Path) -> list[Path]:
    """The directories of the seeds, in their order: those that are there, and those that were."""
    there = {path.name for path in directory.glob("seed*") if path.is_dir() and _is_seed(path.name)}
    return [directory / name for name in sorted(there | _recorded_seeds(directory), key=_number)]


def begun_seeds(directory: Path) -> list[Path]:
    """The directories of the seeds that hold a run."""
    return [run_dir for run_dir in seed_dirs(directory) if holds_run(run_dir)]


def record_seeds(run_dirs: Sequence[Path]) -> None:
    """Name runs, which are about to begin or go on, in the directory that they share, beside those that began before.

    A seed is missed later although its directory is gone.
    """
    for directory in {run_dir.parent for run_dir in run_dirs}:
        names = {run_dir.name for run_dir in [*run_dirs, *begun_seeds(directory)]}
        write_json(directory / SEEDS, {"runs": sorted(names | _recorded_seeds(directory), key=_number)})


def _recorded_seeds(directory: Path) -> set[str]:
    path = directory / SEEDS
    if not path.is_file():
        return set()
    with intact(path):
        return {name for name in read_json(path)["runs"] if _is_seed(name)}


def _is_seed(name: str) -> bool:
    return name.startswith("seed") and name[4:].isdecimal()


def _number(name: str) -> int:
    return int(name[4:])


def check_unused(directory: Path, run_dirs: Sequence[Path]) -> None:
    """Refuse to begin runs where there are some.

    Args:
        directory: what the user gave.
        run_dirs: of the runs, it or those in it.

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


def check_is_run(run_dir: Path) -> None:
    """Refuse a directory that is not that of a run.

    Raises:
        CheckpointError: with a run in it that could be meant.
    """
    if not (run_dir / "config.yaml").is_file():
        seeds = begun_seeds(run_dir)
        advice = f"; it holds those of several seeds, give one, such as {seeds[0]}" if seeds else ""
        raise CheckpointError(f"{run_dir} is not the directory of a run: it has no config.yaml{advice}")


def check_no_seeds(run_dir: Path) -> None:
    """Refuse to begin a single run where several seeds are.

    Raises:
        ConfigError: naming one of them.
    """
    if seeds := begun_seeds(run_dir):
        raise ConfigError(
            f"run_dir={run_dir} holds runs of several seeds, such as {seeds[0]}: choose another directory for a single "
            f"run, or resume={run_dir} to continue them"
        )


def check_no_run(directory: Path) -> None:
    """Refuse to begin several seeds where a single run is.

    Raises:
        ConfigError: saying how to continue it.
    """
    if holds_run(directory):
        raise ConfigError(
            f"run_dir={directory} holds a single run: choose another directory for several seeds, or "
            f"resume={directory} to continue it"
        )


@contextlib.contextmanager
def new_run_dir(cfg: DictConfig) -> Iterator[Path]:
    """The directory that ``cfg`` names.

    Else a new one named after the time, the task and the seeds, taken away again if the run cannot be built.
    """
    if cfg.run_dir is not None:
        yield Path(cfg.run_dir)
        return
    seeds = f"seed{cfg.seed}" if cfg.num_seeds == 1 else f"seeds{cfg.seed}-{cfg.seed + cfg.num_seeds - 1}"
    stem = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{re.sub('[/:]', '-', cfg.task)}_{seeds}"
    for number in itertools.count(1):
        path = Path("runs") / (stem if number == 1 else f"{stem}_{number}")
        with contextlib.suppress(FileExistsError):  # another process may have just taken it
            path.mkdir(parents=True)
            break
    try:
        yield path
    except BaseException:
        remove_unused([path, path.parent])
        raise
