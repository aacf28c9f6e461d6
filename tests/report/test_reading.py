"""What a report reads from run directories, and what it says to damaged ones."""

from __future__ import annotations

import sys

import pytest
import tiny
from recorded import make_run

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.evaluation import decimals_of
from fpo_torchrl.report.runs import differing_settings, read_results, read_run
from fpo_torchrl.runs.start import start_run

RETURNS = {"metric": "random", "worst": 0, "best": 1000}


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

    def test_a_setting_that_an_older_run_lacks_is_as_by_default(self, tmp_path):
        trainer = {"_target_": "fpo_torchrl.trainer.Trainer"}
        settings = {"old": trainer, "off": trainer | {"redraw_pairs": False}, "on": trainer | {"redraw_pairs": True}}
        old, off, on = (read_run(make_run(tmp_path / name, trainer=found)) for name, found in settings.items())
        assert differing_settings([old, off]) == {}
        assert differing_settings([old, off, on]) == {"trainer.redraw_pairs": [False, True]}

    def test_a_label_makes_a_group_of_its_own(self, tmp_path):
        make_run(tmp_path, seed=0)
        make_run(tmp_path, seed=0, label="FPO, 4 steps")
        assert read_results([tmp_path], **RETURNS).labels == ["FPO", "FPO, 4 steps"]

    def test_settings_that_share_a_label_are_told_apart_on_every_task(self, tmp_path):
        """As a sweep leaves them that was extended by another value, on one of two tasks."""
        for seed in (0, 1):
            make_run(tmp_path / "first", seed=seed, score=100)
            make_run(tmp_path / "second", seed=seed, score=200, optim={"lr": 1e-4})
            make_run(tmp_path / "first", "BallInCup", seed=seed, score=300, optim={"lr": 1e-4})
        make_run(tmp_path / "first", loss="PPO")
        slow, fast = "FPO optim.lr=0.0001", "FPO optim.lr=0.001"
        results = read_results([tmp_path], **RETURNS)
        assert results.labels == [slow, fast, "PPO"]
        assert [list(results.scores("PointMass", label)) for label in (slow, fast)] == [[200, 200], [100, 100]]
        assert list(results.scores("BallInCup", slow)) == [300, 300]

    @pytest.mark.parametrize(
        ("labels", "kept"),
        [
            (["PPO", "FPO"], ["PPO", "FPO optim.lr=0.0001", "FPO optim.lr=0.001"]),
            (["FPO optim.lr=0.001"], ["FPO optim.lr=0.001"]),
            (["FPO optim.lr=0.001", "FPO"], ["FPO optim.lr=0.001", "FPO optim.lr=0.0001"]),
        ],
    )
    def test_a_label_stands_for_all_of_its_settings(self, tmp_path, labels, kept):
        for name, lr in (("a", 1e-3), ("b", 1e-4)):
            make_run(tmp_path / name, optim={"lr": lr})
        make_run(tmp_path, loss="PPO")
        results = read_results([tmp_path], **RETURNS, labels=labels)
        assert results.labels == kept
        assert len(results.runs) == len(kept)

    def test_only_the_settings_that_differ_tell_apart(self, tmp_path):
        """What a task's own preset changes is no difference between the runs of a task."""
        make_run(tmp_path / "a", trainer={"num_epochs": 1, "gamma": 0.9})
        make_run(tmp_path / "b", trainer={"num_epochs": 2, "gamma": 0.9})
        make_run(tmp_path / "a", "BallInCup", trainer={"num_epochs": 1, "gamma": 0.5})
        labels = read_results([tmp_path], **RETURNS).labels
        assert labels == ["FPO trainer.num_epochs=1", "FPO trainer.num_epochs=2"]

    def test_runs_behind_links_are_found_once(self, tmp_path):
        real = make_run(tmp_path / "elsewhere" / "deep")
        runs = tmp_path / "runs"
        runs.mkdir()
        (runs / "there").symlink_to(tmp_path / "elsewhere")
        (runs / "again").symlink_to(real)
        (real / "up").symlink_to(runs)  # round and round
        (run,) = read_results([runs], **RETURNS).runs
        assert run.directory.resolve() == real

    def test_a_run_named_twice_is_read_once(self, tmp_path):
        directory = make_run(tmp_path)
        assert len(read_results([directory, tmp_path, tmp_path / "." / directory.name], **RETURNS).runs) == 1

    def test_other_config_files_are_no_runs(self, tmp_path):
        make_run(tmp_path)
        (tmp_path / "conf").mkdir()
        (tmp_path / "conf" / "config.yaml").write_text("defaults: []\n")
        assert len(read_results([tmp_path], **RETURNS).runs) == 1

    def test_runs_from_before_provenance(self, tmp_path):
        run = read_run(make_run(tmp_path, status=None))
        assert (run.status, run.device) == ("finished", "unknown")
        assert run.score("random", worst=0) == 500

    def test_the_evaluation_of_a_run_that_went_on_does_not_count(self, tmp_path):
        directory = make_run(tmp_path)
        path = directory / "provenance.json"
        path.write_text(path.read_text().replace("finished", "running"))
        assert read_run(directory).score("random", worst=0) is None

    def test_a_run_as_fpo_train_leaves_it(self, tmp_path, monkeypatch):
        monkeypatch.setattr("fpo_torchrl.runs.run.draw_learning_curve", lambda *args, **kwargs: None)
        run = start_run(tiny.compose(*tiny.GRIDWORLD, f"run_dir={tmp_path / 'run'}"))
        evaluations = run.train()
        record = read_run(tmp_path / "run")
        assert (record.task, record.label, record.seed, record.status) == ("gridworld/two_walls", "FPO", 0, "finished")
        assert record.frames == 256
        assert record.score("zero", worst=0) == evaluations["zero"].mean
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
        assert f"seed 3 on PointMass is there twice with the same settings, in {one} (finished) and {other}" in err
        assert not (tmp_path / "out").exists()

    def test_an_algorithm_that_is_not_there(self, tmp_path, fpo_report):
        make_run(tmp_path)
        code, _, err = fpo_report(tmp_path, "--algorithms", "SAC")
        assert code == 2
        assert "no runs of SAC: the runs found are of FPO" in err

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("provenance.json", "{", "Expecting property name"),
            ("config.yaml", "seed: 1\n", "KeyError: 'task'"),
            ("config.yaml", "seed: [1\n", "ParserError"),
            ("config.yaml", "3", "Invalid loaded object type: int"),
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

    @pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
    def test_a_best_return_that_is_none(self, tmp_path, fpo_report, value):
        make_run(tmp_path / "runs")
        code, _, err = fpo_report(tmp_path / "runs", "--out", tmp_path / "out", f"--max-return={value}")
        assert code == 2
        assert f"--max-return {value} is out of range: it must be above --min-return 0, both of them finite" in err

    @pytest.mark.parametrize("value", ["1000", "nan", "-inf"])
    def test_a_worst_return_that_is_none(self, tmp_path, fpo_report, value):
        make_run(tmp_path / "runs")
        code, _, err = fpo_report(tmp_path / "runs", "--out", tmp_path / "out", f"--min-return={value}")
        assert code == 2
        assert f"it must be above --min-return {value}, both of them finite" in err

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
    @pytest.mark.parametrize(("scale", "decimals"), [(1000, 0), (100, 0), (20, 1), (1, 2), (0.5, 3)])
    def test_decimals_follow_the_size_of_returns(self, scale, decimals):
        assert decimals_of(scale) == decimals


def test_errors_are_for_users(tmp_path):
    with pytest.raises(ConfigError):
        read_results([tmp_path], **RETURNS)
