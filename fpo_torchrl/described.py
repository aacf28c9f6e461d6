"""Objects that show how they were built."""

from __future__ import annotations

import inspect


class Described:
    """Base class of small settings objects: ``repr`` is the call that builds one, with every argument it has kept.

    >>> from fpo_torchrl import UniformTime
    >>> UniformTime(0.1, 0.9)
    UniformTime(low=0.1, high=0.9)
    """

    def __repr__(self) -> str:
        kept = [name for name in inspect.signature(type(self)).parameters if name in vars(self)]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in kept)})"
