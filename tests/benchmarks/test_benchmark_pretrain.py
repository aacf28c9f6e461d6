"""The experiment that clones a policy and fine-tunes the clone, in small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tiny
from PIL import Image

from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.report import statistics
from fpo_torchrl.sweep import workers
from fpo_torchrl.sweep.workers import Workers

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import pretrain


class SmallRuns(Workers):
    def train(self, overrides, run_dir):
        keep = [o for o in tiny.CARTPOLE if not o.startswith(("total_frames", "render", "progress", "task"))]
        return super().train([*keep, *overrides], run_dir)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(workers, "Popen", tiny.Child)
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 100)
    for name, value in {"TEACHER_FRAMES": 64, "FRAMES": 128, "NUM_EPISODES": 2, "CLONE_STEPS": 300}.items():
        monkeypatch.setattr(pretrain, name, value)


def test_it_clones_fine_tunes_and_reports(small, tmp_path):
    experiment = pretrain.Experiment("CartpoleBalance", 0, tmp_path / "work", SmallRuns(1, num_threads=1))
    assert experiment.run() == "finished"
    clone = json.loads((tmp_path / "work" / "clone" / "clone.json").read_text())
    assert clone["transitions"] == 2 * 1000
    first = {label: read_metrics(tmp_path / "work" / label / "metrics.csv")[0] for label in pretrain.VARIANTS}
    assert first["fine_tuned"]["cfm_loss_new"] == first["fine_tuned"]["cfm_loss_old"]  # the actor stands still
    assert first["no_warmup"]["cfm_loss_new"] != first["no_warmup"]["cfm_loss_old"]
    assert first["scratch"]["cfm_loss_old"] != first["no_warmup"]["cfm_loss_old"]
    pretrain.publish([experiment], tmp_path / "out")
    assert "| CartpoleBalance |" in (tmp_path / "out" / "report.md").read_text()
    assert json.loads((tmp_path / "out" / "clones.json").read_text())["seeds"]["0"] == clone
    assert min(Image.open(tmp_path / "out" / "seeds.png").size) > 300
