"""The steps of TorchRL's PPO tutorial with a flow policy: the two marked lines are what differs from a Gaussian.

    python examples/ppo_tutorial.py

As https://docs.pytorch.org/rl/stable/tutorials/coding_ppo.html: transformed environment, actor, critic, collector,
buffer, GAE, loss, optimiser, loop.
"""

import torch
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.envs import Compose, DoubleToFloat, GymEnv, ObservationNorm, StepCounter, TransformedEnv
from torchrl.modules import MLP
from torchrl.objectives.value import GAE

from fpo_torchrl import FlowActor, FPOLoss, VelocityMLP


def train(total_frames: int = 100_000, frames_per_batch: int = 1000, *, batch_size: int = 100) -> list[float]:
    """Train on the inverted double pendulum; returns the mean reward of each batch."""
    env = TransformedEnv(
        GymEnv("InvertedDoublePendulum-v4"),
        Compose(ObservationNorm(in_keys=["observation"]), DoubleToFloat(), StepCounter()),
    )
    env.transform[0].init_stats(num_iter=frames_per_batch, reduce_dim=0, cat_dim=0)
    obs_dim, action_dim = env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]

    actor = FlowActor(VelocityMLP(obs_dim, action_dim, hidden_sizes=(256, 256)))  # was a ProbabilisticActor
    value_net = MLP(in_features=obs_dim, out_features=1, num_cells=[256, 256])
    critic = TensorDictModule(value_net, in_keys=["observation"], out_keys=["state_value"])
    collector = Collector(env, actor, frames_per_batch=frames_per_batch, total_frames=total_frames)
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(frames_per_batch), sampler=SamplerWithoutReplacement(), batch_size=batch_size
    )
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic, average_gae=True)
    loss = FPOLoss(actor, critic)  # was ClipPPOLoss
    optimizer = torch.optim.Adam(loss.parameters(), 3e-4)

    rewards = []
    for batch in collector:
        for _ in range(10):
            advantage(batch)
            buffer.extend(batch.reshape(-1))
            for minibatch in buffer:
                losses = loss(minibatch)
                (losses["loss_objective"] + losses["loss_critic"]).backward()
                torch.nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        rewards.append(batch["next", "reward"].mean().item())
        print(f"reward per step {rewards[-1]:.3f}, share of clipped ratios {losses['clip_fraction']:.3f}")
    return rewards


if __name__ == "__main__":
    train()
