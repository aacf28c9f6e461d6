"""Masks: what is hidden does not reach a network, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fpo_torchrl.modules import MaskedObservation, ObservationNormalizer

MASK = torch.tensor([True, False, True])


def test_what_is_hidden_is_zero_after_normalising():
    normalizer = ObservationNormalizer(3)
    normalizer.update(torch.tensor([[1.0, 5.0, 0.0], [3.0, 9.0, 0.0]]))
    seen = MaskedObservation(MASK, normalizer)(torch.tensor([[4.0, 100.0, 0.0]]))
    assert seen.tolist() == [[2.0, 0.0, 0.0]]


@pytest.mark.parametrize("hidden", [float("nan"), float("inf"), -0.0, -3.0])
def test_neither_nan_nor_a_sign_gets_through(hidden):
    seen = MaskedObservation(MASK)(torch.tensor([1.0, hidden, 2.0]))
    assert seen.tolist() == [1.0, 0.0, 2.0]
    assert not torch.signbit(seen).any()


def test_a_mask_must_be_a_row_of_bools():
    with pytest.raises(ValueError, match=r"mask must be a bool tensor \[obs_dim\], got torch.float32 \[3\]"):
        MaskedObservation(torch.ones(3))


def test_the_mask_is_the_tasks_and_not_taken_over_with_weights():
    everything = MaskedObservation(torch.ones(2, dtype=torch.bool), nn.Identity())
    a_part = MaskedObservation(torch.tensor([True, False]), nn.Identity())
    a_part.load_state_dict(everything.state_dict())
    assert a_part(torch.tensor([3.0, 4.0])).tolist() == [3.0, 0.0]
