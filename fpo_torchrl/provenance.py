"""Where a run's numbers come from: machine, versions, command, and how it ended."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fpo_torchrl.errors import NonFiniteError
from fpo_torchrl.files import read_json, write_json

FILE = "provenance.json"
PACKAGES = (
    *("fpo-torchrl", "torch", "torchrl", "tensordict", "mujoco", "numpy"),
    *("mujoco-mjx", "jax", "playground", "mujoco-warp", "warp-lang"),
)


@contextlib.contextmanager
def recorded(
    run_dir: Path, *, device: str, frames: Callable[[], int]
) -> Iterator[Callable[[BaseException | None], None]]:
    """Keep ``provenance.json`` of a run up to date while it trains; gives a function that ends it early.

    ``status`` is "running", then "finished", "diverged" (:class:`NonFiniteError`) or "interrupted" (any other
    exception), with ``frames`` and ``error``; a killed process leaves "running". Each start adds an entry to
    ``starts``: the first one is the run's own, the others continued it.

    Args:
        run_dir: the run's directory, which exists.
        device: where it trains, such as "cpu" or "cuda:0".
        frames: how many frames were trained on so far.
    """
    content = {**read_provenance(run_dir), "status": "running", "frames": frames(), "error": None}
    content["starts"] = [*content.get("starts", []), {"from_frame": frames(), **origin(device)}]
    write_json(run_dir / FILE, content)

    def end(error: BaseException | None = None) -> None:
        if content["status"] != "running":
            return
        stopped = "diverged" if isinstance(error, NonFiniteError) else "interrupted"
        message = f"{type(error).__name__}: {error}".rstrip(": ") if error is not None else None
        status = stopped if error is not None else "finished"
        content.update(status=status, frames=frames(), error=message, ended=now())
        write_json(run_dir / FILE, content)

    try:
        yield end
    except BaseException as error:
        with contextlib.suppress(OSError):  # a full disk: what stopped the run is the error to report
            end(error)
        raise
    end()


def read_provenance(run_dir: Path) -> dict[str, Any]:
    """The content of a run's ``provenance.json``; empty if it has none, as runs of version 0.1."""
    path = run_dir / FILE
    return read_json(path) if path.is_file() else {}


def origin(device: str) -> dict[str, Any]:
    """Date, command, machine, versions and commit of this process: what a number it writes depends on."""
    return {
        "date": now(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "machine": machine(device),
        "versions": versions(),
        "commit": source_commit(),
    }


def now() -> str:
    """The time in UTC, in whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine(device: str) -> dict[str, Any]:
    """CPU, GPU (None if ``device`` is not one), torch's threads, and the load of the machine before this process."""
    is_cuda = torch.device(device).type == "cuda"
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if is_cuda else None,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def cpu_model() -> str:
    """The processor's name as the system gives it, else its architecture."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), flags=re.M) if path.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide a run's numbers; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def source_commit() -> str | None:
    """The git commit of this package's source, "-dirty" if files were changed since; None for an installed package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
