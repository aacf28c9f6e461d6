"""A student takes its teacher's actions in fewer steps: checked on flows whose every step is known by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from fpo_torchrl import Euler, FlowActor, NoisyEuler, ObservationNormalizer, VelocityMLP
from fpo_torchrl.distill import action_error, distill
from fpo_torchrl.modules.chain import for_inference

DATA = TensorDict(observation=torch.zeros(4, 8, 1), batch_size=[4, 8])


class Growth(nn.Module):
    """The velocity ``rate * x``: a step of size 1 / n multiplies by ``1 + rate / n``."""

    action_dim = 2

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))

    def forward(self, observation, x_t, time):
        return self.rate * x_t


class Drift(nn.Module):
    """The same velocity everywhere: the action is the noise, moved by it."""

    action_dim = 2

    def __init__(self, velocity: list[float]) -> None:
        super().__init__()
        self.velocity = nn.Parameter(torch.tensor(velocity))

    def forward(self, observation, x_t, time):
        return self.velocity.expand_as(x_t)


@pytest.mark.parametrize("teacher_solver", [Euler(10), NoisyEuler(10, noise_std=5.0)])
@pytest.mark.parametrize(("steps", "rate"), [(1, 1.1**10 - 1), (2, 2 * (1.1**5 - 1))])
def test_the_rate_that_ends_where_ten_steps_do(teacher_solver, steps, rate):
    teacher = FlowActor(Growth(1.0), teacher_solver, squash="none")
    student = distill(teacher, Euler(steps), DATA, num_updates=200, batch_size=64, lr=0.03)
    assert student.velocity_net.rate.item() == pytest.approx(rate, rel=1e-3)
    assert student.solver.num_steps == steps
    assert teacher.velocity_net.rate.item() == 1.0
    assert teacher.solver is teacher_solver


def test_the_error_is_in_halves_of_the_range():
    bounds = {"action_low": torch.tensor([-2.0, -5.0]), "action_high": torch.tensor([2.0, 5.0]), "squash": "none"}
    teacher, student = (FlowActor(Drift(it), Euler(3), **bounds) for it in ([1.0, 1.0], [0.0, 0.0]))
    assert action_error(teacher, teacher, DATA) == 0
    assert action_error(teacher, student, DATA) == pytest.approx(((0.5**2 + 0.2**2) / 2) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("bound", [float("inf"), torch.finfo(torch.float32).max])
def test_or_in_the_actions_own_unit_where_there_is_no_bound(bound):
    bounds = {"action_low": -bound, "action_high": bound, "squash": "none"}
    teacher, student = (FlowActor(Drift(it), Euler(3), **bounds) for it in ([3.0, 4.0], [0.0, 0.0]))
    assert action_error(teacher, student, DATA) == pytest.approx((25 / 2) ** 0.5, rel=1e-5)


@pytest.fixture
def steep() -> tuple[TensorDictSequential, TensorDict]:
    """A flow behind an encoder, steep enough for one step to miss, and what it observes."""
    normalizer = ObservationNormalizer(3)
    normalizer.update(torch.randn(100, 3) * 5 + 1)
    net = VelocityMLP(3, 2, output_scale=4.0)
    encoder = TensorDictModule(nn.Linear(1, 3), in_keys=["observation"], out_keys=["features"])
    actor = FlowActor(net, Euler(10), normalizer=normalizer, in_keys=["features"])
    return TensorDictSequential(encoder, actor), TensorDict(observation=torch.randn(64, 1), batch_size=64)


def test_a_student_behind_an_encoder_is_nearer_than_the_teacher_with_as_few_steps(steep):
    teacher, data = steep
    before = copy.deepcopy(teacher.state_dict())
    student = distill(teacher, Euler(1), data, num_updates=150, batch_size=128)
    without = action_error(teacher, for_inference(teacher, solver=Euler(1)), data)
    assert action_error(teacher, student, data) < without / 2
    assert all(value.equal(before[name]) for name, value in teacher.state_dict().items())
    moved = {name for name, value in student.state_dict().items() if not value.equal(before[name])}
    assert moved == {f"module.1.velocity_net.{name}" for name, _ in teacher[-1].velocity_net.named_parameters()}


def test_from_zero_noise_it_takes_the_teachers_action_too():
    """A flow whose action from zero noise is unlike those around: seldom met by random draws in ten dimensions."""

    class Centre(nn.Module):
        action_dim = 10

        def __init__(self) -> None:
            super().__init__()
            self.bump = nn.Parameter(torch.zeros(()))

        def forward(self, observation, x_t, time):
            return (self.bump + 1) * (x_t.square().sum(-1, keepdim=True) < 1e-6) - x_t

    teacher = FlowActor(Centre(), Euler(1), squash="none")
    pupil = copy.deepcopy(teacher)
    pupil.velocity_net.bump.data.fill_(-1.0)
    assert action_error(teacher, pupil, DATA) == pytest.approx((1 / 8) ** 0.5, rel=1e-5)
