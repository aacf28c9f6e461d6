"""FPO as a plain torch loop on the same networks, equations and environment, without TorchRL and TensorDict."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fpo_torchrl.envs.base import BatchedEnv
from fpo_torchrl.flow import TorchDraws
from fpo_torchrl.functional import fpo_log_ratio, ppo_objective
from fpo_torchrl.modules import FlowActor, ObservationNormalizer, ValueMLP

Batch = dict[str, Tensor]


class PlainFPO:
    """Collects and learns as the trainer does with ``experiment=fpo_paper``: GAE once per batch, PPO's clip.

    Args:
        actor: gives the networks and settings; it is not called.
        value_net: the critic, with the actor's normaliser.
        env: stepped through its own methods, not through ``EnvBase``; None to learn only.
        frames_per_batch, num_epochs, minibatch_size: as the trainer's.
        gamma, lmbda, reward_scale, clip_epsilon, critic_coeff, lr: as the components'.
    """

    def __init__(
        self,
        actor: FlowActor,
        value_net: ValueMLP,
        env: BatchedEnv | None = None,
        *,
        frames_per_batch: int,
        num_epochs: int,
        minibatch_size: int,
        gamma: float = 0.995,
        lmbda: float = 0.95,
        reward_scale: float = 10.0,
        clip_epsilon: float = 0.05,
        critic_coeff: float = 0.25,
        lr: float = 3e-4,
    ) -> None:
        assert isinstance(actor.normalizer, ObservationNormalizer)
        self.actor, self.normalizer, self.value_net, self.env = actor, actor.normalizer, value_net, env
        self.frames_per_batch, self.num_epochs, self.minibatch_size = frames_per_batch, num_epochs, minibatch_size
        self.gamma, self.lmbda, self.reward_scale = gamma, lmbda, reward_scale
        self.clip_epsilon, self.critic_coeff = clip_epsilon, critic_coeff
        self.parameters = [*actor.velocity_net.parameters(), *value_net.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, fused=True)
        self.observation: Tensor | None = None

    @torch.no_grad()
    def act(self, observation: Tensor) -> Batch:
        """Actions ``[*batch, act]`` and what the update needs of them."""
        actor, normal = self.actor, self.normalizer(observation)
        noise = torch.randn(*observation.shape[:-1], actor.action_dim, device=observation.device)
        action = actor.solver(actor.velocity_net.condition(normal), noise)
        shape = (*action.shape[:-1], actor.num_mc_samples, actor.action_dim)
        noise, time = actor.pairs.sample(shape, actor.time_sampler, TorchDraws(action))
        cfm_loss = self.cfm_loss(normal, action, noise, time)
        return {"flow_action": action, "noise": noise, "time": time, "cfm_loss": cfm_loss}

    def cfm_loss(self, normal: Tensor, action: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Loss ``[*batch, mc]`` of actions at their pairs, given normalised observations."""
        action = action.unsqueeze(-2)
        x_t = (1 - time) * noise + time * action
        velocity = self.actor.velocity_net(normal.unsqueeze(-2), x_t, time)
        return (time * (velocity - (action - noise))).square().mean(-1)

    @torch.no_grad()
    def collect(self) -> Batch:
        """A batch ``[time, num_envs]`` of experience."""
        env = self.env
        assert env is not None
        if self.observation is None:
            env.start_episodes(torch.arange(env.num_envs))
            self.observation = env.observe()
        steps = []
        for _ in range(self.frames_per_batch // env.num_envs):
            step = {"observation": self.observation, **self.act(self.observation)}
            step["reward"], step["terminated"] = env.advance(step["flow_action"].tanh())
            env.step_count += 1
            step["done"] = step["terminated"] | (env.step_count >= env.max_episode_steps)
            step["next_observation"] = self.observation = env.observe()
            if step["done"].any():
                rows = step["done"].nonzero().flatten()
                env.start_episodes(rows)
                env.step_count[rows] = 0
                self.observation = env.observe()
            steps.append(step)
        return {key: torch.stack([step[key] for step in steps]) for key in steps[0]}

    @torch.no_grad()
    def estimate(self, batch: Batch) -> None:
        """Add advantage and value target to a batch ``[time, num_envs]``."""
        value = self.value_net(batch["observation"]).squeeze(-1)
        next_value = value.roll(-1, 0)
        ends = batch["done"].clone()
        ends[-1] = True
        next_value[ends] = self.value_net(batch["next_observation"][ends]).squeeze(-1)
        discount = self.gamma * (~batch["terminated"]).float()
        delta = self.reward_scale * batch["reward"] + discount * next_value - value
        decay = self.gamma * self.lmbda * (~batch["done"]).float()
        advantage, running = torch.empty_like(delta), torch.zeros_like(delta[0])
        for t in reversed(range(len(delta))):
            running = delta[t] + decay[t] * running
            advantage[t] = running
        batch["advantage"], batch["value_target"] = advantage, advantage + value

    def loss(self, batch: Batch) -> Tensor:
        """FPO's objective and the critic's error on transitions ``[frames]``."""
        normal = self.normalizer(batch["observation"])
        new = self.cfm_loss(normal, batch["flow_action"], batch["noise"], batch["time"])
        advantage = batch["advantage"].unsqueeze(-1)
        advantage = (advantage - advantage.mean()) / advantage.std().clamp_min(1e-6)
        ratio = fpo_log_ratio(batch["cfm_loss"], new).exp()
        objective = ppo_objective(ratio, advantage, self.clip_epsilon, self.clip_epsilon).mean()
        value = self.value_net(batch["observation"]).squeeze(-1)
        return self.critic_coeff * (value - batch["value_target"]).square().mean() - objective

    def learn(self, batch: Batch) -> None:
        """Epochs of gradient steps on a batch ``[time, num_envs]``, and then the normaliser."""
        self.estimate(batch)
        unread = ("reward", "terminated", "done", "next_observation")
        flat = {key: value.flatten(0, 1) for key, value in batch.items() if key not in unread}
        for _ in range(self.num_epochs):
            for index in torch.randperm(len(flat["advantage"])).split(self.minibatch_size):
                index = index.to(flat["advantage"].device)
                self.optimizer.zero_grad(set_to_none=True)
                self.loss({key: value[index] for key, value in flat.items()}).backward()
                for net in (self.actor.velocity_net, self.value_net):
                    nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
                self.optimizer.step()
        self.normalizer.update(batch["observation"])
