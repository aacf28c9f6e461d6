"""Trainers and batches at the sizes of a preset, as a user gets them from the command line."""

from __future__ import annotations

import torch
from hydra import compose, initialize_config_module
from plain import PlainFPO
from tensordict import TensorDict, TensorDictBase

from fpo_torchrl.config import register_schemas
from fpo_torchrl.envs.base import BatchedEnv
from fpo_torchrl.runs.assembly import build_trainer
from fpo_torchrl.trainer import Trainer
from fpo_torchrl.training.parallel import Processes

PRESETS = {"ours": "fpo_paper", "ppo": "ppo"}
"""FPO as the paper has it, and TorchRL's ClipPPOLoss with a Gaussian actor, on networks of the same size."""


def make_trainer(experiment: str, *overrides: str) -> Trainer:
    """The trainer of ``fpo-train experiment=...`` with these arguments, without its run directory."""
    register_schemas()
    with initialize_config_module("fpo_torchrl.conf", version_base="1.3"):
        cfg = compose("config", [f"experiment={experiment}", *overrides])
    return build_trainer(cfg, Processes())[1]


def make_plain(trainer: Trainer, *, with_env: bool = False) -> PlainFPO:
    """The plain loop on the networks, the environment and the settings of an FPO trainer."""
    assert isinstance(trainer.env, BatchedEnv)
    return PlainFPO(
        trainer.actor,
        trainer.advantage.critic.module,
        trainer.env if with_env else None,
        frames_per_batch=trainer.frames_per_batch,
        num_epochs=trainer.num_epochs,
        minibatch_size=trainer.minibatch_size,
        gamma=trainer.advantage.gamma,
        reward_scale=trainer.advantage.reward_scale,
    )


@torch.no_grad()
def random_batch(trainer: Trainer) -> TensorDictBase:
    """A batch ``[num_envs, time]`` of the trainer's size, at random observations."""
    spec = trainer.env.observation_spec["observation"]
    num_envs, obs_dim = spec.shape
    shape = (num_envs, trainer.frames_per_batch // num_envs)
    batch = TensorDict(
        observation=torch.randn(*shape, obs_dim, device=spec.device), batch_size=shape, device=spec.device
    )
    trainer.actor(batch)
    flag = torch.zeros(*shape, 1, dtype=torch.bool, device=spec.device)
    reward = torch.randn(*shape, 1, device=spec.device)
    step = {"observation": batch["observation"], "reward": reward, "done": flag, "terminated": flag}
    return batch.set("next", TensorDict(step, batch_size=shape))


def plain_batch(batch: TensorDictBase) -> dict[str, torch.Tensor]:
    """The same batch as the plain loop collects it, ``[time, num_envs]``."""
    step, keys = batch["next"], ("observation", "flow_action", "cfm_loss")
    entries = {key: batch[key] for key in keys} | {"noise": batch["flow_noise"], "time": batch["flow_time"]}
    entries |= {key: step[key].squeeze(-1) for key in ("reward", "done", "terminated")}
    entries["next_observation"] = step["observation"]
    return {key: value.transpose(0, 1).contiguous() for key, value in entries.items()}
