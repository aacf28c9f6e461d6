"""Hooks of a network run, though its layers are not called as they stand."""

from __future__ import annotations

import pytest
import torch
from observing import observations

from fpo_torchrl import Euler


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
