"""The file formats: how each is written from a policy, and how it is read back as a function."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fpo_torchrl.modules import FlowPolicy

METADATA_FILE = "metadata.json"
"""Name of the metadata inside the two formats of torch; in ONNX it is the model's metadata of its own."""


class Format(ABC):
    """Base class of the file formats; the batch size of the exported function is free in all of them."""

    suffix: str
    packages: tuple[str, ...] = ()
    """What must be installed beside torch."""

    @abstractmethod
    def write(self, policy: FlowPolicy, inputs: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]) -> None:
        """Write ``policy`` to ``path``; ``inputs`` are named examples ``[batch, ...]`` with a batch of at least 2."""

    @abstractmethod
    def read(self, path: Path) -> Callable[..., Tensor]:
        """The function in the file, from tensors to a tensor."""


class TorchExport(Format):
    """An ``ExportedProgram`` for ``torch.export.load`` or AOTInductor, which need nothing of this package."""

    suffix = ".pt2"

    def write(self, policy: FlowPolicy, inputs: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]) -> None:
        """Write ``policy`` to ``path``."""
        program = torch.export.export(policy, tuple(inputs.values()), dynamic_shapes=_free_batch(inputs))
        torch.export.save(program, path, extra_files={METADATA_FILE: json.dumps(metadata)})

    def read(self, path: Path) -> Callable[..., Tensor]:
        """The function in the file."""
        return torch.export.load(path).module()


class TorchScript(Format):
    """A trace for ``torch.jit.load`` and libtorch in C++. PyTorch has deprecated it, robots still run it."""

    suffix = ".ts"

    def write(self, policy: FlowPolicy, inputs: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]) -> None:
        """Write ``policy`` to ``path``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            traced = torch.jit.trace(policy, tuple(inputs.values()))
            torch.jit.save(traced, path, _extra_files={METADATA_FILE: json.dumps(metadata)})

    def read(self, path: Path) -> Callable[..., Tensor]:
        """The function in the file."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(path)


class Onnx(Format):
    """An ONNX model for onnxruntime, TensorRT and others; its one output is named "action"."""

    suffix = ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, policy: FlowPolicy, inputs: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]) -> None:
        """Write ``policy`` to ``path``."""
        with _quiet():
            program = torch.onnx.export(
                policy,
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=["action"],
                dynamic_shapes=_free_batch(inputs),
                verbose=False,
            )
        assert program is not None  # as the exporter built on torch.export returns it
        texts = {name: it if isinstance(it, str) else json.dumps(it) for name, it in metadata.items()}
        program.model.metadata_props.update(texts)
        program.save(path, external_data=False)

    def read(self, path: Path) -> Callable[..., Tensor]:
        """The function in the file, run by onnxruntime on the CPU."""
        import onnxruntime  # pyright: ignore[reportMissingImports] - of the extra "export"

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]

        def call(*inputs: Tensor) -> Tensor:
            feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
            return torch.from_numpy(session.run(None, feed)[0])

        return call


FORMATS: dict[str, Format] = {"onnx": Onnx(), "torch.export": TorchExport(), "torchscript": TorchScript()}


def _free_batch(inputs: Mapping[str, Tensor]) -> tuple[tuple[dict[int, Any], ...]]:
    """Leave the size of the first dimension open; one entry, as the policy takes its inputs as ``*inputs``."""
    batch = torch.export.Dim("batch")
    return (tuple({0: batch} for _ in inputs),)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's messages about packages and operators that a flow policy does not use."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
