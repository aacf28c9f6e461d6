"""Metrics of a run: a CSV file always, TorchRL's loggers beside it on request."""

from __future__ import annotations

import csv
import importlib
import math
import uuid
from pathlib import Path
from typing import Any

import torch
from torchrl.record.loggers import Logger

from fpo_torchrl.errors import ConfigError, DamagedFileError
from fpo_torchrl.files import intact, replacing

LOGGERS = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
"""What can be written beside ``metrics.csv``, and the module that writes it."""


class MetricsCSV:
    """One row per iteration in ``metrics.csv``; each row is on disk when :meth:`log` returns.

    Columns may appear later (an evaluation, say): the file is then rewritten with the wider header. Checkpoints keep
    the rows too, so that whatever happened to the file, a resumed run has every one of them.

    Args:
        path: the file. One that is there is overwritten by the first :meth:`log`; to continue it call :meth:`read`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, float]] = []
        self.columns: list[str] = []

    def read(self) -> None:
        """Take over the rows of the file; ``ConfigError`` if it is damaged."""
        self.rows = read_metrics(self.path)
        self.columns = list(dict.fromkeys(name for row in self.rows for name in row))

    def truncate(self, frames: int) -> None:
        """Let the file have the rows until ``frames`` and no others, so that a resumed run leaves no row twice."""
        self.rows = [row for row in self.rows if row["frames"] <= frames]
        if self.rows or self.path.exists():
            self._rewrite()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores: the rows as a table, NaN where one lacks a column."""
        rows = [[row.get(name, math.nan) for name in self.columns] for row in self.rows]
        return {"columns": list(self.columns), "rows": torch.tensor(rows, dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; the file follows with :meth:`truncate`."""
        self.columns = list(state["columns"])
        rows = (zip(self.columns, row, strict=True) for row in state["rows"].tolist())
        self.rows = [{name: value for name, value in row if not math.isnan(value)} for row in rows]

    def log(self, metrics: dict[str, float]) -> None:
        """Append a row; NaN is written as an empty cell."""
        self.rows.append(dict(metrics))
        new = [name for name in metrics if name not in self.columns]
        if new:
            self.columns += new
            self._rewrite()
        else:
            with self.path.open("a", newline="") as file:
                self._write_row(csv.writer(file), metrics)

    def _write_row(self, writer: Any, row: dict[str, float]) -> None:
        writer.writerow(_cell(row.get(name, math.nan)) for name in self.columns)

    def _rewrite(self) -> None:
        with replacing(self.path) as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            for row in self.rows:
                self._write_row(writer, row)


def _cell(value: float) -> str:
    """A number as text that reads back exactly, the same whether a count came as int or float."""
    if math.isnan(value):
        return ""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Rows of a ``metrics.csv`` as floats, empty cells left out; a last line cut short is dropped.

    Raises:
        DamagedFileError: naming the line, if it is not one of numbers.
    """
    with intact(Path(path)), Path(path).open(newline="") as file:
        reader = csv.reader(line for line in file if line.endswith("\n"))
        header = next(reader, [])
        lines = [line for line in reader if len(line) == len(header)]
    return [_row(path, number, header, line) for number, line in enumerate(lines, 2)]


def _row(path: str | Path, number: int, header: list[str], line: list[str]) -> dict[str, float]:
    try:
        return {name: float(cell) for name, cell in zip(header, line, strict=True) if cell}
    except ValueError as error:
        raise DamagedFileError(f"line {number} of {path} is damaged: {error}. Remove the line") from error


def newest_frames(path: Path) -> float:
    """The frames of the last row of a ``metrics.csv``; 0 if there is none, or the file is damaged."""
    try:
        return read_metrics(path)[-1]["frames"]
    except (OSError, ConfigError, LookupError):
        return 0


def wandb_id(run_dir: Path) -> str:
    """The id of the run at W&B: drawn once and kept in ``run_dir``, so that a resumed run goes on under it."""
    path = run_dir / "wandb_id"
    if not path.exists():
        run_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(uuid.uuid4().hex[:12])
    return path.read_text()


class LoggedOnce:
    """A logger of TorchRL that gets each iteration once, though a run that goes back to a checkpoint repeats some.

    What it has stays there: iterations that are repeated after it are left out.

    Args:
        logger: TorchRL's.
        newest: the frames of the newest iteration that it has.
    """

    def __init__(self, logger: Logger, newest: float = 0) -> None:
        self.logger, self.newest = logger, newest

    def log(self, row: dict[str, float]) -> None:
        """Hand on a row of metrics, if it is a new one."""
        if row["frames"] <= self.newest:
            return
        for name, value in row.items():
            self.logger.log_scalar(name, value, step=int(row["frames"]))
        self.newest = row["frames"]

    def go_back(self, frames: float) -> None:
        """Called when the run goes back to a checkpoint at ``frames``."""

    def flush(self) -> None:
        """Called before a checkpoint is written, after which nothing logged so far may be lost."""


class TensorboardLoggedOnce(LoggedOnce):
    """TensorBoard, which can be told to forget: what is repeated takes the place of what it has."""

    def go_back(self, frames: float) -> None:
        """Make readers of the files drop every row after ``frames``, as they do when a program restarts."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        start = SessionLog(status=SessionLog.START)
        self.logger.experiment.file_writer.add_event(Event(step=int(frames) + 1, session_log=start))
        self.newest = frames

    def flush(self) -> None:
        """Write out what waits in memory."""
        self.logger.experiment.flush()


def check_logger(kind: str | None) -> None:
    """Refuse a logger whose package is missing.

    Raises:
        ConfigError: naming the package to install.
    """
    if kind is None:
        return
    try:
        importlib.import_module(LOGGERS[kind])
    except ImportError as error:
        raise ConfigError(
            f"logger={kind} needs a package that is missing ({error}): pip install fpo-torchrl[{kind}]"
        ) from error


def build_logger(
    kind: str | None, run_dir: Path, *, name: str, project: str, offline: bool, newest: float = 0
) -> LoggedOnce | None:
    """A logger beside the CSV file, which :func:`check_logger` does not refuse.

    Args:
        kind: ``"tensorboard"``, ``"wandb"`` or None.
        run_dir: where it writes.
        name: the run's name.
        project: the W&B project.
        offline: keep W&B off the network.
        newest: the frames of the newest iteration that it may have, of this run before it was resumed.
    """
    if kind is None:
        return None
    if kind == "tensorboard":
        from torchrl.record.loggers import TensorboardLogger

        return TensorboardLoggedOnce(TensorboardLogger(exp_name="tensorboard", log_dir=str(run_dir)), newest)
    from torchrl.record.loggers import WandbLogger

    logger = WandbLogger(
        exp_name=name, save_dir=str(run_dir), project=project, offline=offline, id=wandb_id(run_dir), resume="allow"
    )
    return LoggedOnce(logger, newest)
