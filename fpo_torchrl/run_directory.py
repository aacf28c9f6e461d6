"""The directory of a run: what it holds, and a new one."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.hold import remove_unused


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
        remove_unused([path, path.parent])
        raise
