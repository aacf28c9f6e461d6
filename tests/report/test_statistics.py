"""The statistics of reports, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from recorded import make_run

from fpo_torchrl.report import statistics
from fpo_torchrl.report.runs import read_run
from fpo_torchrl.report.statistics import (
    difference,
    estimate,
    iqm,
    mean,
    mean_curve,
    probability_of_improvement,
    profile,
)


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

    @pytest.mark.parametrize(("ones", "runs", "low", "high"), [(5, 10, 2, 8), (1, 10, 0, 3), (15, 30, 10, 20)])
    def test_the_interval_of_successes(self, ones, runs, low, high):
        """Drawn again they are binomial, with these 2.5 % and 97.5 % quantiles; 15 of 30: 11 and 19 at 5 and 95 %."""
        found = estimate(mean, [np.array([1.0] * ones + [0.0] * (runs - ones))])
        assert (found.low, found.high) == (pytest.approx(low / runs), pytest.approx(high / runs))

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

    def test_the_difference_weighs_tasks_equally(self):
        x, y = [np.array([0.0, 2]), np.array([30.0])], [np.array([4.0]), np.array([10.0, 20, 30])]
        assert difference(*x, *y) == (1 - 4 + 30 - 20) / 2

    def test_the_interval_of_a_difference(self):
        """Beside runs that agree, it is the interval of the others: 5 of 10 successes, binomial as above."""
        found = estimate(difference, [np.full(3, 2.0), np.array([1.0] * 5 + [0.0] * 5)])
        assert (found.value, found.low, found.high) == (1.5, pytest.approx(1.2), pytest.approx(1.8))

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

    def test_a_run_that_diverged_before_its_first_value_counts_as_the_worst(self, tmp_path):
        finished, diverged = (
            read_run(make_run(tmp_path, seed=i, score=400, status=s)) for i, s in enumerate(("finished", "diverged"))
        )
        diverged.metrics[:] = [{"frames": row["frames"]} for row in diverged.metrics]
        frames, curve = mean_curve([finished, diverged], "return", worst=-100.0)
        np.testing.assert_allclose(frames, [100, 200, 300, 400])
        np.testing.assert_allclose(curve.value, [0, 50, 100, 150])  # of 100, 200, 300, 400 and -100

    def test_a_mean_begins_where_all_runs_have_values(self, tmp_path):
        finished, diverged = (
            read_run(make_run(tmp_path, seed=i, score=400, status=s)) for i, s in enumerate(("finished", "diverged"))
        )
        del diverged.metrics[0]["return"]
        frames, curve = mean_curve([finished, diverged], "return")
        np.testing.assert_allclose(frames, [200, 300, 400])
        np.testing.assert_allclose(curve.value, [200, 150, 200])  # 200, 300 and 400 with 200, 0 and 0

    def test_curves_without_frames_in_common_have_no_mean(self, tmp_path):
        early, late = (read_run(make_run(tmp_path, seed=seed)) for seed in (0, 1))
        for row in late.metrics:
            row["frames"] += 1000
        assert mean_curve([early, late], "return") is None

    def test_a_long_curve_is_thinned(self, tmp_path):
        run = read_run(make_run(tmp_path))
        run.metrics[:] = [{"frames": float(i), "return": float(i)} for i in range(1, 5001)]
        frames, curve = mean_curve([run], "return")
        assert len(frames) == statistics.MAX_POINTS
        assert (frames[0], frames[-1]) == (1, 5000)
        np.testing.assert_allclose(curve.value, frames)
