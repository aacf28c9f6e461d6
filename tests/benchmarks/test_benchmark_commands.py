"""Every benchmark is a command that says what it does; most run for minutes, so here they only show their help."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMMANDS = [path for path in sorted(BENCHMARKS.rglob("*.py")) if "ArgumentParser(" in path.read_text()]


def test_all_are_found():
    assert {"learning.py", "pair_noise.py", "seeds.py"} <= {path.name for path in COMMANDS}


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.relative_to(BENCHMARKS).as_posix())
def test_a_benchmark_shows_its_help(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.syspath_prepend(str(path.parent))
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(path), run_name="__main__")
    assert exit_.value.code == 0
    assert f"usage: {path.name}" in capsys.readouterr().out
