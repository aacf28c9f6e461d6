"""The directory of several seeds, which holds a run of each in ``seed0``, ``seed1`` and so on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fpo_torchrl.errors import CheckpointError, ConfigError
from fpo_torchrl.files import intact, read_json, write_json
from fpo_torchrl.run_directory import holds_run

FILE = "seeds.json"
"""The file in it that names the runs; older versions wrote none."""


def seed_dirs(directory: Path) -> list[Path]:
    """The directories of the seeds, in their order: those that are there, and those that were."""
    there = {path.name for path in directory.glob("seed*") if path.is_dir() and _is_name(path.name)}
    return [directory / name for name in sorted(there | _recorded(directory), key=_seed)]


def begun_seeds(directory: Path) -> list[Path]:
    """The directories of the seeds that hold a run."""
    return [run_dir for run_dir in seed_dirs(directory) if holds_run(run_dir)]


def record_seeds(run_dirs: Sequence[Path]) -> None:
    """Name runs, which are about to begin or go on, in the directory that they share, beside those that began before.

    A seed is missed later although its directory is gone.
    """
    for directory in {run_dir.parent for run_dir in run_dirs}:
        names = {run_dir.name for run_dir in [*run_dirs, *begun_seeds(directory)]}
        write_json(directory / FILE, {"runs": sorted(names | _recorded(directory), key=_seed)})


def _recorded(directory: Path) -> set[str]:
    path = directory / FILE
    if not path.is_file():
        return set()
    with intact(path):
        return {name for name in read_json(path)["runs"] if _is_name(name)}


def _is_name(name: str) -> bool:
    return name.startswith("seed") and name[4:].isdecimal()


def _seed(name: str) -> int:
    return int(name[4:])


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
