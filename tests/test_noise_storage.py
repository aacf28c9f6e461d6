"""Pairs drawn again from a seed train the same weights, to the bit, as the same pairs kept in the batch."""

from __future__ import annotations

import pytest
import tiny
import torch
from tensordict import TensorDict

from fpo_torchrl import AntitheticPairs, IndependentPairs
from fpo_torchrl.flow.draws import SeededDraws


class Kept(IndependentPairs):
    """Draws the pairs of new seeds, and forgets the seeds."""

    def __init__(self, pairs) -> None:
        self.pairs = pairs

    def sample(self, shape, time_sampler, draws):
        seeds = SeededDraws.random_seeds(shape[:-2], draws.device)
        return self.pairs.sample(shape, time_sampler, SeededDraws(seeds, draws.dtype))


@pytest.mark.parametrize("pairs", [IndependentPairs(), AntitheticPairs()])
@pytest.mark.parametrize("overrides", [(), ("loss.ratio=per_sample", "trainer.minibatch_size=11")])
def test_both_storages_train_the_same_weights(pairs, overrides):
    trained = []
    for storage in ("stored", "seed"):
        torch.manual_seed(0)
        trainer = tiny.make_trainer(*tiny.CARTPOLE, *overrides, f"actor.noise_storage={storage}", "optim.lr=0.01")
        trainer.actor.pairs = Kept(pairs) if storage == "stored" else pairs
        metrics = list(trainer)
        trained.append([p.detach() for p in trainer.loss.parameters()])
        assert metrics[-1]["ratio_max"] > 1.001  # it did learn
        assert all(row["first_ratio_error"] < 1e-5 for row in metrics)
    assert all(stored.equal(seeded) for stored, seeded in zip(*trained, strict=True))


def test_a_seed_stands_for_noise_and_time(make_actor, collect):
    batch = collect(make_actor(noise_storage="seed"))
    assert (batch["flow_seed"].shape, batch["flow_seed"].dtype) == ((6,), torch.int64)
    assert not {"flow_noise", "flow_time"} & set(batch.keys())


@pytest.mark.parametrize("storage", ["stored", "seed"])
def test_in_half_precision_the_losses_are_those_at_collection_too(make_actor, storage):
    actor = make_actor(noise_storage=storage).to(torch.bfloat16)
    with torch.no_grad():
        batch = actor(TensorDict(observation=torch.randn(6, 3).bfloat16(), batch_size=6))
    assert batch["cfm_loss"].dtype == torch.bfloat16
    assert torch.equal(actor.cfm_loss(batch), batch["cfm_loss"])


def test_a_batch_without_the_seeds_is_refused(make_actor, collect):
    actor = make_actor(noise_storage="seed")
    with pytest.raises(KeyError, match="reads \\['flow_seed'\\], which the tensordict lacks"):
        actor.cfm_loss(collect(actor).exclude("flow_seed"))


def test_an_unknown_storage_is_refused(make_actor):
    with pytest.raises(ValueError, match="noise_storage must be one of stored, seed, got 'none'"):
        make_actor(noise_storage="none")


def test_without_pairs_there_is_no_seed(make_actor):
    td = make_actor(noise_storage="seed").for_inference()(TensorDict(observation=torch.zeros(2, 3), batch_size=2))
    assert "flow_seed" not in td


def test_the_view_for_inference_scores_actions_as_the_actor_does(make_actor, collect):
    actor = make_actor(noise_storage="seed")
    batch = collect(actor)
    scores = [policy.get_dist(batch).log_prob(batch["action"]) for policy in (actor, actor.for_inference())]
    assert scores[0].isfinite().all()
    assert torch.equal(*scores)
