"""Every option and every preset in conf/ builds what it names."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict

from fpo_torchrl import cli, errors
from fpo_torchrl.builders import build, build_agent, env_maker, signature
from fpo_torchrl.config import COMPONENTS, SUPPLIED
from fpo_torchrl.envs.probe import ProbeEnv
from fpo_torchrl.envs.registry import list_tasks

CONF = Path(str(resources.files("fpo_torchrl.conf")))
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
"""All presets; what several have in common is in a directory of its own."""
NEEDS_A_VALUE = {"loss/cfm_loss_clamp": "high=2", "loss/log_ratio_clamp": "high=2"}
"""Groups whose options have no default that means anything."""


def choices() -> Iterator[dict[str, str]]:
    """As many choices of one option per group as the largest group has options: each option is in one of them.

    The baselines have no options of their own, so they are one choice more each.
    """
    options = {}
    for group, components in COMPONENTS.items():
        files = {path.stem for path in (CONF / group).glob("*.yaml")}
        options[group] = sorted({name for name in files | set(components) if not name.endswith("_schema")})
        options[group] = [name for name in options[group] if name not in LEFT_OUT]
    for i in range(max(map(len, options.values()))):
        yield {group: names[i % len(names)] for group, names in options.items()}
    yield {"actor": "gaussian", "loss": "ppo"}
    yield {"actor": "denoising", "loss": "dppo"}


LEFT_OUT = {"gaussian", "ppo", "denoising", "dppo", "none", "custom"}
"""The baselines, and the options that stand for nothing or for what a user brings."""


@pytest.mark.parametrize("choice", choices(), ids=lambda choice: "-".join(choice.values())[:40])
def test_every_option_of_every_group_builds_what_it_names(choice):
    values = [f"{group.replace('/', '.')}.{value}" for group, value in NEEDS_A_VALUE.items() if group in choice]
    cfg = tiny.compose(*(f"{group}={option}" for group, option in choice.items()), *values)
    env = ProbeEnv("both", num_envs=2)
    agent = build_agent(OmegaConf.to_container(cfg, resolve=True), env)
    objects = {**vars(agent), "optim": agent.optimizer, "critic": agent.advantage.critic.module}
    for group, option in choice.items():
        target = COMPONENTS[group].get(option)
        if target is None:
            continue
        node = OmegaConf.select(cfg, group.replace("/", "."))
        assert node["_target_"] == f"{target.__module__}.{target.__qualname__}"
        if group not in ("trainer", "env", "collector"):
            first, *rest = group.split("/")
            assert type(functools.reduce(getattr, rest, objects[first])) is target, group
    action = agent.actor(TensorDict(observation=torch.zeros(2, 1), batch_size=2))["action"]
    assert torch.isfinite(action).all()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_trains_on_its_own_environment(experiment):
    """With its own env and components; only the sizes that take time are smaller."""
    cfg = tiny.compose(f"experiment={experiment}")
    tree: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert cfg.trainer.frames_per_batch % cfg.num_envs == 0
    assert cfg.trainer.minibatch_size <= cfg.trainer.frames_per_batch <= cfg.total_frames
    assert cfg.trainer.frames_per_batch // cfg.num_envs % (cfg.trainer.unroll_length or 1) == 0
    steps = cfg.trainer.unroll_length or 4
    env = env_maker(cfg)(num_envs=2, device="cpu", seed=0)
    sizes = {"frames_per_batch": 2 * steps, "minibatch_size": 2 * steps, "num_epochs": 1}
    tree["critic"]["hidden_sizes"] = [8]
    if "solver" in tree["actor"]:
        tree["actor"]["solver"]["num_steps"] = 2
    agent = build_agent(tree, env)
    trainer = build({**tree["trainer"], **sizes}, "trainer", env=env, total_frames=1, **vars(agent))
    (metrics,) = trainer
    assert metrics["frames"] == 2 * steps
    assert metrics["first_ratio_error"] < 1e-4


@pytest.mark.parametrize("group", [g for g in COMPONENTS if any((CONF / g).glob("*.yaml"))])
def test_no_yaml_repeats_a_default_of_the_signature(group):
    for path in (CONF / group).glob("*.yaml"):
        cfg = OmegaConf.load(path)
        settings = {key: cfg[key] for key in cfg if key not in ("defaults", "_target_")}
        names = [entry for entry in cfg.get("defaults", []) if isinstance(entry, str)] + [f"{path.stem}_schema"]
        targets = [COMPONENTS[group][name] for name in names if name in COMPONENTS[group]]
        for target in targets:
            defaults = {name: p.default for name, p in signature(target).items()}
            assert not {key for key, value in settings.items() if key in defaults and defaults[key] == value}, path


def test_the_composed_defaults_are_those_of_the_signatures():
    """Wherever the base config, its options and the default preset do not choose a value, it is the constructor's."""
    chosen = OmegaConf.load(CONF / "experiment" / "fpo.yaml")
    for group, option in (("actor", "flow"), ("loss", "fpo")):
        chosen = OmegaConf.merge(chosen, {group: OmegaConf.load(CONF / group / f"{option}.yaml")})
    cfg = tiny.compose("actor=flow")
    checked = 0
    for group, options in COMPONENTS.items():
        node = OmegaConf.select(cfg, group.replace("/", "."))
        if node is None:
            continue
        (target,) = [t for t in options.values() if node._target_ == f"{t.__module__}.{t.__qualname__}"]
        for name, parameter in signature(target).items():
            key = f"{group.replace('/', '.')}.{name}"
            if name not in node or OmegaConf.is_dict(node[name]) or OmegaConf.select(chosen, key) is not None:
                continue
            default = parameter.default
            assert node[name] == (list(default) if isinstance(default, tuple) else default), key
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("group", SUPPLIED)
def test_what_is_passed_while_building_exists(group):
    """A name in SUPPLIED that no component has would be a typing error there."""
    for name in SUPPLIED[group] - {"functional"}:  # reaches TorchRL's losses as a further keyword
        assert any(name in signature(target) for target in COMPONENTS[group].values()), name


def test_the_help_names_every_task_and_exit_code():
    text = " ".join((CONF / "hydra" / "help" / "fpo.yaml").read_text().split())
    families = {name.partition("/")[0] for name in list_tasks()}
    assert not [family for family in families if family not in text]
    of_errors = {"wrong setting": errors.ConfigError, "a file cannot be read": errors.CheckpointError}
    of_errors |= {"diverged": errors.NonFiniteError, "directory in use": errors.InUseError}
    of_errors |= {"remote worker gone": errors.WorkerLostError}
    codes = {meaning: error.exit_code for meaning, error in of_errors.items()}
    codes |= {
        "stopped by a signal": cli.EXIT_PREEMPTED,
        "by Ctrl-C": cli.EXIT_INTERRUPTED,
        "the output was closed": cli.EXIT_BROKEN_PIPE,
    }
    for meaning, code in codes.items():
        assert f"{code} {meaning}" in text
