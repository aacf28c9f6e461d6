"""The path, its velocity and its ends agree with each other."""

from __future__ import annotations

import pytest
import torch

from fpo_torchrl import LinearPath


@pytest.fixture
def ends() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise for eight pairs and one action for all of them, shapes that broadcast."""
    return torch.randn(5, 8, 3, dtype=torch.float64), torch.randn(5, 1, 3, dtype=torch.float64)


def test_the_path_starts_at_the_noise_and_ends_at_the_action(ends):
    noise, action = ends
    path = LinearPath()
    assert torch.equal(path.interpolate(noise, action, torch.zeros(5, 8, 1)), noise)
    assert torch.equal(path.interpolate(noise, action, torch.ones(5, 8, 1)), action.expand(5, 8, 3))


@pytest.mark.parametrize("time", [0.0, 0.3, 0.9, 1.0])
def test_velocity_is_the_time_derivative_of_the_path(ends, time):
    noise, action = ends
    path = LinearPath()
    time = torch.full((5, 8, 1), time, dtype=torch.float64)
    _, derivative = torch.func.jvp(lambda t: path.interpolate(noise, action, t), (time,), (torch.ones_like(time),))
    torch.testing.assert_close(path.velocity(noise, action), derivative)
