"""The means over teachers, of numbers small enough to average by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fpo_torchrl.checkpoint import Checkpointer
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.report import statistics

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import distill


def rows(*means: float) -> list[dict[str, Any]]:
    """A teacher and its student of one step, with these mean returns from random noise."""
    return [
        {
            "policy": policy,
            "solver": f"Euler(num_steps={steps})",
            "steps": steps,
            "latency": {"median_ms": steps * mean, "p99_ms": 9.0, "cpu_ms": 0.5},
            "action_error": mean / 100,
            "returns": {noise: {"mean": mean, "low": 0.0, "high": 99.0, "returns": []} for noise in ("random", "zero")},
        }
        for policy, steps, mean in zip(("teacher", "student"), (10, 1), means, strict=True)
    ]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 500)


def test_rows_of_several_teachers_are_averaged():
    teacher, student = distill.pooled([rows(10, 8), rows(20, 4), rows(60, 6)])
    assert (teacher["policy"], student["policy"]) == ("teacher", "student")
    assert teacher["returns"]["random"]["mean"] == pytest.approx(30)
    assert student["returns"]["zero"]["mean"] == pytest.approx(6)
    assert teacher["latency"] == {"median_ms": 200, "p99_ms": 9, "cpu_ms": 0.5}  # the median of 100, 200 and 600
    assert teacher["action_error"] == pytest.approx(0.3)
    interval = teacher["returns"]["random"]
    assert 10 <= interval["low"] < 30 < interval["high"] <= 60  # over teachers, and within them


def test_one_teacher_alone_has_no_interval():
    table = distill.markdown(distill.pooled([rows(10, 8)]))
    assert "nan" not in table
    assert "| 10.0 - | 10.0 - |" in table


def test_students_of_before_are_taken_if_nothing_else_was_asked_for(tmp_path, monkeypatch):
    calls = []

    def write(run_dir: Path, directory: Path, *, steps: tuple[int, ...], episodes: int) -> None:
        calls.append(episodes)
        content = {"teacher": str(run_dir), "checkpoint": newest.name, "episodes": episodes, "rows": []}
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "distillation.json").write_text(json.dumps(content))

    monkeypatch.setattr(distill, "distill_run", write)
    run, students = tmp_path / "run", tmp_path / "students"
    (run / "checkpoints").mkdir(parents=True)
    newest = Checkpointer(run, thing=torch.nn.Linear(1, 1)).save(64)
    (students / "steps1").mkdir(parents=True)  # of a command that was killed
    for _ in range(2):
        assert distill.students_of(run, students, 16)["episodes"] == 16
    assert calls == [16]
    assert not (students / "steps1").exists()
    with pytest.raises(ConfigError, match=r"holds students of episodes 16 \(not 32\): remove it, or choose another"):
        distill.students_of(run, students, 32)


def test_tables_and_a_picture_of_every_task(tmp_path):
    seeds = {seed: {"rows": rows(10 + seed, 8)} for seed in (3, 4)}
    distill.publish({"CheetahRun": seeds, "PointMass": seeds}, tmp_path)
    content = json.loads((tmp_path / "distill.json").read_text())
    assert content["tasks"]["PointMass"]["4"]["rows"] == rows(14, 8)
    assert {"machine", "versions", "commit"} <= content.keys()
    table = (tmp_path / "distill.md").read_text()
    assert table.count("## ") == 2
    assert "## CheetahRun, seeds 3, 4" in table
    assert "| teacher | Euler(num_steps=10) | 0.135 | 0.500 | 135.00 / 9.00 | 13.5 [13.0, 14.0] |" in table
    assert min(Image.open(tmp_path / "distill.png").size) > 300
