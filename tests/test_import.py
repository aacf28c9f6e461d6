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


def imports() -> dict[str, set[str]]:
    """What each file of the package imports of its other files when it is imported."""
    names = {path: ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    files = {name.removesuffix(".__init__") for name in names.values()} - {"__init__"}
    found: dict[str, set[str]] = {}
    for path, name in names.items():
        nodes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
        folder = f"fpo_torchrl.{name.rpartition('.')[0]}".rstrip(".")  # "from ." is of the same one throughout
        modules = [(f"{folder}." if node.level else "") + f"{node.module}" for node in nodes]
        there = [f"{module}.{it.name}" for node, module in zip(nodes, modules, strict=True) for it in node.names]
        reached = {it.removeprefix("fpo_torchrl.") for it in there if it.startswith("fpo_torchrl.")}
        found[name] = ({it.rpartition(".")[0] for it in reached} | reached) & files
    return found


def arrows() -> dict[str, set[str]]:
    """The same of its parts, each a file or a folder."""
    found: dict[str, set[str]] = {}
    for name, others in imports().items():
        part = name.partition(".")[0]
        found.setdefault(part, set()).update({other.partition(".")[0] for other in others} - {part})
    return found


def test_parts_import_each_other_one_way():
    parts = [*TopologicalSorter(arrows()).static_order()]  # which a circle would stop
    assert parts.index("functional") < parts.index("trainer") < parts.index("runs") < parts.index("train")


@pytest.mark.parametrize("part", ["evaluate", "trained", "distill.command", "export.command"])
def test_what_evaluates_does_not_import_what_trains_runs(part):
    found, reached = imports(), {part}
    while more := {name for one in reached for name in found.get(one, ())} - reached:
        reached |= more
    assert {"evaluation", "checkpoint"} & reached
    assert not {"runs.run", "runs.start", "runs.auto_resume", "seeds.run", "train"} & reached
    assert "runs.run" in found["runs.start"]  # they are called so
