"""What a flow policy asks of a velocity network of the user's own, and of the bounds of an action."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import Unbounded

from fpo_torchrl import FlowActor, FPOLoss, VelocityMLP


class Flat(nn.Module):
    """A velocity of the size ``out`` for an action of two entries."""

    action_dim = 2

    def __init__(self, out: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3 + 2 + 1, out)

    def forward(self, observation, x_t, time):
        batch = torch.broadcast_shapes(observation.shape[:-1], x_t.shape[:-1], time.shape[:-1])
        return self.layer(torch.cat([part.expand(*batch, -1) for part in (observation, x_t, time)], -1))


def batch_of(size: int = 4) -> TensorDict:
    return TensorDict(observation=torch.zeros(size, 3), batch_size=size)


class TestTheSizeOfTheVelocity:
    def test_one_number_for_two_entries_would_broadcast_and_is_refused(self):
        with pytest.raises(ValueError, match=r"one number for each of the 2 entries of the action, got \(4, 1\)"):
            FlowActor(Flat(1))(batch_of())

    def test_the_loss_refuses_it_too(self, collect, make_critic):
        actor = FlowActor(Flat(2), num_mc_samples=4)
        batch = collect(actor)
        actor.velocity_net.layer = nn.Linear(6, 1)
        with pytest.raises(ValueError, match=r"for each of the 2 entries of the action, got \(6, 4, 1\)"):
            FPOLoss(actor, make_critic(), functional=False)(batch)


def test_an_error_of_the_network_stays_what_it_is_with_a_hint_at_the_batch_size():
    class Convolution(nn.Module):
        action_dim = 2
        layer = nn.Conv2d(4, 2, 3)  # of four channels, where the pictures have three

        def forward(self, observation, x_t, time):
            return self.layer(observation).mean((-1, -2)) + x_t

    with pytest.raises(RuntimeError, match="to have 4 channels, but got 3 channels") as caught:
        FlowActor(Convolution())(TensorDict(observation=torch.zeros(5, 3, 8, 8), batch_size=5))
    assert "Unless velocity_net has a fault of its own: one action was expected" in caught.value.__notes__[-1]


def test_a_network_that_does_not_broadcast_is_told_the_rule():
    class Concatenates(Flat):
        def forward(self, observation, x_t, time):
            return self.layer(torch.cat([observation, x_t, time], -1))

    with pytest.raises(RuntimeError, match="must have same number of dimensions") as caught:
        FlowActor(Concatenates(2))(batch_of())
    (note,) = caught.value.__notes__
    assert note.startswith("velocity_net was called with observations, x_t and time of shapes (4, 3), (4, 2), (1,). ")
    assert "expands them first, to torch.broadcast_shapes" in note


def test_inputs_of_two_precisions_are_named():
    batch = TensorDict(observation=torch.zeros(4, 3, dtype=torch.float64), batch_size=4)
    with pytest.raises(RuntimeError, match="must have the same dtype") as caught:
        FlowActor(VelocityMLP(3, 2))(batch)
    assert caught.value.__notes__[0].startswith("velocity_net was given torch.float64 by an actor of torch.float32: ")


def test_whole_numbers_are_no_other_precision():
    class Pixels(Flat):
        def forward(self, observation, x_t, time):
            return self.layer(observation.float()) + x_t  # whose layer takes another number of them

    batch = TensorDict(observation=torch.zeros(4, 50, dtype=torch.uint8), batch_size=4)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        FlowActor(Pixels(2))(batch)
    assert not any("one precision" in note for note in caught.value.__notes__)


def test_several_observations_are_too_many_for_the_perceptron():
    actor = FlowActor(VelocityMLP(3, 2), in_keys=["position", "goal"])
    with pytest.raises(ValueError, match=r"takes one observation, got 2: concatenate them.*CatTensors"):
        actor(TensorDict(position=torch.zeros(4, 1), goal=torch.zeros(4, 2), batch_size=4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("squash", ["tanh", "clip"])
def test_the_bounds_of_an_unbounded_spec_are_none(dtype, squash):
    space = Unbounded((2,), dtype=dtype).space
    for low, high in ((space.low, space.high), (0.0, space.high), (space.low, 0.0)):
        with pytest.raises(ValueError, match=r'needs finite bounds with low < high.*use squash="none"'):
            FlowActor(VelocityMLP(3, 2), squash=squash, action_low=low, action_high=high)
    free = FlowActor(VelocityMLP(3, 2), squash="none", action_low=space.low, action_high=space.high)
    assert free(batch_of())["action"].isfinite().all()
