"""Batches of experience, and the check that they are finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs import EnvBase, ParallelEnv, SerialEnv, TransformedEnv

from fpo_torchrl.errors import NonFiniteError
from fpo_torchrl.flow import RandomSteps, RandomStepsPerRollout
from fpo_torchrl.modules.chain import acting_module, unwrapped
from fpo_torchrl.modules.sampler import FlowSampler
from fpo_torchrl.training.gradient import compile_settings

PLAIN = {"track_traj_ids": False, "trust_policy": True, "auto_register_policy_transforms": False}
"""Settings of TorchRL's collectors without the bookkeeping that training does not need."""


def make_collector(env: EnvBase, policy: Any, frames_per_batch: int, *, compile: bool = False) -> Collector:
    """An endless TorchRL collector, which tells a solver that draws for each rollout where rollouts begin and end.

    With ``compile`` a call of a flow policy, solver, pairs and all, is one compiled program, on a GPU one CUDA graph.
    """
    settings = {**PLAIN, **rollout_hooks(policy)}
    if compile and is_compilable(policy):
        settings["compile_policy"] = {"warmup": 2} | compile_settings(env.device)
    return Collector(env, policy, frames_per_batch=frames_per_batch, total_frames=-1, **settings)


def is_compilable(policy: Any) -> bool:
    """Whether a call of ``policy`` always does the same: no number of steps is drawn, and no distribution of TorchRL's
    branches on tensor values."""
    sampler = unwrapped(acting_module(policy))
    return isinstance(sampler, FlowSampler) and not isinstance(sampler.solver, RandomSteps)


def own_attribute(env: EnvBase, name: str) -> Any:
    """An attribute of an environment, or None; TorchRL's batches of environments pass every question on to each."""
    return None if isinstance(innermost(env), (SerialEnv, ParallelEnv)) else getattr(env, name, None)


def innermost(env: EnvBase) -> EnvBase:
    """The environment without its transforms."""
    while isinstance(env, TransformedEnv):
        env = env.base_env
    return env


def is_restorable(env: EnvBase) -> bool:
    """Whether the environment has ``get_state``. Wrapped ones do not count: a wrapper has a state of its own."""
    return hasattr(type(env), "get_state")


def rollout_hooks(policy: Any) -> dict[str, Any]:
    """What a collector of TorchRL has to call around a rollout of ``policy``, by the names of its settings."""
    solver = getattr(acting_module(policy), "solver", None)
    if not isinstance(solver, RandomStepsPerRollout):
        return {}
    return {"pre_collect_hook": solver.begin_rollout, "post_collect_hook": solver.end_rollout}


def derived_seed(seed: int, *, part: int = 0, frames: int = 0) -> int:
    """The seed for one of several parts of a run, when it begins or goes on at some frame: each has numbers of its own.

    The first part begins with the seed of the run.
    """
    if part == frames == 0:
        return seed
    return int(np.random.SeedSequence([seed, part, frames]).generate_state(1)[0]) >> 1


def check_finite(
    batch: TensorDictBase, keys: Sequence[NestedKey] = ("observation", "action"), *, first_frame: int = 0
) -> None:
    """Refuse a batch ``[num_envs, time]`` with a NaN or infinite reward, or entry under ``keys``, now or next.

    Raises:
        NonFiniteError: naming the entry, the environment's index and the step.
    """
    names = {key: key if isinstance(key, str) else ".".join(key) for key in keys}
    entries = {name: batch.get(key, None) for key, name in names.items()}
    entries |= {f"next {name}": batch.get(unravel_key(("next", key)), None) for key, name in names.items()}
    entries["reward"] = batch.get(("next", "reward"), None)
    tensors = {name: values for name, values in entries.items() if isinstance(values, Tensor)}  # and not text
    entries = {name: values for name, values in tensors.items() if values.is_floating_point()}
    # Most batches are told by their sums, ten times faster than by looking at each number, and read from the device at
    # once; a sum may overflow.
    if not entries or bool(torch.stack([values.sum().double() for values in entries.values()]).isfinite().all()):
        return
    for name, values in entries.items():
        if not bool(torch.isfinite(values).all()):
            env, step = (~torch.isfinite(values)).nonzero()[0, :2].tolist()
            raise NonFiniteError(
                f"{name} of environment {env} at step {step} of the batch after frame {first_frame} is not finite "
                f"({values[env, step].tolist()}). Nothing was learnt from this batch; the last checkpoint is intact"
            )
