"""A whole run: what it leaves behind, what repeats it, and what does not disturb it."""

from __future__ import annotations

import json

import pytest
import tiny
from omegaconf import OmegaConf
from PIL import Image

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.runs.directory import new_run_dir
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.settings import load_run_config
from fpo_torchrl.runs.start import start_run

TIMES = {"collect_s", "update_s", "frames_per_s"}
LOOP = {"frames", "return", "episodes", "reward", "first_ratio_error", "first_clip_fraction"} | TIMES
LOSS = {
    "loss_objective",
    "loss_critic",
    "ratio",
    "ratio_min",
    "ratio_max",
    "clip_fraction",
    "ESS",
    "explained_variance",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of four iterations, evaluated twice."""
    run_dir = tmp_path_factory.mktemp("runs") / "first"
    run = start_run(tiny.compose(*tiny.GRIDWORLD, f"run_dir={run_dir}", "render=true", "logger=tensorboard"))
    run.evaluations = run.train()
    return run


def rows(run: Run) -> list[dict[str, float]]:
    """The metrics of a run, without the times and evaluations."""
    return [
        {key: value for key, value in row.items() if key not in TIMES and not key.startswith("eval")}
        for row in read_metrics(run.run_dir / "metrics.csv")
    ]


class TestFiles:
    def test_the_resolved_config_is_the_one_that_ran(self, run):
        assert load_run_config(run.run_dir) == OmegaConf.create(OmegaConf.to_container(run.cfg, resolve=True))
        assert load_run_config(run.run_dir).optim.lr == 1e-3

    def test_metrics_have_a_row_for_each_iteration(self, run):
        metrics = read_metrics(run.run_dir / "metrics.csv")
        assert [row["frames"] for row in metrics] == [64, 128, 192, 256]
        assert set(metrics[-1]) >= LOOP | LOSS
        for row in metrics:
            assert row["frames_per_s"] == pytest.approx(64 / (row["collect_s"] + row["update_s"]), rel=0.01)

    def test_evaluations_are_due_every_128_frames(self, run):
        evaluated = [row for row in read_metrics(run.run_dir / "metrics.csv") if "eval_zero" in row]
        assert [row["frames"] for row in evaluated] == [128, 256]
        for row in evaluated:
            assert row["eval_zero_low"] <= row["eval_zero"] <= row["eval_zero_high"]

    def test_the_final_evaluation(self, run):
        report = json.loads((run.run_dir / "evaluation.json").read_text())
        assert report["frames"] == 256
        for noise in ("random", "zero"):
            assert report[noise]["returns"] == run.evaluations[noise].returns
            assert report[noise]["mean"] == sum(report[noise]["returns"]) / 2
            assert report[noise]["low"] <= report[noise]["mean"] <= report[noise]["high"]
            assert len(report[noise]["returns"]) == 2
            assert report[noise]["policy_s"] > 0

    def test_the_learning_curve_shows_something(self, run):
        with Image.open(run.run_dir / "learning_curve.png") as picture:
            colours = picture.convert("RGB").getcolors(1_000_000)
            assert picture.width > picture.height > 300
        count = {colour: n for n, colour in colours}
        assert len(count) > 50  # curves, bands, text
        assert max(count, key=count.get) == (255, 255, 255)

    def test_the_rollout_is_a_picture_of_the_task(self, run):
        with Image.open(run.run_dir / "rollout.gif") as picture:
            assert len(picture.convert("RGB").getcolors()) > 2

    def test_checkpoints_are_rotated(self, run):
        names = sorted(path.name for path in (run.run_dir / "checkpoints").iterdir())
        assert names == ["best.torchrl", "checkpoint-000000000192.torchrl", "checkpoint-000000000256.torchrl"]

    def test_nothing_half_written_is_left(self, run):
        assert not list(run.run_dir.rglob("*.partial"))

    def test_every_metric_goes_to_the_logger(self, run):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (events,) = run.run_dir.rglob("events.out.*")
        reader = EventAccumulator(str(events.parent)).Reload()
        assert set(read_metrics(run.run_dir / "metrics.csv")[-1]) <= set(reader.Tags()["scalars"])
        assert [event.step for event in reader.Scalars("ratio")] == [64, 128, 192, 256]


class TestRepeating:
    @pytest.fixture(autouse=True)
    def no_pictures(self, monkeypatch):
        monkeypatch.setattr("fpo_torchrl.runs.run.draw_learning_curve", lambda *args, **kwargs: None)

    def again(self, tmp_path, *changes: str) -> Run:
        run = start_run(tiny.compose(*tiny.GRIDWORLD, f"run_dir={tmp_path / 'again'}", *changes))
        run.train()
        return run

    def test_the_same_seed_repeats_it_however_often_it_is_evaluated_saved_and_logged(self, run, tmp_path):
        changes = ("eval_interval_frames=64", "eval_episodes=3", "checkpoint_interval_frames=256")
        other = self.again(tmp_path, *changes)
        assert rows(other) == rows(run)
        one, two = (tiny.read_checkpoint(r.run_dir) for r in (run, other))
        generators = ("rng.python", "rng.numpy")  # nothing draws from them
        assert not [k for k in one if not tiny.same({k: one[k]}, {k: two[k]}) and not k.startswith(generators)]

    def test_another_seed_is_another_run(self, run, tmp_path):
        other = self.again(tmp_path, "seed=1")
        assert all(a["loss_critic"] != b["loss_critic"] for a, b in zip(rows(other), rows(run), strict=True))
        assert all(
            a["reward"] != b["reward"] or a["ESS"] != b["ESS"] for a, b in zip(rows(other), rows(run), strict=True)
        )


def test_the_progress_bar_says_how_far_and_how_well(tmp_path, capsys):
    start_run(tiny.compose(*tiny.GRIDWORLD, f"run_dir={tmp_path}", "progress=true")).train()
    last = capsys.readouterr().out.rpartition("100%")[2].splitlines()[0]
    for words in ("256/256 frames", "frames/s, left 00:00", "return ", "reward per step ", "ratio "):
        assert words in last


def test_frames_that_are_no_whole_batches_are_told(tmp_path, capsys):
    """Batches are of 64 frames."""
    start_run(tiny.compose(*tiny.GRIDWORLD, f"run_dir={tmp_path}", "total_frames=100")).train()
    assert "100 frames, which are 128 in whole batches of 64; run directory" in capsys.readouterr().out
    assert [row["frames"] for row in read_metrics(tmp_path / "metrics.csv")] == [64, 128]


class TestRunDirectory:
    def test_a_second_run_in_the_same_place_is_refused(self, run):
        before = (run.run_dir / "metrics.csv").read_bytes()
        with pytest.raises(ConfigError, match=r"holds a run already: resume=.* continues it, or choose another"):
            start_run(tiny.compose(*tiny.GRIDWORLD, f"run_dir={run.run_dir}"))
        assert (run.run_dir / "metrics.csv").read_bytes() == before

    def test_two_processes_never_share_one(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("time.strftime", lambda format: "now")
        cfg = tiny.compose(*tiny.GRIDWORLD)
        with new_run_dir(cfg) as first, new_run_dir(cfg) as second:
            assert first != second  # although neither run has written anything yet

    def test_by_default_it_is_new_and_named_after_task_and_seed(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("time.strftime", lambda format: "now")
        names = [tiny.begin(tiny.compose(*tiny.GRIDWORLD, "seed=3")).run_dir.as_posix() for _ in range(2)]
        assert names == ["runs/now_gridworld-two_walls_seed3", "runs/now_gridworld-two_walls_seed3_2"]
        assert (tmp_path / names[1] / "config.yaml").is_file()
