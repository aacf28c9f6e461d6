"""``autocast=bfloat16``: the layers run in it and nothing else does."""

from __future__ import annotations

from functools import partial

import pytest
import tiny
import torch

from fpo_torchrl import FlowActor, ValueMLP, VelocityMLP
from fpo_torchrl.evaluation import evaluate
from fpo_torchrl.modules.gaussian import GaussianMLP

AUTOCAST = ("actor.velocity_net.autocast=bfloat16", "critic.autocast=bfloat16")


BATCH = (torch.randn(64, 3),)
NETWORKS = [
    (partial(VelocityMLP, 3, 2), (torch.randn(64, 1, 3), torch.randn(64, 8, 2), torch.rand(64, 8, 1))),
    (partial(ValueMLP, 3), BATCH),
    (partial(GaussianMLP, 3, 2), BATCH),
]


@pytest.mark.parametrize(("make", "inputs"), NETWORKS)
def test_networks_answer_in_float32_with_the_rounding_of_bfloat16(make, inputs):
    exact, rounded = make(), make(autocast="bfloat16")
    rounded.load_state_dict(exact.state_dict())
    expected, found = (torch.cat(out) if isinstance(out := net(*inputs), tuple) else out for net in (exact, rounded))
    assert found.dtype == torch.float32
    error = (found - expected).abs().max() / expected.abs().max()
    assert 1e-4 < error < 0.05  # bfloat16 has eight bits
    found.sum().backward()
    assert all(weight.grad.dtype == torch.float32 for weight in rounded.parameters())


def test_losses_and_ratios_are_float32(collect):
    actor = FlowActor(VelocityMLP(3, 2, autocast="bfloat16"), num_mc_samples=4)
    batch = collect(actor, 32)
    assert batch["action"].dtype == batch["cfm_loss"].dtype == torch.float32
    assert actor.cfm_loss(batch).dtype == torch.float32
    torch.testing.assert_close(actor.cfm_loss(batch), batch["cfm_loss"], atol=1e-6, rtol=1e-6)


def test_a_probe_is_solved():
    sizes = ("num_envs=128", "actor.velocity_net.hidden_sizes=[32,32]", "actor.solver.num_steps=5", "num_threads=1")
    batch = ("optim.lr=3e-3", "trainer.frames_per_batch=1024", "trainer.minibatch_size=256", "total_frames=10240")
    trainer = tiny.make_trainer(
        "experiment=bandit", "task=probe/action", "critic.hidden_sizes=[32]", *sizes, *batch, *AUTOCAST
    )
    for metrics in trainer:
        assert metrics["first_ratio_error"] < 1e-3
    assert evaluate(trainer.actor, trainer.env, noise="random").mean > 0.98  # of 1; acting at random earns about 0.4


@pytest.mark.parametrize(("make", "inputs"), NETWORKS)
def test_other_precisions_are_refused(make, inputs):
    with pytest.raises(ValueError, match="autocast must be one of bfloat16, None, got 'float16'"):
        make(autocast="float16")
