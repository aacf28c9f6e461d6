"""What a task of ``fpo-sbatch``'s job array runs: ``python -P task.py SWEEP_DIRECTORY INDEX``.

It is run as a file, so that it hears SLURM's signal before it imports the package, which can take long on a cluster.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def requeue(*_: object) -> None:
    """Put this task back into SLURM's queue, which ends it.

    By its number in the array: the job's own is the array's in the last task, and would put back all of them.
    """
    task = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format(**os.environ)
    if subprocess.run(["scontrol", "requeue", task]).returncode:
        print(f"SLURM does not take task {task} back: fpo-sbatch with the sweep's directory submits it again")


def train_run(directory: str, index: str) -> None:
    """Train the run with this index in the sweep's manifest."""
    from pathlib import Path

    from fpo_torchrl import train
    from fpo_torchrl.cli import EXIT_PREEMPTED, friendly_errors
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
    try:
        train.main()
    except SystemExit as end:
        if end.code not in (None, 0, EXIT_PREEMPTED):  # so that a run that could not begin is known to have failed
            with log_of(run_dir).open("a") as log:
                print(f"error: SLURM job {os.environ['SLURM_JOB_ID']} ended with exit code {end.code}", file=log)
        raise


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, requeue)  # while training, once the run has stopped with a checkpoint
    train_run(*sys.argv[1:])
