"""The environment that a trained policy is evaluated in."""

from __future__ import annotations

import pytest
from tiny import compose

from fpo_torchrl import trained


@pytest.mark.parametrize(
    ("changes", "device", "backend"),
    [
        (["task=CartpoleBalance", "env.backend=warp"], "cpu", "c"),
        (["task=CartpoleBalance", "env.backend=warp"], "cuda", "warp"),
        (["task=CartpoleBalance"], "cpu", None),
        (["task=gym/Own-v0", "env.backend=positional"], "cpu", "positional"),
        (["task=own", "env._target_=own.make", "env.backend=mjx"], "cpu", "mjx"),
    ],
)
def test_on_a_cpu_only_our_own_physics_is_native_mujocos(changes, device, backend, monkeypatch):
    built = {}
    monkeypatch.setattr("fpo_torchrl.builders.build", lambda node, path, **context: built.update(node | context))
    monkeypatch.setattr(trained, "check_device", lambda device, error: device)  # as if there were one
    trained.task_env(compose(*changes), 3, device)
    assert (built["backend"], built["spread_episodes"]) == (backend, False)
    assert (built["num_envs"], built["device"]) == (3, device)
