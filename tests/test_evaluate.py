"""What ``fpo-eval`` takes and shows, without a policy: settings, files to write, and decimals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fpo_torchrl import evaluate
from fpo_torchrl.evaluate import EvalConfig, evaluate_run, parsed
from fpo_torchrl.evaluation import Evaluation
from fpo_torchrl.export import command as export


@pytest.mark.parametrize(
    ("settings", "lists"),
    [
        ([], ([None], [None], ["random", "zero"], [None])),
        (["solvers=rk4", "steps=3", "noise=fixed", "output=t.md"], (["rk4"], [3], ["fixed"], ["t.md"])),
        (["solvers=[rk4,sde]", "steps=[1,5]", "noise=[zero]"], (["rk4", "sde"], [1, 5], ["zero"], [None])),
        (["output=['a b.csv',c.md]", "steps=[null,2]"], ([None], [None, 2], ["random", "zero"], ["a b.csv", "c.md"])),
    ],
)
def test_one_value_is_a_list_of_one(settings, lists):
    cfg = parsed(settings)
    assert (cfg.solvers, cfg.steps, cfg.noise, cfg.output) == lists


NUMBERS, NOISES = "steps: expected whole numbers from 1 on, got", "noise: expected any of random, zero, fixed, got"
SOLVERS = "solvers: expected any of euler, heun, midpoint, rk4, sde"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        *((f"steps={value}", f"{NUMBERS} {value}\n") for value in ("0", "-3", "1.5", "[]")),
        *((f"steps={value}", f"{NUMBERS} {got}\n") for value, got in {"true": "True", "[2,abc]": "'abc'"}.items()),
        *((f"noise={value}", f"{NOISES} {got}\n") for value, got in {"pink": "'pink'", "[]": "[]"}.items()),
        ("noise=null", f"{NOISES} None\n"),
        ("solvers=[]", SOLVERS),
        ("solvers=[euler,dopri]", SOLVERS),
        ("solvers=[euler,dopri]", ", got 'dopri'\n"),
        ("solvers=[[euler]]", ", got ['euler']\n"),
        ("output=[]", "output: expected names of files, got []\n"),
        ("output=1", "output: expected names of files, got 1\n"),
        ("seed=-1", "seed=-1 is out of range: it must be at least 0\n"),
        ("seed=-20000", "seed=-20000 is out of range"),
        ("episodes=0", "episodes=0 is out of range: it must be at least 1\n"),
        ("steps=[1,5", "steps=[1,5 cannot be read: expected a single value or a list such as [1,5]"),
        ("steps=*", "steps=* cannot be read"),
    ],
)
def test_a_wrong_value_is_refused_before_the_run_is_read(run_command, tmp_path, setting, words):
    code, out, err = run_command(evaluate.main, tmp_path / "none", setting)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(
    "setting", ["output={}/metrics.csv", "output=[t.md,{}/evaluation.json]", "output={}/measures.json"]
)
@pytest.mark.parametrize("there", [True, False])
def test_files_of_a_run_are_not_written_to(run_command, tmp_path, setting, there):
    """Nor where the run has none yet, as before its end."""
    (tmp_path / "config.yaml").touch()
    paths = [tmp_path / name for name in ("metrics.csv", "evaluation.json", "measures.json")]
    for path in paths if there else ():
        path.write_text("of the run")
    code, _, err = run_command(evaluate.main, tmp_path, setting.format(tmp_path))
    assert code == 2
    assert "would replace a file of the run there: choose another name" in err
    assert [path.read_text() for path in paths if path.exists()] == ["of the run"] * 3 * there


@pytest.mark.parametrize("setting", ["plot={}/learning_curve.png", "render={}/rollout.gif"])
def test_pictures_of_a_run_are_not_written_to(run_command, tmp_path, setting):
    (tmp_path / "config.yaml").touch()
    code, _, err = run_command(evaluate.main, tmp_path, setting.format(tmp_path))
    assert code == 2
    assert f"{setting.format(tmp_path)} would replace a file of the run there" in err


def test_elsewhere_these_names_are_free(tmp_path):
    assert parsed([f"output={tmp_path}/metrics.csv", f"plot={tmp_path}/learning_curve.png"]).plot is not None
    (tmp_path / "config.yaml").touch()
    assert parsed([f"output={tmp_path}/table.csv"]).output == [f"{tmp_path}/table.csv"]


@pytest.mark.parametrize(
    ("returns", "mean", "interval"),
    [
        ([0.142, 0.142], "0.142", "[0.142, 0.142]"),
        ([-0.0271, -0.0271], "-0.0271", "[-0.0271, -0.0271]"),
        ([812.34, 812.34], "812.3", "[812.3, 812.3]"),
        ([0.0, 0.0], "0.00", "[0.00, 0.00]"),
    ],
)
def test_returns_have_three_digits_and_a_decimal(monkeypatch, tmp_path, capsys, returns, mean, interval):
    evaluates(monkeypatch, returns)
    evaluate_run("run", EvalConfig(noise="zero", output=f"{tmp_path}/table.md"))
    (row,) = (line.split() for line in capsys.readouterr().out.splitlines() if " zero " in line)
    assert row[:5] == ["Gaussian", "zero", mean, *interval.split()]
    assert f"| Gaussian | 0 | zero | {mean} | {interval} |" in (tmp_path / "table.md").read_text()


def evaluates(monkeypatch, returns: list[float]) -> None:
    """Let ``fpo-eval`` find a policy that earns ``returns``."""
    policy: Any = SimpleNamespace(
        actor=None, env=SimpleNamespace(device="cpu"), cfg=SimpleNamespace(task="X", device="cpu", num_threads=None)
    )
    policy.checkpoint, policy.frames = "newest.torchrl", 64
    monkeypatch.setattr(evaluate, "load_policy", lambda *args, **kwargs: policy)
    monkeypatch.setattr(evaluate, "evaluate", lambda *args, **kwargs: Evaluation(returns, 0.001, 0.5))


def test_a_picture_that_cannot_be_drawn_costs_no_numbers(monkeypatch, tmp_path, capsys):
    def record(*args, **kwargs):
        raise OSError("no screen")

    evaluates(monkeypatch, [1.0])
    monkeypatch.setattr(evaluate, "task_env", record)
    rows = evaluate_run("run", EvalConfig(render=f"{tmp_path}/film.gif", output=f"{tmp_path}/table.md"))
    assert f"no {tmp_path}/film.gif: drawing failed (OSError: no screen)" in capsys.readouterr().out
    assert len(rows) == 2
    assert (tmp_path / "table.md").is_file()


@pytest.mark.parametrize("main", [evaluate.main, export.main])
def test_of_a_directory_with_several_seeds_one_run_is_named(run_command, tmp_path, main):
    for seed in (0, 1):
        (tmp_path / f"seed{seed}").mkdir()
        (tmp_path / f"seed{seed}" / "config.yaml").touch()
    code, _, err = run_command(main, tmp_path)
    assert code == 3
    assert str(tmp_path / "seed0") in err
