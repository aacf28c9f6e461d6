"""What it saves that freed memory stays with the process: the same update with and without, in two processes in turn.

python benchmarks/speed/allocator.py
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from contenders import make_trainer, random_batch
from memory import peak_so_far_mb
from summary import table_head, table_row
from timing import Seconds, Work, compare, seconds, take_turns, unreported

from fpo_torchrl.files import write_json
from fpo_torchrl.machine import available_cores, prepare_machine
from fpo_torchrl.provenance import origin

STEPS = 8
NAMES = {"ours": "freed memory stays", "returned": "as glibc has it"}

update: Work
"""What a process of :func:`prepare` repeats."""


def prepare(settings: list[str], num_threads: int, *, keep: bool) -> None:
    """Build an update in this process, whose freed memory stays with it or not."""
    global update
    prepare_machine(num_threads) if keep else torch.set_num_threads(num_threads)
    trainer = make_trainer("fpo_paper", *settings)
    update = unreported(partial(trainer.learn, random_batch(trainer)))


def measured() -> Seconds:
    """Seconds of one update of this process."""
    return seconds(update, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minibatch-sizes", type=int, nargs="+", default=[1024, 8192, 30720, 65536])
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--task", default="CheetahRun")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/speed/allocator.json"))
    args = parser.parse_args()
    machine = origin("cpu")  # with its load before the measurement
    spawn, report = multiprocessing.get_context("spawn"), []
    for size in args.minibatch_sizes:
        sizes = [f"num_envs={size // STEPS}", f"trainer.frames_per_batch={size}", f"trainer.minibatch_size={size}"]
        settings = [f"task={args.task}", "trainer.num_epochs=1", *sizes]
        with ExitStack() as stack:
            pools = {
                name: stack.enter_context(
                    ProcessPoolExecutor(1, spawn, partial(prepare, keep=name == "ours"), (settings, args.threads))
                )
                for name in NAMES
            }
            works = {name: lambda pool=pool: pool.submit(measured).result() for name, pool in pools.items()}
            rows = compare(take_turns(works, rounds=args.rounds))
            for name, pool in pools.items():
                rows[name]["peak_mb"] = pool.submit(peak_so_far_mb, torch.device("cpu")).result()
        report.append({"minibatch_size": size, **rows})
        print(f"{size} transitions: {rows['returned']['over_ours']:.2f}", flush=True)
    write_json(args.out, {**machine, "threads": args.threads, "rounds": args.rounds, "update": report})
    print(*table_head("one minibatch of", *(f"{name}, ms" for name in NAMES.values()), "ratio", "peak, MB"), sep="\n")
    for row in report:
        ours, returned = row["ours"], row["returned"]
        times = [round(1e3 * it["median_s"]) for it in (ours, returned)]
        ratio = f"{returned['over_ours']:.2f} [{returned['lowest_ratio']:.2f}, {returned['highest_ratio']:.2f}]"
        print(table_row(row["minibatch_size"], *times, ratio, f"{ours['peak_mb']:.0f} and {returned['peak_mb']:.0f}"))


if __name__ == "__main__":
    main()
