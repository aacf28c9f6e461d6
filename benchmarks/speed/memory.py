"""Peak memory of one update, in a fresh process: ``memory.py CONTENDER OVERRIDES...`` prints megabytes."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from contenders import PRESETS, make_plain, make_trainer, plain_batch, random_batch


def peak_mb(contender: str, overrides: Sequence[str]) -> float:
    """Megabytes that batch and update of a contender add to a process that has built everything else."""
    command = [sys.executable, str(Path(__file__)), contender, *overrides]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def rss_mb() -> float:
    """The largest resident memory of this process so far; on a GPU, of its tensors."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform == "linux" else 2**20)


def main() -> None:
    contender, *overrides = sys.argv[1:]
    trainer = make_trainer(PRESETS.get(contender, PRESETS["ours"]), *overrides)
    before = rss_mb()
    batch = random_batch(trainer)
    if contender == "plain":
        plain, batch = make_plain(trainer), plain_batch(batch)
        plain.learn(batch)
    else:
        trainer.learn(batch)
    print(round(rss_mb() - before, 1))


if __name__ == "__main__":
    main()
