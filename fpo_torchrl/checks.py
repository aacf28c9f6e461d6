"""Checks of arguments that many parts share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from numbers import Integral
from typing import Any

from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor


def check_counts(**counts: int | None) -> None:
    """Raise for the first of ``counts`` that is no whole number, or below 1; None stands for a default.

    >>> check_counts(num_envs=0)
    Traceback (most recent call last):
    ValueError: num_envs must be at least 1, got 0
    """
    for name, value in counts.items():
        if value is not None and not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number, got {value!r}")
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def check_kinds(example: str, kind: type, **values: Any) -> None:
    """Raise ``TypeError`` for the first of ``values`` that is no object of ``kind``; None stands for a default.

    >>> check_kinds("0.5", float, lr="fast")
    Traceback (most recent call last):
    TypeError: lr must be a float such as 0.5, got 'fast'
    """
    for name, value in values.items():
        if value is not None and not isinstance(value, kind):
            article = "an" if kind.__name__[0] in "aeiou" else "a"
            raise TypeError(f"{name} must be {article} {kind.__name__} such as {example}, got {value!r}")


def entries(tensordict: TensorDictBase, keys: Iterable[NestedKey], *, reader: str, advice: str) -> list[Tensor]:
    """The entries under ``keys``; ``KeyError`` if some are missing, saying who reads them and what to do."""
    found = [(key, tensordict.get(key, None)) for key in keys]
    if missing := [key for key, value in found if value is None]:
        there = ", ".join(map(str, sorted(tensordict.keys(True, True), key=str))) or "nothing"
        raise KeyError(f"{reader} reads {missing}, which the tensordict lacks: {advice}. It has {there}")
    return [value for _, value in found]


def check_shape(name: str, value: Any, expected: Sequence[int], meaning: str) -> None:
    """Raise ``ValueError`` for a tensor of another shape than ``expected``, which might broadcast; numbers may be any.

    >>> import torch
    >>> check_shape("the times", torch.zeros(4, 8), (4, 8, 1), "[*batch, mc, 1]")
    Traceback (most recent call last):
    ValueError: the times should have shape (4, 8, 1), [*batch, mc, 1], got (4, 8)
    """
    if isinstance(value, Tensor) and value.ndim and value.shape != tuple(expected):
        raise ValueError(f"{name} should have shape {tuple(expected)}, {meaning}, got {tuple(value.shape)}")


def misfit(batch: Sequence[int], observation: Tensor) -> str:
    """What to say of an ``observation`` that does not belong to a ``batch`` of actions."""
    return (
        f"one action was expected per entry of the batch {tuple(batch)}, but the observation has shape "
        f"{tuple(observation.shape)}: set the tensordict's batch_size to its leading dimensions"
    )


def check_observations(batch: Sequence[int], observations: Iterable[Tensor]) -> None:
    """Raise ``ValueError`` for an observation whose leading dimensions are not those of ``batch``, or 1."""
    for observation in observations:
        sizes = zip(observation.shape, batch, strict=False)
        least = len(batch) + observation.is_floating_point()  # whole numbers may be a category each
        if observation.ndim < least or any(size not in (1, wanted) for size, wanted in sizes):
            raise ValueError(misfit(batch, observation))


def check_index(index: int, num_envs: int) -> None:
    """Raise ``ValueError`` for the number of an environment copy that is not there."""
    if not 0 <= index < num_envs:
        raise ValueError(f"index must be in [0, {num_envs}), got {index}")


def check_choice(
    name: str, value: Any, choices: Iterable[Any], *, other: str = "", error: type[Exception] = ValueError
) -> None:
    """Raise ``error`` if ``value`` is none of ``choices``; ``other`` says in words what else it could have been.

    >>> check_choice("std", "learnt", ["observation", "learned"], other="a positive number")
    Traceback (most recent call last):
    ValueError: std must be one of observation, learned or a positive number, got 'learnt'; did you mean 'learned'?
    """
    if value in (known := list(choices)):
        return
    allowed = ", ".join(map(str, known)) + (f" or {other}" if other else "")
    hint = "".join(f"; did you mean {it!r}?" for it in closest(value, known))
    raise error(f"{name} must be one of {allowed}, got {value!r}{hint}")


def check_arguments(owner: str, unknown: Iterable[str], known: Iterable[str]) -> None:
    """Raise ``TypeError`` for the first of the ``unknown`` arguments, with the ``known`` one that was likely meant."""
    for name in unknown:
        hint = "".join(f"; did you mean {it!r}?" for it in closest(name, known))
        raise TypeError(f"{owner} has no argument {name!r}{hint}")


def closest(name: Any, known: Iterable[Any], count: int = 1) -> list[Any]:
    """At most ``count`` of the ``known`` names that are much like ``name``, the best first.

    Case and punctuation do not count, nor need the name have what stands before a slash.

    >>> closest("two_wals", ["gridworld/two_walls", "CheetahRun"]), closest("cheetah_run", ["CheetahRun"])
    (['gridworld/two_walls'], ['CheetahRun'])
    >>> closest("Atari", ["gridworld/two_walls", "CheetahRun"])
    []
    """

    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    known = list(known)
    spelling = {plain(str(it).rpartition("/")[2]): it for it in known} | {plain(str(it)): it for it in known}
    close = get_close_matches(plain(str(name)), spelling, n=2 * count)  # a name may be there in both spellings
    return list(dict.fromkeys(spelling[text] for text in close))[:count]
