"""Each check finds the sickness it is for, in rows made by hand, and keeps quiet on a healthy run."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from fpo_torchrl import doctor
from fpo_torchrl.doctor import diagnose
from fpo_torchrl.health import CHECKS, Watch, examine
from fpo_torchrl.loggers import MetricsCSV, read_metrics
from fpo_torchrl.report.runs import read_run
from fpo_torchrl.runs.start import start_run

RESULTS = Path(__file__).parents[1] / "benchmarks/results"
NOT_LEARNT = {"FingerTurnEasy", "FingerTurnHard", "FishSwim"}
LEARNED = sorted(path for path in RESULTS.glob("control/*/fpo/*/metrics.csv") if path.parts[-4] not in NOT_LEARNT)


def run_of(length: int = 40, **columns: Callable[[int], float]) -> list[dict[str, float]]:
    """A healthy run that learns, but for the columns given as functions of the iteration."""
    healthy: dict[str, Callable[[int], float]] = {
        "return": lambda i: 10.0 + i,
        "reward": lambda i: 0.1 + 0.01 * i,
        "first_ratio_error": lambda i: 1e-6,
        "cfm_loss_new": lambda i: 0.5 + 0.01 * i,
        "clip_fraction_positive": lambda i: 0.2,
        "clip_fraction_negative": lambda i: 0.1,
        "advantage_std": lambda i: 0.3,
        "action_saturation": lambda i: 0.1,
        "action_std": lambda i: 0.6,
        "grad_norm_actor": lambda i: 0.1 + 0.01 * i,
        "grad_norm_critic": lambda i: 1.0,
        "eval_zero": lambda i: 12.0 + i,
    }
    return [
        {"frames": 64.0 * (i + 1), **{name: of(i) for name, of in (healthy | columns).items()}} for i in range(length)
    ]


def checks(**columns: Callable[[int], float]) -> list[str]:
    """The names of the findings in a run that is healthy but for these columns."""
    return [finding.check for finding in examine(run_of(**columns))]


def late(before: float, after: float) -> Callable[[int], float]:
    """A column that changes for the last ten iterations."""
    return lambda i: before if i < 30 else after


SICK = {
    "non-finite": ({"loss_critic": lambda i: math.inf if i == 39 else 1.0}, "loss_critic is NaN or infinite"),
    "first ratio": ({"first_ratio_error": lambda i: 0.25}, "off 1 by 0.25"),
    "CFM loss": ({"cfm_loss_new": lambda i: 0.5 if i < 20 else 2.0}, "the loss is 2, 4.0 times that of the start"),
    "clip fraction": ({"clip_fraction_negative": lambda i: 0.75}, "75% of the ratios under negative advantages"),
    "advantage spread": ({"advantage_std": lambda i: 1e-5}, "standard deviation of 1e-05 before"),
    "noise gap": (
        {"eval_zero": lambda i: 150.0},
        "150 from zero start noise (of a Gaussian, its mode) and 49",
    ),
    "drop": (
        {"return": lambda i: 100.0 if i < 20 else 60.0, "eval_zero": lambda i: 60.0},
        "is 60, after a peak of 100",
    ),
    "saturation": (
        {"action_saturation": lambda i: 0.8, "reward": lambda i: 0.1 if i < 20 else 0.05},
        "80% of the actions are at a bound, and the reward per step is 0.05, after 0.1",
    ),
    "action spread": ({"action_std": lambda i: 0.5 if i < 20 else 0.02}, "deviation of 0.02, after 0.5"),
    "gradient norm": (
        {"grad_norm_critic": lambda i: 1.0 if i < 30 else 20.0},
        "critic's gradient has norm 20, where 1",
    ),
}


class TestChecks:
    def test_a_healthy_run_has_no_findings(self):
        for length in (1, 5, 40):
            assert examine(run_of(length)) == []
        assert examine([]) == []

    @pytest.mark.parametrize("check", SICK)
    def test_a_sick_run_has_the_one_it_should(self, check):
        columns, words = SICK[check]
        (finding,) = examine(run_of(**columns))
        assert (finding.check, finding.frames) == (check, 2560)
        assert words in str(finding)
        assert ". Try: " in str(finding)

    @pytest.mark.parametrize(
        ("check", "column", "before", "within", "beyond"),
        [
            ("first ratio", "first_ratio_error", 0, 0.0099, 0.0101),
            ("CFM loss", "cfm_loss_new", 1, 2.9, 3.1),
            ("clip fraction", "clip_fraction_positive", 0, 0.49, 0.51),
            ("advantage spread", "advantage_std", 1, 1.1e-3, 0.9e-3),
            ("action spread", "action_std", 1, 0.051, 0.049),
            ("gradient norm", "grad_norm_actor", 1, 9.9, 10.1),
        ],
    )
    def test_just_within_a_limit_is_well_and_just_beyond_is_not(self, check, column, before, within, beyond):
        assert checks(**{column: late(before, within)}) == []
        assert checks(**{column: late(before, beyond)}) == [check]

    def test_returns_of_nothing_have_no_gap(self):
        assert checks(**{"eval_zero": lambda i: 1.8e-39, "return": lambda i: 1.4e-11}) == []

    def test_a_smaller_pull_is_advice_for_a_run_that_has_one(self):
        (without,), (with_pull,) = (
            examine(run_of(**{"eval_zero": lambda i: 150.0, **more})) for more in ({}, {"loss_prior": lambda i: 0.1})
        )
        assert "prior_coeff" not in without.advice
        assert "a smaller loss.prior_coeff" in with_pull.advice

    def test_a_critics_gradient_may_grow_as_the_advantages_do(self):
        """When the first rewards come."""
        assert checks(grad_norm_critic=late(1, 20), advantage_std=late(0.1, 1)) == []
        assert checks(grad_norm_critic=late(1, 20), advantage_std=late(0.1, 0.15)) == ["gradient norm"]

    def test_saturated_actions_are_well_where_they_earn_a_tenth_more(self):
        assert checks(action_saturation=lambda i: 0.8, reward=late(1, 1.05)) == ["saturation"]
        assert checks(action_saturation=lambda i: 0.8, reward=late(1, 1.2)) == []

    def test_every_check_has_a_case(self):
        assert len(SICK) == len(CHECKS)

    def test_rows_that_lack_the_columns_are_no_finding(self):
        assert examine([{"frames": 64.0 * i, "return": math.nan} for i in range(1, 40)]) == []

    @pytest.mark.parametrize("name", sorted({*run_of(1)[0], "eval_random"} - {"frames", "return"}))
    def test_nan_is_one_sickness_and_a_sign_of_no_other(self, name):
        (finding,) = examine(run_of(**{name: lambda i: math.nan}))
        assert finding.seen == f"{name} is NaN or infinite"

    def test_falling_from_a_negative_peak(self):
        def falling_to(last: float) -> list[str]:
            return checks(**{"return": lambda i: (-1000.0, -200.0, last, last)[i // 10], "eval_zero": lambda i: last})

        assert falling_to(-500.0) == ["drop"]  # 300 of the 800 gained
        assert falling_to(-400.0) == []  # 200 of them

    def test_a_fall_while_the_policy_widens_is_told_as_such(self):
        falls = {"return": lambda i: 100.0 if i < 20 else 60.0, "eval_zero": lambda i: 60.0}
        (wider,) = examine(run_of(**falls, eval_action_spread=lambda i: 1.0 if i < 20 else 2.2))
        (narrower,) = examine(run_of(**falls, eval_action_spread=lambda i: 1.0 if i < 20 else 0.5))
        assert "actions in one state have a standard deviation of 2.2, after 1" in wider.seen
        assert "actor/target=velocity" in wider.advice
        assert "actions" not in narrower.seen

    def test_a_return_of_few_episodes_is_no_peak(self):
        falls = {"return": lambda i: 100.0 if i < 20 else 60.0, "eval_zero": lambda i: 60.0}
        assert examine(run_of(**falls, episodes=lambda i: float(i))) == []
        assert examine(run_of(**falls, episodes=lambda i: 100.0 + i)) != []

    def test_a_critic_that_warms_up_is_no_finding(self):
        assert examine(run_of(grad_norm_actor=lambda i: 0.0 if i < 30 else 0.3)) == []

    def test_a_run_that_never_learned_has_not_dropped(self):
        assert examine(run_of(**{"return": lambda i: -10.0 - i, "eval_zero": lambda i: -10.0 - i})) == []

    def test_a_return_that_was_positive_and_is_negative_has_dropped(self):
        assert checks(**{"return": late(5, -500), "eval_zero": lambda i: -500.0}) == ["drop"]

    def test_a_fall_between_evaluations_is_seen_while_training_returns_still_rise(self):
        (finding,) = examine(run_of(eval_zero=lambda i: 40.0 if i < 39 else 20.0))
        assert "return from zero start noise is 20, after a peak of 40" in finding.seen

    def test_a_training_return_that_moves_is_no_noise_gap(self):
        """It is of earlier policies, and behind what the present one earns."""
        rows = run_of(**{"return": lambda i: 10.0 * i, "eval_zero": lambda i: 1000.0})
        for i, row in enumerate(rows):
            if i not in (19, 39):
                del row["eval_zero"]
        assert examine(rows) == []

    @pytest.mark.parametrize("path", LEARNED, ids=lambda path: path.parts[-4])
    def test_recorded_runs_that_learned_show_nothing_serious(self, path):
        found = {finding.check for finding in examine(read_metrics(path))}
        assert found <= {"noise gap", "gradient norm", "drop"}

    def test_the_recorded_late_collapse_is_a_drop(self):
        run = read_run(RESULTS / "control_long/CartpoleBalance/fpo/seed3")
        assert max(run.series("eval_zero")[1]) > 990
        assert run.evaluation["random"]["mean"] < 300
        assert any("drop at frame" in finding for finding in diagnose(run)[1])
        assert not any("noise gap" in finding for finding in diagnose(run)[1])

    def test_gridworlds_runs_are_well(self):
        """Most of its actions are at a bound, and it is solved."""
        for path in RESULTS.glob("gridworld/*/fpo/*/metrics.csv"):
            assert examine(read_metrics(path)) == []


class TestWatch:
    def test_a_finding_is_told_once(self):
        rows = run_of(**SICK["saturation"][0])
        watch = Watch()
        assert [finding.check for finding in watch.new(rows)] == ["saturation"]
        assert watch.new(rows) == []

    def test_a_resumed_run_does_not_repeat_it(self):
        rows = run_of(**SICK["saturation"][0])
        assert Watch(rows).new(rows) == []

    def test_a_long_run_is_not_examined_at_each_row(self, monkeypatch):
        looks = []
        monkeypatch.setattr("fpo_torchrl.health.examine", lambda rows: looks.append(len(rows)) or [])
        watch, rows = Watch(), run_of(5000)
        looks.clear()
        for length in range(1, 5001):
            watch.new(rows[:length])
        assert looks[:150] == list(range(1, 151))
        assert len(looks) < 700
        assert all(later - earlier <= 1 + earlier / 100 for earlier, later in itertools.pairwise(looks))

    def test_training_tells_it_as_it_happens(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("fpo_torchrl.runs.run.draw_learning_curve", lambda *args, **kwargs: None)
        start_run(tiny.compose(*tiny.CARTPOLE, "normalizer=as_released", f"run_dir={tmp_path}")).train()
        printed = capsys.readouterr().out
        assert printed.count("warning: first ratio at frame 64: the first ratio of the update is off 1 by ") == 1
        assert "as normalizer=as_released does" in printed


class TestDoctor:
    @pytest.fixture
    def command(self, run_command):
        return lambda *arguments: run_command(doctor.main, *arguments)

    def run(self, directory: Path, rows: list[dict[str, float]], **provenance) -> Path:
        directory.mkdir()
        loss = "{_target_: fpo_torchrl.objectives.FPOLoss}"
        (directory / "config.yaml").write_text(f"task: X\nseed: 0\ntotal_frames: 2560\nloss: {loss}\n")
        (directory / "provenance.json").write_text(json.dumps({"status": "running", **provenance}))
        metrics = MetricsCSV(directory / "metrics.csv")
        for row in rows:
            metrics.log(row)
        return directory

    def test_a_healthy_run(self, command, tmp_path):
        run = self.run(tmp_path / "run", run_of())
        assert command(run)[:2] == (0, f"{run}: unfinished, 2560 of 2560 frames, return 49\n  nothing found\n")

    def test_a_damaged_newest_checkpoint(self, command, tmp_path):
        run = self.run(tmp_path / "run", run_of())
        (run / "checkpoints").mkdir()
        (run / "checkpoints" / "checkpoint-000000000064.torchrl").write_bytes(b"no archive")
        code, out, _ = command(run)
        assert code == 1
        assert "checkpoint: " in out
        assert "is truncated or damaged" in out

    def test_findings_and_the_error_of_a_diverged_run(self, command, tmp_path):
        self.run(tmp_path / "a", run_of(3), status="diverged", error="NonFiniteError: loss_critic became NaN")
        self.run(tmp_path / "b", run_of(**SICK["drop"][0]))
        code, out, _ = command(tmp_path)
        assert code == 1
        assert "a: diverged, 192 of 2560 frames, return 12\n  diverged: NonFiniteError: loss_critic became NaN" in out
        assert "b: unfinished, 2560 of 2560 frames, return 60\n  drop at frame 2560: " in out

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("config.yaml", "task: [X", "ParserError: while parsing a flow sequence"),
            ("config.yaml", "task: X\nseed: 0\nloss: {_target_: FPOLoss}\n", "KeyError: 'total_frames'"),
            ("config.yaml", "task: ${X\n", "ConfigError: "),
            ("metrics.csv", "frames,return\n64,x\n", "metrics.csv is damaged: could not convert"),
            ("provenance.json", "[]", "an object was expected, not []"),
        ],
    )
    def test_a_damaged_run_does_not_hide_the_others(self, command, tmp_path, name, content, words):
        damaged = self.run(tmp_path / "a", run_of())
        (damaged / name).write_text(content)
        sick = self.run(tmp_path / "b", run_of(**SICK["drop"][0]))
        code, out, _ = command(tmp_path)
        state, finding, other, drop = out.splitlines()
        assert (code, state) == (1, f"{damaged}: unreadable")
        assert finding.startswith("  damaged file: ")
        assert words in finding
        assert other.startswith(f"{sick}: unfinished")
        assert drop.startswith("  drop at frame 2560")

    def test_no_run(self, command, tmp_path):
        code, out, err = command(tmp_path)
        assert (code, out) == (2, "")
        assert f"there is no run in {tmp_path}" in err
        code, _, err = command(tmp_path / "none")
        assert code == 2
        assert "none is not a directory: expected one with runs" in err
