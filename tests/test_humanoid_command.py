"""From a small run to its scores, as the command line does it."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from omegaconf import OmegaConf
from PIL import Image
from tiny import FLOW, compose

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.report import humanoid
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.trained import load_policy

SMALL_RUN = ("experiment=humanoid", *FLOW, "total_frames=64", "env.conditioning=root")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "root"
    start_run(compose(*SMALL_RUN, f"run_dir={directory}")).train()
    return directory


def test_the_command_scores_each_motion_and_films_all_runs(run_dir, tmp_path, monkeypatch, capsys):
    output, video = tmp_path / "scores.json", tmp_path / "walk.gif"
    arguments = ["--noise", "zero", "random", "--output", str(output), "--video", str(video), "--clip"]
    monkeypatch.setattr(sys, "argv", ["fpo-humanoid", str(run_dir), str(run_dir), *arguments, "stroll_mirrored"])
    humanoid.main()
    written = json.loads(output.read_text())
    assert written[str(run_dir)]["goal_ambiguity"]["root_gap_m"] == pytest.approx(0, abs=1e-6)
    for noise in ("zero", "random"):
        assert list(written[str(run_dir)][noise]["clips"]) == ["stroll", "stroll_mirrored"]
        assert written[str(run_dir)][noise]["mean"]["success"] == 0  # it has hardly learnt
    assert "stroll_mirrored" in capsys.readouterr().out
    with Image.open(video) as animation:
        assert animation.n_frames > 5
        assert animation.size == (2 * 320, 240)


def test_a_motion_that_is_not_there_cannot_be_filmed(run_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"--clip run: .* has no such motion, it has stroll, stroll_mirrored"):
        humanoid.film_runs([run_dir], tmp_path / "run.gif", clip="run")


def test_scores_are_of_whole_motions_with_the_softer_limit(run_dir):
    env = humanoid.tracking_env(load_policy(run_dir), 2)
    assert (env.conditioning, env.random_start, env.max_distance) == ("root", False, 0.5)
    assert env.frame.tolist() == [0, 0]


def test_a_run_of_another_task_is_refused(tmp_path):
    start_run(compose("experiment=bandit", *FLOW, "total_frames=64", f"run_dir={tmp_path / 'bandit'}")).train()
    with pytest.raises(ConfigError, match="scores runs with env=humanoid; this one has task=bandit/bimodal"):
        humanoid.score_run(tmp_path / "bandit")


def test_a_run_that_was_trained_on_other_physics_is_scored_by_native_mujoco(run_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_warp", None)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run_dir, elsewhere)
    cfg = OmegaConf.load(elsewhere / "config.yaml")
    cfg.env.update({"backend": "warp", "max_contacts": 32})
    OmegaConf.save(cfg, elsewhere / "config.yaml")
    assert humanoid.score_run(elsewhere)["zero"].mean == humanoid.score_run(run_dir)["zero"].mean
