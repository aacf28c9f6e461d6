"""The exact marginal flow against integrals, samples and flows that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fpo_torchrl import RK4, CFMLoss, Euler, EulerMaruyama, FlowActor, LinearPath, MarginalFlow

POINTS = torch.tensor([[-1.5], [0.5], [1.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
GRID = torch.linspace(-8, 8, 3201, dtype=torch.float64).unsqueeze(-1)
PLANE = torch.tensor([[-1.0, 0.0], [1.0, 1.0]], dtype=torch.float64), torch.tensor([0.25, 0.75], dtype=torch.float64)


def at(time: float) -> torch.Tensor:
    return torch.tensor([time], dtype=torch.float64)


def test_one_point_is_reached_in_a_straight_line_at_constant_speed():
    """From x at time t the point lies (point - x) away, in the time 1 - t."""
    point, x = torch.tensor([[3.0, -1.0]]), torch.randn(5, 2)
    time = torch.rand(5, 1)
    torch.testing.assert_close(MarginalFlow(point)(x, time), (point - x) / (1 - time), rtol=1e-4, atol=1e-4)


def test_at_time_0_the_velocity_leads_to_the_weighted_mean():
    x = torch.randn(6, 1, dtype=torch.float64)
    # 0.2 * -1.5 + 0.3 * 0.5 + 0.5 * 1
    torch.testing.assert_close(MarginalFlow(POINTS, WEIGHTS)(x, at(0.0)), 0.35 - x)


@pytest.mark.parametrize("std", [0.5, 2.0])
def test_the_flow_to_one_normal_distribution_scales_the_noise(std):
    """The flow to N(0, std^2) carries noise x to std x, and x_t to sqrt((1 - t)^2 + t^2 std^2) x."""
    x = torch.tensor([[-1.2], [0.3]], dtype=torch.float64)
    flow = MarginalFlow(torch.zeros(1, 1, dtype=torch.float64), std=std)
    torch.testing.assert_close(RK4(50)(flow, x), std * x, rtol=1e-5, atol=0)


@pytest.mark.parametrize("time", [0.0, 0.4, 0.8, 1.0])
def test_the_density_integrates_to_one(time):
    density = MarginalFlow(POINTS, WEIGHTS, std=0.2).density(GRID, at(time))
    assert torch.trapezoid(density, GRID.squeeze()).item() == pytest.approx(1, abs=1e-9)


def test_the_density_of_two_dimensions_integrates_to_one():
    axis = torch.linspace(-6, 6, 241, dtype=torch.float64)
    density = MarginalFlow(*PLANE).density(torch.cartesian_prod(axis, axis), at(0.5))
    assert density.sum().item() * 0.05**2 == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("std", [0.0, 0.2])
@pytest.mark.parametrize("weights", [WEIGHTS, torch.tensor([-0.4, 0.1, 0.3], dtype=torch.float64)], ids=["q", "signed"])
def test_density_and_velocity_conserve_mass(std, weights):
    """The continuity equation: d density / dt = -d (density velocity) / dx, by automatic differentiation."""
    flow = MarginalFlow(POINTS, weights, std=std)
    x = torch.tensor([-1.3, -0.2, 0.1, 0.9], dtype=torch.float64)

    def flux(x):
        return flow.density(x.view(1), at(0.6)) * flow(x.view(1), at(0.6)).squeeze()

    change = torch.func.vmap(lambda x: torch.func.jacrev(lambda t: flow.density(x.view(1), t))(at(0.6)).squeeze())(x)
    outflow = torch.func.vmap(torch.func.grad(flux))(x)
    torch.testing.assert_close(change, -outflow, rtol=1e-7, atol=1e-9)


def test_it_is_the_mean_velocity_of_sampled_paths():
    points, weights = PLANE
    drawn = points[torch.multinomial(weights, 400_000, replacement=True)]
    noise, path, time = torch.randn_like(drawn), LinearPath(), torch.full((len(drawn), 1), 0.5, dtype=torch.float64)
    x_t, x = path.interpolate(noise, drawn, time), torch.tensor([0.1, 0.2], dtype=torch.float64)
    near = (x_t - x).norm(dim=-1) < 0.1
    expected = path.velocity(noise, drawn)[near].mean(0)
    torch.testing.assert_close(MarginalFlow(points, weights)(x, at(0.5)), expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("solver", [Euler(200), EulerMaruyama(200)], ids=repr)
def test_solvers_carry_noise_to_the_points_in_the_shares_of_their_weights(solver):
    ends = solver(MarginalFlow(POINTS, WEIGHTS), torch.randn(20_000, 1, dtype=torch.float64))
    distance, nearest = (ends - POINTS.T).abs().min(-1)
    assert distance.quantile(0.99) < 0.15
    shares = nearest.bincount(minlength=3) / len(nearest)
    torch.testing.assert_close(shares.double(), WEIGHTS, atol=0.02, rtol=0)


def test_no_velocity_has_a_smaller_cfm_loss():
    """The CFM loss of a network that answers the marginal velocity, plus an error, grows by the error's square."""

    class Net(torch.nn.Module):
        action_dim, error = 1, 0.0

        def forward(self, observation, x_t, time):
            return MarginalFlow(POINTS.float(), std=0.2)(x_t, time) + self.error

    net = Net()
    loss = CFMLoss(FlowActor(net, squash="none"), num_mc_samples=8)
    action = POINTS.float()[torch.randint(3, (20_000,))] + 0.2 * torch.randn(20_000, 1)

    def cfm(error):
        net.error = error
        torch.manual_seed(1)
        return loss(observation=torch.zeros(20_000, 0), action=action).item()

    assert cfm(0.3) - cfm(0.0) == pytest.approx(0.09, abs=0.01)
    assert cfm(-0.3) - cfm(0.0) == pytest.approx(0.09, abs=0.01)


def test_far_from_every_point_it_still_is_finite():
    velocity = MarginalFlow(torch.tensor([[-1.0], [1.0]]))(torch.tensor([60.0]), torch.tensor([0.99]))
    assert velocity.item() == pytest.approx((1 - 60) / 0.01, rel=1e-3)


def test_advantages_as_weights_make_a_density_that_is_negative_and_a_velocity_that_is_not_finite_at_its_zero():
    """Points -1 and 1 with weights -1 and 1 make an odd density: negative on the left, zero at 0."""
    flow = MarginalFlow(torch.tensor([[-1.0], [1.0]]), torch.tensor([-1.0, 1.0]), std=0.5)
    density = flow.density(torch.tensor([[-0.7], [0.0], [0.7]]), torch.tensor([0.5]))
    assert density[0] < 0
    assert density[1] == 0
    assert density[2] > 0
    assert math.isinf(flow(torch.tensor([0.0]), torch.tensor([0.5])).item())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"points": torch.zeros(3)}, r"points \[points, act\] .* got \[3\] and \[3\]"),
        ({"points": torch.zeros(0, 1)}, r"got \[0, 1\]"),
        ({"points": torch.zeros(3, 1), "weights": torch.ones(2)}, r"got \[3, 1\] and \[2\]"),
        ({"points": torch.zeros(3, 1), "weights": torch.zeros(3)}, "not all zero"),
        ({"points": torch.full((3, 1), math.nan)}, "finite"),
        ({"points": torch.zeros(3, 1), "std": -0.1}, "std must not be negative, got -0.1"),
    ],
)
def test_bad_input_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MarginalFlow(**kwargs)


def test_points_without_a_std_have_no_velocity_at_time_1():
    with pytest.raises(ValueError, match="give std, or stop before time 1"):
        MarginalFlow(POINTS)(POINTS, at(1.0))
