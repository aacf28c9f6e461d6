"""What a search chooses from."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("optuna")

from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.sweep.space import SearchSpace, distribution


def test_what_there_is_to_choose_from():
    expected = {
        "a=choice(x,y)": CategoricalDistribution(["x", "y"]),
        "a=1,[2,3]": CategoricalDistribution(["1", "[2,3]"]),
        "a=range(1,10,4)": IntDistribution(1, 9, step=4),
        "a=range(1,9,4)": IntDistribution(1, 5, step=4),
        "a=range(0,1,0.5)": CategoricalDistribution(["0.0", "0.5"]),
        "a=range(4,0,-2)": CategoricalDistribution(["4", "2"]),
        "a=interval(0.5,2)": FloatDistribution(0.5, 2.0),
        "a=int(interval(2,8))": IntDistribution(2, 8),
        "a=tag(log,interval(1e-5,1e-2))": FloatDistribution(1e-5, 1e-2, log=True),
    }
    parser = OverridesParser.create()
    assert {text: distribution(parser.parse_override(text)) for text in expected} == expected


@pytest.mark.parametrize("values", ["interval(2,1)", "range(5,1)", "tag(log,interval(0,1))", "glob(*)"])
def test_from_nothing_there_is_no_choice(values):
    override = OverridesParser.create().parse_override(f"optim.lr={values}")
    with pytest.raises(ConfigError, match=re.escape(f"optim.lr={values}: ")):
        distribution(override)


def test_a_search_whose_first_choices_are_wrong_is_begun():
    """Its trials with others go on."""
    SearchSpace(("experiment=bandit", "num_envs=choice(-1,8)", "optim.lr=choice(0.1,0.2,0.3)"), (0,)).check()


def test_the_seeds_are_no_setting_to_choose():
    for override in ("seed=0,1", "seed=7"):
        with pytest.raises(ConfigError, match=f"{override}: every trial of a search has a run for each of its seeds"):
            SearchSpace(("experiment=bandit", "optim.lr=choice(0.1,0.2)", override), (0, 1))


def test_a_label_of_ones_own_comes_before_what_was_chosen():
    points = SearchSpace(("label='wide net'", "optim.lr=choice(0.1,0.2)"), (4,)).points({"optim.lr": "0.1"})
    assert points == [["optim.lr=0.1", "label='wide net optim.lr=0.1'", "seed=4"]]
    points = SearchSpace(("label=null", "optim.lr=choice(0.1,0.2)"), (4,)).points({"optim.lr": "0.1"})
    assert points == [["optim.lr=0.1", "label='optim.lr=0.1'", "seed=4"]]
