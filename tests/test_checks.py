"""A choice that is refused, and the names that may have been meant."""

from __future__ import annotations

import pytest

from fpo_torchrl.checks import check_choice, closest
from fpo_torchrl.errors import ConfigError


@pytest.mark.parametrize("value", ["sum", None])
def test_a_choice_is_accepted(value):
    check_choice("reduction", value, {"mean": 0, "sum": 1, None: 2})


@pytest.mark.parametrize(
    ("value", "end"),
    [
        ("x", "got 'x'"),
        ("Mean", "got 'Mean'; did you mean 'mean'?"),
        (["sum"], "got ['sum']; did you mean 'sum'?"),  # a list has no hash, and the choices may be a dict's
        (None, "got None"),
    ],
)
def test_another_one_is_refused(value, end):
    with pytest.raises(ConfigError) as caught:
        check_choice("reduction", value, {"mean": 0, "sum": 1}, error=ConfigError)
    assert str(caught.value) == f"reduction must be one of mean, sum, {end}"


class TestClosest:
    known = ("gym/Walker-v4", "gym/Walker-v5", "BallInCup", "gridworld/two_walls")

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("ball_in_cup", ["BallInCup"]),
            ("Walker-v5", ["gym/Walker-v5", "gym/Walker-v4"]),
            ("gym/walker_v5", ["gym/Walker-v5", "gym/Walker-v4"]),
            ("Two-Wals", ["gridworld/two_walls"]),
            ("", []),
            (3, []),
        ],
    )
    def test_case_punctuation_and_family_do_not_count(self, name, expected):
        assert closest(name, self.known, 3) == expected

    def test_only_as_many_as_asked_for(self):
        assert closest("Walker-v5", self.known) == ["gym/Walker-v5"]
