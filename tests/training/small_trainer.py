"""A trainer put together by hand, whose loss remembers what it was given."""

from __future__ import annotations

from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor

from fpo_torchrl import Euler, FlowActor, FPOLoss, ValueMLP, VelocityMLP
from fpo_torchrl.advantage import GAE
from fpo_torchrl.optim import AgentOptimizer
from fpo_torchrl.trainer import Trainer

NUM_ENVS, STEPS = 4, 6
BATCH = NUM_ENVS * STEPS


class Watched(FPOLoss):
    """FPO's loss that remembers the minibatches it was given."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[TensorDict] = []

    def forward(self, tensordict):
        self.seen.append(tensordict.clone())
        return super().forward(tensordict)


def trainer_on(env, *, actor: FlowActor | None = None, lr: float = 1e-3, prior_coeff: float = 0.0, **kwargs) -> Trainer:
    """A trainer with small networks, put together by hand."""
    obs_dim = env.observation_spec["observation"].shape[-1]
    action_dim = env.action_spec.shape[-1]
    if actor is None:
        net = VelocityMLP(obs_dim, action_dim, hidden_sizes=(8,), output_scale=1.0)
        actor = FlowActor(net, Euler(2), num_mc_samples=2)
    critic = TensorDictModule(ValueMLP(obs_dim, hidden_sizes=(8,)), in_keys=["observation"], out_keys=["state_value"])
    settings = {"total_frames": 2 * BATCH, "frames_per_batch": BATCH, "num_epochs": 2, "minibatch_size": BATCH}
    optimizer = AgentOptimizer(actor.parameters(), critic.parameters(), lr=lr)
    loss = Watched(actor, critic, prior_coeff=prior_coeff)
    return Trainer(env, actor, loss, GAE(critic), optimizer, **{**settings, **kwargs})


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for group in trainer.optimizer.param_groups for p in group["params"]]


def unchanged(trainer: Trainer, before: list[Tensor]) -> bool:
    return all(new.equal(old) for new, old in zip(weights(trainer), before, strict=True))
