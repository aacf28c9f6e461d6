"""The DPPO loss against hand arithmetic, a policy gradient written with torch's distributions, and TorchRL's PPO."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torch.distributions import Independent, Normal
from torchrl.objectives import ClipPPOLoss

from fpo_torchrl import SPO, DenoisingActor, DenoisingMDPLoss, FPOLoss, NoisyEuler, VelocityMLP


class Drift(nn.Module):
    """A velocity that is one trained number everywhere."""

    action_dim = 1

    def __init__(self) -> None:
        super().__init__()
        self.drift = nn.Parameter(torch.zeros(1))

    def forward(self, observation, x_t, time):
        return self.drift + 0 * x_t


@pytest.fixture
def make_denoiser():
    def make(**kwargs) -> DenoisingActor:
        net = VelocityMLP(3, 2, hidden_sizes=(16,), output_scale=1.0)
        return DenoisingActor(net, NoisyEuler(4, noise_std=0.3), **kwargs)

    return make


def batch_of(log_ratios: list[list[float]], advantages: list[float]) -> tuple[DenoisingActor, TensorDict]:
    """A batch whose steps have the given log-ratios: what was stored is the present likelihood minus them."""
    actor = DenoisingActor(Drift(), NoisyEuler(len(log_ratios[0]), noise_std=1.0), squash="none")
    batch = len(advantages)
    td = TensorDict(
        observation=torch.zeros(batch, 3),
        action=torch.zeros(batch, 1),
        denoising_path=torch.zeros(batch, len(log_ratios[0]) + 1, 1),
        advantage=torch.tensor(advantages).unsqueeze(-1),
        batch_size=batch,
    )
    peak = -0.5 * math.log(2 * math.pi)
    td["denoising_log_prob"] = peak - torch.tensor(log_ratios)
    return actor, td


def test_the_objective_is_the_mean_over_steps_of_clipped_ratios():
    """Ratios 2 and 0.5 with advantage 1: min(2, 1.2) and min(0.5, 0.8); with -1: -2 and -0.8."""
    actor, td = batch_of([[math.log(2), math.log(0.5)]] * 2, [1.0, -1.0])
    losses = DenoisingMDPLoss(actor, clip_epsilon=0.2, normalize_advantage=False, reduction="none")(td)
    torch.testing.assert_close(losses["loss_objective"], torch.tensor([-(1.2 + 0.5) / 2, (2.0 + 0.8) / 2]))
    assert losses["clip_fraction"] == 1
    torch.testing.assert_close(losses["max_ratio"], torch.tensor(2.0))


def test_a_step_outside_the_clip_gives_no_gradient_and_the_others_do():
    """The path stands still, so each step's log-likelihood falls by drift^2 / 2 K^2; at drift 1 its slope is -1/K^2."""
    actor, td = batch_of([[math.log(2), 0.0]], [1.0])
    with torch.no_grad():
        actor.velocity_net.drift.fill_(1.0)
    td["denoising_log_prob"] = actor.step_log_prob(td).detach() - torch.tensor([[math.log(2), 0.0]])
    DenoisingMDPLoss(actor, clip_epsilon=0.2, normalize_advantage=False)(td)["loss_objective"].backward()
    torch.testing.assert_close(actor.velocity_net.drift.grad, torch.tensor([0.5 / 4]))


def test_at_collection_ratios_are_1_and_the_gradient_is_the_policy_gradient(make_denoiser, collect):
    actor = make_denoiser()
    td = collect(actor, 20)
    losses = DenoisingMDPLoss(actor, normalize_advantage=False)(td)
    assert losses["min_ratio"] == losses["max_ratio"] == 1
    found = torch.autograd.grad(losses["loss_objective"], list(actor.parameters()))
    path, log_prob = td["denoising_path"], []
    for step in range(4):
        x = path[:, step]
        velocity = actor.velocity_net(td["observation"], x_t=x, time=torch.tensor([step / 4]))
        log_prob.append(Independent(Normal(x + velocity / 4, 0.3), 1).log_prob(path[:, step + 1]))
    objective = -(td["advantage"] * torch.stack(log_prob, -1)).mean()
    torch.testing.assert_close(found, torch.autograd.grad(objective, list(actor.parameters())))


def test_torchrls_own_ppo_trains_the_actor_with_the_ratio_of_the_whole_path(
    make_denoiser, make_critic, collect, move_weights
):
    actor, critic = make_denoiser(), make_critic()
    td = collect(actor, 50)
    ppo = ClipPPOLoss(actor, critic, entropy_bonus=False, normalize_advantage=False, clip_epsilon=0.9, functional=False)
    move_weights(actor, scale=0.005)
    ratio = (actor.step_log_prob(td) - td["denoising_log_prob"]).sum(-1, keepdim=True).exp()
    assert 0.01 < (ratio - 1).abs().max() < 0.9
    torch.testing.assert_close(ppo(td)["loss_objective"], -(ratio * td["advantage"]).mean())


def test_with_one_step_it_is_torchrls_clip_ppo(make_critic, collect, move_weights):
    actor = DenoisingActor(VelocityMLP(3, 2, hidden_sizes=(16,)), NoisyEuler(1, noise_std=0.5))
    td, critic = collect(actor, 50), make_critic()
    move_weights(actor.velocity_net, scale=0.1)
    settings = {"clip_epsilon": 0.2, "normalize_advantage": False, "loss_critic_type": "l2", "critic_coeff": 0.25}
    ours = DenoisingMDPLoss(actor, critic, **settings)(td)
    theirs = ClipPPOLoss(actor, critic, entropy_bonus=False, **settings)(td)
    for key in ("loss_objective", "loss_critic", "clip_fraction"):
        torch.testing.assert_close(ours[key], theirs[key])


def test_the_final_steps_alone_are_trained(make_denoiser, collect):
    actor = make_denoiser(num_final_steps=2)
    td = collect(actor, 5)
    assert td["denoising_log_prob"].shape == (5, 2)
    assert DenoisingMDPLoss(actor)(td)["mean_ratio"] == 1


def test_the_losss_keys_are_the_actors(make_denoiser, make_critic, collect):
    actor = make_denoiser()
    loss = DenoisingMDPLoss(actor, make_critic(), trust_region=SPO(0.1))
    assert {"denoising_path", "denoising_log_prob"} <= set(loss.in_keys)
    td = collect(actor).select("observation", "denoising_path", "denoising_log_prob", "advantage", "value_target")
    assert set(loss(td).keys()) == set(loss.out_keys)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda td: td.exclude("denoising_log_prob"), KeyError, "the log-likelihood of each denoising step"),
        (
            lambda td: td.set("denoising_log_prob", td["denoising_log_prob"][:, :1]),
            ValueError,
            r"\(6, 4\), got \(6, 1\)",
        ),
        (lambda td: td.set("advantage", td["advantage"].squeeze(-1)), ValueError, r"shape \(6, 1\)"),
    ],
)
def test_a_batch_of_another_form_is_refused(make_denoiser, collect, change, error, message):
    actor = make_denoiser()
    with pytest.raises(error, match=message):
        DenoisingMDPLoss(actor)(change(collect(actor)))


def test_an_actor_of_another_kind_is_refused(make_actor, make_denoiser):
    with pytest.raises(TypeError, match=r"needs a DenoisingActor.*got FlowActor"):
        DenoisingMDPLoss(make_actor())
    with pytest.raises(TypeError, match=r"needs a FlowActor.*got DenoisingActor"):
        FPOLoss(make_denoiser())


def test_an_actor_that_stores_no_path_is_refused(make_denoiser):
    with pytest.raises(ValueError, match=r"DenoisingMDPLoss needs .* nor what for_inference\(\) returns"):
        DenoisingMDPLoss(make_denoiser().for_inference())


def test_a_radius_beside_a_trust_region_is_refused(make_denoiser):
    with pytest.raises(ValueError, match="give the radius to the trust region"):
        DenoisingMDPLoss(make_denoiser(), clip_epsilon=0.1, trust_region=SPO(0.1))


def test_actor_and_critic_have_short_names_as_in_torchrl(make_critic):
    actor, critic = DenoisingActor(VelocityMLP(3, 2)), make_critic()
    loss = DenoisingMDPLoss(actor=actor, critic=critic)
    ours = {id(p) for p in loss.parameters()}
    assert ours == {id(p) for module in (actor, critic) for p in module.parameters()}
    with pytest.raises(ValueError, match="actor and actor_network are two names of one argument"):
        DenoisingMDPLoss(actor, actor=actor)
