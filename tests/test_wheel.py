"""The wheel, installed without the repository into clean environments, does what the README says from any directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parents[1]
VERSIONS = {
    "lowest": ("torch==2.9.0", "torchrl==0.14.1", "tensordict==0.14.3"),
    "newest": ("torch==2.13.0", "torchrl==0.14.1", "tensordict==0.14.3"),
}
"""The lowest torch that pyproject.toml allows, and the newest that the checks run with."""
HEAVY = {
    *("jax", "mujoco-mjx", "playground", "optuna", "hydra-submitit-launcher", "onnx", "onnxruntime", "scipy"),
    *("mujoco-warp", "warp-lang"),
    *("tensorboard", "wandb", "mkdocs", "pytest", "scikit-learn", "pandas", "ray"),
}
"""What only extras bring."""
SETTINGS = (*tiny.CARTPOLE, "run_dir=runs/wheel")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def run(*command: object, cwd: Path) -> str:
    """What a command prints; the repository is not on its path."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module", params=VERSIONS)
def installed(request, wheel, tmp_path_factory) -> Path:
    """The programs of an environment of its own with the wheel and nothing of ``dev``."""
    directory = tmp_path_factory.mktemp(request.param)
    run(sys.executable, "-m", "venv", directory / "venv", cwd=directory)
    programs = directory / "venv/bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", *VERSIONS[request.param], wheel, cwd=directory)
    return programs


def test_it_trains_goes_on_and_evaluates_from_another_directory(installed, tmp_path):
    run(installed / "fpo-train", *SETTINGS, cwd=tmp_path)
    run(installed / "fpo-train", "resume=runs/wheel", "total_frames=320", cwd=tmp_path)
    assert json.loads((tmp_path / "runs/wheel/evaluation.json").read_text())["frames"] == 320
    table = run(installed / "fpo-eval", "runs/wheel", "episodes=2", "solvers=[euler,heun]", "steps=[1,2]", cwd=tmp_path)
    assert table.count("num_steps=") == 8  # each with random and with zero noise
    run(installed / "fpo-export", "runs/wheel", "--format", "torchscript", cwd=tmp_path)
    assert (tmp_path / "runs/wheel/policy.ts").is_file()


@pytest.mark.parametrize("preset", ["fpo", "fpo_playground", "fpopp", "gridworld", "ppo"])
def test_it_finds_its_presets_from_another_directory(installed, tmp_path, preset):
    config = run(installed / "fpo-train", f"experiment={preset}", "--cfg", "job", cwd=tmp_path)
    assert "\nactor:\n" in config
    assert "\ntotal_frames:" in config


def test_what_is_installed_is_light_and_the_rest_is_an_extra(installed, tmp_path):
    listed = json.loads(run(installed / "python", "-m", "pip", "list", "--format=json", cwd=tmp_path))
    assert not {entry["name"].lower() for entry in listed} & HEAVY
    code = "from importlib.metadata import metadata; print(*metadata('fpo-torchrl').get_all('Provides-Extra'))"
    extras = set(run(installed / "python", "-c", code, cwd=tmp_path).split())
    assert {"mjx", "playground", "warp", "sweep", "report", "export", "dev"} <= extras


def test_it_is_the_installed_package_that_runs(installed, tmp_path):
    code = "import fpo_torchrl, pathlib; print(pathlib.Path(fpo_torchrl.__file__).parents[1])"
    assert Path(run(installed / "python", "-c", code, cwd=tmp_path).strip()).name == "site-packages"


def test_it_holds_no_file_of_tests_or_examples(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert {name.partition("/")[0].partition("-")[0] for name in archive.namelist()} == {"fpo_torchrl"}
