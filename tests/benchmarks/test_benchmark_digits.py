"""What the digits benchmark measures, on images whose answers are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import digits


class Darkness:
    """A classifier of two digits: 1 where the first pixel is positive, with certainty."""

    def predict(self, images):
        return (images[:, 0] > 0).astype(int)

    def predict_proba(self, images):
        return np.eye(2)[self.predict(images)]


@pytest.fixture
def data() -> digits.Digits:
    """Images of digit 0 and 1, told apart by their first pixel."""
    images = torch.rand(40, 64)
    labels = torch.arange(40) % 2
    images[:, 0] = 2.0 * labels - 1
    return digits.Digits(images, labels, Darkness(), Darkness(), 1.0)


def test_the_real_images_of_the_digit_are_perfect(data):
    measured = digits.measure(data.images[data.labels == 1], data, 1)
    assert measured == pytest.approx({"reward": 1, "judged": 1, "spread": 1, "coverage": 1, "nearest": 0}, abs=1e-3)


def test_one_image_again_and_again_has_collapsed(data):
    measured = digits.measure(data.images[1:2].repeat(30, 1), data, 1)
    assert measured["reward"] == 1
    assert measured["spread"] == pytest.approx(0, abs=1e-5)
    assert measured["coverage"] == 1 / 20


def test_images_of_another_digit_cover_nothing_and_one_pixel_beside_is_one_away(data):
    beside = data.images[data.labels == 0].clone()
    beside[:, 0] -= 1
    measured = digits.measure(beside, data, 1)
    assert (measured["reward"], measured["judged"], measured["coverage"]) == (0, 0, 0)
    assert measured["nearest"] == pytest.approx(1, abs=1e-3)


def test_reinforcing_raises_the_reward_and_starts_from_the_pretrained_weights(data):
    weights = digits.make_actor(digits.AntitheticPairs()).state_dict()
    before = {name: value.clone() for name, value in weights.items()}
    measures, images = digits.reinforce(weights, data, 1, num_updates=4)
    assert len(measures) == 5
    assert measures[-1]["reward"] > measures[0]["reward"] + 0.02
    assert images.shape == (digits.GROUP, 64)
    assert all(torch.equal(weights[name], before[name]) for name in before)
