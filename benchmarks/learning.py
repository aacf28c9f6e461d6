"""Trains tasks x algorithms x seeds with one command, and writes the table: learning curves, intervals, cost.

    python benchmarks/learning.py                                          the control tasks, two runs at a time
    python benchmarks/learning.py --tasks ReacherEasy --seeds 5 6 --jobs 1
    python benchmarks/learning.py --only gridworld bandit probes
    python benchmarks/learning.py --only gridworld_long layouts --algorithms fpo --seeds 0 1 2
    python benchmarks/learning.py --only samplers samplers_short --seeds 0 1 2
    python benchmarks/learning.py --only humanoid_full humanoid_root_hands humanoid_root --motions FOLDER --seeds 0 1 2
    python benchmarks/learning.py --only gpu --device cuda --jobs 1        the authors' recipe

Stop it whenever you like, with Ctrl-C or by pulling the plug: the same command goes on. Finished runs are skipped,
broken ones resume from their last checkpoint, and diverged ones are kept as such. Runs are made in ``--work``; what
they leave (settings, metrics, evaluation, provenance) is stored in ``--out``, as SUITE/TASK/ALGORITHM/seedN, where runs
of other machines add up, and the report on it is SUITE/report.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from suites import SUITES

from fpo_torchrl.cli import EXIT_INTERRUPTED, EXIT_PREEMPTED, friendly_errors, quoted
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.files import PARTIAL, write_json
from fpo_torchrl.provenance import read_provenance
from fpo_torchrl.report.command import report
from fpo_torchrl.runs.auto_resume import other_settings
from fpo_torchrl.runs.settings import load_run_config
from fpo_torchrl.sweep.manifest import composer
from fpo_torchrl.sweep.workers import Workers, log_of

STORED = ("config.yaml", "metrics.csv", "evaluation.json", "measures.json", "provenance.json")
ENDED = ("finished", "diverged")
"""The states of a run that are not run again."""


@dataclass(frozen=True)
class Job:
    """One run of a suite."""

    suite: str
    task: str
    label: str
    seed: int

    def __str__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> Path:
        """Its directory, below the one of all runs."""
        return Path(self.suite, self.task.replace("/", "-"), self.label, f"seed{self.seed}")

    def overrides(self) -> list[str]:
        """The arguments of ``fpo-train``, without those of the machine."""
        suite = SUITES[self.suite]
        names = [f"task={self.task}", f"label={self.label}", f"seed={self.seed}"]
        return [*names, *suite.tasks[self.task], *suite.algorithms[self.label]]


class Benchmark:
    """Makes jobs into stored runs.

    Args:
        work: where runs are made. out: where they are stored.
        common: overrides of every run. workers: who makes them.
    """

    def __init__(self, work: Path, out: Path, common: list[str], workers: Workers) -> None:
        self.work, self.out, self.common, self.workers = work, out, common, workers
        self.measuring = threading.Lock()  # torch's random numbers are shared between threads

    def is_stored(self, job: Job) -> bool:
        """Whether the job needs no more work."""
        return read_provenance(self.out / job.path).get("status") in ENDED

    def run(self, job: Job) -> str:
        """Start, resume or skip a run until it has ended, and store it; returns its status, or how it failed."""
        directory = self.work / job.path
        overrides = [*job.overrides(), *self.common, "render=false"]
        code = self.workers.train_or_wait(
            overrides, directory, has_ended=lambda: read_provenance(directory).get("status") in ENDED
        )
        status = read_provenance(directory).get("status")
        if status == "finished" and (measure := SUITES[job.suite].measure) is not None:
            with self.measuring:
                write_json(directory / "measures.json", measure(directory))
        if status is not None and code not in (EXIT_PREEMPTED, EXIT_INTERRUPTED):
            store(directory, self.out / job.path)
        return status if status in ENDED else f"failed with exit code {code}: {log_of(directory)}"


def check_same(jobs: list[Job], directories: Sequence[Path], common: list[str]) -> None:
    """Refuse jobs of which a run of another length, or on other motions, is in one of ``directories``.

    Of motions it is compared whether there are any: their path is another one on each machine. Other settings that
    differ, as where a preset has changed since, are warned of.

    Raises:
        ConfigError: naming the first of them.
    """
    with composer() as composed:
        for job, directory in itertools.product(jobs, directories):
            path = directory / job.path
            if not (path / "config.yaml").is_file():
                continue
            saved, asked = load_run_config(path), composed([*job.overrides(), *common])
            for cfg in (saved, asked):
                if OmegaConf.select(cfg, "env.motions") is not None:
                    cfg.env.motions = "given"
            different = other_settings(saved, asked)
            what = ", ".join(f"{name}={old} (not {new})" for name, (old, new) in different.items())
            if {"total_frames", "env.motions"} & different.keys():
                raise ConfigError(
                    f"{path} was made with {what}: give its --frames and --motions, or other directories with --work "
                    "and --out"
                )
            if different:
                print(f"warning: {path} was made with {what}", flush=True)


def store(directory: Path, target: Path) -> None:
    """Copy what a run left, without its checkpoints and pictures; the file that says how it ended comes last."""
    target.mkdir(parents=True, exist_ok=True)
    for name in STORED:
        if (directory / name).is_file():
            partial = target / f"{name}{PARTIAL}"
            shutil.copy(directory / name, partial)
            os.replace(partial, target / name)
        else:
            (target / name).unlink(missing_ok=True)


def select(arguments: argparse.Namespace) -> list[Job]:
    """The jobs that the options name, seed by seed, so that the table fills evenly."""
    return [
        Job(name, task, label, seed)
        for name in arguments.only
        for seed in arguments.seeds
        for task in SUITES[name].tasks
        if arguments.tasks is None or task in arguments.tasks
        for label in SUITES[name].algorithms
        if arguments.algorithms is None or label in arguments.algorithms
    ]


def report_suite(name: str, out: Path) -> None:
    """Report on everything stored of a suite, its algorithms in the order they have there."""
    order = list(SUITES[name].algorithms)
    stored = sorted({path.parents[1].name for path in (out / name).rglob("config.yaml")})
    if stored:
        labels = sorted(stored, key=lambda label: order.index(label) if label in order else len(order))
        limits = {"max_return": SUITES[name].max_return, "min_return": SUITES[name].min_return}
        report([out / name], out / name, labels=labels, **limits)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    tasks = sorted({task for suite in SUITES.values() for task in suite.tasks})
    labels = list(dict.fromkeys(label for suite in SUITES.values() for label in suite.algorithms))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(SUITES),
        metavar="SUITE",
        default=["control"],
        help=f"of {', '.join(SUITES)}; default control",
    )
    parser.add_argument("--tasks", nargs="+", choices=tasks, metavar="TASK", help=f"default all of {', '.join(tasks)}")
    parser.add_argument("--algorithms", nargs="+", choices=labels, metavar="LABEL", help="default all of the suite")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="default 0 to 4")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with one thread of torch; default 2")
    parser.add_argument("--frames", type=int, help="of every run; default what its preset has")
    parser.add_argument(
        "--motions", type=Path, help="folder of motions for the humanoid suites; default a walk of sines"
    )
    parser.add_argument("--device", default="cpu", help="cuda for the suite gpu; default cpu")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark"), help="where runs are made")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where results are stored")
    parsed = parser.parse_args(arguments)
    if parsed.jobs < 1:
        parser.error(f"--jobs {parsed.jobs}: it must be at least 1")
    if parsed.motions is not None and not all(name.startswith("humanoid") for name in parsed.only):
        parser.error("--motions is for the humanoid suites: choose them alone with --only")
    if not select(parsed):
        parser.error(f"no run of {', '.join(parsed.only)} has these tasks and algorithms; --only names other suites")
    return parsed


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    common = [f"device={arguments.device}", "num_threads=1"]
    if arguments.frames is not None:
        common.append(f"total_frames={arguments.frames}")
    if arguments.motions is not None:
        common.append(f"env.motions={quoted(arguments.motions.resolve())}")
    jobs = select(arguments)
    workers = Workers(arguments.jobs, num_threads=1)
    benchmark = Benchmark(arguments.work, arguments.out, common, workers)
    with friendly_errors():
        waiting = [job for job in jobs if not benchmark.is_stored(job)]
        print(f"{len(jobs)} runs, {len(jobs) - len(waiting)} of them are stored already", flush=True)
        check_same(jobs, [arguments.out, arguments.work], common)
        statuses = workers.run_all(waiting, benchmark.run)
        for name in dict.fromkeys(job.suite for job in jobs):
            report_suite(name, arguments.out)
    failed = [job for job, status in statuses.items() if status not in ENDED]
    sys.exit(f"{len(failed)} runs failed; the same command tries them again" if failed else 0)


if __name__ == "__main__":
    main()
