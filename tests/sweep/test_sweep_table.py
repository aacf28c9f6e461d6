"""The state of a sweep as a table, whatever is damaged."""

from __future__ import annotations

import json

import pytest

from fpo_torchrl.loggers import MetricsCSV
from fpo_torchrl.sweep.manifest import Entry, Sweep
from fpo_torchrl.sweep.table import Row, row_of, status_table


class TestTable:
    def row(self, state: str, frames: int, left_s: float | None) -> Row:
        return Row(Entry("ab/seed3", "PointMass", "optim.lr=0.1", 3, 100, ()), state, frames, 1.23456, left_s)

    def test_a_damaged_run_does_not_hide_the_others(self, tmp_path, capsys):
        """``row_of`` reads its account of itself all the same."""
        run_dir = tmp_path / "run"
        run_dir.mkdir()
        (run_dir / "provenance.json").write_text(json.dumps({"status": "running", "frames": 64}))
        (run_dir / "metrics.csv").write_text("frames,return\n32,1.5\n64,??\n")
        entry = Entry(run_dir.name, "PointMass", "", 0, 64, ())
        row = row_of(Sweep(run_dir.parent), entry)
        assert (row.state, row.frames, row.left_s) == ("waiting", 0, None)
        assert "line 3 of" in capsys.readouterr().err

    @pytest.mark.parametrize("content", [None, "", "{}", "[]"])
    def test_a_finished_run_without_its_evaluation_does_not_hide_the_others(self, tmp_path, capsys, content):
        run_dir = tmp_path / "run"
        run_dir.mkdir()
        (run_dir / "provenance.json").write_text(json.dumps({"status": "finished", "frames": 64}))
        (run_dir / "metrics.csv").write_text("frames,return\n64,1.5\n")
        if content is not None:
            (run_dir / "evaluation.json").write_text(content)
        row = row_of(Sweep(run_dir.parent), Entry(run_dir.name, "PointMass", "", 0, 64, ()))
        assert (row.state, row.frames, row.mean_return) == ("done", 64, None)
        assert (
            f"warning: {run_dir / 'evaluation.json'} is {'missing' if content is None else 'damaged'}"
            in capsys.readouterr().err
        )

    def test_settings_of_one_label_are_told_apart(self):
        """As they are after a sweep was extended by a value of a setting that did not vary before."""
        points = [("a/seed0", "old", ("seed=0",)), ("b/seed0", "old", ("seed=0", "optim.lr=1", "label=old"))]
        points.append(("c/seed0", "new", ("seed=0", "optim.lr=2", "keep_checkpoints=3")))
        rows = [Row(Entry(path, "T", label, 0, 9, said), "done", 9, 1.0, None) for path, label, said in points]
        names = [line.split("  ")[0] for line in status_table(rows).splitlines()]
        assert names[1:-1] == ["a T old", "b T old optim.lr=1", "c T new"]

    def test_the_time_left_by_hand(self):
        rows = [
            self.row("done", 100, 0.0),
            self.row("running", 50, 100.0),  # 2 s a frame
            self.row("running", 75, 100.0),  # 4 s a frame
            self.row("waiting", 0, None),
        ]
        assert status_table(rows).endswith("4 runs: 1 done, 2 running, 1 waiting, 0 failed; about 4.38 min left")
        # 50 + 25 + 100 frames at 3 s, two at a time: 262 s

    def test_the_columns(self):
        lines = status_table([self.row("running", 50, 3661.0)]).splitlines()
        assert lines[0].split() == ["run", "seed", "state", "frames", "return", "left"]
        assert lines[1].split() == ["ab", "PointMass", "optim.lr=0.1", "3", "running", "50/100", "1.235", "1.02", "h"]

    def test_a_row_from_files(self, tmp_path):
        sweep, entry = Sweep(tmp_path), self.row("", 0, None).entry
        assert row_of(sweep, entry) == Row(entry, "waiting", 0, None, None)
        (tmp_path / entry.path).mkdir(parents=True)
        metrics = MetricsCSV(tmp_path / entry.path / "metrics.csv")
        for frames in (10, 20):
            metrics.log({"frames": frames, "return": frames / 5, "collect_s": 1.0, "update_s": 2.0})
        assert row_of(sweep, entry) == Row(entry, "waiting", 20, 4.0, 24.0)  # 6 s for 20 of 100
