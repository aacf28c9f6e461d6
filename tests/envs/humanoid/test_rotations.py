"""Rotations, compared with SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fpo_torchrl.envs.humanoid import rotations


def some(seed: int, count: int = 6) -> tuple[torch.Tensor, Rotation]:
    """Random rotations, as ours and as SciPy's."""
    scipys = Rotation.random(count, random_state=seed)
    return torch.tensor(scipys.as_quat(scalar_first=True).T.copy()), scipys


def assert_same(quat: torch.Tensor, expected: Rotation) -> None:
    """Up to the sign, which says nothing."""
    dots = (quat.T.numpy() * expected.as_quat(scalar_first=True)).sum(1)
    np.testing.assert_allclose(np.abs(dots), 1, atol=1e-12)


def test_products_are_scipys():
    (one, first), (other, second) = some(0), some(1)
    assert_same(rotations.multiply(one, other), first * second)
    assert_same(rotations.between(one, other), second * first.inv())
    assert_same(rotations.inverse(one), first.inv())


@pytest.mark.parametrize("sign", [1, -1])
def test_the_distance_of_two_rotations_is_scipys(sign):
    (one, first), (other, second) = some(0), some(1)
    expected = (second * first.inv()).magnitude()
    np.testing.assert_allclose(rotations.distance(one, sign * other), expected, atol=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_distance_of_close_rotations_is_exact_in_single_precision(sign):
    turn = torch.tensor([0.0, 1e-6, 1e-4, 1e-2, 3.1415])
    none = rotations.about(1, torch.zeros(5))
    torch.testing.assert_close(rotations.distance(none, sign * rotations.about(1, turn)), turn, rtol=1e-5, atol=0)


def test_turned_vectors_and_matrices_are_scipys():
    quat, expected = some(2)
    vectors = np.random.default_rng(0).normal(size=(6, 3))
    np.testing.assert_allclose(rotations.rotate(quat, torch.tensor(vectors.T)).T, expected.apply(vectors), atol=1e-12)
    np.testing.assert_allclose(rotations.matrix(quat).permute(2, 0, 1), expected.as_matrix(), atol=1e-12)
    columns = expected.as_matrix()[:, :, [0, 2]]
    np.testing.assert_allclose(rotations.columns(quat).permute(2, 1, 0), columns, atol=1e-12)


def test_the_cross_product_is_numpys():
    left, right = np.random.default_rng(1).normal(size=(2, 3, 5))
    found = rotations.cross(torch.tensor(left), torch.tensor(right))
    np.testing.assert_allclose(found, np.cross(left, right, axis=0), atol=1e-12)


def test_factors_broadcast():
    quat, expected = some(3, count=1)
    vectors = torch.randn(3, 4, 5, dtype=torch.float64)
    turned = rotations.rotate(quat.unsqueeze(-1), vectors)
    assert turned.shape == (3, 4, 5)
    np.testing.assert_allclose(turned[:, 2, 3], expected.apply(vectors[:, 2, 3])[0], atol=1e-12)


def test_no_turn_and_a_turn_in_the_plane_are_exact_in_single_precision():
    """What does not move must not tremble: a normaliser would blow it up."""
    turn = torch.linspace(-3, 3, 50)
    matrix = rotations.matrix(rotations.about(1, turn))
    assert torch.equal(matrix[1], torch.tensor([0.0, 1.0, 0.0])[:, None].expand(3, 50))


@pytest.mark.parametrize("tilt", [0.0, 1.0])
def test_seen_from_a_heading_the_world_turns_the_other_way(tilt):
    """A body that has turned by 0.7 about z, and then leans, sees x at an angle of -0.7."""
    quat = rotations.multiply(
        rotations.about(2, torch.tensor([0.7], dtype=torch.float64)),
        rotations.about(1, torch.tensor([tilt], dtype=torch.float64)),
    )
    vector = torch.tensor([[1.0], [0.0], [5.0]], dtype=torch.float64)
    seen = rotations.turn_back_(rotations.heading(quat), vector.clone())
    np.testing.assert_allclose(seen[:, 0], [np.cos(0.7), -np.sin(0.7), 5.0], atol=1e-12)


def test_a_body_upside_down_has_no_heading():
    cosine, sine = rotations.heading(torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert (cosine, sine) == (1, 0)
