"""Small environments whose every number can be written down, and how tests step through them."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from fpo_torchrl.envs import BatchedEnv, BimodalBandit, GridWorld, ProbeEnv


class Counter(BatchedEnv):
    """Observes the number of steps since the start, earns 1 a step, terminates at ``stop`` (per copy)."""

    def __init__(self, stop: list[int], *, random_start: bool = False, **kwargs):
        super().__init__(num_envs=len(stop), obs_dim=1, action_dim=1, **kwargs)
        self.stop, self.random_start = torch.tensor(stop), random_start
        self.count = torch.zeros(len(stop), dtype=torch.int64)

    def start_episodes(self, rows: Tensor) -> None:
        draw = torch.randint(1000, rows.shape, generator=self.generator)
        self.count[rows] = draw if self.random_start else 0

    def advance(self, action: Tensor) -> tuple[Tensor, Tensor]:
        self.count += 1
        return torch.ones(self.num_envs), self.count >= self.stop

    def observe(self) -> Tensor:
        return self.count.float().unsqueeze(-1)

    def task_state(self) -> dict[str, Tensor]:
        return {"count": self.count}

    def load_task_state(self, state: dict[str, Tensor]) -> None:
        self.count.copy_(state["count"])


NEVER = 10**6

ENVS = {
    "counter": lambda **kw: Counter([40] * 6, random_start=False, max_episode_steps=7, **kw),
    "gridworld": lambda **kw: GridWorld("three_goals", num_envs=6, max_episode_steps=20, **kw),
    "probe": lambda **kw: ProbeEnv("delayed", num_envs=6, **kw),
    "bandit": lambda **kw: BimodalBandit(num_envs=6, action_dim=2, **kw),
}


def drive(env: BatchedEnv, td: TensorDict, actions: Tensor) -> tuple[list[TensorDict], TensorDict]:
    """Step through ``actions`` ``[steps, num_envs, action_dim]``, resetting whatever ends."""
    steps = []
    for action in actions:
        step, td = env.step_and_maybe_reset(td.set("action", action))
        steps.append(step.clone())
    return steps, td


def actions_for(env: BatchedEnv, num_steps: int) -> Tensor:
    shape = (num_steps, *env.action_spec.shape)
    return torch.empty(shape).uniform_(-1, 1, generator=torch.Generator().manual_seed(5))


def same(left: list[TensorDict], right: list[TensorDict]) -> bool:
    return all(bool((a == b).all()) for a, b in zip(left, right, strict=True))
