"""Checks of arguments that many parts share."""

from __future__ import annotations


def check_counts(**counts: int | None) -> None:
    """Raise ``ValueError`` for the first of ``counts`` that is below 1; None stands for a default.

    >>> check_counts(num_envs=0)
    Traceback (most recent call last):
    ValueError: num_envs must be at least 1, got 0
    """
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
