"""TorchRL's own flow policy, fine-tuned by FPO and handed back, on one set of weights.

    python examples/torchrl_flow_policy.py

``FlowMatchingPolicy`` is in TorchRL since the release after 0.14.
"""

import torch
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.modules import MLP

from fpo_torchrl import FPOLoss, ValueMLP, make_env
from fpo_torchrl.modules.interop import from_flow_matching_policy, to_flow_matching_policy

try:
    from torchrl.modules import FlowMatchingPolicy
except ImportError as error:
    raise SystemExit("This needs FlowMatchingPolicy, which TorchRL has in releases after 0.14") from error


def train(num_batches: int = 20, num_envs: int = 64) -> tuple[list[float], FlowMatchingPolicy]:
    """Train; returns the mean reward of each batch, and TorchRL's policy on the weights that earned it."""
    env = make_env("probe/action", num_envs=num_envs, seed=0)
    policy = FlowMatchingPolicy(MLP(1 + 1 + 1, 1, num_cells=[32, 32]), action_dim=1)
    actor = from_flow_matching_policy(policy)
    critic = TensorDictModule(ValueMLP(1, hidden_sizes=(32,)), in_keys=["observation"], out_keys=["state_value"])
    loss = FPOLoss(actor, critic)
    loss.make_value_estimator(gamma=0.99, lmbda=0.95)
    optimizer = torch.optim.Adam(loss.parameters(), 3e-3)
    rewards, frames = [], 4 * num_envs
    for batch in Collector(env, actor, frames_per_batch=frames, total_frames=frames * num_batches):
        with torch.no_grad():
            loss.value_estimator(batch, params=loss.critic_network_params)
        for index in torch.cat([torch.randperm(frames) for _ in range(4)]).split(frames // 2):
            losses = loss(batch.reshape(-1)[index])
            optimizer.zero_grad()
            (losses["loss_objective"] + losses["loss_critic"]).backward()
            optimizer.step()
        rewards.append(batch["next", "reward"].mean().item())
    return rewards, to_flow_matching_policy(actor)


if __name__ == "__main__":
    history, trained = train()
    print("reward (1.00 is best):", *(f"{reward:.2f}" for reward in history))
