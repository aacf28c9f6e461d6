"""The gap between FPO and a Gaussian from part of the goal, from stored runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "benchmarks" / "humanoid_gap.py")]


def store(results: Path, goal: str, policy: str, scores: list[float]) -> None:
    for seed, score in enumerate(scores):
        run = results / f"humanoid_{goal}" / "humanoid-planar" / policy / f"seed{seed}"
        run.mkdir(parents=True)
        names = ("success_zero", "success_random", "alive_s_zero", "mpjpe_local_all_mm_zero")
        (run / "measures.json").write_text(json.dumps(dict.fromkeys(names, score)))
        (run / "evaluation.json").write_text(json.dumps({"zero": {"mean": 10 * score}}))
        (run / "provenance.json").write_text(json.dumps({"status": "finished"}))


@pytest.fixture
def gap(tmp_path):
    def run() -> tuple[dict, str]:
        done = subprocess.run([*COMMAND, "--results", str(tmp_path)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == (tmp_path / "humanoid_gap.md").read_text().strip()
        return json.loads((tmp_path / "humanoid_gap.json").read_text())["measures"], done.stdout

    return run


def test_gaps_and_their_growth(tmp_path, gap):
    store(tmp_path, "full", "fpo", [0.9, 1.0, 0.8])
    store(tmp_path, "full", "ppo", [0.9, 0.9, 0.9])
    store(tmp_path, "root", "fpo", [0.6, 0.7, 0.5])
    store(tmp_path, "root", "ppo", [0.2, 0.3, 0.1])
    store(tmp_path, "root", "fpo_masked_critic", [0.5, 0.6, 0.4])
    store(tmp_path, "root", "ppo_masked_critic", [0.2, 0.2, 0.2])
    measures, text = gap()
    found = measures["success_zero"]["gaps"]
    assert found["full"][0] == pytest.approx(0)
    assert found["root"][0] == pytest.approx(0.4)
    assert found["root, critic too"][0] == pytest.approx(0.3)
    assert found["growth"][0] == pytest.approx(0.4)
    _, low, high = found["full"]  # only FPO varies: no resampled mean leaves 0.8 to 1.0
    assert -0.1 <= low < 0 < high <= 0.1
    _, low, high = found["growth"]
    assert 0 < low < 0.4 < high < 0.8
    assert measures["return_zero"]["cells"]["root fpo"] == [6.0, 7.0, 5.0]
    assert "| root | 0.60 (0.60, 0.70, 0.50) |" in text
    assert "+0.40 [" in text


def test_cells_without_runs_are_empty_and_a_single_seed_has_no_interval(tmp_path, gap):
    store(tmp_path, "full", "fpo", [0.5])
    store(tmp_path, "full", "ppo", [0.25])
    measures, text = gap()
    assert [*measures["success_zero"]["gaps"]] == ["full"]
    assert measures["success_zero"]["gaps"]["full"] == [0.25, None, None]
    assert "| full | 0.50 (0.50) |  | 0.25 (0.25) | +0.25 |" in text
    assert "| root |  |  |  |  |" in text


def test_no_runs(tmp_path):
    done = subprocess.run([*COMMAND, "--results", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "has no runs of humanoid_full" in done.stderr


def test_a_diverged_run_has_no_success_and_is_named(tmp_path, gap):
    store(tmp_path, "full", "fpo", [0.5, 0.7, 0.6])
    store(tmp_path, "full", "ppo", [0.4, 0.4, 0.4])
    runs = tmp_path / "humanoid_full" / "humanoid-planar" / "fpo"
    for seed, status in ((1, "diverged"), (2, "interrupted")):
        (runs / f"seed{seed}" / "provenance.json").write_text(json.dumps({"status": status}))
        (runs / f"seed{seed}" / "measures.json").unlink()
        (runs / f"seed{seed}" / "evaluation.json").unlink()
    measures, text = gap()
    assert measures["success_zero"]["cells"]["full fpo"] == [0.5, 0.0]
    assert measures["alive_s_zero"]["cells"]["full fpo"] == [0.5]
    assert "Not finished: humanoid_full/humanoid-planar/fpo/seed1 diverged." in text
    assert "seed2 interrupted." in text
