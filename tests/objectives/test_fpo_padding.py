"""Steps that a collector or sampler marks as padding count for nothing."""

from __future__ import annotations

import pytest
import torch

from fpo_torchrl import FPOLoss

NUM_STEPS, PADDING = 4, 2


@pytest.fixture
def padded(make_actor, collect):
    """Actor, a batch of four steps, and the same one with two of garbage behind them."""
    actor = make_actor()
    batch = collect(actor, NUM_STEPS + PADDING)
    whole = batch[:NUM_STEPS].clone()
    for key in ("advantage", "value_target", actor.cfm_loss_key):
        batch[key][NUM_STEPS:] = 1e6
    batch["collector", "mask"] = torch.tensor([True] * NUM_STEPS + [False] * PADDING)
    return actor, whole, batch


def test_losses_and_diagnostics_are_those_of_the_other_steps(padded, make_critic, move_weights):
    actor, whole, batch = padded
    loss = FPOLoss(actor, make_critic(), normalize_advantage=False)
    move_weights(actor)
    expected, found = loss(whole), loss(batch)
    names = {*loss.out_keys}
    assert {"explained_variance", "loss_objective", "loss_critic", "max_ratio", "clip_fraction"} <= names
    for name in names:
        torch.testing.assert_close(found[name], expected[name])


def test_a_second_mark_adds_to_the_padding(padded, make_critic, move_weights):
    """The first step is padding by ``shifted_valid`` alone, the last two by the collector's mask alone."""
    actor, whole, batch = padded
    batch["shifted_valid"] = torch.tensor([False] + [True] * (NUM_STEPS + PADDING - 1))
    loss = FPOLoss(actor, make_critic(), normalize_advantage=False)
    move_weights(actor)
    expected, found = loss(whole[1:]), loss(batch)
    for name in ("loss_objective", "loss_critic", "mean_ratio", "max_ratio", "ESS", "cfm_loss_old"):
        torch.testing.assert_close(found[name], expected[name])


def test_gradients_are_those_of_the_other_steps(padded, make_critic, move_weights):
    actor, whole, batch = padded
    loss = FPOLoss(actor, make_critic(), normalize_advantage=False, functional=False)
    move_weights(actor)
    gradients = [torch.autograd.grad(loss(it)["loss_objective"], [*actor.parameters()]) for it in (batch, whole)]
    for found, expected in zip(*gradients, strict=True):
        assert found.isfinite().all()
        torch.testing.assert_close(found, expected)


def test_a_batch_of_padding_alone_teaches_nothing(padded, make_critic):
    actor, _, batch = padded
    batch["collector", "mask"] = torch.zeros(NUM_STEPS + PADDING, dtype=torch.bool)
    found = FPOLoss(actor, make_critic())(batch)
    assert found["loss_objective"] == found["loss_critic"] == 0


def test_advantages_are_normalised_over_the_other_steps(padded, make_critic):
    actor, whole, batch = padded
    raw = whole["advantage"].double()
    spread = (raw - raw.mean()).square().mean().sqrt()
    whole["advantage"] = ((raw - raw.mean()) / spread).float()
    expected = FPOLoss(actor, make_critic(), normalize_advantage=False, clip_epsilon=0.5)(whole)
    found = FPOLoss(actor, make_critic(), clip_epsilon=0.5)(batch)
    torch.testing.assert_close(found["loss_objective"], expected["loss_objective"])
    torch.testing.assert_close(found["clip_fraction_positive"], expected["clip_fraction_positive"])


def test_infinite_padding_is_left_out_of_the_mean_advantage(padded, make_critic):
    actor, _, batch = padded
    batch["advantage"][NUM_STEPS:] = float("nan")
    assert FPOLoss(actor, make_critic())(batch)["loss_objective"].isfinite()


def test_what_stands_in_padding_does_not_reach_the_diagnostics(padded, make_critic):
    actor, whole, batch = padded
    batch[actor.cfm_loss_key][NUM_STEPS:] = float("nan")
    loss = FPOLoss(actor, make_critic(), normalize_advantage=False)
    torch.testing.assert_close(loss(batch)["cfm_loss_old"], loss(whole)["cfm_loss_old"])


def test_it_compiles_without_a_break_and_vectorises(padded, make_critic, monkeypatch, move_weights):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # the checks, only there in tests, do not trace
    actor, _, batch = padded
    move_weights(actor)
    loss = FPOLoss(actor, make_critic(), normalize_advantage=False, functional=False)
    expected = loss(batch)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")(batch)
    twice = torch.vmap(loss)(torch.stack([batch, batch]))
    for name in loss.out_keys:
        torch.testing.assert_close(compiled[name], expected[name])
        torch.testing.assert_close(twice[name], expected[name].expand(2))
