"""Whether a module has hooks, which run only if it is called as a whole."""

from __future__ import annotations

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_hooked(module: nn.Module) -> bool:
    """Whether something was registered to run with each call of ``module``, or with its backward pass."""
    return any(getattr(module, name) for name in _HOOKS)
