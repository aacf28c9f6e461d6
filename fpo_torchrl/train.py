"""``fpo-train``: the Hydra entry point."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fpo_torchrl.cli import friendly_errors
from fpo_torchrl.config import register_schemas
from fpo_torchrl.errors import ConfigError, NonFiniteError
from fpo_torchrl.preemption import Preempted
from fpo_torchrl.runs.auto_resume import AUTO, ensure_trained, names_run
from fpo_torchrl.runs.follow import follow
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.seeds.run import resume, train_seeds
from fpo_torchrl.training.parallel import joined

register_schemas()
PRESETS = {"gridworld": "gridworld", "bandit": "bandit", "humanoid": "humanoid", "humanoid/full": "humanoid_full"}
"""Tasks, or families of them, that have a preset of their own."""


def check_preset(choices: Mapping[str, str | None]) -> None:
    """``ConfigError`` if what presets have in common was chosen among Hydra's groups, as if it were a preset."""
    if "experiment/common" in choices or str(choices.get("experiment")).startswith("common/"):
        raise ConfigError(
            "experiment/common holds what several presets have in common and is none itself: choose one, such as "
            "experiment=fpo_paper (fpo-train --help lists them)"
        )


def other_preset(task: str, chosen: str | None) -> str | None:
    """The preset of a task that is trained with the default one, which is for control tasks; None if it has none.

    >>> other_preset("gridworld/two_walls", "fpo"), other_preset("ReacherEasy", "fpo")
    ('gridworld', None)
    """
    return PRESETS.get(task, PRESETS.get(task.partition("/")[0])) if chosen == "fpo" else None


@hydra.main(version_base="1.3", config_path="pkg://fpo_torchrl.conf", config_name="config")
def _train(cfg: DictConfig) -> float:
    job = HydraConfig.get()
    choices = job.runtime.choices
    check_preset(choices)
    if (better := other_preset(cfg.task, choices.get("experiment"))) is not None:
        print(f"experiment={better} has the settings that {cfg.task} is documented with")
    sweep_dir = Path(job.runtime.output_dir) if job.mode == RunMode.MULTIRUN else None
    if cfg.num_seeds != 1 and cfg.resume in (None, AUTO):
        return train_seeds(cfg, sweep_dir)
    if cfg.resume == AUTO or (cfg.resume is None and sweep_dir is not None):
        return ensure_trained(cfg, sweep_dir)
    if cfg.resume is not None:
        return resume(list(job.overrides.task)).train()["random"].mean
    return start_run(cfg).train()["random"].mean


def main() -> None:
    """Train as the command line says; started by ``torchrun``, together with the other processes."""
    with friendly_errors(), joined() as processes:
        if processes.rank > 0:
            follow(processes)
            return
        try:
            _start(sys.argv[1:])
        except (ConfigError, NonFiniteError, Preempted) as error:
            processes.tell(error.signal if isinstance(error, Preempted) else None)
            raise
        processes.tell(None)


def _start(arguments: list[str]) -> None:
    if names_run(arguments) and not any(argument.startswith("-") for argument in arguments):
        resume(arguments).train()  # of the run's own config: nothing to compose
    else:
        _train()


if __name__ == "__main__":
    sys.exit(main())
