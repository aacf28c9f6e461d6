"""The soak test itself, with a handful of kills; and that it would see what it looks for."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import soak


@pytest.fixture(scope="module")
def soaked(tmp_path_factory):
    """A run killed five times, each time after training at most a fifth of a second."""
    it = soak.Soak(tmp_path_factory.mktemp("soak"), seed=1, max_s=0.2)
    it.story(0, lambda: it.count[soak.KILLED] >= 5)
    return it


def test_nothing_goes_wrong(soaked):
    assert soaked.wrong == []
    assert soaked.codes[soak.KILLED][-9] >= 4
    assert set(soaked.codes.get(soak.FULL_DISK, [3])) == {3}


def test_it_knows_the_undisturbed_run(soaked):
    assert len(soaked.states) == len(soaked.rows) == 20
    assert len(set(soaked.states.values())) == 20


def test_it_sees_a_lost_row_and_another_state(soaked):
    undisturbed = soaked.work / "undisturbed"
    assert soaked.has_rows(undisturbed, 1280)
    first, second, *_ = soak.whole_checkpoints(undisturbed)
    assert soak.state_of(first) != soak.state_of(second)
    lines = (undisturbed / "metrics.csv").read_text().splitlines(keepends=True)
    (undisturbed / "metrics.csv").write_text("".join([*lines[:5], *lines[6:]]))
    assert not soaked.has_rows(undisturbed, 1280)
    soak.cut(first, random.Random(0))
    assert len(soak.whole_checkpoints(undisturbed)) == 19


def test_it_sees_an_end_without_a_message(soaked):
    for said, code in (("Traceback (most recent call last): ...", 1), ("", 3), ("error: no", 1)):
        before = len(soaked.wrong)
        soaked.check_message(said, code, soak.KILLED)
        assert len(soaked.wrong) == before + 1
    soaked.check_message("error: could not write", 3, soak.FULL_DISK)
    assert len(soaked.wrong) == before + 1
