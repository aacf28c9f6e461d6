"""The ways to start a run: anew, or where it stopped, perhaps with other values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Sweep
from omegaconf import MISSING, DictConfig, OmegaConf

from fpo_torchrl.config import collector_named, logger_named
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.runs.directory import check_no_seeds, check_unused, new_run_dir
from fpo_torchrl.runs.hold import held
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.settings import change, load_run_config

FIXED_ON_RESUME = ("task", "seed", "num_envs", "num_seeds", "experiment", "run_dir", "init_from")
"""What makes a run another one."""


def start_run(cfg: DictConfig) -> Run:
    """A new run of ``cfg``, in the directory it names or in a new one.

    Raises:
        ConfigError: if the directory holds a run, or those of several seeds.
        InUseError: if another process trains in it.
    """
    with new_run_dir(cfg) as run_dir, held(run_dir) as hold:
        check_unused(run_dir, [run_dir])
        check_no_seeds(run_dir)
        return Run(cfg, hold)


def resume_run(run_dir: Path, changes: Mapping[str, Any]) -> Run:
    """The continuation of the run in ``run_dir`` with ``changes`` of single values of its saved config.

    Raises:
        ConfigError: for a setting that the run does not have, that cannot change, or of another type.
        InUseError: if another process trains in it.
    """
    cfg = changed_config(run_dir, changes)
    with held(run_dir) as hold:
        return Run(cfg, hold, resume=True)


def resume_arguments(overrides: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """The directory that ``resume=RUN_DIRECTORY`` names among the overrides of a command line, and the other settings.

    Raises:
        ConfigError: for several values of one setting, or an empty name.
    """
    changes = {parsed.key_or_group: parsed.value() for parsed in OverridesParser.create().parse_overrides([*overrides])}
    if several := [key for key, value in changes.items() if isinstance(value, Sweep)]:
        raise ConfigError(f"{several[0]} has several values, and a run that is resumed goes on with one: give one")
    run_dir = str(changes.pop("resume") or "")
    if not run_dir.strip():
        raise ConfigError(f"resume={run_dir!r} is empty: give a directory")
    return Path(run_dir), changes


def changed_config(run_dir: Path, changes: Mapping[str, Any]) -> DictConfig:
    """The config of the run in ``run_dir`` with ``changes``; raises as :func:`resume_run`."""
    saved, changes = load_run_config(run_dir), dict(changes)
    if "collector" in changes:
        saved.collector = collector_named(changes.pop("collector"))
    if "logger" in changes:
        saved.logger.kind = logger_named(changes.pop("logger"))
    for key, value in changes.items():
        if key in FIXED_ON_RESUME:
            if value is not None and value == OmegaConf.select(saved, key):
                continue  # repeated, not changed
            raise ConfigError(f"{key}={value} cannot change when a run is resumed: start a new run for that")
        before = OmegaConf.select(saved, key, default=MISSING)
        if OmegaConf.is_config(before) or "/" in key:
            raise ConfigError(
                f"{key}={value}: a resumed run keeps its components, but for collector and logger; only single values "
                "can change"
            )
        if before == MISSING:
            raise ConfigError(f"{key} is not a setting of {run_dir}; its config.yaml lists them")
        change(saved, key, value)
    return saved
