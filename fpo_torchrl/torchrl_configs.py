"""Options in TorchRL's own Hydra groups, so that its recipes train a flow policy by naming it.

``import fpo_torchrl`` adds ``loss: fpo``, ``model: flow_actor``, ``trainer: fpo``, ``env: fpo_task`` and the solvers of
``fpo-train`` to the groups of ``torchrl.trainers.algorithms.configs``, without importing that. Their settings are the
parameters of the classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import Parameter
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import get_object, instantiate
from tensordict import TensorDict
from torchrl.collectors import BaseCollector, Collector
from torchrl.objectives import LossModule
from torchrl.trainers import Trainer

from fpo_torchrl.builders import settings_of
from fpo_torchrl.envs import make_env
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.flow import SOLVERS
from fpo_torchrl.modules import FlowActor, VelocityMLP
from fpo_torchrl.objectives import FPOLoss
from fpo_torchrl.training.collecting import rollout_hooks

STORED: set[tuple[str, str]] = set()
"""Group and name, in Hydra's store, of what :func:`register` put there."""


def make_flow_actor(
    *,
    network: Mapping[str, Any] | None = None,
    velocity_net: Mapping[str, Any] | None = None,
    in_keys: Sequence[Any] = ("observation",),
    out_keys: Sequence[Any] = ("action",),
    param_keys: Sequence[Any] = ("loc", "scale"),
    low: Any = None,
    high: Any = None,
    return_log_prob: bool = True,
    **settings: Any,
) -> FlowActor:
    """A flow policy from the settings of TorchRL's ``tanh_normal`` model and those of :class:`FlowActor`.

    Args:
        network: node of the Gaussian's ``mlp``. Its sizes become a :class:`VelocityMLP`'s: ``out_features`` counts
            every entry of ``param_keys``, so the action has as many as one of them.
        velocity_net: node of a velocity network, in place of ``network``.
        out_keys: the name of the action.
        low, high: bounds of the action, as ``action_low`` and ``action_high``.
        return_log_prob: must be true; FPO compares stored losses.

    Raises:
        ConfigError: for a network without sizes, several out_keys, or ``return_log_prob=False``.
    """
    if not return_log_prob:
        raise ConfigError("return_log_prob must be true: the update compares with what the actor stores")
    if len(out_keys) != 1:
        raise ConfigError(f"out_keys must name the action alone, got {list(out_keys)}")
    net = instantiate(velocity_net) if velocity_net is not None else velocity_mlp(network, len(param_keys))
    built = {name: instantiate(value) if isinstance(value, Mapping) else value for name, value in settings.items()}
    bounds = {"action_low": low, "action_high": high}
    built |= {name: value for name, value in bounds.items() if value is not None}
    return FlowActor(net, in_keys=[*map(nested, in_keys)], action_key=nested(out_keys[0]), **built)


def velocity_mlp(network: Mapping[str, Any] | None, num_parts: int) -> VelocityMLP:
    """A velocity network of the sizes of a Gaussian's ``mlp`` node, whose output has ``num_parts`` per action entry."""
    sizes: dict[str, Any] = {name: (network or {}).get(name) for name in ("in_features", "out_features", "num_cells")}
    missing = [name for name, size in sizes.items() if size is None]
    if missing:
        raise ConfigError(
            f"model flow_actor needs {', '.join(missing)} in network, an mlp node; or give velocity_net, your own node"
        )
    if sizes["out_features"] % num_parts:
        raise ConfigError(
            f"network.out_features={sizes['out_features']} should be {num_parts} times the action's size, as for "
            "tanh_normal: one part for each of param_keys"
        )
    cells = sizes["num_cells"]
    hidden = [cells] * (network or {}).get("depth", 1) if isinstance(cells, int) else [*cells]
    return VelocityMLP(sizes["in_features"], sizes["out_features"] // num_parts, hidden_sizes=hidden)


def make_trainer(*, collector: Any, loss_module: LossModule, **settings: Any) -> Trainer:
    """TorchRL's PPO trainer on one set of weights.

    Hydra builds a policy wherever a recipe refers to it. Here the collector gets the loss's: its own if the recipe
    builds it (``_partial_: true``), else its weights, before the first batch.

    Raises:
        ConfigError: for a loss whose actor has no weights of its own (``functional: true``), or a collector that cannot
            say to the policy when a rollout begins.
    """
    if getattr(loss_module, "functional", False):
        raise ConfigError("trainer fpo shares the loss's actor with the collector, which needs loss.functional=false")
    actor: Any = loss_module.actor_network
    if isinstance(collector, BaseCollector):
        collector.update_policy_weights_(TensorDict.from_module(actor))
        hooks = rollout_hooks(getattr(collector, "policy", None))
        if hooks and not isinstance(collector, Collector):
            raise ConfigError(
                f"a number of steps for each rollout needs TorchRL's Collector, in this process; got "
                f"{type(collector).__name__}. The solver random_steps draws for each call in any collector"
            )
        for name, hook in hooks.items():
            setattr(collector, name, hook)
    else:
        collector = functools.partial(collector, policy=actor, **rollout_hooks(actor))
    from torchrl.trainers.algorithms.configs import PPOTrainerConfig  # here, because it is slow to import

    return get_object(PPOTrainerConfig._target_)(collector=collector, loss_module=loss_module, **settings)


def nested(key: Any) -> Any:
    """A key of a YAML file: a list of names is a nested key."""
    return key if isinstance(key, str) else tuple(key)


def defaults_of(target: Callable[..., Any], left_out: Collection[str] = ()) -> dict[str, Any]:
    """The settings of a function or class with their defaults, ``"???"`` where there is none."""
    settings = settings_of(target, left_out)
    return {name: "???" if default is Parameter.empty else default for name, default in settings.items()}


def register() -> None:
    """Add the options to Hydra's store."""
    module = __name__
    loss = defaults_of(FPOLoss, {"actor", "critic"}) | {"functional": False}
    _store("loss", "fpo", {"_target_": "fpo_torchrl.objectives.FPOLoss", **loss})
    given = {"velocity_net", "normalizer", "action_dim", "action_key", "in_keys"}
    actor = defaults_of(FlowActor, given) | defaults_of(make_flow_actor)
    _store("model", "flow_actor", {"_target_": f"{module}.make_flow_actor", "_recursive_": False, **actor})
    # The rest of TorchRL's PPO trainer comes from its own option.
    trainer = {"defaults": ["ppo", "_self_"], "_target_": f"{module}.make_trainer"}
    _store("trainer", "fpo", trainer)
    _store("env", "fpo_task", {"_target_": "fpo_torchrl.make_env", **defaults_of(make_env)})
    for name, solver in SOLVERS.items():
        node = {"_target_": f"{solver.__module__}.{solver.__qualname__}", **defaults_of(solver)}
        _store("solver", name, node)


def _store(group: str, name: str, node: dict[str, Any]) -> None:
    ConfigStore.instance().store(name, node, group=group)
    STORED.add((group, f"{name}.yaml"))
