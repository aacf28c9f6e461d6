"""Whether a call of a module as a whole does more than its class says."""

from __future__ import annotations

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of ``module`` does more than its class says.

    Something was registered to run with each call or with its backward pass, its ``forward`` was replaced, or it was
    compiled in place.
    """
    replaced = "forward" in module.__dict__ or getattr(module, "_compiled_call_impl", None) is not None
    return replaced or any(getattr(module, name) for name in _HOOKS)
