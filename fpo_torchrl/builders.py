"""Builds objects from config nodes; sizes that an environment knows are passed by parameter name."""

from __future__ import annotations

import functools
import inspect
import sysconfig
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import EnvBase
from torchrl.objectives import LossModule
from torchrl.objectives.utils import distance_loss

from fpo_torchrl.advantage import GAE
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.modules.chain import is_flow
from fpo_torchrl.modules.masking import MaskedObservation
from fpo_torchrl.modules.normalizer import ObservationNormalizer
from fpo_torchrl.modules.velocity import ValueMLP
from fpo_torchrl.optim import AgentOptimizer

_SIZES = ("obs_dim", "action_dim")


def build(node: Any, path: str = "", *, spare: Collection[str] = (), **context: Any) -> Any:
    """Build the object that a config node describes.

    A mapping with ``_target_`` becomes a call of that target: its own entries are built first, then every
    name of ``context`` that the target has as a parameter and the node leaves out is passed along, so a
    network is told ``obs_dim`` and ``action_dim`` without any size in a config.

    Args:
        node: mapping, sequence or plain value.
        path: the node's place in the config, for error messages.
        spare: entries that a target which does not know them is built without.
        context: values offered by parameter name; of them the entries are offered ``obs_dim`` and ``action_dim`` alone.

    Raises:
        ConfigError: if the target is unknown or refuses its arguments.

    >>> build({"_target_": "fpo_torchrl.Euler", "num_steps": 3})
    Euler(num_steps=3)
    """
    if isinstance(node, list | tuple):
        return [build(item, f"{path}[{i}]", **context) for i, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {str(key): build(value, f"{path}.{key}", **context) for key, value in node.items()}
    try:
        target = get_object(node["_target_"])
    except Exception as error:
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
        raise ConfigError(
            f"{path}._target_={node['_target_']!r} is not an importable Python name ({reason}): its package must be "
            "installed, or a module on PYTHONPATH or in the directory of the command"
        ) from error
    sizes = {name: context[name] for name in _SIZES if name in context}  # a normaliser or bounds are for this one alone
    own = {str(k): build(v, f"{path}.{k}", **sizes) for k, v in node.items() if k != "_target_"}
    parameters = signature(target)
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    own = {name: value for name, value in own.items() if takes_any or name in parameters or name not in spare}
    offered = {name: value for name, value in context.items() if name in parameters and own.get(name) is None}
    unknown = set(own) - set(parameters)
    if unknown and not takes_any:
        allowed = ", ".join(name for name in parameters if name not in context)
        raise ConfigError(f"{path}.{sorted(unknown)[0]} is not a setting of {node['_target_']}; allowed are {allowed}")
    try:
        return target(**{**own, **offered})
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, ImportError, FileNotFoundError) as error:
        raise ConfigError(f"{path}: {error}{_place(error)}") from error


def env_maker(cfg: DictConfig, **overrides: Any) -> Callable[..., EnvBase]:
    """What builds environments of a run's config, called with ``num_envs``, ``device`` and ``seed`` by name.

    Args:
        cfg: of the run.
        overrides: values that settings of ``cfg.env`` have here instead.
    """
    node: Any = OmegaConf.to_container(cfg.env, resolve=True, throw_on_missing=True)
    return partial(build, node | overrides, "env", spare=[*overrides], task=cfg.task)


def _place(error: Exception) -> str:
    """Where an accident happened in a user's own component; nothing for a ValueError, which says what is wrong."""
    if isinstance(error, ValueError):
        return ""
    others = (Path(__file__).parent, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and not any(file.is_relative_to(other) for other in others):
            return f" ({type(error).__name__} in {file}, line {frame.lineno})"
    return ""


def settings_of(target: Any, supplied: Collection[str] = ()) -> dict[str, Any]:
    """The settings of a class or function with their defaults: its parameters but the ``supplied`` ones.

    Tuples become lists, as a config has them; a setting without a default has ``inspect.Parameter.empty``.
    """
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = {name: it.default for name, it in signature(target).items() if it.kind not in variable}
    settings = {name: default for name, default in found.items() if name not in supplied}
    return {name: list(default) if isinstance(default, tuple) else default for name, default in settings.items()}


@functools.cache
def signature(target: Any) -> Mapping[str, inspect.Parameter]:
    """Parameters of a callable; of a class that passes keywords on to another one of this package, those of both."""
    # An environment's metaclass has a __call__ of its own, which inspect would describe instead.
    called = partial(target.__init__, None) if isinstance(target, type(EnvBase)) else target
    own = dict(inspect.signature(called).parameters)
    rest = [name for name, parameter in own.items() if parameter.kind is parameter.VAR_KEYWORD]
    base = target.__mro__[1] if inspect.isclass(target) else None
    if base is None or not rest or not base.__module__.startswith("fpo_torchrl."):
        return own
    del own[rest[0]]
    return own | {name: parameter for name, parameter in signature(base).items() if name not in own}


@dataclass
class Agent:
    """What training needs beside the environment, all on one set of weights."""

    actor: TensorDictModule
    critic: TensorDictModule
    loss: LossModule
    advantage: GAE
    optimizer: AgentOptimizer
    normalizer: ObservationNormalizer | None


def env_sizes(env: EnvBase) -> dict[str, Any]:
    """What an environment's specs say: sizes of observation and action, and the action's bounds.

    Raises:
        ConfigError: if the environment has no flat ``"observation"`` or no bounded ``"action"``.
    """
    if "observation" not in env.observation_spec or env.observation_spec["observation"].ndim != 2:
        shapes = ", ".join(f"{key!r} {[*spec.shape]}" for key, spec in env.observation_spec.items(True, True))
        raise ConfigError(
            f"the trainer needs a flat entry 'observation' of shape [num_envs, size], the environment has {shapes}. "
            "Join them in the environment, TransformedEnv(env, CatTensors([...], 'observation')), or in Python build a "
            "FlowActor with in_keys and a network of your own"
        )
    space = env.action_spec.space
    if space is None or not hasattr(space, "low"):
        raise ConfigError(f"a flow policy needs continuous, bounded actions, the environment has {env.action_spec}")
    return {
        "obs_dim": env.observation_spec["observation"].shape[-1],
        "action_dim": env.action_spec.shape[-1],
        "action_low": space.low[0],
        "action_high": space.high[0],
    }


def fixed_settings(actor: TensorDictModule) -> dict[str, Any]:
    """Settings of the loss that follow from how the trainer uses it.

    The trainer estimates advantages itself, so no functional copy of the parameters is needed; and a flow
    has no entropy in closed form.
    """
    return {"functional": False, "entropy_bonus": not is_flow(actor)}


def check_critic_settings(loss: LossModule) -> None:
    """Refuse settings that TorchRL's losses would object to only when the first batch is there.

    Raises:
        ConfigError: for an unknown critic loss, or a critic that would not be trained.
    """
    coeff: Any = loss.critic_coeff
    if coeff is None or coeff <= 0:  # TorchRL makes None of 0
        raise ConfigError(
            f"loss.critic_coeff must be positive, got {coeff or 0}: the advantage needs a critic that is trained"
        )
    try:
        distance_loss(torch.zeros(1), torch.zeros(1), loss.loss_critic_type)
    except NotImplementedError as error:
        raise ConfigError(
            f"loss.loss_critic_type must be l1, l2 or smooth_l1, got {loss.loss_critic_type!r}"
        ) from error


def view(normalizer: ObservationNormalizer | None, env: EnvBase, role: Literal["actor", "critic"]) -> nn.Module | None:
    """What a network sees of an observation: all of it, normalised, or what the environment lets this one see."""
    mask = getattr(env, "observation_masks", {}).get(role)
    return normalizer if mask is None else MaskedObservation(mask, normalizer)


def build_agent(cfg: Mapping[str, Any], env: EnvBase) -> Agent:
    """Build actor, critic, loss, advantage and optimiser from a resolved config, for ``env``."""
    sizes = env_sizes(env)
    device = env.device if env.device is not None else torch.device("cpu")
    normalizer = build(cfg["normalizer"], "normalizer", **sizes)
    if normalizer is not None:
        normalizer = normalizer.to(device)
    actor = build(cfg["actor"], "actor", normalizer=view(normalizer, env, "actor"), **sizes).to(device)
    of_presets = settings_of(ValueMLP)  # a critic of one's own need not have them
    value_net = build(
        cfg["critic"], "critic", spare=of_presets, normalizer=view(normalizer, env, "critic"), **sizes
    ).to(device)
    critic = TensorDictModule(value_net, in_keys=["observation"], out_keys=["state_value"])
    loss = build(fixed_settings(actor) | dict(cfg["loss"]), "loss", actor_network=actor, critic_network=critic)
    check_critic_settings(loss)
    advantage = build(cfg["advantage"], "advantage", critic=critic)
    optimizer = build(cfg["optim"], "optim", actor_parameters=actor.parameters(), critic_parameters=critic.parameters())
    return Agent(actor, critic, loss, advantage, optimizer, normalizer)
