"""Random numbers of every agent's own, so that an agent among others draws what it would draw alone."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fpo_torchrl.devices import with_index
from fpo_torchrl.errors import ConfigError


class AgentGenerator:
    """What torch's global generators are to a lone run; as a context manager it takes their place.

    It begins where the global generators are, those of the CPU and of ``device``.
    """

    def __init__(self, device: torch.device | str) -> None:
        device = with_index(torch.device(device))
        self._shared = [torch.default_generator]
        if device.type == "cuda":
            self._shared.append(torch.cuda.default_generators[device.index])
        self._own = [shared.clone_state() for shared in self._shared]

    def __enter__(self) -> AgentGenerator:
        self._swap()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._swap()

    def _swap(self) -> None:
        for own, shared in zip(self._own, self._shared, strict=True):
            state = shared.get_state()
            shared.set_state(own.get_state())
            own.set_state(state)


class DrawnByAgent(TorchDispatchMode):
    """Inside, a random tensor ``[agents, ...]`` holds for every agent what its own generator draws for it alone.

    It stands around ``torch.vmap(..., randomness="different")``, which asks for the numbers of all agents at once.
    """

    def __init__(self, generators: Sequence[AgentGenerator]) -> None:
        super().__init__()
        self.generators = generators

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func``, or if it draws random numbers, call it for each agent.

        Raises:
            ConfigError: if the call has neither a size nor a tensor by which to split it among the agents.
        """
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        names = [argument.name for argument in func._schema.arguments]
        settings = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        if "size" not in settings and not any(isinstance(value, Tensor) for value in settings.values()):
            raise ConfigError(f"{func} cannot be drawn for agents vectorized with vmap: give vmap=false")
        drawn = []
        for index, generator in enumerate(self.generators):
            own = {name: _share(name, value, index) for name, value in settings.items()}
            with generator:
                drawn.append(func(**own))
        if func._schema.is_mutable:
            return settings["self"]
        return torch.stack(drawn) if isinstance(drawn[0], Tensor) else tuple(map(torch.stack, zip(*drawn, strict=True)))


def _share(name: str, value: Any, index: int) -> Any:
    """What an argument for all agents is for one of them."""
    if isinstance(value, Tensor):
        return value[index]
    return value[1:] if name == "size" else value
