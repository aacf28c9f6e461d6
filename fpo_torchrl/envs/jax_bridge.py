"""Between torch and JAX on one device: tensors pass by DLPack, without a copy through the host.

Torch keeps no memory of JAX's, and JAX none of torch's: each side copies what it wants to keep. In DLPack's
protocol the library that receives an array waits, on the device, for what the other one has queued.
"""

# JAX is optional.
# pyright: reportMissingImports=false
from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fpo_torchrl.devices import with_index
from fpo_torchrl.envs.optional import missing


def load_jax(extra: str) -> Any:
    """Import JAX and return its module; ``extra`` is the optional dependency that brings it.

    JAX is told to take GPU memory as it needs it, not most of it at once, and to keep compiled programs in the
    user's cache directory. ``XLA_PYTHON_CLIENT_PREALLOCATE`` and ``JAX_COMPILATION_CACHE_DIR`` override that.

    Raises:
        ImportError: if JAX is not installed; the message says how to install it.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import jax
    except ImportError as error:
        raise missing(extra, error) from error
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir()))
    return jax


def cache_dir() -> Path:
    """Where compiled programs are kept: ``fpo_torchrl/jax`` in the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fpo_torchrl" / "jax"


def jax_device(device: torch.device, extra: str) -> Any:
    """The JAX device of a torch device; ``ValueError`` if JAX cannot use it."""
    jax = load_jax(extra)
    index = with_index(device).index if device.type == "cuda" else 0
    try:
        known = jax.local_devices(backend="gpu" if device.type == "cuda" else device.type)
    except RuntimeError as error:
        raise ValueError(
            f"JAX {jax.__version__} cannot use the device {str(device)!r}: {error}. On an NVIDIA GPU it needs "
            "pip install 'jax[cuda13]', or 'jax[cuda12]' with an older driver"
        ) from error
    devices = {one.local_hardware_id: one for one in known}
    if index not in devices:
        raise ValueError(
            f"JAX does not see the device {str(device)!r}; it sees {', '.join(map(str, devices.values()))}"
        )
    return devices[index]


def to_jax(tensor: Tensor) -> Any:
    """A JAX array over the memory of a contiguous tensor; do not write to the tensor while JAX uses it."""
    import jax

    return jax.dlpack.from_dlpack(tensor)


def to_torch(array: Any) -> Tensor:
    """A tensor over the memory of a JAX array: read it, but do not write to it or keep it."""
    return torch.from_dlpack(array)


def tree_tensors(tree: Any) -> dict[str, Tensor]:
    """The arrays of a JAX tree by name, as tensors on the CPU that can be saved."""
    import jax

    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): torch.from_numpy(_signed(np.array(leaf))) for path, leaf in leaves}


def tree_from_tensors(like: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that :func:`tree_tensors` once saved, of NumPy arrays; ``ValueError`` if it is not one like ``like``."""
    import jax

    def fill(path: Any, leaf: Any) -> np.ndarray:
        tensor = tensors.get(_name(path))
        if tensor is None or tensor.shape != leaf.shape:
            raise ValueError(
                f"the state is of another environment or number of copies: {_name(path)} has shape "
                f"{None if tensor is None else list(tensor.shape)}, expected {list(leaf.shape)}"
            )
        return tensor.numpy(force=True).view(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, like)


def _name(path: Any) -> str:
    import jax

    return jax.tree_util.keystr(path, simple=True, separator="_")


def _signed(array: np.ndarray) -> np.ndarray:
    """The same bits as signed integers: JAX's random keys are uint32, of which torch knows little."""
    return array.view(f"i{array.itemsize}") if array.dtype.kind == "u" and array.itemsize > 1 else array
