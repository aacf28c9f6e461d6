"""An environment of one's own, written for Gymnasium: registered, it is a task like any other.

    python examples/own_gym_env.py

From the command line: ``fpo-train task=gym/my_package:Line-v0``, which imports ``my_package`` first.
"""

import gymnasium
import numpy as np
from gymnasium import spaces
from tensordict.nn import TensorDictModule

from fpo_torchrl import GAE, AgentOptimizer, FlowActor, FPOLoss, Trainer, ValueMLP, VelocityMLP, make_env


class Line(gymnasium.Env):
    """A point on a line that is paid for coming near zero, and moves by at most 0.2 in a step."""

    observation_space = spaces.Box(-2.0, 2.0, (1,), np.float64)
    action_space = spaces.Box(-0.2, 0.2, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-1, 1, 1)
        return self.position, {}

    def step(self, action):
        self.position = np.clip(self.position + action, -2, 2)
        return self.position, 1 - abs(self.position.item()), False, False, {}


gymnasium.register("Line-v0", Line, max_episode_steps=10)


def train(total_frames: int = 20_000) -> list[float]:
    """Train; returns the mean reward of each batch."""
    env = make_env("gym/Line-v0", num_envs=16, seed=0)
    obs_dim, action_dim = env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]
    actor = FlowActor(VelocityMLP(obs_dim, action_dim))  # actions in [-1, 1], which the environment scales
    critic = TensorDictModule(ValueMLP(obs_dim, hidden_sizes=(64, 64)), ["observation"], ["state_value"])
    trainer = Trainer(
        env,
        actor,
        FPOLoss(actor, critic),
        GAE(critic, gamma=0.9),
        AgentOptimizer(actor.parameters(), critic.parameters(), lr=3e-3),
        total_frames=total_frames,
        frames_per_batch=min(1600, total_frames),
        minibatch_size=400,
    )
    return [metrics["reward"] for metrics in trainer]


if __name__ == "__main__":
    print("reward per step:", *(f"{reward:.2f}" for reward in train()))
