"""What a task of ``fpo-sbatch``'s job array runs: ``python -P task.py SWEEP_DIRECTORY INDEX``.

It is run as a file, so that it hears SLURM's signal before it imports the package, which can take long on a cluster.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def requeue(*_: object) -> None:
    """Put this job back into SLURM's queue, which ends it."""
    subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)


def train_run(directory: str, index: str) -> None:
    """Train the run with this index in the sweep's manifest."""
    from pathlib import Path

    from fpo_torchrl import train
    from fpo_torchrl.cli import friendly_errors
    from fpo_torchrl.sweep.manifest import Sweep
    from fpo_torchrl.sweep.workers import in_directory, log_of

    sweep = Sweep(Path(directory))
    with friendly_errors():
        entry = sweep.entries()[int(index)]
    run_dir = sweep.run_dir(entry)
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with log_of(run_dir).open("a") as log:
        print(f"SLURM job {os.environ['SLURM_JOB_ID']}, its output is in {sweep.directory / 'slurm'}", file=log)
    sys.argv = ["fpo-train", *entry.overrides, *in_directory(run_dir)]
    train.main()


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, requeue)  # while training, once the run has stopped with a checkpoint
    train_run(*sys.argv[1:])
