"""Observations in several parts under nested keys: the flow's network takes them one by one.

python examples/nested_observations.py
"""

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.envs import GymWrapper
from torchrl.modules import MLP

from fpo_torchrl import ASPO, GAE, AgentOptimizer, FlowActor, FPOLoss, Trainer, VelocityMLP

KEYS = [("robot", "arm"), ("camera", "goal")]


class Reach(gymnasium.Env):
    """An episode is one action, paid for being half of the way from the arm to the goal."""

    observation_space = Dict(robot=Dict(arm=Box(-1, 1, (2,))), camera=Dict(goal=Box(-1, 1, (2,))))
    action_space = Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        arm, goal = self.np_random.uniform(-1, 1, (2, 2)).astype(np.float32)
        self.seen, self.best = {"robot": {"arm": arm}, "camera": {"goal": goal}}, (goal - arm) / 2
        return self.seen, {}

    def step(self, action):
        return self.seen, 1 - np.square(action - self.best).mean(), True, False, {}


class Velocity(VelocityMLP):
    """Velocity ``[*batch, 2]`` from two observations."""

    def forward(self, arm: Tensor, goal: Tensor, x_t: Tensor, time: Tensor) -> Tensor:
        return super().forward(torch.cat([arm, goal], -1), x_t, time)


def train(num_batches: int = 30) -> list[float]:
    """Train; returns the mean reward of each batch."""
    actor = FlowActor(Velocity(4, 2), in_keys=KEYS)
    critic = TensorDictModule(MLP(4, 1, num_cells=[32]), in_keys=KEYS, out_keys=["state_value"])
    advantage, loss = GAE(critic), FPOLoss(actor, critic, trust_region=ASPO(0.05))
    optimizer = AgentOptimizer(actor.parameters(), critic.parameters(), lr=3e-3)
    env = GymWrapper(SyncVectorEnv([Reach] * 8, autoreset_mode=AutoresetMode.DISABLED))
    sizes = {"frames_per_batch": 512, "minibatch_size": 256, "total_frames": 512 * num_batches}
    return [metrics["reward"] for metrics in Trainer(env, actor, loss, advantage, optimizer, **sizes)]


if __name__ == "__main__":
    print("reward (1.00 is best):", *(f"{reward:.2f}" for reward in train()))
