"""Batched rotations as unit quaternions ``[4, ...]``, ``w`` first, and vectors ``[3, ...]``.

Components come first, so that each one is contiguous in memory: thousands of small rotations are then
several times faster on a CPU than with components last. Every product here is linear in both of its factors, and so
one matrix multiplication for all rotations at once: a CPU spends more on starting an operation than on its numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor


class _Product:
    """``constant + sum_ij table[..., i, j] left_i right_j``.

    Args:
        table: float64 ``[*result, left, right]``.
        constant: float64 ``[*result]``; default 0.
    """

    def __init__(self, table: Tensor, constant: Tensor | None = None) -> None:
        *self.result, rows, columns = table.shape
        constant = table.new_zeros(self.result) if constant is None else constant
        self._original = table.reshape(-1, rows * columns), constant.reshape(-1, 1)
        self._cast: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def __call__(self, left: Tensor, right: Tensor) -> Tensor:
        """The result ``[*result, ...]`` for ``left`` ``[left, ...]`` and ``right`` ``[right, ...]``."""
        kind = left.dtype, left.device
        if kind not in self._cast:
            with torch.inference_mode(False):  # wherever it is called first
                self._cast[kind] = tuple(it.to(left, copy=True) for it in self._original)
        table, constant = self._cast[kind]
        products = left.unsqueeze(1) * right
        flat = products.reshape(table.shape[1], products.numel() // table.shape[1])
        return torch.addmm(constant, table, flat).view(*self.result, *products.shape[2:])


# The units 1, i, j and k: the product of two of them is, up to its sign, the unit whose number is the exclusive or.
_SIGNS = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, -1, -1, 1], [1, 1, -1, -1]], dtype=torch.float64)
_UNITS = torch.arange(4)
_TABLE = _SIGNS * ((_UNITS[:, None] ^ _UNITS) == _UNITS[:, None, None])
_TABLE_INVERSE = _TABLE * torch.tensor([1.0, -1, -1, -1])  # with the inverse of the right factor
_EYE = torch.eye(3, dtype=torch.float64)
# The vector v turned by q is q v q^-1; for unit quaternions the diagonal becomes 1 - 2 (...), which is exact at rest.
_TURN = torch.einsum("mil,kmj->klij", _TABLE, _TABLE_INVERSE)[1:, 1:] - _EYE[..., None, None] * torch.eye(4)

_multiply, _divide, _cross = _Product(_TABLE), _Product(_TABLE_INVERSE), _Product(_TABLE[1:, 1:, 1:])
_matrix = _Product(_TURN, _EYE)
_columns = _Product(_TURN[:, [0, 2]].transpose(0, 1), _EYE[:, [0, 2]].T)


def length(vector: Tensor) -> Tensor:
    """The length ``[...]`` of ``vector`` ``[size, ...]``; far faster than torch's norm over a first dimension."""
    return vector.square().sum(0).sqrt()


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """The rotation ``right`` followed by ``left``."""
    return _multiply(left, right)


def between(start: Tensor, end: Tensor) -> Tensor:
    """The rotation that leads from ``start`` to ``end``, in the axes in which both are given."""
    return _divide(end, start)


def cross(left: Tensor, right: Tensor) -> Tensor:
    """The cross product ``[3, ...]``."""
    return _cross(left, right)


def inverse(quat: Tensor) -> Tensor:
    """The opposite rotation."""
    return torch.cat([quat[:1], -quat[1:]])


def matrix(quat: Tensor) -> Tensor:
    """The rotation matrix ``[3, 3, ...]``, rows first."""
    return _matrix(quat, quat)


def columns(quat: Tensor) -> Tensor:
    """First and third column of the rotation matrix, ``[2, 3, ...]``: continuous, unlike a quaternion."""
    return _columns(quat, quat)


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """``vector`` ``[3, ...]`` turned by ``matrix`` ``[3, 3, ...]``."""
    turned = torch.addcmul(matrix[:, 0] * vector[0], matrix[:, 1], vector[1])
    return torch.addcmul(turned, matrix[:, 2], vector[2])


def rotate(quat: Tensor, vector: Tensor) -> Tensor:
    """``vector`` ``[3, ...]`` turned by ``quat``."""
    return apply(matrix(quat), vector)


def canonical(quat: Tensor) -> Tensor:
    """The same rotation with ``w >= 0``; a quaternion and its negative are one rotation."""
    return torch.where(quat[0] < 0, -quat, quat)


def distance(one: Tensor, other: Tensor) -> Tensor:
    """The angle (rad, between 0 and pi) of the rotation that leads from ``one`` to ``other``: ``[...]``.

    Four times the arc sine of half the distance of the quaternions, which loses no digits between rotations that are
    nearly the same, as an arc cosine of their product would.
    """
    # A quaternion and its negative are one rotation.
    return 4 * (torch.minimum(length(one - other), length(one + other)) / 2).asin()


def to_rotvec(quat: Tensor) -> Tensor:
    """Axis times angle (rad, at most pi): ``[3, ...]``."""
    quat = canonical(quat)
    sine = length(quat[1:])
    return quat[1:] * torch.where(sine > 1e-12, 2 * torch.atan2(sine, quat[0]) / sine.clamp_min(1e-12), 2.0)


def from_rotvec(rotvec: Tensor) -> Tensor:
    """The rotation about ``rotvec`` ``[3, ...]`` by its length (rad)."""
    turn = length(rotvec)
    # sinc(x) is sin(pi x) / (pi x)
    return torch.cat([(turn / 2).cos().unsqueeze(0), 0.5 * torch.sinc(turn / (2 * torch.pi)) * rotvec])


def about(axis: int, turn: Tensor) -> Tensor:
    """The rotation by ``turn`` ``[...]`` (rad) about x (0), y (1) or z (2)."""
    quat = turn.new_zeros(4, *turn.shape)
    quat[0], quat[1 + axis] = (turn / 2).cos(), (turn / 2).sin()
    return quat


def twist(quat: Tensor, axis: int) -> Tensor:
    """The angle ``[...]`` (rad, between -pi and pi) by which ``quat`` turns about x (0), y (1) or z (2)."""
    quat = canonical(quat)
    return 2 * torch.atan2(quat[1 + axis], quat[0])


def heading(quat: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine ``[...]`` of the angle by which ``quat`` turns about the vertical axis z.

    Turning everything about z adds to that angle. It is not defined for a body upside down, and then 0.
    """
    w, z = quat[0], quat[3]
    share = z / (w * w + z * z).clamp_min(1e-18)
    return 1 - 2 * z * share, 2 * w * share


def turn_back_(heading: tuple[Tensor, Tensor], vector: Tensor) -> Tensor:
    """Change ``vector`` ``[3, ...]``, in place, to what a body of this heading sees."""
    cosine, sine = heading
    x, y = vector[0], vector[1]
    ahead = torch.addcmul(x * cosine, y, sine)
    y.mul_(cosine).addcmul_(x, sine, value=-1)
    x.copy_(ahead)
    return vector


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """The rotation ``share`` ``[...]`` of the shorter way from ``start`` to ``end``."""
    return multiply(start, from_rotvec(share * to_rotvec(multiply(inverse(start), end))))
