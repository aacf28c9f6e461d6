"""What a run trained, restored from its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tensordict.nn import TensorDictModule
from torchrl.checkpoint import Checkpoint
from torchrl.envs import EnvBase

from fpo_torchrl.builders import build_agent, env_maker
from fpo_torchrl.checkpoint import BEST, Checkpointer
from fpo_torchrl.devices import check_device
from fpo_torchrl.errors import CheckpointError, ConfigError
from fpo_torchrl.runs.settings import load_run_config


@dataclass
class TrainedPolicy:
    """The actor and critic of a run with the weights of ``checkpoint``, and the task they were trained on.

    ``frames`` is how many they had been trained on by then.
    ``env`` is a batch of the task whose episodes are not spread, as an evaluation needs it.
    """

    cfg: DictConfig
    actor: TensorDictModule
    critic: TensorDictModule
    env: EnvBase
    checkpoint: Path
    frames: int

    def __str__(self) -> str:
        return f"{self.cfg.task}, {self.checkpoint}, {self.frames} frames"


def load_policy(
    run_dir: str | Path, *, num_envs: int = 1, device: str | None = None, checkpoint: str | None = None
) -> TrainedPolicy:
    """Restore the policy of a run.

    Args:
        run_dir: the run's directory.
        num_envs (int): size of the environment batch.
        device: default the one it was trained on.
        checkpoint: path of a checkpoint, or ``"best"`` for the one of the run's best evaluation; default the newest.

    Raises:
        CheckpointError: if the directory is no run's, or its checkpoint cannot be read.
        ConfigError: if its environment cannot be built here.
    """
    cfg = load_run_config(run_dir)
    env = task_env(cfg, num_envs, device)
    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    agent = build_agent(tree, env)
    checkpointer = Checkpointer(run_dir, actor=agent.actor, critic=agent.critic)
    best = checkpointer.directory / BEST
    if checkpoint == "best" and not best.is_file():
        raise CheckpointError(
            f"{best} does not exist: a run keeps its best policy from its first evaluation on, one every "
            "eval_interval_frames. Without checkpoint=best the newest one is taken"
        )
    if checkpoint is not None and not checkpoint.strip():
        raise ConfigError("checkpoint is empty: give the path of a checkpoint, best, or leave it out for the newest")
    path = checkpointer.load(best if checkpoint == "best" else checkpoint)
    return TrainedPolicy(cfg, agent.actor, agent.critic, env, path, Checkpoint.manifest(path)["metadata"]["frames"])


def task_env(cfg: DictConfig, num_envs: int, device: str | None = None) -> EnvBase:
    """The environment of a run's config, with whole episodes from the start.

    On a CPU native MuJoCo steps this package's physics, whatever the run was trained on, which may not be installed.
    """
    check_device(device := device or cfg.device, ConfigError)
    make_env = env_maker(cfg, spread_episodes=False, **(native_physics(cfg) if device == "cpu" else {}))
    return make_env(num_envs=num_envs, device=device, seed=0)


def native_physics(cfg: DictConfig) -> dict[str, Any]:
    """The settings of ``cfg.env`` with which native MuJoCo steps it, if another back end of this package does."""
    is_ours = str(cfg.env._target_).startswith("fpo_torchrl.") and not cfg.task.startswith(("gym/", "playground/"))
    if not is_ours or OmegaConf.select(cfg, "env.backend") is None:
        return {}
    return {"backend": "c"} | ({"max_contacts": None} if "max_contacts" in cfg.env else {})
