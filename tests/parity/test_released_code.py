"""The authors' released JAX code, recorded on random inputs, is reproduced to 1e-5 relative in float32.

``tests/data/fpo_reference.npz`` holds what functions of akanazawa/fpo (playground/, commit 418c255) returned. Their
flow time runs from action (0) to noise (1) and their velocity points to the noise. Only this file knows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from fpo_torchrl import (
    Clamp,
    Euler,
    FlowActor,
    FPOLoss,
    NoiseTarget,
    ObservationNormalizer,
    VelocityMLP,
    VelocityTarget,
)
from fpo_torchrl.flow import StartNoise
from fpo_torchrl.functional import brax_advantage
from fpo_torchrl.modules import CosSinTimeEmbedding


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, scale: float | None = None) -> None:
    """The largest difference is below 1e-5 of the largest entry, or of ``scale`` where terms cancel."""
    assert ours.shape == theirs.shape
    assert theirs.any()
    assert (ours - theirs).abs().max() <= 1e-5 * (theirs.abs().max() if scale is None else scale)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(Path(__file__).parents[1] / "data" / "fpo_reference.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


class TheirVelocity(nn.Module):
    """A velocity network in their time, asked in ours."""

    def __init__(self, net: VelocityMLP) -> None:
        super().__init__()
        self.net, self.action_dim = net, net.action_dim

    def forward(self, observation, x_t, time):
        return -self.net(observation, x_t, 1 - time)


class Recorded(StartNoise):
    """The start noise that they drew."""

    def __init__(self, noise: torch.Tensor) -> None:
        self.noise = noise

    def sample(self, shape, like):
        assert tuple(shape) == self.noise.shape
        return self.noise


@pytest.fixture
def make_actor(golden):
    """A flow actor with their weights and observation statistics."""
    net = VelocityMLP(5, 3, hidden_sizes=(32, 32, 32, 32), output_scale=0.25)
    normalizer = ObservationNormalizer(5)
    with torch.no_grad():
        for i, layer in enumerate(net.layers):
            layer.weight.copy_(golden[f"policy_w{i}"].T)
            layer.bias.copy_(golden[f"policy_b{i}"])
        normalizer.mean.copy_(golden["obs_mean"])
        normalizer.std.copy_(golden["obs_std"])
    return lambda **kwargs: FlowActor(TheirVelocity(net), squash="none", normalizer=normalizer, **kwargs)


@pytest.fixture
def batch(golden) -> TensorDict:
    """Their rollout, time first, as this package stores one."""
    advantage = golden["brax_gae_advantages"]
    return TensorDict(
        observation=golden["obs"],
        action=golden["action"],
        flow_action=golden["action"],
        flow_noise=golden["eps"],
        flow_time=1 - golden["t_ref"],
        cfm_loss=golden["cfm_eps_old"],
        advantage=((advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)).unsqueeze(-1),
        value_target=golden["brax_gae_targets"].unsqueeze(-1),
        recorded_value=golden["values"].unsqueeze(-1),
        batch_size=(6, 4),
    )


def test_time_embedding(golden):
    assert_same(CosSinTimeEmbedding(8)(golden["embed_t"]), golden["embed_out"])


@pytest.mark.parametrize(("target", "key"), [(VelocityTarget(), "cfm_u"), (NoiseTarget(), "cfm_eps")])
def test_cfm_losses(golden, make_actor, batch, target, key):
    assert_same(make_actor(target=target).cfm_loss(batch), golden[key])


def test_euler_samples(golden, make_actor, batch):
    actor = make_actor(solver=Euler(num_steps=10), start_noise=Recorded(golden["euler_noise"]), num_mc_samples=0)
    assert_same(actor(batch.select("observation"))["action"], golden["euler_action"])


@pytest.mark.parametrize(
    ("prefix", "kwargs"),
    [
        ("avg", {"ratio": "per_action"}),
        ("persample", {"ratio": "per_sample", "log_ratio_clamp": Clamp(-3.0, 3.0)}),
    ],
)
def test_losses_and_policy_gradients(golden, make_actor, batch, prefix, kwargs):
    actor = make_actor()
    recorded_critic = TensorDictModule(lambda value: value, in_keys=["recorded_value"], out_keys=["state_value"])
    loss = FPOLoss(actor, recorded_critic, clip_epsilon=0.05, normalize_advantage=False, **kwargs)
    out = loss(batch)
    # a mean of normalised advantages times ratios near 1, of which a thousandth is left
    assert_same(out["loss_objective"], golden[f"{prefix}_policy_loss"], scale=batch["advantage"].abs().mean().item())
    assert_same(out["loss_critic"], golden[f"{prefix}_v_loss"])
    assert_same(out["loss_objective"] + out["loss_critic"], golden[f"{prefix}_total_loss"])
    assert_same(out["mean_ratio"], golden[f"{prefix}_ratio_mean"])
    assert_same(out["clip_fraction"], golden[f"{prefix}_clip_fraction"])
    out["loss_objective"].backward()
    layers = actor.velocity_net.net.layers
    assert_same(layers[0].weight.grad.T, golden[f"{prefix}_grad_policy_w0"])
    assert_same(layers[-1].weight.grad.T, golden[f"{prefix}_grad_policy_wlast"])
    assert_same(layers[-1].bias.grad, golden[f"{prefix}_grad_policy_blast"])


def test_advantages_and_value_targets(golden):
    column = lambda key: golden[key].T.unsqueeze(-1)  # noqa: E731 - time first becomes time second-last
    value, last_value = column("values"), column("bootstrap_value")
    truncated = column("truncation").bool()
    terminated = column("discount") == 0
    assert truncated.any()
    assert terminated.any()
    advantage, target = brax_advantage(
        reward=10 * column("reward"),
        terminated=terminated,
        truncated=truncated,
        value=value,
        next_value=torch.cat([value[:, 1:], last_value], 1),
        gamma=0.995,
        lmbda=0.95,
    )
    assert_same(advantage, column("brax_gae_advantages"))
    assert_same(target, column("brax_gae_targets"))
