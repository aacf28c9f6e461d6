"""Peak memory of one update, in a fresh process: ``memory.py CONTENDER OVERRIDES...`` prints megabytes."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from contenders import PRESETS, make_plain, make_trainer, plain_batch, random_batch

from fpo_torchrl.machine import keep_freed_memory


def peak_mb(contender: str, overrides: Sequence[str]) -> float:
    """Megabytes that batch and update of a contender add to a process that has built everything else."""
    command = [sys.executable, str(Path(__file__)), contender, *overrides]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def peak_so_far_mb(device: torch.device) -> float:
    """The largest memory that this process has had so far; on a GPU, of its tensors."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage's maximum would begin with that of the process that started this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    contender, *overrides = sys.argv[1:]
    keep_freed_memory()
    trainer = make_trainer(PRESETS.get(contender, PRESETS["ours"]), *overrides)
    before = peak_so_far_mb(trainer.env.device)
    batch = random_batch(trainer)
    if contender == "plain":
        plain, batch = make_plain(trainer), plain_batch(batch)
        plain.learn(batch)
    else:
        trainer.learn(batch)
    print(round(peak_so_far_mb(trainer.env.device) - before, 1))


if __name__ == "__main__":
    main()
