"""``import fpo_torchrl`` costs little beside TorchRL's own import, finds all of its packages, and goes one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fpo_torchrl"
SCRIPT = """
import sys
import torchrl.collectors, torchrl.envs, torchrl.modules, torchrl.objectives, torchrl.trainers
sys.stderr.write("TorchRL is there\\n")
import fpo_torchrl
"""
"""What a program with TorchRL's PPO imports, and then this package."""
HEAVY = {"mujoco", "matplotlib", "jax", "scipy", "optuna", "onnx", "onnxruntime", "wandb", "pandas", "sklearn"}


def own_times(log: str) -> dict[str, int]:
    """Microseconds that each module took by itself, of a log of ``-X importtime``."""
    lines = re.findall(r"^import time:\s*(\d+) \|\s*\d+ \|\s*(\S+)$", log, flags=re.M)
    return {module: int(microseconds) for microseconds, module in lines}


def share_and_modules() -> tuple[float, set[str]]:
    """This package's import as a share of TorchRL's in the same process, and the top-level modules that it loads.

    Within one process other work on the machine slows both parts alike.
    """
    command = [sys.executable, "-X", "importtime", "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=250)
    torchrl, ours = map(own_times, done.stderr.split("TorchRL is there\n"))
    return sum(ours.values()) / sum(torchrl.values()), {module.partition(".")[0] for module in ours}


def test_it_takes_less_than_a_tenth_of_what_torchrl_takes_and_loads_nothing_heavy():
    share, loaded = share_and_modules()
    assert "fpo_torchrl" in loaded
    assert not HEAVY & loaded
    for _ in range(2):  # more chances for a moment of peace
        share = share if share < 0.1 else share_and_modules()[0]
    assert share < 0.1


def test_every_package_is_installed():
    root = Path(__file__).parents[1]
    there = {".".join(path.parent.relative_to(root).parts) for path in root.glob("fpo_torchrl/**/__init__.py")}
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {*listed} == there | {"fpo_torchrl.conf"}  # which is in conf/


def arrows() -> dict[str, set[str]]:
    """What each part of the package, a file or a folder, imports of the other parts when it is imported."""
    parts = {path.stem for path in PACKAGE.iterdir()} - {"__init__", "__pycache__", "conf"}
    found: dict[str, set[str]] = {part: set() for part in parts}
    for path in PACKAGE.rglob("*.py"):
        part = Path(path.relative_to(PACKAGE).parts[0]).stem
        for node in ast.parse(path.read_text()).body if part in parts else ():
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                imported = [f"{node.module}.{alias.name}".split(".") for alias in node.names]
                found[part] |= {name for root, name, *_ in imported if root == "fpo_torchrl"} & parts - {part}
    return found


def test_parts_import_each_other_one_way():
    assert {"run", "seeds", "train"} <= {*TopologicalSorter(arrows()).static_order()}  # which a circle would stop


@pytest.mark.parametrize("part", ["evaluate", "trained", "distill", "export"])
def test_what_evaluates_does_not_import_what_trains_runs(part):
    found, reached = arrows(), {part}
    while more := {name for one in reached for name in found[one]} - reached:
        reached |= more
    assert {"evaluation", "checkpoint"} & reached
    assert not {"run", "start", "auto_resume", "seeds", "train"} & reached
