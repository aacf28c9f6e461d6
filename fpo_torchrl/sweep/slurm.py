"""``fpo-sbatch``: a sweep as a SLURM job array, whose tasks checkpoint, are requeued and go on."""

from __future__ import annotations

import argparse
import hashlib
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fpo_torchrl.cli import friendly_errors
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.files import locked, write_whole
from fpo_torchrl.runs.hold import LOCK
from fpo_torchrl.sweep.command import add_grid_arguments, add_points, needs_work, parser, words_of
from fpo_torchrl.sweep.manifest import Entry, Sweep
from fpo_torchrl.sweep.workers import state_of

TIME_LIMIT = re.compile(r"([0-9]+-)?[0-9]+(:[0-9]+){0,2}|UNLIMITED|INFINITE", re.IGNORECASE)
TIME_LIMITS = (
    "minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes or days-hours:minutes:seconds"
)


def seconds_of(limit: str) -> float:
    """The length of a time limit.

    >>> [seconds_of(limit) for limit in ("90", "90:30", "4:00:00", "2-12", "2-12:30")]
    [5400, 5430, 14400, 216000, 217800]
    """
    if not limit[0].isdigit():
        return math.inf
    days, dash, rest = limit.rpartition("-")
    numbers = [int(part) for part in rest.split(":")]
    if dash or len(numbers) == 3:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    else:
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def script(
    sweep: Sweep, indices: Sequence[int], *, options: Sequence[str] = (), time_limit: str | None, signal_s: int
) -> str:
    """The batch script of an array with a task for each of the sweep's runs at ``indices``.

    SLURM requeues a task that it preempts; the task requeues itself at its time limit.

    Args:
        options: further ones of sbatch.
        time_limit: as sbatch takes it.
        signal_s: seconds before it that the run is to stop; longer than an iteration and a checkpoint.
    """
    directory = sweep.directory.resolve()
    own = [
        f"--job-name={job_name(sweep)}",
        f"--array={','.join(map(str, indices))}",
        "--requeue",
        "--open-mode=append",
        f"--output={str(directory).replace('%', '%%')}/slurm/%A_%a.log",
        f"--signal=B:USR1@{signal_s}",
        *([f"--time={time_limit}"] if time_limit is not None else []),
    ]
    command = [sys.executable, "-P", str(Path(__file__).with_name("task.py")), str(directory)]
    return "\n".join(
        [
            "#!/bin/bash",
            # Quoted, since sbatch takes them apart at blanks and ends them at a #, as a shell does.
            *(f"#SBATCH {shlex.quote(option)}" for option in [*own, *options]),
            'export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"',
            f'exec {shlex.join(command)} "$SLURM_ARRAY_TASK_ID"',
            "",
        ]
    )


def job_name(sweep: Sweep) -> str:
    """The name of the sweep's jobs, by which they are found in the queue, where a comma would end it."""
    directory = str(sweep.directory.resolve())
    name = re.sub(r"[^\w.-]", "-", Path(directory).name)
    return f"fpo-{name}-{hashlib.sha256(directory.encode()).hexdigest()[:6]}"


def queued(sweep: Sweep) -> set[int]:
    """Indices of the sweep's runs that SLURM has in its queue, waiting or running."""
    command = ["squeue", "--noheader", "--array", "--format=%K", f"--name={job_name(sweep)}"]
    return {int(index) for index in slurm(command).split() if index.isdigit()}


def slurm(command: Sequence[str]) -> str:
    """The output of one of SLURM's commands.

    Raises:
        ConfigError: with what it says, if it fails or is not there.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError as error:
        raise ConfigError(
            f"{command[0]} is not there: run this on a machine that submits to SLURM, or with --dry-run"
        ) from error
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"{shlex.join(command)} failed: {error.stderr.strip()}") from error


def submit(arguments: list[str]) -> None:
    """Write ``job.sh`` for the runs that are missing and not in the queue, and submit it.

    Raises:
        ConfigError: for a wrong argument, or if SLURM is not there, before anything is written; if it refuses the job.
    """
    options = parser(
        "fpo-sbatch", "Submit a sweep to SLURM as a job array; again: what is missing and not in the queue."
    )
    add_grid_arguments(options)
    options.add_argument("--time", metavar="LIMIT", help="of a task, as 4:00:00; it goes on in a new one at the limit")
    options.add_argument(
        "--signal-s", type=int, default=120, metavar="S", help="when to stop before the limit; default: %(default)s"
    )
    options.add_argument("--sbatch", default="", metavar="OPTIONS", help="more of sbatch's own, in quotes")
    options.add_argument(
        "--dry-run", action="store_true", help="add the runs to the sweep and write the script, but do not submit it"
    )
    given = options.parse_intermixed_args(arguments)
    if given.signal_s < 1:
        raise ConfigError(f"--signal-s {given.signal_s} is out of range: it must be at least 1")
    if given.time is not None and not TIME_LIMIT.fullmatch(given.time):
        raise ConfigError(f"--time {given.time!r}: expected {TIME_LIMITS}")
    if given.time is not None and (length := seconds_of(given.time)) <= given.signal_s:
        raise ConfigError(
            f"--time {given.time} is {length} s, and a task is to stop {given.signal_s} s before it: give a longer one "
            f"({TIME_LIMITS}) or a smaller --signal-s"
        )
    more = words_of(given.sbatch, "--sbatch")
    if named := [option for option in more if re.match(r"--job-name|-J", option)]:
        raise ConfigError(f"--sbatch {named[0]}: runs in the queue are found by the name that their job has by itself")
    sweep = Sweep(given.directory)
    if not given.dry_run:
        queued(sweep)  # raises before anything is written
    chosen = add_points(sweep, given.overrides, given.list)
    (sweep.directory / "slurm").mkdir(exist_ok=True)
    with locked(sweep.directory / "slurm" / LOCK):  # so that two at a time do not submit the same runs
        submit_missing(sweep, chosen, given, more)


def submit_missing(sweep: Sweep, chosen: Sequence[Entry], given: argparse.Namespace, more: Sequence[str]) -> None:
    """Submit those of the ``chosen`` runs that are neither done nor in the queue, as the command line says."""
    busy = set() if given.dry_run else queued(sweep)
    indices = [
        index
        for index, entry in enumerate(sweep.entries())
        if entry in chosen and index not in busy and needs_work(sweep, entry)
        if state_of(sweep.run_dir(entry), entry.total_frames) != "running"
    ]
    print(f"{len(chosen)} runs in {sweep.directory}, {len(indices)} of them to be submitted")
    if not indices:
        return
    path = sweep.directory / "job.sh"
    write_whole(path, script(sweep, indices, options=more, time_limit=given.time, signal_s=given.signal_s))
    print(path if given.dry_run else slurm(["sbatch", str(path)]).strip())


def main() -> None:
    """``fpo-sbatch``."""
    with friendly_errors():
        submit(sys.argv[1:])


if __name__ == "__main__":
    main()
