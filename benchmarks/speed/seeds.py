"""What several seeds cost: one seed, several in one process both ways, and as many processes, side by side.

    python benchmarks/speed/seeds.py
    python benchmarks/speed/seeds.py --device cuda --experiment fpo_playground task=CheetahRun

Further arguments are settings of fpo-train. A unit of work is an iteration of every seed. On a CPU each process has one
thread; its CPU time is the measure, since the processes share the cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from contenders import make_trainer
from summary import table_head, table_row
from timing import Seconds, Work, compare, take_turns

from fpo_torchrl.files import write_json, write_whole
from fpo_torchrl.machine import prepare_machine
from fpo_torchrl.provenance import origin
from fpo_torchrl.seeds.generator import AgentGenerator
from fpo_torchrl.seeds.stack import Member
from fpo_torchrl.seeds.training import train_in_turn, train_together

NAMES = {"one": "one seed", "in turn": "{} seeds in turn", "together": "{} seeds by vmap", "processes": "{} processes"}


def members(num_seeds: int, settings: list[str]) -> list[Member]:
    """An agent for each seed, all with ``settings``: an experiment and overrides."""
    made = []
    for seed in range(num_seeds):
        torch.manual_seed(seed)
        trainer = make_trainer(*settings, f"seed={seed}")
        made.append(Member(trainer, AgentGenerator(trainer.env.device or "cpu")))
    return made


def iterate(iterations: Iterator[Any]) -> None:
    """One iteration of training."""
    next(iterations)


def train_in_process(pipe: Connection, settings: list[str]) -> None:
    """A process that trains an iteration for every message, and answers with the seconds of CPU time it took."""
    prepare_machine(1)
    iterations = iter(make_trainer(*settings))
    while pipe.recv():
        start = time.process_time()
        next(iterations)
        pipe.send(time.process_time() - start)


class Processes:
    """As many processes as seeds, which train at the same time."""

    def __init__(self, num_seeds: int, settings: list[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes = []
        for seed in range(num_seeds):
            ours, theirs = context.Pipe()
            own = [*settings, f"seed={seed}"]
            context.Process(target=train_in_process, args=(theirs, own), daemon=True).start()
            self.pipes.append(ours)

    def iterate(self) -> Seconds:
        """An iteration of every process, the CPU time of all together."""
        start = time.perf_counter()
        for pipe in self.pipes:
            pipe.send(True)
        cpu = sum(pipe.recv() for pipe in self.pipes)
        return Seconds(time.perf_counter() - start, cpu)

    def close(self) -> None:
        """End them."""
        for pipe in self.pipes:
            pipe.send(False)


def markdown(report: dict[str, Any]) -> str:
    """The table of a report."""
    machine, of = report["machine"], report["settings"]
    lines = [
        f"Written by `{report['command']}` on {report['date'][:10]}: {machine['gpu'] or machine['cpu']}, "
        f"load {machine['load']} before it began. Seconds over those of one seed, the median of {of['rounds']} rounds.",
        "",
        *table_head("", "ms", "wall", "CPU time"),
    ]
    for name, row in report["contenders"].items():
        label = NAMES[name].format(of["num_seeds"])
        ratios = (f"{row['over_one']:.2f}", f"{row['cpu_over_one']:.2f}")
        lines.append(table_row(label, f"{row['median_s'] * 1e3:.0f}", *ratios))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-seeds", type=int, default=5)
    parser.add_argument("--experiment", default="gridworld")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/speed/seeds"))
    parser.add_argument("overrides", nargs="*", help="settings of fpo-train")
    args = parser.parse_args()
    prepare_machine(1)
    settings = [args.experiment, f"device={args.device}", "total_frames=1000000000", "num_threads=1", *args.overrides]
    processes = Processes(args.num_seeds, settings)
    works: dict[str, Work] = {
        "one": partial(iterate, iter(members(1, settings)[0].trainer)),
        "in turn": partial(iterate, train_in_turn(members(args.num_seeds, settings))),
        "together": partial(iterate, train_together(members(args.num_seeds, settings))),
        "processes": processes.iterate,
    }
    given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    table = compare(take_turns(works, rounds=args.rounds, turn_s=0), base="one")
    processes.close()
    report = {**origin(args.device), "settings": given, "contenders": table}
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "seeds.json", report)
    write_whole(args.out / "seeds.md", markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
