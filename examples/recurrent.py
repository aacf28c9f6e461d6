"""A policy that remembers: an LSTM before the flow, on a task whose cue is gone when it counts.

    python examples/recurrent.py

``advantage_every="minibatch"`` makes minibatches of whole sequences, along which the loss runs the LSTM.
"""

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.envs import Compose, InitTracker, TransformedEnv
from torchrl.modules import LSTMModule

from fpo_torchrl import GAE, AgentOptimizer, FlowActor, FPOLoss, Trainer, ValueMLP, VelocityMLP
from fpo_torchrl.envs.base import BatchedEnv


class Recall(BatchedEnv):
    """Shows -1 or 1 and then 0; the second action is paid for being half of what was shown."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs=num_envs, obs_dim=1, action_dim=1, max_episode_steps=2, spread_episodes=False)
        self.shown = torch.zeros(num_envs, 1)

    def start_episodes(self, rows):
        self.shown[rows] = 2 * torch.randint(2, (len(rows), 1), generator=self.generator) - 1.0

    def advance(self, action):
        second = self.step_count == 1
        return second * (1 - (action - self.shown / 2).square().mean(-1)), second

    def observe(self):
        return torch.where(self.step_count.unsqueeze(-1) == 0, self.shown, 0.0)

    def task_state(self):
        return {"shown": self.shown}

    def load_task_state(self, state):
        self.shown.copy_(state["shown"])


def train(num_batches: int = 12, num_envs: int = 128) -> list[float]:
    """Train; returns the mean pay of an episode in each batch."""
    lstm = LSTMModule(input_size=1, hidden_size=16, in_key="observation", out_key="memory")
    policy = TensorDictSequential(lstm, FlowActor(VelocityMLP(16, 1), in_keys=["memory"]))
    critic = TensorDictModule(ValueMLP(1, hidden_sizes=(32,)), in_keys=["observation"], out_keys=["state_value"])
    env = TransformedEnv(Recall(num_envs), Compose(InitTracker(), lstm.make_tensordict_primer()))
    advantage, loss = GAE(critic), FPOLoss(policy, critic)
    optimizer = AgentOptimizer(policy.parameters(), critic.parameters(), lr=3e-3)
    sizes = {"frames_per_batch": 4 * num_envs, "minibatch_size": num_envs, "total_frames": 4 * num_envs * num_batches}
    how = {"num_epochs": 4, "advantage_every": "minibatch"}
    trainer = Trainer(env, policy, loss, advantage, optimizer, **sizes, **how)
    return [2 * metrics["reward"] for metrics in trainer]


if __name__ == "__main__":
    print("paid (0.75 without memory, 1.00 is best):", *(f"{pay:.2f}" for pay in train()))
