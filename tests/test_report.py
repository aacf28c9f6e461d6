"""Reports: what is read from run directories, the statistics by hand, and every file that is written."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from omegaconf import OmegaConf
from PIL import Image

from fpo_torchrl.builders import ConfigError
from fpo_torchrl.loggers import MetricsCSV
from fpo_torchrl.plots import COLOURS
from fpo_torchrl.report import command, statistics
from fpo_torchrl.report.figures import draw_curves
from fpo_torchrl.report.runs import Results, differing_settings, read_results, read_run
from fpo_torchrl.report.statistics import (
    estimate,
    iqm,
    mean,
    mean_curve,
    probability_of_improvement,
    profile,
)
from fpo_torchrl.report.tables import Table, decimals_of, duration
from fpo_torchrl.run import start_run

MACHINE = {"cpu": "Abacus 9", "cores": 4, "gpu": None, "threads": 1, "load": 0.5, "system": "Linux x86_64"}
LOSSES = {"FPO": "fpo_torchrl.objectives.FPOLoss", "PPO": "torchrl.objectives.ClipPPOLoss"}


def make_run(
    root: Path,
    task: str = "PointMass",
    loss: str = "FPO",
    seed: int = 0,
    score: float | None = 500.0,
    status: str | None = "finished",
    **settings,
) -> Path:
    """The files of a run of 400 frames in four iterations that reached ``score``; ``status`` None: no provenance."""
    directory = root / f"{task.replace('/', '-')}_{settings.get('label', loss)}_{seed}"
    directory.mkdir(parents=True)
    config = {"task": task, "seed": seed, "run_dir": str(directory), "optim": {"lr": 1e-3}}
    OmegaConf.save({**config, "loss": {"_target_": LOSSES[loss]}, **settings}, directory / "config.yaml")
    metrics = MetricsCSV(directory / "metrics.csv")
    for i in (1, 2, 3, 4) if status in ("finished", None) else (1, 2):
        row = {"frames": 100.0 * i, "collect_s": 0.25, "update_s": 0.75, "return": score * i / 4}
        metrics.log(row | ({"eval_zero": score + 40 - 20 * i} if i % 2 == 0 else {}))
    if status in ("finished", None):
        found = {"low": score - 1, "high": score + 1, "policy_s": 0.001, "returns": [score - 5, score + 5]}
        content = {"random": {"mean": score, **found}, "zero": {"mean": score - 60, **found}, "frames": 400}
        (directory / "evaluation.json").write_text(json.dumps(content))
    if status is not None:
        start = {
            "date": "2026-11-20T10:00:00+00:00",
            "machine": MACHINE,
            "versions": {"torch": "2.13"},
            "commit": "abc",
        }
        error = {"diverged": "NonFiniteError: NaN", "interrupted": "KeyboardInterrupt"}.get(status)
        content = {"status": status, "error": error, "starts": [start]}
        (directory / "provenance.json").write_text(json.dumps(content))
    return directory


@pytest.fixture
def fpo_report(monkeypatch, capsys):
    """Type the command; returns its exit code, its output and what it says on standard error."""
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 200)

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fpo-report", *map(str, arguments)])
        code = 0
        try:
            command.main()
        except SystemExit as stopped:
            code = stopped.code or 0
        return code, *capsys.readouterr()

    return call


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class TestStatistics:
    def test_the_iqm_leaves_out_a_quarter_on_both_sides(self):
        assert iqm(np.array([8.0, 1, 2, 3, 4, 5, 6, 1000])) == 4.5  # of 3, 4, 5, 6
        assert iqm(np.array([0.0, 3, 4]), np.array([5.0, 6, 7, 8, 1e9])) == 5.5  # of 4, 5, 6, 7: pooled over tasks

    def test_the_mean_weighs_tasks_equally(self):
        assert mean(np.array([0.0, 2]), np.array([10.0, 20, 30])) == 10.5  # of 1 and 20

    @pytest.mark.parametrize("statistic", [mean, iqm])
    def test_runs_that_agree_leave_no_doubt(self, statistic):
        found = estimate(statistic, [np.full(3, 7.0), np.full(5, 7.0)])
        assert (found.value, found.low, found.high) == (7, 7, 7)

    def test_runs_are_drawn_again_within_their_task(self):
        found = estimate(mean, [np.zeros(3), np.full(3, 100.0)])
        assert (found.low, found.high) == (50, 50)  # drawn across tasks, it would vary

    def test_the_interval_of_a_fair_coin(self):
        """Means of ten draws of 0 and 1: a binomial, whose 2.5 % and 97.5 % quantiles are 2 and 8."""
        found = estimate(mean, [np.array([0.0, 1] * 5)])
        assert (found.low, found.high) == (pytest.approx(0.2), pytest.approx(0.8))

    def test_one_run_has_no_interval(self):
        found = estimate(mean, [np.array([3.0]), np.array([1.0, 2])])
        assert found.value == 2.25
        assert np.isnan([found.low, found.high]).all()

    @pytest.mark.parametrize(
        ("x", "y", "expected"),
        [
            ([3, 4], [1, 2], 1),
            ([1, 2], [3, 4], 0),
            ([1, 2], [1, 2], 0.5),
            ([5, 5], [5, 5, 5], 0.5),
            ([1, 3], [2, 2, 0], 4 / 6),
        ],
    )
    def test_the_probability_of_improvement(self, x, y, expected):
        assert probability_of_improvement(np.array(x), np.array(y)) == pytest.approx(expected)

    def test_it_is_that_of_mann_and_whitney_averaged_over_tasks(self):
        from scipy.stats import mannwhitneyu

        draw = np.random.default_rng(0).integers
        x, y = [draw(0, 9, 5) for _ in range(3)], [draw(0, 9, 4) for _ in range(3)]
        expected = [mannwhitneyu(a, b).statistic / 20 for a, b in zip(x, y, strict=True)]
        assert probability_of_improvement(*x, *y) == pytest.approx(np.mean(expected))

    def test_its_interval_at_the_extremes(self):
        found = estimate(probability_of_improvement, [np.array([3, 4, 5]), np.array([0, 1, 2])])
        assert (found.low, found.high) == (1, 1)

    def test_a_performance_profile(self):
        shares = profile(np.array([0, 1, 2, 3]))(np.array([1, 2, 3, 4]), np.array([0, 3]))
        np.testing.assert_allclose(shares, [(1 + 0.5) / 2, (0.75 + 0.5) / 2, (0.5 + 0.5) / 2, 0.25 / 2])

    def test_a_curve_over_frames_that_differ(self, tmp_path):
        group = [read_run(make_run(tmp_path, seed=seed, score=score)) for seed, score in enumerate((100, 300))]
        group[1].metrics[:] = [row for row in group[1].metrics if row["frames"] != 200]
        frames, curve = mean_curve(group, "return")
        np.testing.assert_allclose(frames, [100, 200, 300, 400])
        np.testing.assert_allclose(curve.value, [50, 100, 150, 200])  # 300 frames earn 225, 100 frames 75
        np.testing.assert_allclose(curve.low, [25, 50, 75, 100])
        np.testing.assert_allclose(curve.high, [75, 150, 225, 300])

    def test_in_a_curve_a_diverged_run_falls_to_0_and_an_unfinished_one_is_left_out(self, tmp_path):
        states = ("finished", "diverged", "running")
        group = [read_run(make_run(tmp_path, seed=i, score=400, status=state)) for i, state in enumerate(states)]
        _, curve = mean_curve(group, "return")
        np.testing.assert_allclose(curve.value, [100, 200, 150, 200])
        assert mean_curve(group[2:], "return") is None
        assert mean_curve(group, "no_such_column") is None

    def test_a_long_curve_is_thinned(self, tmp_path):
        run = read_run(make_run(tmp_path))
        run.metrics[:] = [{"frames": float(i), "return": float(i)} for i in range(1, 5001)]
        frames, curve = mean_curve([run], "return")
        assert len(frames) == statistics.MAX_POINTS
        assert (frames[0], frames[-1]) == (1, 5000)
        np.testing.assert_allclose(curve.value, frames)


def make_runs(root: Path) -> Path:
    """Two tasks, two algorithms; a run of each bad end."""
    for seed, (fpo, ppo) in enumerate([(800, 600), (820, 610), (840, 620)]):
        make_run(root / "a", "PointMass", "FPO", seed, fpo)
        make_run(root / "b", "PointMass", "PPO", seed, ppo)
        make_run(root / "c", "gridworld/two_walls", "FPO", seed, 300)
    for seed, status in enumerate(("finished", "diverged", "interrupted", "running")):
        make_run(root, "gridworld/two_walls", "PPO", seed, 100, status)
    return root


class TestFiles:
    @pytest.fixture(scope="class")
    def out(self, tmp_path_factory):
        """A report with everything in it; ``printed.txt`` is what the terminal showed."""
        directory = tmp_path_factory.mktemp("report")
        runs, out, printed = make_runs(directory / "runs"), directory / "out", io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.setattr(statistics, "NUM_RESAMPLES", 200)
            command.report([runs], out)
        (out / "printed.txt").write_text(printed.getvalue())
        return out

    def test_the_table(self, out):
        header, _, *rows = (out / "table.md").read_text().split("\n\n")[0].splitlines()
        assert header == "| task | FPO | PPO |"
        assert rows[0] == "| PointMass | 820 [800, 840] (3) | 610 [600, 620] (3) |"
        assert rows[1] == (
            "| gridworld/two_walls | 300 [300, 300] (3) | 50 [0, 100] (2, 1 diverged, 1 interrupted, 1 unfinished) |"
        )
        assert re.fullmatch(r"\| mean, all tasks \| 560 \[5\d\d, 5\d\d\] \| 330 \[\d+, \d+\] \|", rows[2])
        # FPO: 300, 300, 300, 800, 820, 840 without one on each side; PPO: 0, 100, 600, 610, 620 likewise
        assert re.fullmatch(r"\| IQM, all tasks \| 555 \[.*\] \| 437 \[.*\] \|", rows[3])
        assert "A diverged run counts as 0" in (out / "table.md").read_text()

    def test_the_table_in_latex(self, out):
        text = (out / "table.tex").read_text()
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
        assert r"gridworld/two\_walls & 300 [300, 300] (3) & 50" in text
        assert text.count("{") == text.count("}")
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(rows) == 5
        assert {line.count("&") for line in rows} == {2}

    def test_every_run_has_a_row_of_scores(self, out):
        rows = read_csv(out / "scores.csv")
        assert len(rows) == 13
        (first,) = (r for r in rows if (r["task"], r["algorithm"], r["seed"]) == ("PointMass", "FPO", "1"))
        expected = {
            **{"status": "finished", "frames": 400, "return_random": 820, "return_zero": 760, "return_zero_low": 819},
            # zero start noise earned 820 after 200 frames and 780 after 400
            **{"best_eval_zero": 820, "best_eval_zero_frames": 200, "drop_from_best": 60},
            **{"frames_per_s": 100, "training_s": 4, "load": 0.5, "starts": 1},
        }
        for key, value in expected.items():
            assert first[key] == value or float(first[key]) == value, key
        assert (first["device"], first["torch"], first["commit"]) == ("Abacus 9, 1 of 4 cores", "2.13", "abc")
        assert first["directory"] == "../runs/a/PointMass_FPO_1"
        ends = {row["status"]: row for row in rows if row["algorithm"] == "PPO" and row["task"] != "PointMass"}
        assert set(ends) == {"finished", "diverged", "interrupted", "unfinished"}
        assert ends["diverged"]["error"] == "NonFiniteError: NaN"
        assert ends["diverged"]["return_random"] == ""

    def test_every_run_has_a_curve(self, out):
        rows = read_csv(out / "curves" / "gridworld-two_walls.csv")
        frames = {
            (algorithm, seed): [int(r["frames"]) for r in rows if (r["algorithm"], r["seed"]) == (algorithm, seed)]
            for algorithm, seed in (("FPO", "2"), ("PPO", "0"), ("PPO", "1"))
        }
        assert frames[("FPO", "2")] == frames[("PPO", "0")] == [100, 200, 300, 400]
        assert frames[("PPO", "1")] == [100, 200]
        assert [row["eval_zero"] for row in rows[:2]] == ["", "300.0"]

    @pytest.mark.parametrize("name", ["curves.png", "profiles.png", "improvement.png"])
    def test_pictures_show_the_algorithms_in_their_colours(self, out, name):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 150
            found = {colour for _, colour in picture.convert("RGB").getcolors(1_000_000)}
        colours = COLOURS[:2] if name != "improvement.png" else COLOURS[:1]
        for colour in colours:
            assert tuple(bytes.fromhex(colour[1:])) in found

    def test_the_report_shows_all_of_it(self, out):
        text = (out / "report.md").read_text()
        assert text.startswith("# 13 runs, 2 tasks\n")
        for name in ("curves.png", "profiles.png", "improvement.png", "scores.csv"):
            assert f"({name})" in text
        assert "| gridworld/two_walls | PPO | 1 | diverged | 200 | NonFiniteError: NaN | ../runs/" in text
        assert "| gridworld/two_walls | PPO | 3 | unfinished | 200 |  | ../runs/" in text
        assert "| FPO > PPO | 1.00 [1.00, 1.00] |" in text
        assert "| PointMass | 100 frames/s, 4 s | 100 frames/s, 4 s | Abacus 9, 1 of 4 cores |" in text
        assert "| 13 | Abacus 9, 1 of 4 cores | Linux x86_64 | torch 2.13 | abc | 2026-11-20 |" in text
        assert "## Warnings" not in text

    def test_the_terminal_shows_the_table_and_what_failed(self, out):
        printed = (out / "printed.txt").read_text()
        assert "| PointMass | 820 [800, 840] (3) |" in printed
        assert "3 of 13 runs did not finish" in printed
        assert f"{out / 'report.md'}" in printed


class TestFpoReport:
    @pytest.fixture
    def runs(self, tmp_path):
        return make_runs(tmp_path / "runs")

    def test_a_report_of_one_algorithm_takes_the_old_comparison_away(self, runs, tmp_path, fpo_report):
        out = tmp_path / "out"
        assert fpo_report(runs, "--out", out)[0] == 0
        assert (out / "improvement.png").exists()
        assert fpo_report(runs, "--out", out, "--algorithms", "PPO")[0] == 0
        assert not (out / "improvement.png").exists()
        assert "improvement" not in (out / "report.md").read_text()
        assert {row["algorithm"] for row in read_csv(out / "scores.csv")} == {"PPO"}

    def test_algorithms_come_in_the_order_given(self, runs, tmp_path, fpo_report):
        fpo_report(runs, "--out", tmp_path / "out", "--algorithms", "PPO", "FPO")
        text = (tmp_path / "out" / "report.md").read_text()
        assert "| task | PPO | FPO |" in text
        assert "| PPO > FPO | 0.00 [0.00, 0.00] |" in text

    def test_the_other_metric(self, runs, tmp_path, fpo_report):
        fpo_report(runs / "a", "--metric", "zero", "--out", tmp_path / "out")
        text = (tmp_path / "out" / "table.md").read_text()
        assert "| PointMass | 760 [740, 780] (3) |" in text
        assert "zero start noise, or the mode of the Gaussian" in text

    def test_aggregates_compare_the_tasks_that_all_have(self, runs, tmp_path, fpo_report):
        make_run(runs, "BallInCup", "FPO", 0, 1000)
        make_run(runs, "BallInCup", "PPO", 0, 900, "running")
        fpo_report(runs, "--out", tmp_path / "out")
        text = (tmp_path / "out" / "table.md").read_text()
        assert "| BallInCup | 1000 (1) | - (0, 1 unfinished) |" in text
        assert "| mean, 2 of 3 tasks | 560 [" in text
        assert "Not in the aggregates, for want of a score of every algorithm: BallInCup." in text

    def test_without_any_score_the_runs_are_shown_all_the_same(self, tmp_path, fpo_report):
        make_run(tmp_path / "runs", status="running")
        code, out, _ = fpo_report(tmp_path / "runs", "--out", tmp_path / "out")
        assert code == 0
        assert "| PointMass | - (0, 1 unfinished) |" in out
        assert "mean" not in (tmp_path / "out" / "table.md").read_text().split("\n\n")[0]
        assert not (tmp_path / "out" / "profiles.png").exists()

    def test_an_axis_without_a_curve_shows_the_frames(self, tmp_path, monkeypatch):
        run = read_run(make_run(tmp_path))
        run.metrics[:] = [{"frames": 50_000.0}]
        shown = []
        monkeypatch.setattr(
            "matplotlib.figure.Figure.savefig", lambda self, *a, **k: shown.append(self.axes[0].get_xlim())
        )
        draw_curves(Results([run], ["FPO"], "random"), tmp_path / "curves.png", max_return=1000)
        assert shown == [(0, 50_000)]

    def test_small_returns_show_decimals(self, tmp_path, fpo_report):
        make_run(tmp_path / "runs", score=0.6249)
        _, out, _ = fpo_report(tmp_path / "runs", "--out", tmp_path / "out", "--max-return", 1)
        assert "| PointMass | 0.62 (1) |" in out

    def test_other_measures_are_shown(self, runs, tmp_path, fpo_report):
        (runs / "a" / "PointMass_FPO_1" / "measures.json").write_text('{"both": 0.25}')
        fpo_report(runs, "--out", tmp_path / "out")
        assert "| PointMass | FPO | both | -, 0.25, - |" in (tmp_path / "out" / "report.md").read_text()
        assert [row["both"] for row in read_csv(tmp_path / "out" / "scores.csv")][:3] == ["", "0.25", ""]

    def test_runs_of_several_machines_have_costs_of_their_own(self, runs, tmp_path, fpo_report):
        path = runs / "a" / "PointMass_FPO_1" / "provenance.json"
        path.write_text(path.read_text().replace('"gpu": null', '"gpu": "GPU 1000"'))
        fpo_report(runs, "--out", tmp_path / "out")
        text = (tmp_path / "out" / "report.md").read_text()
        assert "| PointMass | 100 frames/s, 4 s | - | GPU 1000 |" in text
        assert "| PointMass | 100 frames/s, 4 s | 100 frames/s, 4 s | Abacus 9, 1 of 4 cores |" in text


class TestReading:
    def test_settings_that_differ_are_named(self, tmp_path, fpo_report):
        make_run(tmp_path / "runs", seed=0)
        make_run(tmp_path / "runs", seed=1, optim={"lr": 5e-4, "eps": 1e-5}, num_threads=2, label=None)
        code, _, err = fpo_report(tmp_path / "runs", "--out", tmp_path / "out")
        assert code == 0
        warning = "FPO on PointMass: runs differ in optim.eps ((absent), 1e-05), optim.lr (0.001, 0.0005)"
        assert err == f"warning: {warning}\n"
        assert f"* {warning}" in (tmp_path / "out" / "report.md").read_text()

    def test_seeds_and_directories_may_differ(self, tmp_path):
        group = [read_run(make_run(tmp_path / str(seed), seed=seed)) for seed in range(2)]
        assert differing_settings(group) == {}

    def test_a_label_makes_a_group_of_its_own(self, tmp_path):
        make_run(tmp_path, seed=0)
        make_run(tmp_path, seed=0, label="FPO, 4 steps")
        assert read_results([tmp_path], metric="random").labels == ["FPO", "FPO, 4 steps"]

    def test_a_run_named_twice_is_read_once(self, tmp_path):
        directory = make_run(tmp_path)
        assert len(read_results([directory, tmp_path, tmp_path / "." / directory.name], metric="random").runs) == 1

    def test_other_config_files_are_no_runs(self, tmp_path):
        make_run(tmp_path)
        (tmp_path / "conf").mkdir()
        (tmp_path / "conf" / "config.yaml").write_text("defaults: []\n")
        assert len(read_results([tmp_path], metric="random").runs) == 1

    def test_runs_from_before_provenance(self, tmp_path):
        run = read_run(make_run(tmp_path, status=None))
        assert (run.status, run.device) == ("finished", "unknown")
        assert run.score("random") == 500

    def test_the_evaluation_of_a_run_that_went_on_does_not_count(self, tmp_path):
        directory = make_run(tmp_path)
        path = directory / "provenance.json"
        path.write_text(path.read_text().replace("finished", "running"))
        assert read_run(directory).score("random") is None

    def test_a_run_as_fpo_train_leaves_it(self, tmp_path, monkeypatch):
        monkeypatch.setattr("fpo_torchrl.run.draw_learning_curve", lambda *args, **kwargs: None)
        run = start_run(tiny.compose(*tiny.GRIDWORLD, f"run_dir={tmp_path / 'run'}"))
        evaluations = run.train()
        record = read_run(tmp_path / "run")
        assert (record.task, record.label, record.seed, record.status) == ("gridworld/two_walls", "FPO", 0, "finished")
        assert record.frames == 256
        assert record.score("zero") == evaluations["zero"].mean
        assert list(record.series("eval_zero")[0]) == [128, 256]
        assert record.device.endswith("cores")


class TestBadInput:
    def test_no_runs(self, tmp_path, fpo_report):
        code, _, err = fpo_report(tmp_path)
        assert code == 2
        assert f"error: no runs found in {tmp_path}: expected directories that fpo-train wrote" in err

    def test_no_directory(self, tmp_path, fpo_report):
        code, _, err = fpo_report(tmp_path / "none")
        assert code == 2
        assert "none is not a directory" in err

    def test_a_seed_twice(self, tmp_path, fpo_report):
        one, other = make_run(tmp_path / "a", seed=3), make_run(tmp_path / "b", seed=3)
        code, _, err = fpo_report(tmp_path, "--out", tmp_path / "out")
        assert code == 2
        assert f"seed 3 of FPO on PointMass is there twice, in {one} and {other}: give one of them" in err
        assert not (tmp_path / "out").exists()

    def test_an_algorithm_that_is_not_there(self, tmp_path, fpo_report):
        make_run(tmp_path)
        code, _, err = fpo_report(tmp_path, "--algorithms", "SAC")
        assert code == 2
        assert "no runs of SAC: the runs found are of FPO" in err

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("provenance.json", "{", "JSONDecodeError"),
            ("config.yaml", "seed: 1\n", "KeyError: 'task'"),
            ("evaluation.json", "{}", "evaluation.json lacks its final evaluation"),
        ],
    )
    def test_a_damaged_file(self, tmp_path, fpo_report, name, content, words):
        directory = make_run(tmp_path)
        (directory / name).write_text(content)
        code, _, err = fpo_report(tmp_path)
        assert code == 2
        assert f"{directory} cannot be read as a run: " in err
        assert words in err

    @pytest.mark.parametrize("value", ["0", "-1", "nan"])
    def test_a_best_return_that_is_none(self, tmp_path, fpo_report, value):
        code, _, err = fpo_report(tmp_path, f"--max-return={value}")
        assert code == 2
        assert "out of range: it must be positive" in err

    def test_without_the_extra_it_says_what_to_install(self, tmp_path, fpo_report, monkeypatch):
        make_run(tmp_path)
        monkeypatch.setitem(sys.modules, "scipy", None)
        for module in ("statistics", "tables", "figures", "write"):
            monkeypatch.delitem(sys.modules, f"fpo_torchrl.report.{module}", raising=False)
        code, _, err = fpo_report(tmp_path)
        assert code == 2
        assert "pip install fpo-torchrl[report]" in err

    def test_help_needs_nothing(self, fpo_report):
        code, out, _ = fpo_report("--help")
        assert code == 0
        assert "95 % stratified bootstrap" in out


class TestTable:
    def test_latex_keeps_every_character_as_text(self):
        text = Table([r"a_b & 5 % of $x^2 #1 {y} ~ \z"], [["<1>"]]).latex()
        expected = r"a\_b \& 5 \% of \$x\textasciicircum{}2 \#1 \{y\} \textasciitilde{} \textbackslash{}z \\"
        assert expected in text.splitlines()
        assert r"\textless{}1\textgreater{} \\" in text

    def test_markdown_keeps_a_cell_a_cell(self):
        assert Table(["a"], [["x | y\nz"]]).markdown() == "| a |\n| --- |\n| x \\| y z |\n"

    @pytest.mark.parametrize(("scale", "decimals"), [(1000, 0), (100, 0), (20, 1), (1, 2), (0.5, 3)])
    def test_decimals_follow_the_size_of_returns(self, scale, decimals):
        assert decimals_of(scale) == decimals

    @pytest.mark.parametrize(("seconds", "text"), [(4, "4 s"), (59.96, "60 s"), (90, "1.5 min"), (86400, "24 h")])
    def test_durations(self, seconds, text):
        assert duration(seconds) == text


def test_errors_are_for_users(tmp_path):
    with pytest.raises(ConfigError):
        read_results([tmp_path], metric="random")
