"""The denoising actor against torch's own distributions and numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torch.distributions import MultivariateNormal
from torchrl.envs.utils import ExplorationType, set_exploration_type

from fpo_torchrl import DenoisingActor, Euler, Heun, NoisyEuler, ObservationNormalizer, VelocityMLP, ZeroNoise


class Still(nn.Module):
    """No velocity at all, so that a path is a random walk."""

    action_dim = 2

    def forward(self, observation, x_t, time):
        return 0 * x_t


@pytest.fixture
def make_denoiser():
    def make(**kwargs) -> DenoisingActor:
        net = VelocityMLP(3, 2, hidden_sizes=(16, 16), output_scale=1.0)
        solver = kwargs.pop("solver", NoisyEuler(4, noise_std=0.3))
        return DenoisingActor(kwargs.pop("velocity_net", net), solver, **kwargs)

    return make


def observations(*batch: int) -> TensorDict:
    return TensorDict(observation=torch.randn(*batch, 3), batch_size=batch)


def test_a_step_of_ones_own_has_no_known_likelihood(make_denoiser):
    class Shrinking(NoisyEuler):
        def step(self, velocity, x, time, dt):
            return 0.5 * super().step(velocity, x, time, dt)

    with pytest.raises(TypeError, match="DenoisingActor needs NoisyEuler"):
        make_denoiser(solver=Shrinking(4))


def test_a_path_of_another_number_of_steps(make_denoiser):
    batch, actor = make_denoiser()(observations(5)), make_denoiser(solver=NoisyEuler(3))
    with pytest.raises(ValueError, match=r"stored path should have shape \(5, 4, 2\).*got \(5, 5, 2\)"):
        actor.step_log_prob(batch)


@pytest.mark.parametrize("batch", [(5,), (2, 3)])
def test_every_step_is_scored_as_torchs_multivariate_normal_does(make_denoiser, batch):
    actor = make_denoiser(normalizer=ObservationNormalizer(3))
    actor.normalizer.update(2 + 3 * torch.randn(100, 3))
    td = actor(observations(*batch))
    path = td["denoising_path"]
    assert path.shape == (*batch, 5, 2)
    assert torch.equal(path[..., -1, :], td["flow_action"])
    for step in range(4):
        x, time = path[..., step, :], torch.tensor([step / 4])
        mean = x + actor.velocity_net(actor.normalizer(td["observation"]), x_t=x, time=time) / 4
        expected = MultivariateNormal(mean, 0.09 * torch.eye(2)).log_prob(path[..., step + 1, :])
        torch.testing.assert_close(td["denoising_log_prob"][..., step], expected)
    torch.testing.assert_close(td["action_log_prob"], td["denoising_log_prob"].sum(-1))
    torch.testing.assert_close(actor.step_log_prob(td), td["denoising_log_prob"])


def test_a_path_worked_out_by_hand():
    """A step that hits its mean, and one that is two standard deviations away in one of two dimensions."""
    actor = DenoisingActor(Still(), NoisyEuler(2, noise_std=0.5))
    td = TensorDict(observation=torch.zeros(1, 3), batch_size=1)
    td["denoising_path"] = torch.tensor([[[1.0, 2.0], [1.0, 2.0], [2.0, 2.0]]])
    peak = -math.log(2 * math.pi * 0.25)
    torch.testing.assert_close(actor.step_log_prob(td), torch.tensor([[peak, peak - 2.0]]))


def test_the_noise_of_a_step_has_the_given_size():
    actor = DenoisingActor(Still(), NoisyEuler(1, noise_std=0.2), start_noise=ZeroNoise())
    path = actor(observations(20_000))["denoising_path"]
    torch.testing.assert_close(path[:, 1].std(0), torch.tensor([0.2, 0.2]), atol=0.005, rtol=0)


def test_only_the_final_steps_are_stored_and_scored(make_denoiser):
    torch.manual_seed(1)
    td = make_denoiser()(observations(5))
    whole = make_denoiser()
    final = make_denoiser(num_final_steps=2)
    final.load_state_dict(whole.state_dict())
    torch.manual_seed(2)
    td = whole(observations(5))
    torch.manual_seed(2)
    last = final(observations(5))
    assert torch.equal(last["denoising_path"], td["denoising_path"][:, 2:])
    torch.testing.assert_close(last["denoising_log_prob"], td["denoising_log_prob"][:, 2:])
    torch.testing.assert_close(final.step_log_prob(last), td["denoising_log_prob"][:, 2:])


def test_without_exploration_the_path_is_eulers(make_denoiser):
    actor, td = make_denoiser(), observations(5)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        action = actor(td.clone())["action"]
    plain = actor.for_inference(solver=Euler(4), start_noise=ZeroNoise())
    torch.testing.assert_close(action, plain(td.clone())["action"])


def test_for_inference_it_writes_the_action_only_and_takes_any_solver(make_denoiser):
    actor = make_denoiser()
    view = actor.for_inference(solver=Heun(3))
    assert set(view(observations(4)).keys()) == {"observation", "action", "flow_action"}
    assert "denoising_path" in actor(observations(4))


def test_the_keys_stand_beside_a_nested_action_of_any_name(make_denoiser):
    actor = make_denoiser(action_key=("agent", "arm"))
    td = actor(TensorDict(observation=torch.randn(4, 3), agent=TensorDict(batch_size=4), batch_size=4))
    assert set(td["agent"].keys()) == {
        *("arm", "arm_flow_action", "arm_denoising_path", "arm_denoising_log_prob", "arm_log_prob")
    }
    assert all(key in td.keys(include_nested=True) for key in actor.out_keys)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"solver": Euler(4)}, TypeError, "NoisyEuler"),
        ({"num_final_steps": 0}, ValueError, "between 1 and the solver's 4 steps, got 0"),
        ({"num_final_steps": 2.0}, TypeError, "num_final_steps must be an int such as 5, got 2.0"),
        ({"num_final_steps": 5}, ValueError, "between 1 and the solver's 4 steps, got 5"),
        ({"velocity_net": nn.Identity()}, ValueError, "DenoisingActor needs the size of the action"),
    ],
)
def test_settings_out_of_range_are_refused(make_denoiser, kwargs, error, message):
    with pytest.raises(error, match=message):
        make_denoiser(**kwargs)


def test_a_batch_without_the_path_is_refused(make_denoiser):
    with pytest.raises(KeyError, match="denoising_path"):
        make_denoiser().step_log_prob(observations(4))


def test_another_action_than_the_stored_one_cannot_be_scored(make_denoiser):
    actor = make_denoiser()
    dist = actor.get_dist(actor(observations(4)))
    with pytest.raises(ValueError, match=r"stored action of shape \(4, 2\), got a tensor of shape \(4, 3\)"):
        dist.log_prob(torch.zeros(4, 3))
