"""Solvers that carry noise (time 0) to an action (time 1) along a velocity field."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fpo_torchrl.described import Described

VelocityField = Callable[[Tensor, Tensor], Tensor]
"""``velocity(x, time)`` of ``x`` ``[*batch, act]``; ``time`` broadcasts to ``[*batch, 1]``, solvers pass ``[1]``."""


class Solver(Described, ABC):
    """Base class of fixed-step solvers of ``dx/dt = velocity(x, t)`` from time 0 to time 1.

    A subclass defines :meth:`step`; one whose steps are not equal overrides :meth:`points`, which everything goes
    through. ``order`` is the order of convergence in the step size, ``stages`` the number of velocity evaluations in a
    step, and ``is_random`` says whether the steps, or their number, are drawn.

    Args:
        num_steps (int): number of equal steps, at least 1.

    Raises:
        ValueError: if ``num_steps`` is below 1 or not whole.

    >>> Euler(num_steps=2)(lambda x, t: x, torch.ones(1))
    tensor([2.2500])
    """

    order: int
    stages: int
    is_random = False

    def __init__(self, num_steps: int = 10) -> None:
        if num_steps < 1 or num_steps != int(num_steps):
            raise ValueError(f"num_steps must be a whole number, at least 1, got {num_steps}")
        self.num_steps = int(num_steps)

    @abstractmethod
    def step(self, velocity: VelocityField, x: Tensor, time: Tensor, dt: float) -> Tensor:
        """Advance ``x`` from ``time`` to ``time + dt``."""

    def __call__(self, velocity: VelocityField, x: Tensor) -> Tensor:
        """Carry ``x`` from time 0 to time 1.

        Args:
            velocity: the field, called with ``x`` ``[*batch, act]`` and ``time`` ``[1]``.
            x: where to start, ``[*batch, act]``.
        """
        return self.points(velocity, x)[-1]

    def points(self, velocity: VelocityField, x: Tensor) -> list[Tensor]:
        """Every point on the way from ``x`` at time 0 to time 1: ``num_steps + 1`` tensors ``[*batch, act]``."""
        points, dt = [x], 1 / self.num_steps
        for time in self.times(like=x).unbind():
            points.append(self.step(velocity, points[-1], time, dt))
        return points

    def times(self, like: Tensor) -> Tensor:
        """When the steps begin, ``[num_steps, 1]``, on the device and in the dtype of ``like``."""
        return torch.arange(self.num_steps, device=like.device, dtype=like.dtype).unsqueeze(-1) / self.num_steps

    def with_steps(self, num_steps: int) -> Solver:
        """A copy with another number of steps and otherwise the same settings."""
        other = copy.copy(self)
        Solver.__init__(other, num_steps)
        return other

    def without_noise(self) -> Solver:
        """The solver that a deterministic policy uses: itself, or with random steps Euler's method with as many."""
        return Euler(self.num_steps) if self.is_random else self


class Euler(Solver):
    """Order 1, one stage: the authors' sampler (10 steps in the FPO paper)."""

    order, stages = 1, 1

    def step(self, velocity: VelocityField, x: Tensor, time: Tensor, dt: float) -> Tensor:
        """Advance along the velocity at the start of the step."""
        return x + dt * velocity(x, time)


class RandomSteps(Euler):
    """Euler's method with another number of steps in each call, drawn uniformly; one draw serves the whole batch.

    A policy trained with it meets every discretisation of its flow, so that it may be sampled with any of them later.

    Args:
        num_steps (int): most steps of a call, at least 1.
        min_steps (int): fewest steps of a call, between 1 and ``num_steps``.

    Raises:
        ValueError: if a number is not whole or out of range.
    """

    is_random = True

    def __init__(self, num_steps: int = 20, min_steps: int = 1) -> None:
        super().__init__(num_steps)
        if not 1 <= min_steps <= num_steps or min_steps != int(min_steps):
            raise ValueError(f"min_steps must be a whole number from 1 to num_steps={num_steps}, got {min_steps}")
        self.min_steps = int(min_steps)

    def draw(self) -> Solver:
        """Euler's method with a number of steps drawn now."""
        return self.with_steps(int(torch.randint(self.min_steps, self.num_steps + 1, ())))

    def points(self, velocity: VelocityField, x: Tensor) -> list[Tensor]:
        """Every point on the way from ``x`` at time 0 to time 1: one more than the number of steps drawn."""
        return self.draw().points(velocity, x)

    def with_steps(self, num_steps: int) -> Solver:
        """Euler's method with a fixed number of steps."""
        return Euler(num_steps)


class RandomStepsPerRollout(RandomSteps):
    """Random steps of which a draw serves all calls of a rollout; outside of rollouts, as in an evaluation, one call.

    A collector in the same process has to say when a rollout begins and ends, as the trainer's does:
    ``Collector(..., pre_collect_hook=solver.begin_rollout, post_collect_hook=solver.end_rollout)``. Collectors with
    processes of their own send them a copy of the solver, which these hooks do not reach: there every call draws.
    """

    def __init__(self, num_steps: int = 20, min_steps: int = 1) -> None:
        super().__init__(num_steps, min_steps)
        self._of_rollout: Solver | None = None

    def begin_rollout(self) -> None:
        """Draw the number of steps that serves until :meth:`end_rollout`."""
        self._of_rollout = self.draw()

    def end_rollout(self, batch: object = None) -> None:
        """Let each call draw for itself again; a collector gives the ``batch``, which is not looked at."""
        self._of_rollout = None

    def points(self, velocity: VelocityField, x: Tensor) -> list[Tensor]:
        """Every point on the way from ``x`` at time 0 to time 1: one more than the rollout's number of steps."""
        return (self._of_rollout or self.draw()).points(velocity, x)


class NoisyEuler(Euler):
    """Euler's method with Gaussian noise of one size added to each step, the last included.

    Every step is then a Gaussian policy of its own, with a likelihood: what
    :class:`~fpo_torchrl.modules.DenoisingActor` trains. Unlike :class:`EulerMaruyama` it changes the
    distribution of the samples. Source: akanazawa/fpo, playground/src/flow_policy/fpo.py:296-331.

    Args:
        num_steps (int): number of equal steps, at least 1.
        noise_std (float): standard deviation of the noise of a step, positive (FPO Table A.2: 0.05 is best).
    """

    is_random = True

    def __init__(self, num_steps: int = 10, noise_std: float = 0.05) -> None:
        super().__init__(num_steps)
        if noise_std <= 0:
            raise ValueError(f"noise_std must be positive, got {noise_std}; without noise use Euler")
        self.noise_std = noise_std

    def step(self, velocity: VelocityField, x: Tensor, time: Tensor, dt: float) -> Tensor:
        """Advance along the velocity at the start of the step, and add noise."""
        return super().step(velocity, x, time, dt) + self.noise_std * torch.randn_like(x)


class Midpoint(Solver):
    """Order 2, two stages: the velocity in the middle of the step."""

    order, stages = 2, 2

    def step(self, velocity: VelocityField, x: Tensor, time: Tensor, dt: float) -> Tensor:
        """Advance along the velocity half a step ahead."""
        return x + dt * velocity(x + dt / 2 * velocity(x, time), time + dt / 2)


class Heun(Solver):
    """Order 2, two stages: the mean of the velocities at both ends of the step."""

    order, stages = 2, 2

    def step(self, velocity: VelocityField, x: Tensor, time: Tensor, dt: float) -> Tensor:
        """Advance along the mean of the first velocity and the one where it leads."""
        first = velocity(x, time)
        return x + dt / 2 * (first + velocity(x + dt * first, time + dt))


class RK4(Solver):
    """Order 4, four stages: the classical Runge-Kutta method."""

    order, stages = 4, 4

    def step(self, velocity: VelocityField, x: Tensor, time: Tensor, dt: float) -> Tensor:
        """Advance along the weighted mean of four velocities."""
        k1 = velocity(x, time)
        k2 = velocity(x + dt / 2 * k1, time + dt / 2)
        k3 = velocity(x + dt / 2 * k2, time + dt / 2)
        k4 = velocity(x + dt * k3, time + dt)
        return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


class EulerMaruyama(Solver):
    r"""Stochastic sampler with the same marginals as the flow, weak order 1, one stage.

    On the linear path with Gaussian noise the score is ``-(x - t v) / (1 - t)``. Adding Langevin dynamics
    with diffusion ``2 noise_scale (1 - t)`` leaves every marginal unchanged and gives

    .. math:: dx = (v - \eta (x - t v)) dt + \sqrt{2 \eta (1 - t)} dW, \quad \eta = \text{noise\_scale},

    a case of the stochastic interpolants of Albergo et al. (arXiv 2303.08797, section 2.2). The noise
    fades out at time 1, so the last step stays on the data. All this holds where ``v`` is the mean velocity of
    the paths through ``x``, as flow matching learns it; under any other ``v``, an untrained network's for
    one, the samples follow another distribution than the flow's.

    Args:
        num_steps (int): number of equal steps, at least 1.
        noise_scale (float): strength of the noise, 0 (the Euler method) or more.
    """

    order, stages, is_random = 1, 1, True

    def __init__(self, num_steps: int = 10, noise_scale: float = 1.0) -> None:
        super().__init__(num_steps)
        if noise_scale < 0:
            raise ValueError(f"noise_scale must not be negative, got {noise_scale}")
        self.noise_scale = noise_scale

    def step(self, velocity: VelocityField, x: Tensor, time: Tensor, dt: float) -> Tensor:
        """Advance along the corrected drift and add the step's noise."""
        v = velocity(x, time)
        drift = v - self.noise_scale * (x - time * v)
        return x + dt * drift + (2 * self.noise_scale * (1 - time) * dt).sqrt() * torch.randn_like(x)


SOLVERS: dict[str, type[Solver]] = {
    "euler": Euler,
    "heun": Heun,
    "midpoint": Midpoint,
    "rk4": RK4,
    "sde": EulerMaruyama,
    "noisy_euler": NoisyEuler,
    "random_steps": RandomSteps,
    "random_steps_per_rollout": RandomStepsPerRollout,
}
"""Every solver by its name in configs and commands."""
