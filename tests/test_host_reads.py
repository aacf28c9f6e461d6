"""How often training waits for its device: on a GPU, each number that Python looks at empties the queue of launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from tensordict import TensorDictBase
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}
MASKED = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"}  # with a bool mask they count its entries


COPIES = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu}


class Copies(TorchFunctionMode):
    """Counts the whole tensors that are brought to the host."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in COPIES
        return func(*args, **(kwargs or {}))


class HostReads(TorchDispatchMode):
    """Counts the operations on whose result Python, or the shape of a tensor, depends."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        masks = [index for index in args[1] if index is not None] if name in MASKED else []
        self.count += name in READS or any(mask.dtype == torch.bool for mask in masks)
        return func(*args, **(kwargs or {}))


def reads(function: Callable[[TensorDictBase], Any], batch: TensorDictBase) -> int:
    with Copies() as copies, HostReads() as host:
        function(batch)
    return copies.count + host.count


def test_the_counter_sees_what_waits():
    tensor, row = torch.arange(4.0), torch.tensor([1])
    waits = [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 1],
        lambda x: x.nonzero(),
        lambda x: x.tolist(),
    ]
    assert [reads(it, tensor) for it in waits] == [1, 1, 1, 1, 1]
    assert [reads(it, tensor) for it in (lambda x: x[row], lambda x: x.sum() + 1, lambda x: x[1:])] == [0, 0, 0]


@pytest.mark.parametrize("overrides", [tiny.CARTPOLE, tiny.GRIDWORLD], ids=["CartpoleBalance", "gridworld"])
def test_no_gradient_step_waits(overrides):
    """An update of 32 gradient steps waits as often as one of a single step."""
    counts = {}
    for epochs, minibatch in [(1, 64), (4, 8)]:
        sizes = [f"trainer.num_epochs={epochs}", f"trainer.minibatch_size={minibatch}", "trainer.redraw_pairs=true"]
        trainer = tiny.make_trainer(*overrides, *sizes)
        batch = next(iter(trainer.start()))
        assert batch.numel() == 64
        counts[epochs] = reads(trainer.learn, batch)
    assert counts[1] == counts[4] <= 4


@pytest.mark.parametrize("every", ["batch", "minibatch"])
def test_the_order_of_minibatches_is_drawn_where_they_are(every):
    """An index on the host would be copied to the device for each entry of each minibatch."""
    devices = []

    class Orders(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.randperm:
                devices.append((kwargs or {}).get("device"))
            return func(*args, **(kwargs or {}))

    trainer = tiny.make_trainer(*tiny.GRIDWORLD, f"trainer.advantage_every={every}")
    batch = next(iter(trainer.start()))
    with Orders():
        trainer.learn(batch)
    assert devices
    assert set(devices) == {trainer.env.device}
