"""The options of the commands and the arguments of the functions behind them."""

from __future__ import annotations

import inspect
from argparse import ArgumentParser
from pathlib import Path

import pytest

from fpo_torchrl.cli import take_defaults
from fpo_torchrl.distill import command as distill
from fpo_torchrl.export import command as export
from fpo_torchrl.report import command as report
from fpo_torchrl.report import gridworld_command as gridworld
from fpo_torchrl.report import humanoid


def train(task, *, seed=3, sizes=(1, 2)):
    """Stands for a command's function."""


def test_options_have_the_defaults_of_the_function():
    parser = ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("--seed", type=int, help="default: %(default)s")
    parser.add_argument("--sizes", type=int, nargs="+", help="default: %(default)s")
    assert take_defaults(parser, train) is parser
    assert vars(parser.parse_args(["bandit"])) == {"task": "bandit", "seed": 3, "sizes": (1, 2)}
    assert vars(parser.parse_args(["bandit", "--seed", "4"])) == {"task": "bandit", "seed": 4, "sizes": (1, 2)}
    assert "default: 3" in parser.format_help()
    assert "default: 1 2\n" in parser.format_help()


@pytest.mark.parametrize(
    ("parser", "function"),
    [
        (distill.parser, distill.distill_run),
        (export.parser, export.export_run),
        (gridworld.parser, gridworld.show),
        (report.parser, report.report),
    ],
)
def test_a_command_without_options_calls_its_function_without_them(parser, function):
    signature = inspect.signature(function)
    given = signature.bind(**vars(parser().parse_args(["runs/a"])))
    first, *others = signature.parameters
    assert given.arguments.pop(first) in (Path("runs/a"), [Path("runs/a")])
    assert given.arguments == {name: signature.parameters[name].default for name in others}


def test_fpo_humanoid_scores_each_motion_once_without_noise():
    given = humanoid.parser().parse_args(["runs/a"])
    assert ([*given.noise], given.episodes, given.motions) == (["zero"], 1, None)
