"""What tests of searches share: a quick stand-in for training, and what a search has written."""
# ruff: noqa: E402

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna")

from fpo_torchrl.preemption import SIGNALS
from fpo_torchrl.sweep import workers
from fpo_torchrl.sweep.space import SearchSpace

SPACE = SearchSpace(("experiment=bandit", "total_frames=1000", "optim.lr=choice(0.1,0.2,0.3)"), (0, 1))


class Child:
    """Stands in for fpo-train: a run of a hundred frames an iteration whose return is its step size, plus its seed."""

    status = "finished"
    rows = 10

    def __init__(self, command: list[str], **kwargs) -> None:
        settings = dict(argument.partition("=")[::2] for argument in command[3:])
        lr, seed = float(settings["optim.lr"]), int(settings["seed"])
        directory = Path(settings["run_dir"].strip("'"))
        directory.mkdir(parents=True, exist_ok=True)
        rows = [f"{100 * (i + 1)},{lr * (i + 1) / 10}\n" for i in range(self.rows)]
        (directory / "metrics.csv").write_text("frames,return\n" + "".join(rows))
        if self.status == "finished":
            (directory / "evaluation.json").write_text(json.dumps({"random": {"mean": lr + seed}}))
        error = None if self.status == "finished" else "NonFiniteError: loss_critic became NaN"
        content = {"status": self.status, "frames": 100 * self.rows, "error": error}
        (directory / "provenance.json").write_text(json.dumps(content))

    def wait(self) -> int:
        return 0 if self.status == "finished" else 4


@pytest.fixture(autouse=True)
def child(monkeypatch):
    monkeypatch.setattr(workers, "Popen", Child)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def read_trials(directory: Path) -> list[dict[str, str]]:
    with (directory / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))
