"""``fpo-train``: the Hydra entry point."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fpo_torchrl.cli import friendly_errors
from fpo_torchrl.config import register_schemas
from fpo_torchrl.run import start_run

register_schemas()


@hydra.main(version_base="1.3", config_path="pkg://fpo_torchrl.conf", config_name="config")
def _train(cfg: DictConfig) -> float:
    job = HydraConfig.get()
    sweep_dir = Path(job.runtime.output_dir) if job.mode == RunMode.MULTIRUN else None
    run = start_run(cfg, list(job.overrides.task), sweep_dir=sweep_dir)
    return run.train()["random"].mean


def main() -> None:
    """Train as the command line says."""
    with friendly_errors():
        _train()


if __name__ == "__main__":
    sys.exit(main())
