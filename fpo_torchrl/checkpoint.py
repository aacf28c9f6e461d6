"""Checkpoints: one archive per step, written atomically, verified before it is loaded, without pickle."""

from __future__ import annotations

import contextlib
import copy
import errno
import lzma
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torchrl.checkpoint import Checkpoint, CheckpointRotation, GlobalRNGState, StateDictCheckpointAdapter
from torchrl.checkpoint import CheckpointError as TorchRLCheckpointError

import fpo_torchrl
from fpo_torchrl.checks import check_counts
from fpo_torchrl.errors import CheckpointError, DamagedCheckpointError

FORMAT_VERSION = 1
BEST = "best.torchrl"
"""The file of the policy with the best evaluation, among a run's checkpoints."""
DAMAGE = (
    zipfile.BadZipFile,
    TorchRLCheckpointError,
    OSError,
    KeyError,
    ValueError,
    EOFError,
    zlib.error,  # this one and those below: a damaged byte may say that an entry is compressed, or encrypted
    lzma.LZMAError,
    RuntimeError,
)
"""What reading a damaged archive may raise."""
OUT_OF_REACH = {errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTCONN, errno.ETIMEDOUT}
"""The errors of a file system that say nothing of the file's content."""


class Stateful(Protocol):
    """Anything with a ``state_dict`` of tensors and plain values."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Restore the state."""
        ...


class RandomNumbers(GlobalRNGState):
    """TorchRL's state of all global generators, which also goes on where there are fewer GPUs than before."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the generators that are here."""
        state = dict(state_dict)
        num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = state.pop("torch_cuda", [])[:num_gpus]
        super().load_state_dict(state | ({"torch_cuda": gpus} if gpus else {}))


@dataclass(frozen=True)
class BestPolicy:
    """The policy of a run's best evaluation: its file, when it was evaluated, and what it earned in the mean."""

    path: Path
    frames: int
    mean_return: float


class Checkpointer:
    """Keeps the newest checkpoints of a run in ``run_dir/checkpoints``, and its best policy.

    Built on ``torchrl.checkpoint``: tensors in checksummed archives beside a JSON manifest, renamed into
    place only when complete. A process killed while saving leaves the previous checkpoint untouched.

    Args:
        run_dir: the run's directory.
        components: named objects with ``state_dict`` and ``load_state_dict``.
        keep_last (int): checkpoints kept; older ones are removed after a new one is complete.

    Raises:
        CheckpointError: in :meth:`save` when the disk is full or not writable; in :meth:`load` when there is
            no checkpoint, it is damaged, was written by another version, or holds another network.
    """

    def __init__(self, run_dir: str | Path, *, keep_last: int = 2, **components: Stateful) -> None:
        check_counts(keep_last=keep_last)
        self.directory = Path(run_dir) / "checkpoints"
        self.components = components
        self._checkpoint = Checkpoint(format="archive")
        for name, component in components.items():
            self._checkpoint.register(name, component, adapter=StateDictCheckpointAdapter("archive"))
        self._rotation = CheckpointRotation(self.directory, keep_last=keep_last)

    def save(self, frames: int) -> Path:
        """Write the checkpoint of ``frames`` and remove the oldest; return its path."""
        with self._writing(frames) as metadata:
            return self._rotation.save(self._checkpoint, step=frames, metadata=metadata)

    def save_best(self, frames: int, mean_return: float) -> Path:
        """Write ``best.torchrl``, which the policy of the best evaluation so far is kept in; return its path.

        It holds actor and critic: enough to evaluate and to begin another run with, not to resume from.
        """
        with self._writing(frames) as metadata:
            metadata["return"] = mean_return
            return self._checkpoint.save(self.directory / BEST, components=("actor", "critic"), metadata=metadata)

    @contextlib.contextmanager
    def _writing(self, frames: int) -> Iterator[dict[str, Any]]:
        """What goes into a checkpoint's manifest; ``CheckpointError`` if it cannot be written."""
        try:
            yield {"format": FORMAT_VERSION, "fpo_torchrl": fpo_torchrl.__version__, "frames": frames}
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            latest = self.latest()
            previous = (
                f"the one before it, {latest.name}, is intact" if latest is not None else "there is none before it"
            )
            how = "resume" if latest is not None else "run the same command with resume=auto"
            raise CheckpointError(
                f"could not write the checkpoint of frame {frames} to {self.directory}: "
                f"{getattr(error, 'strerror', None) or error}; {previous}. Make room or give write access, then {how}"
            ) from error

    def newest_whole(self) -> Path | None:
        """The newest checkpoint that is not damaged; says so if that is not the newest. None if none is left."""
        damaged = []
        for path in reversed(self._rotation.checkpoints()):
            try:
                verify(path)
            except DamagedCheckpointError as error:
                damaged.append(error)
            else:
                self._tell_of_unreadable(newer_than=path)
                for error in damaged:
                    print(f"{error}: going on from {path.name}")
                return path
        return None

    def load(self, path: str | Path | None = None, components: Collection[str] | None = None) -> Path:
        """Restore ``components`` (default: all) from ``path`` (default: the newest that is whole); return the path.

        A component that does not fit leaves all of them as they were.
        """
        source = Path(path) if path is not None else self.newest_whole()
        if source is None:
            files = sorted(self.directory.glob("checkpoint-*"))
            for file in files:
                with contextlib.suppress(DamagedCheckpointError):
                    verify(file)  # raises if it cannot be reached
            damaged = ", ".join(file.name for file in files)
            start_again = "its own command with resume=auto starts the run again"
            raise CheckpointError(
                f"no whole checkpoint in {self.directory}"
                + (
                    f", all are damaged: {damaged}. Train again in another run_dir; if the run has not finished, "
                    f"{start_again} once that folder is removed"
                    if damaged
                    else f": there is nothing to load. Where training has begun, {start_again}"
                )
                + (f". The best policy is whole: {self.directory / BEST}" if self.best() is not None else "")
            )
        if not source.is_file():
            what = "is a directory" if source.is_dir() else "does not exist"
            raise CheckpointError(f"{source} {what}. Give the path of a file below a run's checkpoints/")
        if path is not None:
            try:
                verify(source)
            except DamagedCheckpointError as error:
                raise DamagedCheckpointError(f"{error}. Give another file below a run's checkpoints/") from error
        targets = {name: target for name, target in self.components.items() if components is None or name in components}
        before = {name: copy.deepcopy(target.state_dict()) for name, target in targets.items()}
        try:
            # By way of the CPU, so that a run from a GPU opens where there is none: each part moves its state itself.
            self._checkpoint.load(source, components=components, map_location="cpu")
        except TorchRLCheckpointError as error:
            for name, target in targets.items():
                target.load_state_dict(before[name])
            raise CheckpointError(
                f"{source} does not fit this run, it seems to hold another network or optimiser: {error}. "
                "Use the configuration the run was started with (config.yaml in its directory)"
            ) from error
        return source

    def _tell_of_unreadable(self, *, newer_than: Path) -> None:
        """Say which files are so damaged that they do not count as checkpoints."""
        readable = self._rotation.checkpoints()
        for path in sorted(self.directory.glob("checkpoint-*.torchrl")):
            if path.name > newer_than.name and path not in readable:
                print(f"{path} is truncated or damaged: going on from {newer_than.name}")

    def holds(self, path: Path, component: str) -> bool:
        """Whether a whole checkpoint has a component, which another version may not have saved."""
        return component in Checkpoint.manifest(path)["components"]

    def latest(self) -> Path | None:
        """The newest checkpoint, or None."""
        return self._rotation.latest()

    def best(self) -> BestPolicy | None:
        """The policy of the best evaluation; None without one, or if its file is damaged."""
        try:
            metadata = verify(self.directory / BEST)
            return BestPolicy(self.directory / BEST, int(metadata["frames"]), float(metadata["return"]))
        except (CheckpointError, KeyError):
            return None


def verify(path: Path) -> dict[str, Any]:
    """Check that ``path`` is a whole checkpoint of this version, before anything of it is used; returns its metadata.

    Raises:
        CheckpointError: if it is truncated, damaged or from another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        metadata = Checkpoint.manifest(path)["metadata"]
    except DAMAGE as e:
        if isinstance(e, OSError) and e.errno in OUT_OF_REACH:
            raise CheckpointError(f"{path} cannot be read: {e.strerror}. Nothing says that it is damaged") from e
        raise DamagedCheckpointError(f"{path} is truncated or damaged ({e})") from e
    if damaged is not None:
        raise DamagedCheckpointError(f"{path} is damaged: the checksum of {damaged} is wrong")
    if metadata.get("format") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {metadata.get('format')}, written by fpo_torchrl "
            f"{metadata.get('fpo_torchrl', 'unknown')}; this is {fpo_torchrl.__version__} with format "
            f"{FORMAT_VERSION}. Load it with the version that wrote it"
        )
    return metadata
