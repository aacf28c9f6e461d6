"""Solvers converge at the order they state, and the stochastic one keeps the flow's distribution."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch

from fpo_torchrl import (
    RK4,
    Euler,
    EulerMaruyama,
    GridTime,
    Heun,
    Midpoint,
    NoisyEuler,
    RandomSteps,
    RandomStepsPerRollout,
)
from fpo_torchrl.flow import TorchDraws

DETERMINISTIC = [Euler, Midpoint, Heun, RK4]


def error_against_exact_solution(solver) -> float:
    """Of dx/dt = x^2 exp(-t) with x(0) = 4/5, whose solution is 1 / (exp(-t) + 1/4)."""
    x = solver(lambda x, t: x**2 * torch.exp(-t), torch.tensor([0.8], dtype=torch.float64))
    return abs(x.item() - 1 / (math.exp(-1) + 0.25))


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_error_shrinks_at_the_stated_order(solver):
    errors = [error_against_exact_solution(solver(num_steps)) for num_steps in (16, 32, 64)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders == pytest.approx([solver.order] * 2, abs=0.1)


@pytest.mark.parametrize("solver", [*DETERMINISTIC, EulerMaruyama])
def test_a_step_evaluates_the_velocity_as_often_as_stated(solver):
    evaluations = []
    solver(num_steps=7)(lambda x, t: evaluations.append(t) or x, torch.zeros(2, 3))
    assert len(evaluations) == 7 * solver.stages


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_a_straight_flow_is_exact_in_one_step(solver):
    noise, velocity = torch.randn(4, 2), torch.tensor([1.0, -2.0])
    torch.testing.assert_close(solver(num_steps=1)(lambda x, t: velocity, noise), noise + velocity)


def test_euler_looks_where_the_grid_of_times_lies():
    seen = []
    Euler(num_steps=10)(lambda x, t: seen.append(t) or x, torch.zeros(1))
    assert torch.equal(torch.cat(seen), GridTime(10).sample((1000,), TorchDraws(torch.empty(0))).unique())


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_gradients_flow_through_the_solution(solver):
    """d x(1) / d x(0) of dx/dt = a x is exp(a)."""
    x = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(solver(num_steps=400)(lambda x, t: 0.5 * x, x), x)
    assert gradient.item() == pytest.approx(math.exp(0.5), rel=2e-3)


@pytest.mark.parametrize("num_steps", [0, -1, 2.5])
@pytest.mark.parametrize("solver", [*DETERMINISTIC, EulerMaruyama])
def test_a_number_of_steps_that_makes_no_sense_is_refused(solver, num_steps):
    with pytest.raises(ValueError, match=f"num_steps must be a whole number, at least 1, got {num_steps}"):
        solver(num_steps=num_steps)


# The stochastic sampler. Flowing N(0, 1) to N(MEAN, STD^2) along the linear path, the velocity is the
# conditional expectation of action - noise given x_t, a regression line because all is Gaussian.
MEAN, STD = 0.7, 0.4


def gaussian_velocity(x, time):
    variance = (1 - time) ** 2 + (time * STD) ** 2
    covariance = time * STD**2 - (1 - time)
    return MEAN + covariance / variance * (x - time * MEAN)


@pytest.mark.parametrize("noise_scale", [0.3, 1.0, 3.0])
def test_stochastic_samples_have_the_mean_and_variance_of_the_target(noise_scale):
    noise = torch.randn(40_000, 1, dtype=torch.float64)
    samples = EulerMaruyama(num_steps=100, noise_scale=noise_scale)(gaussian_velocity, noise)
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert samples.std().item() == pytest.approx(STD, abs=0.02)


def test_a_velocity_that_is_no_conditional_mean_gets_another_distribution():
    """Without velocity the flow keeps N(0, 1), but ``dx = -x dt + sqrt(2 (1 - t)) dW`` does not."""
    noise = torch.randn(40_000, 1, dtype=torch.float64)
    samples = EulerMaruyama(num_steps=200, noise_scale=1.0)(lambda x, time: torch.zeros_like(x), noise)
    assert samples.var().item() == pytest.approx((1 - math.exp(-2)) / 2, rel=0.03)


def test_stochastic_samples_forget_their_start():
    noise = torch.randn(20_000, 1, dtype=torch.float64)

    def correlation(noise_scale: float) -> float:
        samples = EulerMaruyama(100, noise_scale)(gaussian_velocity, noise)
        return torch.corrcoef(torch.cat([noise, samples], 1).T)[0, 1].item()

    assert correlation(0.0) == pytest.approx(1, abs=1e-6)
    assert correlation(1.0) < 0.9
    assert correlation(6.0) < 0.2


def moments_of_the_scheme(solver: EulerMaruyama, monkeypatch) -> tuple[float, float]:
    """Exact mean and variance at time 1: on a linear field each step is ``x -> a x + b + g n`` with n ~ N(0, 1)."""
    x, mean, variance = torch.tensor([[0.0], [1.0]], dtype=torch.float64), 0.0, 1.0
    for i in range(solver.num_steps):
        time, dt = torch.tensor([i / solver.num_steps], dtype=torch.float64), 1 / solver.num_steps
        monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
        at_zero, at_one = solver.step(gaussian_velocity, x, time, dt).squeeze(-1).tolist()
        monkeypatch.setattr(torch, "randn_like", torch.ones_like)
        pushed, _ = solver.step(gaussian_velocity, x, time, dt).squeeze(-1).tolist()
        a, b, g = at_one - at_zero, at_zero, pushed - at_zero
        mean, variance = a * mean + b, a**2 * variance + g**2
    return mean, variance


@pytest.mark.parametrize("noise_scale", [0.5, 2.0])
def test_stochastic_moments_converge_at_weak_order_one(noise_scale, monkeypatch):
    errors = []
    for num_steps in (100, 200, 400):
        mean, variance = moments_of_the_scheme(EulerMaruyama(num_steps, noise_scale), monkeypatch)
        errors.append((abs(mean - MEAN), abs(variance - STD**2)))
    for coarse, fine in pairwise(errors):
        assert fine[0] < 1e-12 or math.log2(coarse[0] / fine[0]) == pytest.approx(1, abs=0.15)
        assert math.log2(coarse[1] / fine[1]) == pytest.approx(1, abs=0.15)


def test_without_noise_the_stochastic_sampler_is_euler():
    noise = torch.randn(16, 1, dtype=torch.float64)
    field = gaussian_velocity
    assert torch.equal(EulerMaruyama(10, noise_scale=0.0)(field, noise), Euler(10)(field, noise))


def test_a_negative_noise_scale_is_refused():
    with pytest.raises(ValueError, match=r"noise_scale must not be negative, got -0\.1"):
        EulerMaruyama(noise_scale=-0.1)


def test_the_points_lead_from_the_start_to_the_end():
    """Of dx/dt = 1 + t in four Euler steps from 0: steps of (1 + k / 4) / 4."""
    points = Euler(4).points(lambda x, t: 1 + t, torch.zeros(1))
    torch.testing.assert_close(torch.cat(points), torch.tensor([0, 4, 9, 15, 22]) / 16)


def test_noisy_euler_adds_independent_noise_to_every_step():
    """Ten steps of noise 0.3 on a straight flow: variances add."""
    samples = NoisyEuler(10, noise_std=0.3)(lambda x, t: torch.full_like(x, 2.0), torch.zeros(40_000, 1))
    assert samples.mean().item() == pytest.approx(2, abs=0.02)
    assert samples.var().item() == pytest.approx(10 * 0.09, rel=0.03)
    noiseless = NoisyEuler(10, noise_std=0.3).without_noise()
    assert noiseless(lambda x, t: x, torch.ones(1)).item() == pytest.approx(1.1**10, rel=1e-5)


@pytest.mark.parametrize("solver", [NoisyEuler(4, noise_std=0.3), EulerMaruyama(4, noise_scale=0.7)], ids=repr)
def test_another_number_of_steps_keeps_the_noise(solver):
    before = repr(solver)
    assert repr(solver.with_steps(9)) == before.replace("num_steps=4", "num_steps=9")
    assert repr(solver) == before


@pytest.mark.parametrize("noise_std", [0.0, -1.0])
def test_noisy_euler_without_noise_is_refused(noise_std):
    with pytest.raises(ValueError, match=f"noise_std must be positive, got {noise_std}; without noise use Euler"):
        NoisyEuler(noise_std=noise_std)


def test_random_steps_are_uniform_and_each_call_is_euler():
    """Of dx/dt = x, n Euler steps lead from 1 to (1 + 1/n)^n, which tells n."""
    solver, steps_by_end = RandomSteps(5, min_steps=2), {round((1 + 1 / n) ** n, 5): n for n in range(1, 7)}
    ends = [solver(lambda x, t: x, torch.ones(1, dtype=torch.float64)).item() for _ in range(2000)]
    counts = Counter(steps_by_end[round(end, 5)] for end in ends)
    assert sorted(counts) == [2, 3, 4, 5]
    assert min(counts.values()) > 400  # of 500 expected
    assert repr(solver.without_noise()) == "Euler(num_steps=5)"
    assert repr(solver.with_steps(9)) == "Euler(num_steps=9)"


def test_one_draw_for_each_rollout_and_for_each_call_outside():
    solver = RandomStepsPerRollout(5)

    def drawn(calls: int) -> set[int]:
        return {len(solver.points(lambda x, t: x, torch.ones(1))) - 1 for _ in range(calls)}

    rollouts = []
    for _ in range(30):
        solver.begin_rollout()
        rollouts.append(drawn(5))
        solver.end_rollout()
    assert all(len(steps) == 1 for steps in rollouts)
    assert set().union(*rollouts) == drawn(200) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("min_steps", [0, 6, 1.5])
def test_a_range_of_steps_that_makes_no_sense_is_refused(min_steps):
    with pytest.raises(ValueError, match=f"min_steps must be a whole number from 1 to num_steps=5, got {min_steps}"):
        RandomSteps(5, min_steps=min_steps)
