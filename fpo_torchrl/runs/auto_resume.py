"""``resume=auto``: the same command starts a run, goes on with it, or finds it finished."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from fpo_torchrl.config import BOOKKEEPING
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.files import intact, read_json
from fpo_torchrl.provenance import read_provenance
from fpo_torchrl.runs.directory import begun_seeds, check_no_seeds, has_checkpoint, holds_run
from fpo_torchrl.runs.hold import held
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.settings import comparable, differences, load_run_config

AUTO = "auto"


def names_run(arguments: Sequence[str]) -> bool:
    """Whether arguments of ``fpo-train`` resume a run by name (``resume=DIR``), as opposed to ``auto`` or nothing."""
    resumes = [argument for argument in arguments if argument.startswith("resume=")][-1:]
    return any(parsed.value() not in (None, AUTO) for parsed in OverridesParser.create().parse_overrides(resumes))


def ensure_trained(cfg: DictConfig, sweep_dir: Path | None = None) -> float:
    """Start the run of ``cfg`` in its directory, go on from the newest checkpoint there, or leave a finished run alone.

    Args:
        cfg: the composed config, with ``run_dir`` unless it is one of a sweep.
        sweep_dir: then its directory.

    Returns:
        The mean return of the final evaluation, under random start noise.

    Raises:
        ConfigError: without a directory, or if it holds a run with other settings.
        InUseError: if another process trains in it.
    """
    directory = directory_of(cfg, sweep_dir)
    run = unfinished_run(cfg, directory)
    return run.train()["random"].mean if run is not None else final_return(directory)


def directory_of(cfg: DictConfig, sweep_dir: Path | None) -> Path:
    """Where a run that goes on by itself is; ``ConfigError`` if nothing names it."""
    if cfg.run_dir is None and sweep_dir is None:
        raise ConfigError("resume=auto goes on in a directory that you name: give run_dir=")
    return Path(cfg.run_dir or sweep_dir)


def unfinished_run(cfg: DictConfig, run_dir: Path) -> Run | None:
    """The run of ``cfg`` in its directory, new or from the newest checkpoint there; None if it has finished.

    Raises:
        ConfigError: if the directory holds a run with other settings, or those of several seeds.
        InUseError: if another process trains in it.
    """
    with held(run_dir) as hold:
        if not holds_run(run_dir):
            check_no_seeds(run_dir)
        cfg = saved_settings(cfg, run_dir)
        if not is_finished(read_provenance(run_dir), cfg.total_frames):
            return Run(cfg, hold, resume=has_checkpoint(run_dir))
        hold.close()
    print(f"{run_dir} holds the finished run already")
    return None


def saved_settings(cfg: DictConfig, run_dir: Path) -> DictConfig:
    """The saved config of the run in ``run_dir`` with the bookkeeping of ``cfg``; ``cfg`` itself if there is no run.

    What the version that saved it did not have is as by default.

    Raises:
        ConfigError: naming the settings that differ.
    """
    if not (run_dir / "config.yaml").is_file():
        return cfg
    saved = load_run_config(run_dir)
    if different := other_settings(saved, cfg):
        words = ", ".join(f"{key}={old} (not {new})" for key, (old, new) in different.items())
        advice = "It has no checkpoint yet: remove the directory, or choose another"
        if has_checkpoint(run_dir):
            of_all = of_all_seeds(run_dir)
            advice = f"Choose another directory; resume={of_all} with a changed value continues what is there with it"
        raise ConfigError(f"run_dir={run_dir} holds a run with other settings: {words}. {advice}")
    saved.collector = None  # lest the settings of another one stay
    return OmegaConf.merge(saved, {key: cfg[key] for key in BOOKKEEPING})


def of_all_seeds(run_dir: Path) -> Path:
    """The directory of ``num_seeds`` that a run is one of, else its own."""
    seeds = begun_seeds(run_dir.parent)
    return run_dir.parent if run_dir in seeds and len(seeds) > 1 else run_dir


def other_settings(saved: DictConfig, cfg: DictConfig) -> dict[str, tuple[Any, Any]]:
    """The settings of a saved run in which ``cfg`` is another one, with both values."""
    there, here = (comparable(OmegaConf.to_container(tree, resolve=True)) for tree in (saved, cfg))
    return {key: (old, new) for key, old, new in differences(there, here)}


def final_return(run_dir: Path) -> float:
    """The mean return of a finished run's final evaluation, under random start noise."""
    return final_evaluation(run_dir, "random")["mean"]


def final_evaluation(run_dir: Path, noise: str) -> dict[str, float]:
    """The numbers of a finished run's final evaluation under a start noise, NaN for those that it lacks.

    Raises:
        DamagedFileError: if its file, or the mean return in it, is missing.
    """
    path = run_dir / "evaluation.json"
    with intact(path):
        row = read_json(path)[noise]
        return {"mean": row["mean"], **{name: row.get(name, math.nan) for name in ("policy_s", "action_spread")}}


def is_finished(found: Mapping[str, Any], total_frames: int) -> bool:
    """Whether a run with this provenance needs no more work to reach ``total_frames``."""
    return found.get("status") == "finished" and found.get("frames", 0) >= total_frames
