"""Several agents with one flow policy, on a VMAS task: the agents are one more dimension of the batch.

    pip install vmas
    python examples/agents.py

Everything of an agent is under ``"agents"``, ``[num_envs, time, agents, ...]``; ``normalize_advantage_exclude_dims``
normalises each agent's advantage by itself.
"""

import torch
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.envs.libs.vmas import VmasEnv
from torchrl.modules import MultiAgentMLP

from fpo_torchrl import FlowActor, FPOLoss, VelocityMLP

PER_AGENT = ("reward", "done", "terminated", "advantage", "value_target")


def train(num_batches: int = 30, num_envs: int = 60, *, max_steps: int = 50) -> list[float]:
    """Train; returns the mean reward of each batch."""
    env = VmasEnv("navigation", num_envs=num_envs, n_agents=3, continuous_actions=True, max_steps=max_steps, seed=0)
    obs_dim = env.observation_spec["agents", "observation"].shape[-1]
    action_dim = env.full_action_spec["agents", "action"].shape[-1]
    actor = FlowActor(
        VelocityMLP(obs_dim, action_dim), in_keys=[("agents", "observation")], action_key=("agents", "action")
    )
    value_net = MultiAgentMLP(obs_dim, 1, n_agents=3, centralized=True, share_params=True, depth=2, num_cells=64)
    critic = TensorDictModule(value_net, in_keys=[("agents", "observation")], out_keys=[("agents", "state_value")])
    loss = FPOLoss(actor, critic, normalize_advantage_exclude_dims=(-2,))
    loss.set_keys(value=("agents", "state_value"), **{name: ("agents", name) for name in PER_AGENT})
    loss.make_value_estimator(gamma=0.9, lmbda=0.9)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-3)
    history, frames = [], num_envs * max_steps
    for batch in Collector(env, actor, frames_per_batch=frames, total_frames=frames * num_batches):
        for name in ("done", "terminated"):  # an episode is over for all of its agents at once
            batch["next", "agents", name] = (
                batch["next", name].unsqueeze(-2).expand_as(batch["next", "agents", "reward"])
            )
        with torch.no_grad():
            loss.value_estimator(batch, params=loss.critic_network_params)
        for index in torch.cat([torch.randperm(frames) for _ in range(4)]).split(frames // 4):
            losses = loss(batch.reshape(-1)[index])
            optimizer.zero_grad()
            (losses["loss_objective"] + losses["loss_critic"]).backward()
            torch.nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
            optimizer.step()
        history.append(batch["next", "agents", "reward"].mean().item())
        print(f"reward per step and agent {history[-1]:.3f}")
    return history


if __name__ == "__main__":
    train()
