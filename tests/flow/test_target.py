"""A regression target is a weight on the velocity error; here the weight is checked against the target itself."""

from __future__ import annotations

import pytest
import torch

from fpo_torchrl import ActionTarget, LinearPath, NoiseTarget, VelocityMLP, VelocityTarget
from fpo_torchrl.functional import cfm_error


@pytest.fixture
def prediction():
    """A network's velocity at random points of random paths."""
    path = LinearPath()
    noise, action = torch.randn(64, 3), torch.randn(64, 3)
    time = torch.rand(64, 1)
    x_t = path.interpolate(noise, action, time)
    velocity = VelocityMLP(2, 3)(torch.randn(64, 2), x_t, time)
    return path, noise, action, time, x_t, velocity.detach()


def test_noise_target_is_the_error_of_the_predicted_noise(prediction):
    path, noise, action, time, x_t, velocity = prediction
    loss = cfm_error(velocity, path.velocity(noise, action), NoiseTarget().weight(time))
    error = torch.nn.functional.mse_loss(x_t - time * velocity, noise, reduction="none")
    torch.testing.assert_close(loss, error.mean(-1), rtol=1e-4, atol=1e-6)


def test_action_target_is_the_error_of_the_predicted_action(prediction):
    path, noise, action, time, x_t, velocity = prediction
    loss = cfm_error(velocity, path.velocity(noise, action), ActionTarget().weight(time))
    error = torch.nn.functional.mse_loss(x_t + (1 - time) * velocity, action, reduction="none")
    torch.testing.assert_close(loss, error.mean(-1), rtol=1e-4, atol=1e-6)


def test_velocity_target_is_the_error_of_the_velocity(prediction):
    path, noise, action, time, _, velocity = prediction
    loss = cfm_error(velocity, path.velocity(noise, action), VelocityTarget().weight(time))
    torch.testing.assert_close(loss, torch.nn.functional.mse_loss(velocity, action - noise, reduction="none").mean(-1))


def test_a_target_that_is_already_reached_has_no_error():
    assert NoiseTarget().weight(torch.zeros(1)) == 0
    assert ActionTarget().weight(torch.ones(1)) == 0
