"""The state of a sweep as a table of text."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fpo_torchrl.errors import DamagedFileError
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.runs.auto_resume import final_return
from fpo_torchrl.sweep.manifest import Entry, Sweep, key_of, varied_keys
from fpo_torchrl.sweep.workers import state_of
from fpo_torchrl.text import duration

STATES = ("done", "running", "waiting", "failed")
HEADER = ("run", "seed", "state", "frames", "return", "left")


@dataclass(frozen=True)
class Row:
    """How far one run is; ``mean_return`` is the final evaluation's once it is done, None before any episode is."""

    entry: Entry
    state: str
    frames: int
    mean_return: float | None
    left_s: float | None

    def cells(self) -> list[str]:
        """The row as text, but for the name of the run."""
        return [
            str(self.entry.seed),
            self.state,
            f"{self.frames}/{self.entry.total_frames}",
            "" if self.mean_return is None else f"{self.mean_return:.4g}",
            "" if self.left_s is None or self.state in ("done", "failed") else duration(self.left_s),
        ]


def row_of(sweep: Sweep, entry: Entry) -> Row:
    """Read how far a run is from the files in its directory."""
    run_dir = sweep.run_dir(entry)
    state = state_of(run_dir, entry.total_frames)
    metrics: list[dict[str, float]] = []
    if (path := run_dir / "metrics.csv").is_file():
        with warned():
            metrics = read_metrics(path)
    frames = int(metrics[-1]["frames"]) if metrics else 0
    mean_return = metrics[-1].get("return") if metrics and state != "done" else None
    if state == "done":
        with warned():
            mean_return = final_return(run_dir)
    spent = sum(row.get("collect_s", 0.0) + row.get("update_s", 0.0) for row in metrics)
    left = spent / frames * max(0, entry.total_frames - frames) if frames else None
    return Row(entry, state, frames, mean_return, left)


@contextmanager
def warned() -> Iterator[None]:
    """A warning instead of an error for a damaged file: the other runs are still worth a table."""
    try:
        yield
    except DamagedFileError as error:
        print(f"warning: {error}", file=sys.stderr)


def names_of(entries: Sequence[Entry]) -> list[str]:
    """Display names: directory, task and label, and the varied settings where several share a label."""
    alike: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        alike[entry.task, entry.label].append(entry)
    varied = {shared: varied_keys([entry.overrides for entry in group]) for shared, group in alike.items()}
    names = []
    for entry in entries:
        values = [override for override in entry.overrides if key_of(override) in varied[entry.task, entry.label]]
        names.append(" ".join(filter(None, [entry.setting, entry.task, entry.label, *values])))
    return names


def status_table(rows: Sequence[Row]) -> str:
    """The rows under a header, then their counts and how long all of them will take at this pace."""
    names = names_of([row.entry for row in rows])
    lines = [list(HEADER), *([name, *row.cells()] for name, row in zip(names, rows, strict=True))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    counts = Counter(row.state for row in rows)
    summary = f"{len(rows)} runs: " + ", ".join(f"{counts[state]} {state}" for state in STATES)
    left = time_left(rows)
    return "\n".join([*text, summary + (f"; about {duration(left)} left" if left else "")])


def time_left(rows: Sequence[Row]) -> float | None:
    """Seconds until the waiting and running ones are done at the pace of those that have begun, as many at a time.

    None while nothing is running. Evaluations and starting up are not in it.
    """
    pace = [row.left_s / (row.entry.total_frames - row.frames) for row in rows if row.left_s]
    running = sum(row.state == "running" for row in rows)
    if not pace or not running:
        return None
    per_frame = sum(pace) / len(pace)
    frames = sum(row.entry.total_frames - row.frames for row in rows if row.state in ("waiting", "running"))
    return per_frame * frames / running
