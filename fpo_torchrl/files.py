"""Files that are whole or absent, whenever the process is killed, and locks that die with their holder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fpo_torchrl.errors import ConfigError, DamagedFileError, InUseError, NoLocksError

PARTIAL = ".partial"
"""How the name ends of what is not yet whole."""


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a file that one process at a time may hold, until this one leaves or dies.

    Args:
        path: the file; it stays there when it is let go.
        wait: for another process that holds it.

    Raises:
        InUseError: if another process holds it and ``wait`` is false.
        NoLocksError: on a file system without ``flock``.
    """
    patience = time.monotonic() + 0.5  # with is_held, which holds it for a moment
    while True:
        with path.open("a") as file:
            if take(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB):
                if is_still(path, file):
                    yield
                    return
            elif time.monotonic() > patience:
                raise InUseError(f"{path} is held by another process")
        time.sleep(0.02)


def take(file: TextIO, operation: int) -> bool:
    """Whether ``flock`` gave the lock; not if another process has it.

    Raises:
        NoLocksError: on a file system without ``flock``.
    """
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        raise NoLocksError(f"{file.name} is on a file system without locks (flock: {error.strerror})") from error
    return True


def is_still(path: Path, file: TextIO) -> bool:
    """Whether ``path`` is the open file, and not removed or another one by now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def is_held(path: Path) -> bool:
    """Whether some process holds a file that :func:`locked` is for.

    Raises:
        NoLocksError: on a file system without ``flock``.
    """
    try:
        with path.open() as file:
            return not take(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False


def make_directory(path: Path) -> None:
    """Make a directory that may be there already, with those above it.

    Raises:
        ConfigError: if something else is in its place or above it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        if (taken := next((it for it in (path, *path.parents) if it.is_file()), None)) is not None:
            raise ConfigError(f"{path}: a directory is needed, {taken} is a file") from error
        raise ConfigError(f"{path} cannot be made: {error.strerror}. Choose another directory") from error


REMEDY = "restore it, or remove it"


@contextmanager
def intact(path: Path, remedy: str = REMEDY) -> Iterator[None]:
    """Say which file is damaged, and what to do, where reading it fails, or looking into what was read.

    Raises:
        DamagedFileError: for content that is not as it was written, or a file that is missing.
    """
    try:
        yield
    except DamagedFileError:
        raise
    except FileNotFoundError as error:
        raise DamagedFileError(f"{path} is missing: {remedy}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, YAMLError, OmegaConfBaseException) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not of what is in the file
            raise
        raise DamagedFileError(f"{path} is damaged ({type(error).__name__}: {error}): {remedy}") from error


def read_json(path: Path, remedy: str = REMEDY) -> dict[str, Any]:
    """The content of a JSON file that holds an object; raises as :func:`intact`."""
    with intact(path, remedy):
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise TypeError(f"an object was expected, not {content!r:.40}")
        return content


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` so that the file is whole or absent."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` so that a process killed meanwhile leaves the file as it was."""
    with replacing(path) as file:
        file.write(text)


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A file to write that takes the place of ``path`` once it is whole; an error or a kill leaves ``path`` as it was.

    Line ends are written as they are. Of several writers at a time, the last one to end counts.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        with partial.open("w", newline="") as file:
            yield file
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
