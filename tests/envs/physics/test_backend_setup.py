"""How MJX and Warp are set up, and what they refuse; nothing is compiled."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import mujoco
import pytest
import torch

from fpo_torchrl import make_env
from fpo_torchrl.envs.control import CONTROL_TASKS, ControlEnv
from fpo_torchrl.envs.jax_bridge import jax_device, load_jax
from fpo_torchrl.envs.physics.backends import DEVICE_BACKENDS


@pytest.mark.parametrize(
    ("backend", "package"), [("mjx", "jax"), ("mjx", "mujoco.mjx"), ("warp", "warp"), ("warp", "mujoco_warp")]
)
def test_without_the_optional_packages_the_error_says_how_to_install_them(backend, package, monkeypatch):
    if package == "mujoco.mjx":
        pytest.importorskip("jax")
        monkeypatch.delattr(mujoco, "mjx", raising=False)
    monkeypatch.setitem(sys.modules, package, None)  # importing it raises
    with pytest.raises(ImportError, match=rf"pip install 'fpo-torchrl\[{backend}\]'$"):
        make_env("CartpoleBalance", backend=backend)


@pytest.mark.parametrize(
    ("environment", "preallocate", "cache"),
    [
        ({"HOME": "/home/a"}, "false", "/home/a/.cache/fpo_torchrl/jax"),
        ({"XDG_CACHE_HOME": "/cache"}, "false", "/cache/fpo_torchrl/jax"),
        ({"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}, "true", None),
    ],
)
def test_jax_is_set_up_before_it_is_imported(environment, preallocate, cache, monkeypatch):
    for name in ("XDG_CACHE_HOME", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = {}
    config = SimpleNamespace(jax_compilation_cache_dir=None, update=settings.__setitem__)
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(config=config))
    load_jax("mjx")
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == preallocate
    assert settings["jax_compilation_cache_dir"] == cache or cache is None
    settings.clear()
    config.jax_compilation_cache_dir = "theirs"  # as JAX_COMPILATION_CACHE_DIR sets it
    load_jax("mjx")
    assert settings == {}


def test_a_device_that_jax_lacks_is_refused():
    pytest.importorskip("jax")
    with pytest.raises(ValueError, match=r"the device 'cuda:99'"):
        jax_device(torch.device("cuda:99"), "mjx")


@pytest.mark.parametrize("backend", DEVICE_BACKENDS)
def test_a_number_of_threads_is_refused(backend):
    with pytest.raises(
        ValueError, match=f"num_threads is a setting of backend='c', got num_threads=2 with '{backend}'"
    ):
        ControlEnv("CartpoleBalance", num_envs=1, backend=backend, num_threads=2)


@pytest.mark.parametrize("backend", DEVICE_BACKENDS.values())
@pytest.mark.parametrize("name", ["num_envs", "num_substeps"])
def test_counts_below_one_are_refused(name, backend):
    model = CONTROL_TASKS["CartpoleBalance"].build_spec().compile()
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        backend(model, **{"num_envs": 1, name: 0})
