"""Actions from pictures: a convolutional encoder before the flow, which runs once for an action whatever the solver.

python examples/pixels.py
"""

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.modules import MLP, ConvNet

from fpo_torchrl import GAE, AgentOptimizer, FlowActor, FPOLoss, Trainer, VelocityMLP
from fpo_torchrl.envs.base import BatchedEnv

SIZE = 8


class Spot(BatchedEnv):
    """An episode is one picture with one bright pixel, and one action, paid for pointing at it."""

    def __init__(self, num_envs: int) -> None:
        pixels = {"pixels": (1, SIZE, SIZE)}
        super().__init__(num_envs=num_envs, obs_dim=pixels, action_dim=2, max_episode_steps=1, spread_episodes=False)
        self.spot = torch.zeros(num_envs, 2, dtype=torch.int64)

    def start_episodes(self, rows):
        self.spot[rows] = torch.randint(SIZE, (len(rows), 2), generator=self.generator)

    def advance(self, action):
        place = 1.6 * self.spot / (SIZE - 1) - 0.8
        return 1 - (action - place).square().mean(-1), torch.ones(self.num_envs, dtype=torch.bool)

    def observe(self):
        row, column = torch.nn.functional.one_hot(self.spot, SIZE).float().unbind(-2)
        return {"pixels": (row.unsqueeze(-1) * column.unsqueeze(-2)).unsqueeze(-3)}

    def task_state(self):
        return {"spot": self.spot}

    def load_task_state(self, state):
        self.spot.copy_(state["spot"])


def train(num_batches: int = 15, num_envs: int = 512) -> list[float]:
    """Train; returns the mean reward of each batch."""
    encoder = TensorDictModule(ConvNet(1, num_cells=[8], kernel_sizes=3), in_keys=["pixels"], out_keys=["features"])
    num_features = encoder.module(torch.zeros(1, SIZE, SIZE)).numel()
    policy = TensorDictSequential(encoder, FlowActor(VelocityMLP(num_features, 2), in_keys=["features"]))
    value_net = torch.nn.Sequential(ConvNet(1, num_cells=[8], kernel_sizes=3), MLP(num_features, 1, num_cells=[32]))
    critic = TensorDictModule(value_net, in_keys=["pixels"], out_keys=["state_value"])
    advantage, loss = GAE(critic), FPOLoss(policy, critic)
    optimizer = AgentOptimizer(policy.parameters(), critic.parameters(), lr=3e-3)
    sizes = {"frames_per_batch": num_envs, "minibatch_size": num_envs // 2, "total_frames": num_batches * num_envs}
    return [metrics["reward"] for metrics in Trainer(Spot(num_envs), policy, loss, advantage, optimizer, **sizes)]


if __name__ == "__main__":
    print("reward (0.73 for always the middle, 1.00 is best):", *(f"{reward:.2f}" for reward in train()))
