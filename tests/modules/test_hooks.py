"""Hooks of a network run, though its layers are not called as they stand."""

from __future__ import annotations

import pytest
import torch
from observing import observations
from torch import nn

from fpo_torchrl import Euler, FlowActor, VelocityMLP, ZeroNoise


def test_a_hooked_network_is_called_as_a_whole(make_actor):
    actor, seen = make_actor(solver=Euler(5)), []
    plain = actor(observations(4).set("observation", torch.ones(4, 3)).clone())
    actor.velocity_net.register_forward_hook(lambda net, args, out: seen.append(out.shape))
    actor(plain.clone())
    assert seen == [(4, 2)] * 5 + [(4, 4, 2)]
    torch.testing.assert_close(actor.cfm_loss(plain), plain["cfm_loss"])


@pytest.mark.parametrize("of", [lambda net: net, lambda net: net.layers[0]])
def test_hooks_of_the_backward_pass_run_too(make_actor, of):
    actor, seen = make_actor(), []
    td = actor(observations(4))
    of(actor.velocity_net).register_full_backward_hook(lambda module, into, out: seen.append(out[0].shape[:-1]))
    td["observation"].requires_grad_()
    actor.cfm_loss(td).sum().backward()
    assert seen == [(4, 4)]


def test_a_hook_of_the_view_for_inference_is_the_views(make_actor):
    actor, seen = make_actor(), []
    view = actor.for_inference()
    view.register_forward_hook(lambda *call: seen.append("called"))
    actor(observations(4))
    assert not seen
    view(observations(4))
    assert seen == ["called"]


class Doubled(nn.Module):
    """For use before a network: twice what that one answers."""

    def forward(self, *args, **kwargs):
        return 2 * super().forward(*args, **kwargs)


class DoubledMLP(Doubled, VelocityMLP):
    pass


def test_a_forward_that_came_from_elsewhere_is_called(make_actor):
    plain, mixed, patched = (network(3, 2) for network in (VelocityMLP, DoubledMLP, VelocityMLP))
    for other in (mixed, patched):
        other.load_state_dict(plain.state_dict())
    forward = patched.forward
    patched.forward = lambda *args, **kwargs: 2 * forward(*args, **kwargs)
    for other in (mixed, patched):
        other.output_scale /= 2
    td = observations(4)
    expected = FlowActor(plain, start_noise=ZeroNoise())(td.clone())["action"]
    for other in (mixed, patched):
        torch.testing.assert_close(FlowActor(other, start_noise=ZeroNoise())(td.clone())["action"], expected)


def test_a_network_that_was_compiled_in_place_runs_compiled():
    net, compiled = VelocityMLP(3, 2), []
    net.compile(backend=lambda graph, inputs: compiled.append(graph) or graph)
    FlowActor(net)(observations(4))
    assert compiled
