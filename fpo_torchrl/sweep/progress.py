"""What the runs of a trial are worth while they train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from fpo_torchrl.loggers import read_metrics


class Progress:
    """The :func:`intermediate_values` of runs that train, each told once; files that did not change are not read.

    Args:
        run_dirs, total_frames: of the runs.
    """

    def __init__(self, run_dirs: Sequence[Path], total_frames: int) -> None:
        self.run_dirs, self.total_frames = run_dirs, total_frames
        self._sizes: list[int] = []
        self._told: set[int] = set()

    def new(self) -> dict[int, float]:
        """Those that were not told yet."""
        paths = [run_dir / "metrics.csv" for run_dir in self.run_dirs]
        sizes = [path.stat().st_size if path.is_file() else 0 for path in paths]
        if sizes == self._sizes:
            return {}
        self._sizes = sizes
        values = intermediate_values(self.run_dirs, self.total_frames)
        new = {frames: value for frames, value in values.items() if frames not in self._told}
        self._told |= new.keys()
        return new


def intermediate_values(run_dirs: Sequence[Path], total_frames: int) -> dict[int, float]:
    """The mean return in training over runs, at each tenth of their frames that all of them have reached."""
    curves = []
    for path in (run_dir / "metrics.csv" for run_dir in run_dirs):
        rows = read_metrics(path) if path.is_file() else []
        curves.append([(row["frames"], row["return"]) for row in rows if "return" in row])
    values = {}
    for tenth in range(1, 11):
        frames = total_frames * tenth // 10
        reached = [next((value for at, value in curve if at >= frames), None) for curve in curves]
        if None not in reached:
            values[frames] = fmean(reached)
    return values
