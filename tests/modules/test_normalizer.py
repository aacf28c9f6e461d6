"""The running statistics are those of all observations seen, however they were cut into batches."""

from __future__ import annotations

import math

import pytest
import torch

from fpo_torchrl import FPOLoss, ObservationNormalizer


def of(*batches: torch.Tensor, **kwargs) -> ObservationNormalizer:
    normalizer = ObservationNormalizer(batches[0].shape[-1], **kwargs)
    for batch in batches:
        normalizer.update(batch)
    return normalizer


@pytest.fixture
def batches() -> list[torch.Tensor]:
    """Of unequal sizes, means and spreads."""
    return [torch.randn(n, 3) * spread + mean for n, spread, mean in [(7, 1.0, 0.0), (500, 5.0, 40.0), (31, 0.1, -3.0)]]


def test_statistics_are_those_of_the_union(batches):
    normalizer, union = of(*batches), torch.cat(batches).double()
    torch.testing.assert_close(normalizer.mean, union.mean(0).float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(normalizer.std, union.std(0, correction=0).float(), rtol=1e-6, atol=1e-6)
    assert normalizer.count == 538


def test_in_half_precision_the_sums_stay_double():
    """A count above 65 504 is infinite in half precision."""
    normalizer, batches = ObservationNormalizer(1).half(), [torch.randn(1024, 1) + 5 for _ in range(100)]
    for batch in batches:
        normalizer.update(batch)
    assert normalizer.count == 102_400
    assert normalizer.mean.dtype == torch.float16
    assert normalizer.std.item() == pytest.approx(torch.cat(batches).std().item(), rel=5e-3)


def test_the_order_of_batches_does_not_matter(batches):
    forward, backward = of(*batches), of(*reversed(batches))
    torch.testing.assert_close(forward.mean, backward.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(forward.std, backward.std, rtol=1e-6, atol=1e-6)


def test_a_large_offset_does_not_swallow_the_variance():
    """A sum of squares in float32 would keep none of it."""
    normalizer = of(*(1e4 + torch.randn(1000, 1, dtype=torch.float64) for _ in range(20)))
    assert normalizer.std.item() == pytest.approx(1, rel=0.02)


def test_many_batches_do_not_drift():
    data = torch.randn(500, 10, 2) * torch.tensor([1.0, 100.0]) + torch.tensor([0.0, 1000.0])
    normalizer = of(*data)
    union = data.reshape(-1, 2).double()
    torch.testing.assert_close(normalizer.mean.double(), union.mean(0), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(normalizer.std.double(), union.std(0, correction=0), rtol=1e-5, atol=1e-5)


def test_normalised_observations_have_mean_zero_and_variance_one(batches):
    union = torch.cat(batches)
    normalised = of(*batches)(union)
    torch.testing.assert_close(normalised.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised.var(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_leading_dimensions_are_all_batch():
    observation = torch.randn(4, 5, 3)
    assert torch.equal(of(observation).std, of(observation.reshape(20, 3)).std)


def test_before_the_first_update_it_is_the_identity():
    observation = torch.randn(4, 3)
    assert torch.equal(ObservationNormalizer(3)(observation), observation)


def test_a_constant_observation_becomes_zero_not_infinite():
    normalizer = of(torch.full((10, 1), 0.3), torch.full((5, 1), 0.3))
    assert normalizer(torch.tensor([0.3])).abs() < 0.1


def test_a_coordinate_that_starts_to_move_stays_within_the_clip():
    normalizer = of(torch.zeros(1000, 1))
    assert normalizer(torch.tensor([[0.01], [-3.0]])).flatten().tolist() == [10, -10]
    unclipped = of(torch.zeros(1000, 1), clip=None)
    assert unclipped(torch.tensor([0.01])).item() == pytest.approx(10_000, rel=1e-3)


def test_a_clip_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="clip must be positive or None, got 0"):
        ObservationNormalizer(1, clip=0)


def test_only_update_changes_the_statistics(batches):
    normalizer = of(*batches)
    before = {key: value.clone() for key, value in normalizer.state_dict().items()}
    normalizer.train()(torch.randn(100, 3))
    for key, value in normalizer.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_state_dict_restores_the_statistics_and_goes_on_from_them(batches):
    restored = ObservationNormalizer(3)
    restored.load_state_dict(of(*batches[:2]).state_dict())
    restored.update(batches[2])
    assert torch.equal(restored.std, of(*batches).std)


def test_as_released_the_standard_deviation_shrinks_with_the_square_root_of_the_updates():
    """Measured in the released JAX code on N(0, 1) batches: .70 after 2 updates, .51 after 4, .32 after 10."""
    normalizer, std = ObservationNormalizer(1, as_released=True), {}
    for update in range(1, 11):
        normalizer.update(torch.randn(20_000, 1))
        std[update] = normalizer.std.item()
    assert std[1] == pytest.approx(1, abs=0.02)
    assert [std[2], std[4], std[10]] == pytest.approx([0.70, 0.51, 0.32], abs=0.02)
    assert normalizer.mean.item() == pytest.approx(0, abs=0.02)


def test_as_released_sums_over_the_last_batch_alone_and_divides_by_the_total_count():
    """The second batch moves the mean from 2 to 4: (5-2)(5-4) + (7-2)(7-4) = 18, of 4 observations."""
    normalizer = of(torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]]), as_released=True)
    assert normalizer.mean.item() == 4
    assert normalizer.std.item() == pytest.approx(math.sqrt(18 / 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_observation_that_is_not_finite_is_refused_and_leaves_no_trace(bad):
    normalizer = of(torch.randn(10, 2))
    std = normalizer.std.clone()
    with pytest.raises(ValueError, match="not finite; check the environment's output"):
        normalizer.update(torch.tensor([[0.0, bad]]))
    assert torch.equal(normalizer.std, std)


def test_an_observation_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"size 3, got a batch of shape \(10, 2\)"):
        ObservationNormalizer(3).update(torch.randn(10, 2))


def test_a_loss_sees_an_update_through_its_functional_parameters(make_actor, make_critic, collect):
    """Actor and critic share one normaliser; the loss holds both as parameter tensordicts."""
    normalizer = ObservationNormalizer(3)
    actor, critic = make_actor(normalizer=normalizer), make_critic(normalizer=normalizer)
    loss = FPOLoss(actor, critic)
    batch = collect(actor)
    before = loss(batch)
    normalizer.update(5 * torch.randn(100, 3) + 2)
    with torch.no_grad():
        value = critic(batch.select("observation"))["state_value"]
    after = loss(batch)
    torch.testing.assert_close(after["cfm_loss_new"], actor.cfm_loss(batch).mean())
    torch.testing.assert_close(after["loss_critic"], 0.25 * (value - batch["value_target"]).square().mean())
    assert after["cfm_loss_new"] != before["cfm_loss_new"]
    assert after["loss_critic"] != before["loss_critic"]


def test_an_empty_batch_changes_nothing():
    normalizer = ObservationNormalizer(3)
    normalizer.update(torch.randn(10, 3))
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    normalizer.update(torch.zeros(0, 3))
    assert all(value.equal(before[name]) for name, value in normalizer.state_dict().items())
