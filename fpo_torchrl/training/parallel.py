"""Several processes that train one policy, each on its share of the environments, as ``torchrun`` starts them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fpo_torchrl.errors import ConfigError, NonFiniteError

Result = TypeVar("Result")
TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What ``torchrun`` puts into the environment of a process, and it needs to find the others."""


class Processes:
    """This process among those that train together; alone, it is all of them and every method does nothing.

    Methods that talk to the others must be called by all of them, in the same order. Process 0 leads: it alone writes.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.size = dist.get_world_size() if dist.is_initialized() else 1

    def share(self, name: str, total: int) -> int:
        """What of a number of environments or frames is for this process.

        Raises:
            ConfigError: if there is no equal share.
        """
        if total % self.size:
            raise ConfigError(
                f"{name}={total} cannot be shared equally by {self.size} processes: give a multiple of {self.size}"
            )
        return total // self.size

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over the processes, in place and in one message."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def standardize(self, advantage: Tensor) -> Tensor:
        """Shift and scale the advantages of all processes to mean 0 and standard deviation 1, as ``PPOLoss`` does."""
        everyone = self.gather(advantage)
        return (advantage - everyone.mean()) / everyone.std().clamp_min(torch.finfo(torch.float).resolution)

    def gather(self, tensor: Tensor) -> Tensor:
        """Everyone's tensors of this shape, one after the other along the first dimension."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def everyone(self, message: Any) -> list[Any]:
        """What every process gives, by its number."""
        if self.size == 1:
            return [message]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, message)
        return box

    def reduce(self, metrics: dict[str, float]) -> dict[str, float]:
        """Metrics of all processes: of ``num_...`` the sum, of ``..._min`` the least, of ``..._max`` the largest, else
        the mean.
        """
        if self.size == 1:
            return metrics
        rows = self.everyone(metrics)
        columns = {name: [row[name] for row in rows] for name in metrics}
        return {name: summary(name)(values) for name, values in columns.items()}

    def largest(self, number: int) -> int:
        """The largest number that any process has."""
        return max(self.everyone(number))

    def check(self, compute: Callable[[], Result]) -> Result:
        """What ``compute`` gives; if it meets a NaN in one process, all of them stop with that.

        Raises:
            NonFiniteError: of this process, or with the words of another one.
        """
        if self.size == 1:
            return compute()
        result, error = None, None
        try:
            result = compute()
        except NonFiniteError as found:
            error = found
        messages = self.everyone(str(error) if error is not None else None)
        if error is not None:
            raise error
        if told := [message for message in messages if message is not None]:
            raise NonFiniteError(f"in another process: {told[0]}")
        return result

    def tell(self, message: Any) -> Any:
        """What process 0 gives, in every process."""
        if self.size == 1:
            return message
        box = [message]
        dist.broadcast_object_list(box)
        return box[0]


def summary(name: str) -> Callable[[list[float]], float]:
    """How one number is made of several processes' metrics of a name.

    >>> [summary(name)([1, 3]) for name in ("num_diverged", "ratio_min", "ratio_max", "reward")]
    [4, 1, 3, 2.0]
    """
    if name.startswith("num_"):
        return sum
    if name.endswith("_min"):
        return min
    return max if name.endswith("_max") else lambda values: sum(values) / len(values)


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started together with this one, if it did; by NCCL if each has a GPU.

    For ``device=cuda`` each takes the GPU of its number, counted round. Where GPUs are fewer than processes, gloo
    carries the messages; every node needs the same number of both.

    Raises:
        ConfigError: if the environment has a part of what ``torchrun`` sets.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE") == "1":
        yield Processes()
        return
    if missing := [name for name in TORCHRUN if name not in os.environ]:
        raise ConfigError(
            f"RANK={os.environ['RANK']} is in the environment without {', '.join(missing)}: torchrun sets "
            f"{', '.join(TORCHRUN)}. Start several processes with torchrun; unset RANK to train in this one alone"
        )
    num_here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % num_gpus)
    dist.init_process_group("cpu:gloo,cuda:nccl" if num_gpus >= num_here else "gloo")
    try:
        yield Processes()
    finally:
        dist.destroy_process_group()
