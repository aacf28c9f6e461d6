"""The config schema, generated from the constructors' signatures so that no default is written twice."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, make_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from torchrl.objectives import ClipPPOLoss

from fpo_torchrl import flow, modules, objectives, torchrl_configs
from fpo_torchrl.advantage import GAE, BraxGAE
from fpo_torchrl.builders import settings_of
from fpo_torchrl.checks import check_choice
from fpo_torchrl.envs.humanoid import HumanoidEnv
from fpo_torchrl.envs.registry import make_env
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.loggers import LOGGERS
from fpo_torchrl.modules.gaussian import gaussian_actor
from fpo_torchrl.optim import AgentOptimizer
from fpo_torchrl.remote import RayWorkers, RPCWorkers
from fpo_torchrl.trainer import Trainer


@dataclass
class RunConfig:
    """Settings of a run as a whole. Everything else belongs to a component and lives in its group."""

    task: str = MISSING
    seed: int = 0
    num_seeds: int = 1  # agents trained in this process: seed, seed + 1 and so on, each with its own run directory
    vmap: bool | None = None  # vectorize their computation; null: for flow policies on a GPU
    device: str = "cpu"
    num_envs: int = 128
    total_frames: int = MISSING
    num_threads: int | None = None  # of torch's arithmetic; null leaves torch's choice
    run_dir: str | None = None  # null: a new directory below runs/
    resume: str | None = None  # directory of a run to continue; auto: the run in run_dir, if there is one
    init_from: str | None = None  # a run or checkpoint whose actor, with its normaliser, training begins with
    label: str | None = None  # the algorithm's name in reports; null: by the loss, FPO or PPO
    progress: bool = True
    render: bool = True
    eval_interval_frames: int | None = None  # null: a tenth of total_frames
    eval_episodes: int = 16
    final_eval_episodes: int = 32
    checkpoint_interval_frames: int | None = None  # null: as eval_interval_frames
    keep_checkpoints: int = 2
    nan_rollbacks: int = 0  # times that a start may go back to the last checkpoint on a NaN, instead of stopping
    nan_lr_factor: float = 0.5  # on the step sizes, each time
    task_gamma: dict[str, float] = field(default_factory=dict)  # discounts by task, for presets that serve many
    env: Any = None
    actor: Any = None
    critic: Any = None
    normalizer: Any = None
    loss: Any = None
    advantage: Any = None
    optim: Any = None
    trainer: Any = None
    collector: Any = None
    logger: LoggerConfig = field(default_factory=lambda: LoggerConfig())


@dataclass
class LoggerConfig:
    """What is logged beside ``metrics.csv``."""

    kind: str | None = None  # tensorboard or wandb
    project: str = "fpo_torchrl"  # of W&B
    offline: bool = True  # keep W&B off the network


BOOKKEEPING = (
    *("label", "run_dir", "resume", "progress", "render", "num_threads", "logger", "num_seeds", "vmap", "collector"),
    *("keep_checkpoints", "checkpoint_interval_frames", "nan_rollbacks", "nan_lr_factor"),
)
"""Settings that do not change what a run learns, with two exceptions: ``collector`` decides which random numbers remote
workers draw, and those that begin with ``nan_`` what happens after a NaN."""

LARGEST_SEED = 2**62
"""The largest seed of a run, which leaves room in an int64 for the seeds that are derived from it."""

COMPONENTS: dict[str, dict[str, Callable[..., Any]]] = {
    "actor": {
        "flow_schema": modules.FlowActor,
        "denoising_schema": modules.DenoisingActor,
        "gaussian_schema": gaussian_actor,
    },
    "actor/velocity_net": {"mlp": modules.VelocityMLP},
    "actor/velocity_net/time_embedding": {
        "cos_sin": modules.CosSinTimeEmbedding,
        "fourier": modules.FourierTimeEmbedding,
        "identity": modules.IdentityTimeEmbedding,
    },
    "actor/solver": {**flow.SOLVERS},
    "actor/time_sampler": {
        "grid": flow.GridTime,
        "uniform": flow.UniformTime,
        "logit_normal": flow.LogitNormalTime,
        "beta": flow.BetaTime,
    },
    "actor/pairs": {"independent": flow.IndependentPairs, "antithetic": flow.AntitheticPairs},
    "actor/target": {"velocity": flow.VelocityTarget, "noise": flow.NoiseTarget, "action": flow.ActionTarget},
    "critic": {"mlp": modules.ValueMLP},
    "normalizer": {"running": modules.ObservationNormalizer},
    "loss": {"fpo_schema": objectives.FPOLoss, "dppo_schema": objectives.DenoisingMDPLoss, "ppo_schema": ClipPPOLoss},
    "loss/trust_region": {"clip": objectives.Clip, "spo": objectives.SPO, "aspo": objectives.ASPO},
    "loss/cfm_loss_clamp": {"clamp": objectives.Clamp},
    "loss/log_ratio_clamp": {"clamp": objectives.Clamp},
    "advantage": {"gae": GAE, "brax": BraxGAE},
    "optim": {"adam": AgentOptimizer},
    "trainer": {"default": Trainer},
    "collector": {"ray": RayWorkers, "rpc": RPCWorkers},
    "env": {"default": make_env, "humanoid": HumanoidEnv},
}
"""Every component by its config group: the options of a node are the parameters of the class."""

SUPPLIED: dict[str, set[str]] = {
    "env": {"task", "num_envs", "device", "seed"},
    "actor": {
        *("obs_dim", "action_dim", "action_low", "action_high", "normalizer"),
        *("start_noise", "in_keys", "action_key"),
    },
    "actor/velocity_net": {"obs_dim", "action_dim"},
    "critic": {"obs_dim", "normalizer"},
    "normalizer": {"obs_dim"},
    "loss": {
        *("actor_network", "critic_network", "actor", "critic", "entropy_bonus", "advantage_norm", "gamma"),
        *("functional", "device", "separate_losses", "delay_actor", "reduction", "samples_mc_entropy"),
    },
    "advantage": {"critic"},
    "optim": {"actor_parameters", "critic_parameters"},
    "trainer": {"env", "actor", "loss", "advantage", "optimizer", "normalizer", "total_frames", "processes", "workers"},
    "collector": {"make_env", "num_envs", "seed"},
}
"""By group, parameters that are no settings: objects and sizes passed in while building, and those that a run fixes."""


def schema_type(annotation: Any) -> Any:
    """The OmegaConf type of a parameter's annotation; what it cannot express is left unchecked."""
    if annotation in (int, float, str, bool):
        return annotation
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal and all(isinstance(a, str) for a in arguments):
        return str
    if origin in (types.UnionType, typing.Union) and len(arguments) == 2 and type(None) in arguments:
        inner = schema_type(next(a for a in arguments if a is not type(None)))
        return inner if inner is Any else inner | None
    if origin in (tuple, list, Sequence) and arguments and arguments[0] in (int, float, str):
        return list[arguments[0]]
    return Any


def schema(target: Callable[..., Any], supplied: Collection[str] = ()) -> type:
    """A dataclass with the settings of ``target``: its parameters but the ``supplied`` ones."""
    functions = [vars(cls).get("__init__") for cls in target.__mro__] if inspect.isclass(target) else [target]
    hints: dict[str, Any] = {}
    for function in reversed(functions):
        with contextlib.suppress(NameError, TypeError):
            hints |= typing.get_type_hints(function)
    fields: list[Any] = [("_target_", str, f"{target.__module__}.{target.__qualname__}")]
    for name, default in settings_of(target, supplied).items():
        kind = schema_type(hints.get(name, Any))
        if default is inspect.Parameter.empty:
            fields.append((name, kind, field(default=MISSING)))
        elif isinstance(default, list):
            fields.append((name, kind, field(default_factory=functools.partial(list, default))))
        else:
            fields.append((name, kind, field(default=default)))
    return make_dataclass(f"{target.__name__}Config", fields)


def collector_named(option: Any) -> DictConfig | None:
    """What an option of the group ``collector`` puts into a config.

    Raises:
        ConfigError: for another name.
    """
    options = COMPONENTS["collector"]
    if option == "local":
        return None
    check_choice("collector", option, [*options, "local"], error=ConfigError)
    return OmegaConf.structured(schema(options[option], SUPPLIED["collector"]))


def logger_named(option: Any) -> str | None:
    """The kind of logger that an option of the group ``logger`` stands for.

    Raises:
        ConfigError: for another name.
    """
    check_choice("logger", option, ["none", *LOGGERS], error=ConfigError)
    return None if option == "none" else option


def register_schemas() -> None:
    """Make every component known to Hydra, as the options of ``fpo-train``; replaces namesakes of others."""
    store = ConfigStore.instance()
    forget_namesakes(store)
    store.store(name="run_schema", node=RunConfig)
    for group, options in COMPONENTS.items():
        for name, target in options.items():
            store.store(group=group, name=name, node=schema(target, SUPPLIED.get(group, ())))


@contextlib.contextmanager
def registered_schemas() -> Iterator[None]:
    """As :func:`register_schemas`, with the namesakes back afterwards."""
    forgotten = forget_namesakes(ConfigStore.instance())
    register_schemas()
    try:
        yield
    finally:
        for options, name, node in forgotten:
            options[name] = node


def forget_namesakes(store: ConfigStore) -> list[tuple[dict[str, Any], str, Any]]:
    """Remove what is stored for TorchRL's recipes, and all else under the name of a file in ``conf/``.

    ``fpo-train`` has no use for the former, and Hydra would merge the latter with the file (its "automatic schema
    matching").

    Returns:
        Where each was, its name there, and the node.
    """
    root, forgotten = Path(str(resources.files("fpo_torchrl.conf"))), []
    for *groups, name in [*(path.relative_to(root).parts for path in root.rglob("*.yaml")), *torchrl_configs.STORED]:
        options = functools.reduce(lambda node, group: node.get(group, {}), groups, store.repo)
        if name in options:
            forgotten.append((options, name, options.pop(name)))
    for group in [name for name, options in store.repo.items() if options == {}]:
        forgotten.append((store.repo, group, store.repo.pop(group)))
    return forgotten


def check_run(cfg: RunConfig) -> None:
    """Refuse run-level values that are out of range.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    at_least_one = ["num_envs", "total_frames", "eval_episodes", "final_eval_episodes", "keep_checkpoints"]
    at_least_one += ["num_threads", "eval_interval_frames", "checkpoint_interval_frames"]
    for key in at_least_one:
        value = getattr(cfg, key)
        if value is not None and value < 1:
            raise ConfigError(f"{key}={value} is out of range: it must be at least 1")
    if cfg.nan_rollbacks < 0:
        raise ConfigError(f"nan_rollbacks={cfg.nan_rollbacks} is out of range: it must be 0 or more")
    if not 0 < cfg.nan_lr_factor <= 1:
        raise ConfigError(f"nan_lr_factor={cfg.nan_lr_factor} is out of range: it must be above 0 and at most 1")
    if cfg.logger.kind not in (None, *LOGGERS):
        raise ConfigError(f"logger.kind={cfg.logger.kind} is unknown: it must be null, {' or '.join(LOGGERS)}")
    if cfg.vmap is not None and cfg.num_seeds == 1:
        raise ConfigError(f"vmap={cfg.vmap} is a setting of several seeds in one process: give num_seeds as well")
    if not 0 <= cfg.seed <= LARGEST_SEED:
        raise ConfigError(f"seed={cfg.seed} is out of range: it must be from 0 to {LARGEST_SEED}")
    if not re.fullmatch(r"(cpu|cuda)(:\d+)?", cfg.device):
        raise ConfigError(f"device={cfg.device}: expected cpu or cuda, perhaps with a number as in cuda:1")
    if cfg.run_dir is not None and not cfg.run_dir.strip():
        raise ConfigError(f"run_dir={cfg.run_dir!r} is empty: give a directory")


def check_components(cfg: DictConfig) -> None:
    """Refuse a plain value where a component belongs.

    Raises:
        ConfigError: naming the key, its value and some of the options.
    """
    for group, options in COMPONENTS.items():
        key = group.replace("/", ".")
        node = OmegaConf.select(cfg, key, default=MISSING)
        is_optional = group in ("normalizer", "collector") or ("/" in group and group != "actor/velocity_net")
        is_component = isinstance(node, DictConfig) and "_target_" in [*node]  # which may wait for a value
        if is_component or node == MISSING or (node is None and is_optional):
            continue
        names = ", ".join(name.removesuffix("_schema") for name in options)
        raise ConfigError(f"{key}={node!r} is no component: choose an option of the group {group}, such as {names}")
