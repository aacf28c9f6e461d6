"""Reports: every file that is written, and the command."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from pathlib import Path

import pytest
from PIL import Image
from recorded import make_run, make_runs

from fpo_torchrl.plots import COLOURS
from fpo_torchrl.report import command, statistics
from fpo_torchrl.report.figures import draw_curves
from fpo_torchrl.report.runs import Results, read_run


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


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
        # 300 on every seed, less 100 and a diverged 0: a quarter of the resamples has 0 and 0, a quarter 100 and 100
        assert "| gridworld/two_walls | +250 [+200, +300] |" in text
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
        text = (out / "report.md").read_text()
        assert "improvement" not in text
        assert "## Differences" not in text
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
        draw_curves(Results([run], ["FPO"], "random", worst=0, best=1000), tmp_path / "curves.png")
        assert shown == [(0, 50_000)]

    @pytest.mark.parametrize(("num_tasks", "rows", "columns"), [(3, 1, 3), (5, 2, 3), (6, 2, 3), (7, 2, 4), (10, 3, 4)])
    def test_panels_fill_their_rows_evenly(self, tmp_path, monkeypatch, num_tasks, rows, columns):
        runs = [read_run(make_run(tmp_path, task=f"Task{i}")) for i in range(num_tasks)]
        shown = []
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, *a, **k: shown.extend(self.axes))
        draw_curves(Results(runs, ["FPO"], "random", worst=0, best=1000), tmp_path / "curves.png")
        grid = shown[0].get_gridspec()
        assert (grid.nrows, grid.ncols) == (rows, columns)
        assert sum(axes.get_visible() for axes in shown) == num_tasks

    def test_where_returns_are_negative_a_diverged_run_counts_as_the_worst_one(self, tmp_path, fpo_report):
        for seed, (score, status) in enumerate([(-200.0, "finished"), (-400.0, "finished"), (0.0, "diverged")]):
            make_run(tmp_path / "runs", "gym/Pendulum-v1", seed=seed, score=score, status=status)
        code, _, err = fpo_report(tmp_path / "runs", "--out", tmp_path / "out")
        assert code == 2
        assert "FPO on gym/Pendulum-v1 earned -400, and a diverged run would count as 0: give the worst" in err
        limits = ("--min-return", -1200, "--max-return", 0)
        code, out, _ = fpo_report(tmp_path / "runs", "--out", tmp_path / "out", *limits)
        assert code == 0
        assert "| gym/Pendulum-v1 | -600 [" in out  # the mean of -200, -400 and -1200
        assert "A diverged run counts as -1200;" in (tmp_path / "out" / "report.md").read_text()

    def test_small_returns_show_decimals(self, tmp_path, fpo_report):
        make_run(tmp_path / "runs", score=0.6243)
        _, out, err = fpo_report(tmp_path / "runs", "--out", tmp_path / "out", "--max-return", 1)
        assert "| PointMass | 0.624 (1) |" in out
        assert err == ""

    def test_each_task_has_the_decimals_of_its_own_returns(self, tmp_path, fpo_report):
        for task, scores in {"Large": (811.0, 829.0), "Small": (0.26, 0.28)}.items():
            for seed, score in enumerate(scores):
                make_run(tmp_path / "runs", task, seed=seed, score=score)
        _, out, err = fpo_report(tmp_path / "runs", "--out", tmp_path / "out")
        assert "| Large | 820 [811, 829] (2) |" in out
        assert "| Small | 0.270 [0.260, 0.280] (2) |" in out
        assert "| mean, all tasks | 410 [" in out
        assert err == ""

    @pytest.mark.parametrize(
        ("scores", "limits", "between"),
        [
            ([0.27], [], "0 and 1000, and those on PointMass (0.27 to 0.27)"),
            ([49.0, 1051.0], [], "0 and 1000, and those on PointMass (49 to 1.05e+03)"),
            (
                [-90.0, -70.0],
                ["--min-return", -60, "--max-return", 0],
                "-60 and 0, and those on PointMass (-90 to -70)",
            ),
        ],
    )
    def test_a_range_that_is_not_that_of_the_returns_is_a_warning(self, tmp_path, fpo_report, scores, limits, between):
        for seed, score in enumerate(scores):
            make_run(tmp_path / "runs", seed=seed, score=score)
        code, _, err = fpo_report(tmp_path / "runs", "--out", tmp_path / "out", *limits)
        assert code == 0
        assert err.startswith(f"warning: a return is taken to be between {between} are not, ")
        assert "--min-return and --max-return" in err
        assert err[len("warning: ") :] in (tmp_path / "out" / "report.md").read_text()

    def test_one_return_in_the_range_is_enough(self, tmp_path, fpo_report):
        for seed, score in enumerate([0.27, 51.0, 1200.0]):
            make_run(tmp_path / "runs", seed=seed, score=score)
        assert fpo_report(tmp_path / "runs", "--out", tmp_path / "out")[2] == ""

    def test_one_task_in_the_range_says_nothing_for_another(self, tmp_path, fpo_report):
        for task, score in {"CheetahRun": 900.0, "gym/Pendulum-v1": -1200.0}.items():
            make_run(tmp_path / "runs", task, score=score)
        err = fpo_report(tmp_path / "runs", "--out", tmp_path / "out")[2]
        assert "those on gym/Pendulum-v1 (-1.2e+03 to -1.2e+03) are not" in err

    def test_other_numbers_of_frames_are_a_warning(self, tmp_path, fpo_report):
        for label, frames in {"long": 3000, "short": 1000}.items():
            make_run(tmp_path / "runs", label=label, total_frames=frames)
        err = fpo_report(tmp_path / "runs", "--out", tmp_path / "out")[2]
        assert "on PointMass runs were trained for different numbers of frames: long for 3000, short for 1000" in err

    def test_an_earlier_reports_curves_are_gone(self, tmp_path, fpo_report):
        for tasks in (("PointMass", "CheetahRun"), ("PointMass",)):
            for task in tasks:
                make_run(tmp_path / "_".join(tasks), task, score=700.0)
            fpo_report(tmp_path / "_".join(tasks), "--out", tmp_path / "out")
        assert [path.name for path in (tmp_path / "out" / "curves").iterdir()] == ["PointMass.csv"]

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
