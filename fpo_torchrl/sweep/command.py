"""``fpo-sweep``: run a grid or a list of settings, see how it is going, and go on after any interruption."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from fpo_torchrl.cli import friendly_errors
from fpo_torchrl.errors import CheckpointError, ConfigError, DamagedFileError
from fpo_torchrl.runs.settings import load_run_config
from fpo_torchrl.sweep.manifest import Entry, Sweep, grid, key_of
from fpo_torchrl.sweep.table import row_of, status_table
from fpo_torchrl.sweep.workers import Workers, has_diverged, log_of, state_of

USAGE = """fpo-sweep run DIR [SETTING=VALUES ...]   train every combination, as of optim.lr=1e-4,3e-4 seed=0,1,2
fpo-sweep status DIR                     a table of its runs
fpo-sweep search DIR SETTING=VALUES ...  choose settings with Optuna, as of 'optim.lr=tag(log,interval(1e-5,1e-2))'
fpo-sweep COMMAND --help                 more

Run the same command again, here or on other machines that share DIR, to go on with what is missing."""


NUM_SEEDS = 3
"""Of a new search."""


def parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser with the argument that every command has."""
    parser = argparse.ArgumentParser(prog=command, description=description)
    parser.add_argument("directory", type=Path, metavar="DIR", help="of the sweep")
    return parser


def without_comment(text: str) -> str:
    """What stands before a # that begins a word, outside of quotes: where a shell sees a comment.

    >>> without_comment("label=a#1 seed=2 # don't"), without_comment("label='a #1'")
    ('label=a#1 seed=2 ', "label='a #1'")
    """
    for comment in re.finditer(r"(?<!\S)#", text):
        with contextlib.suppress(ValueError):  # inside of a quote
            shlex.split(text[: comment.start()])
            return text[: comment.start()]
    return text


def words_of(text: str, where: str) -> list[str]:
    """The words of a text as a shell would split it.

    Raises:
        ConfigError: naming ``where`` it stands, for a quote without its other half.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {error} in {text!r}: expected words as in a shell, each quote closed") from error


def points_of(overrides: list[str], file: Path | None) -> list[list[str]]:
    """The combinations of the overrides with each line of a file, whose lines are split as a shell would.

    Raises:
        ConfigError: if the file is not there or empty, a line of it cannot be split, or sets what the overrides set.
    """
    points = grid(overrides)
    if file is None:
        return points
    if not file.is_file():
        raise ConfigError(f"--list {file}: there is no such file")
    texts = enumerate(file.read_text().splitlines(), start=1)
    lines = [words_of(without_comment(text), f"--list {file}, line {number}") for number, text in texts]
    if not any(lines):
        raise ConfigError(f"--list {file} is empty: expected settings in each line, such as optim.lr=1e-3 seed=4")
    given = {key_of(override) for point in points for override in point}
    if twice := sorted(given & {key_of(override) for line in lines for override in line}):
        raise ConfigError(f"--list {file} sets {', '.join(twice)}, and so does the command line: leave one of them out")
    return [[*line, *point] for line in lines if line for point in points]


def add_points(sweep: Sweep, overrides: list[str], file: Path | None) -> list[Entry]:
    """The runs that the command line names, added to the sweep; all that it has if it names none."""
    return sweep.add(points_of(overrides, file)) if overrides or file is not None else sweep.entries()


def add_grid_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that name runs."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="SETTING=VALUES",
        help="as for fpo-train, with several values separated by commas; none: what the sweep has already",
    )
    parser.add_argument("--list", type=Path, metavar="FILE", help="settings in lines, each combined with the others")


def train_entry(sweep: Sweep, entry: Entry, workers: Workers) -> str:
    """Train one run of a sweep unless it is done or another process does; returns how that went."""
    run_dir = sweep.run_dir(entry)
    code = workers.train_alone(entry.overrides, run_dir)
    if code is None:
        return "another process is training it"
    return "done" if code == 0 else f"ended with exit code {code}, see {log_of(run_dir)}"


def run(arguments: list[str]) -> int:
    """``fpo-sweep run``; returns the exit code."""
    options = parser(
        "fpo-sweep run",
        "Train every run that is missing, and go on with broken ones; diverged ones stay as they are, but for more "
        "nan_rollbacks.",
    )
    add_grid_arguments(options)
    options.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time; default: %(default)s")
    given = options.parse_intermixed_args(arguments)
    if given.jobs < 1:
        raise ConfigError(f"--jobs {given.jobs} is out of range: it must be at least 1")
    sweep = Sweep(given.directory)
    entries = add_points(sweep, given.overrides, given.list)
    missing = [entry for entry in entries if needs_work(sweep, entry)]
    print(f"{len(entries)} runs in {sweep.directory}, {len(missing)} of them to be trained", flush=True)
    workers = Workers(given.jobs)
    workers.run_all(missing, lambda entry: train_entry(sweep, entry, workers))
    rows = [row_of(sweep, entry) for entry in entries]
    print(status_table(rows))
    return int(any(row.state != "done" for row in rows))


def needs_work(sweep: Sweep, entry: Entry) -> bool:
    """Whether a run is not done, and would not only diverge again; one that failed otherwise is tried again.

    A diverged run can go on if it has more ``nan_rollbacks`` by now than when it diverged.
    """
    run_dir = sweep.run_dir(entry)
    if has_diverged(run_dir):
        with contextlib.suppress(DamagedFileError, CheckpointError):
            return entry.nan_rollbacks > load_run_config(run_dir).nan_rollbacks
        return False
    return state_of(run_dir, entry.total_frames) != "done"


def status(arguments: list[str]) -> int:
    """``fpo-sweep status``; returns the exit code."""
    options = parser(
        "fpo-sweep status", "How far each run is; its return is the final evaluation's, until then that in training."
    )
    sweep = Sweep(options.parse_args(arguments).directory)
    print(status_table([row_of(sweep, entry) for entry in sweep.entries()]))
    return 0


def search(arguments: list[str]) -> int:
    """``fpo-sweep search``; returns the exit code."""
    options = parser(
        "fpo-sweep search", "Choose settings with Optuna. Started several times, the processes share the work."
    )
    options.add_argument(
        "overrides",
        nargs="*",
        metavar="SETTING=VALUES",
        help="as for fpo-train, some as choice(a,b), range(1,9), interval(0.1,1) or tag(log,interval(1e-5,1e-2)); "
        "none: what is searched already",
    )
    options.add_argument("--trials", type=int, default=20, metavar="N", help="of all processes; default: %(default)s")
    options.add_argument(
        "--seeds", type=int, metavar="K", help=f"runs of a trial, at the same time; default: {NUM_SEEDS}, or as before"
    )
    options.add_argument("--storage", metavar="URL", help="database of the study; default: as before, or a file in DIR")
    given = options.parse_intermixed_args(arguments)
    for name in ("trials", "seeds"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            raise ConfigError(f"--{name} {getattr(given, name)} is out of range: it must be at least 1")
    try:
        from fpo_torchrl.sweep.search import Search
        from fpo_torchrl.sweep.space import SearchSpace
        from fpo_torchrl.sweep.storage import is_search, saved_search
    except ImportError as error:
        raise ConfigError(f"fpo-sweep search needs a package ({error}): pip install fpo-torchrl[sweep]") from error
    before = (
        saved_search(given.directory).space if is_search(given.directory) else SearchSpace((), tuple(range(NUM_SEEDS)))
    )
    overrides = tuple(given.overrides) or before.overrides
    seeds = before.seeds if given.seeds is None else tuple(range(given.seeds))
    found = Search(given.directory, SearchSpace(overrides, seeds), storage=given.storage)
    found.run(given.trials)
    print(found.summary())
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {"run": run, "status": status, "search": search}


def main() -> None:
    """Do what the first argument says."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(USAGE)
        return
    with friendly_errors():
        if name not in COMMANDS:
            raise ConfigError(f"fpo-sweep {name}: the commands are {', '.join(COMMANDS)}")
        sys.exit(COMMANDS[name](arguments))


if __name__ == "__main__":
    main()
