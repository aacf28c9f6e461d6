"""What is known of a search, and the database that its study is in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from optuna.storages import BaseStorage, get_storage
from optuna.storages.journal import JournalFileSymlinkLock
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.files import intact, read_json
from fpo_torchrl.sweep.space import SearchSpace

FILE = "search.json"
JOURNAL = "study.log"
UNKNOWN = "unknown"
"""In the place of a storage, where an older version did not write it down."""


class SavedSearch(NamedTuple):
    """What is known of a search."""

    space: SearchSpace
    study_name: str
    storage: str | None
    """URL of the database of the study, without the password before its host; None for a journal in the directory."""


def absolute(storage: str) -> URL:
    """The URL of a database; of a file with its whole path, so that it is the same wherever a process starts."""
    try:
        url = make_url(storage)
    except SQLAlchemyError as error:
        raise ConfigError(f"--storage {storage}: expected a database's URL, as sqlite:///studies.db") from error
    is_file = url.drivername.startswith("sqlite") and url.database not in (None, "", ":memory:")
    return url.set(database=str(Path(str(url.database)).resolve())) if is_file else url


def without_password(url: URL | None) -> str | None:
    """What may be shown and kept of a URL."""
    return url.render_as_string(hide_password=True) if url is not None else None


def opened(url: str) -> BaseStorage:
    """The database of a study.

    Raises:
        ConfigError: if ``url`` names none, or it cannot be reached, or needs a package that is not installed.
    """
    try:
        return get_storage(url)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--storage {url}: {reason}; expected a database's URL, as sqlite:///studies.db") from error


def mend_journal(path: Path) -> None:
    """Drop the last line of a journal if it was cut off, as by a full disk: what is appended to it could not be read.

    Raises:
        DamagedFileError: if another line cannot be read.
    """
    if not path.is_file():
        return
    lock = JournalFileSymlinkLock(str(path))  # of those that write in it
    lock.acquire()
    try:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            with intact(path, f"put a copy of it back, or remove its line {number}"):
                json.loads(line)
        if len(whole) < len(content):
            os.truncate(path, len(whole))
    finally:
        lock.release()


def is_search(directory: Path) -> bool:
    """Whether a directory holds a search."""
    return (directory / FILE).is_file()


def saved_search(directory: Path) -> SavedSearch:
    """What is searched in a directory.

    Raises:
        DamagedFileError: if the file that says so cannot be read.
    """
    path, remedy = directory / FILE, "put a copy of it back; without it, the same command begins another study"
    with intact(path, remedy):
        saved = read_json(path, remedy)
        name = saved.pop("study_name", directory.resolve().name)  # its name before it was drawn
        storage = saved.pop("storage", UNKNOWN)
        return SavedSearch(SearchSpace(**{field: tuple(value) for field, value in saved.items()}), name, storage)
