"""The runs of a report, read from the files that they left behind."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.files import intact, read_json
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.provenance import read_provenance
from fpo_torchrl.runs.settings import ABSENT, comparable, flatten


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One run: what it was set to, how far it came, what it earned.

    ``status`` is "finished", "diverged", "interrupted" (stopped by an error or a user) or "unfinished" (killed, or
    still training).
    """

    directory: Path
    task: str
    label: str
    seed: int
    status: str
    settings: dict[str, Any]
    provenance: dict[str, Any]
    metrics: list[dict[str, float]]
    evaluation: dict[str, Any]
    measures: dict[str, float]

    @property
    def frames(self) -> int:
        """Frames trained on."""
        return int(self.metrics[-1]["frames"]) if self.metrics else 0

    def score(self, metric: str, worst: float) -> float | None:
        """The final return that aggregates count: ``worst`` for a diverged run, None for one that may still go on."""
        if self.status == "diverged":
            return worst
        return self.evaluation[metric]["mean"] if self.status == "finished" else None

    def series(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Frames and values of a column of the metrics, where it has values."""
        points = [(row["frames"], row[column]) for row in self.metrics if column in row]
        frames, values = np.array(points, dtype=float).reshape(-1, 2).T
        return frames, values

    @property
    def training_s(self) -> float:
        """Wall-clock seconds of collecting and updating, without evaluations."""
        return sum(row["collect_s"] + row["update_s"] for row in self.metrics)

    @property
    def frames_per_s(self) -> float:
        """Frames a second over the whole training; NaN before the first iteration."""
        return self.frames / self.training_s if self.metrics else float("nan")

    @property
    def origin(self) -> dict[str, Any]:
        """The newest entry of ``starts`` in its provenance; empty for runs without one."""
        return self.provenance.get("starts", [{}])[-1]

    @property
    def device(self) -> str:
        """What it was computed on, with the threads and cores of a CPU."""
        if not (found := self.origin.get("machine")):
            return "unknown"
        return found["gpu"] or f"{found['cpu']}, {found['threads']} of {found['cores']} cores"


@dataclass(frozen=True)
class Results:
    """Runs grouped by task and label, and the metric that counts.

    Args:
        runs: all of them.
        labels: the algorithms to show, in this order.
        metric: "random" or "zero" start noise.
        worst: the worst possible return, which a diverged run counts as.
        best: the best possible one.
    """

    runs: list[RunRecord]
    labels: list[str]
    metric: str
    worst: float
    best: float

    @cached_property
    def tasks(self) -> list[str]:
        """Every task, in alphabetical order."""
        return sorted({run.task for run in self.runs})

    def group(self, task: str, label: str) -> list[RunRecord]:
        """The runs of an algorithm on a task, by seed."""
        return sorted((r for r in self.runs if (r.task, r.label) == (task, label)), key=lambda run: run.seed)

    def groups(self) -> Iterator[tuple[str, str, list[RunRecord]]]:
        """Every group that has runs, by task, then in the order of the labels."""
        for task in self.tasks:
            for label in self.labels:
                if group := self.group(task, label):
                    yield task, label, group

    def scores(self, task: str, label: str) -> np.ndarray:
        """The scores of a group, unfinished runs left out."""
        found = [run.score(self.metric, self.worst) for run in self.group(task, label)]
        return np.array([score for score in found if score is not None])

    @cached_property
    def shared_tasks(self) -> list[str]:
        """The tasks on which every algorithm has a score: those that aggregates over tasks compare."""
        return [task for task in self.tasks if all(len(self.scores(task, label)) for label in self.labels)]

    def samples(self, label: str) -> list[np.ndarray]:
        """The scores of an algorithm on each shared task."""
        return [self.scores(task, label) for task in self.shared_tasks]


def read_results(
    directories: Iterable[Path], *, metric: str, worst: float, best: float, labels: Sequence[str] | None = None
) -> Results:
    """Read every run below ``directories``.

    Args:
        directories: run directories, or directories with runs anywhere below them.
        metric: "random" or "zero".
        worst, best: the worst and the best possible return.
        labels: the algorithms to keep, in this order; default all, FPO first and then by alphabet. One whose settings
            are told apart (:func:`told_apart`) stands for all of them.

    Raises:
        ConfigError: if there is no run, a label is not there, a seed is there twice, a file is damaged, or a diverged
            run would count as more than a finished one earned.
    """
    directories = list(directories)
    found = [read_run(path) for path in run_directories(directories)]
    if not found:
        places = ", ".join(map(str, directories))
        raise ConfigError(f"no runs found in {places}: expected directories that fpo-train wrote, with config.yaml")
    runs = told_apart(found)
    given = {run.label: before.label for run, before in zip(runs, found, strict=True)}
    present = sorted(given, key=lambda label: (label.lower() != "fpo", label))
    if missing := [label for label in labels or () if label not in (*present, *given.values())]:
        raise ConfigError(f"no runs of {', '.join(missing)}: the runs found are of {', '.join(present)}")
    kept = (name for label in labels or present for name in present if label in (name, given[name]))
    chosen = list(dict.fromkeys(kept))
    results = Results([run for run in runs if run.label in chosen], chosen, metric, worst, best)
    for task, _, group in results.groups():
        for one, other in itertools.pairwise(group):
            if one.seed == other.seed:
                raise ConfigError(
                    f"seed {one.seed} on {task} is there twice with the same settings, in {one.directory} "
                    f"({one.status}) and {other.directory} ({other.status}): give one of them"
                )
    check_worst(results)
    return results


def told_apart(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """``runs``, of which those with one label but several settings get the settings behind it: "FPO optim.lr=0.0001".

    A label was used for several settings if a seed is there twice on a task. The settings then stand behind it on
    every task.
    """
    keys: dict[str, set[str]] = {}
    for label, task in {(run.label, run.task) for run in runs}:
        group = [run for run in runs if (run.label, run.task) == (label, task)]
        if len({run.seed for run in group}) < len(group):
            keys.setdefault(label, set()).update(differing_settings(group))
    return [replace(run, label=" ".join([run.label, *shown(run, keys.get(run.label, ()))])) for run in runs]


def shown(run: RunRecord, keys: Iterable[str]) -> list[str]:
    """A run's values of some settings, as text."""
    settings = dict(flatten(comparable(run.settings)))
    return [f"{key}={settings.get(key, ABSENT)}" for key in sorted(keys)]


def check_worst(results: Results) -> None:
    """Refuse to count a diverged run as more than a finished one earned."""
    if not any(run.status == "diverged" for run in results.runs):
        return
    for task, label, _ in results.groups():
        scores = results.scores(task, label)
        if len(scores) and scores.min() < results.worst:
            raise ConfigError(
                f"{label} on {task} earned {scores.min():g}, and a diverged run would count as {results.worst:g}: give "
                "the worst possible return with --min-return"
            )


def run_directories(directories: Iterable[Path]) -> list[Path]:
    """Every run directory in or below ``directories``, each once, in alphabetical order; links are followed.

    Raises:
        ConfigError: if one of ``directories`` is none.
    """
    seen: set[Path] = set()
    found: list[Path] = []
    for directory in directories:
        if not directory.is_dir():
            raise ConfigError(f"{directory} is not a directory: expected one with runs")
        for path, below, files in os.walk(directory, followlinks=True):
            if (real := Path(path).resolve()) in seen:  # by another way, perhaps a link to a directory above
                below.clear()
                continue
            seen.add(real)
            below.sort()
            if "config.yaml" in files and {"metrics.csv", "provenance.json"} & set(files):
                found.append(Path(path))
    return sorted(found)


def read_run(directory: Path) -> RunRecord:
    """Read the files of one run."""
    try:
        with intact(directory / "config.yaml"):
            settings: Any = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
        provenance = read_provenance(directory)
        evaluation = _read_json(directory / "evaluation.json")
        ended = provenance.get("status", "finished" if evaluation else "running")
        if ended == "finished" and not {"random", "zero"} <= set(evaluation):
            raise ValueError("it has finished, but evaluation.json lacks its final evaluation")
        metrics = directory / "metrics.csv"
        return RunRecord(
            directory=directory,
            task=settings["task"],
            label=settings.get("label") or label_of(settings),
            seed=settings["seed"],
            status="unfinished" if ended == "running" else ended,
            settings=settings,
            provenance=provenance,
            metrics=read_metrics(metrics) if metrics.is_file() else [],
            evaluation=evaluation if ended == "finished" else {},
            measures=_read_json(directory / "measures.json"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{directory} cannot be read as a run: {type(error).__name__}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def label_of(settings: dict[str, Any]) -> str:
    """The algorithm's name by its loss, by the ratio of FPO's and, where PPO's loss trains a flow, by the actor.

    >>> flow, ppo = {"_target_": "modules.FlowActor"}, {"_target_": "torchrl.objectives.ppo.ClipPPOLoss"}
    >>> label_of({"loss": {"_target_": "fpo_torchrl.objectives.FPOLoss"}, "actor": flow})
    'FPO'
    >>> label_of({"loss": ppo, "actor": {"_target_": "modules.gaussian_actor"}}), label_of({"loss": ppo, "actor": flow})
    ('PPO', 'FPO (ClipPPOLoss)')
    >>> label_of({"loss": {"_target_": "fpo_torchrl.objectives.FPOLoss", "ratio": "per_sample"}, "actor": flow})
    'FPO++'
    """
    loss = settings["loss"]["_target_"].rpartition(".")[2]
    if loss == "FPOLoss" and settings["loss"].get("ratio") == "per_sample":
        return "FPO++"
    if loss == "DenoisingMDPLoss":
        return "DPPO"
    trains_flow = str((settings.get("actor") or {}).get("_target_")).endswith(".FlowActor")
    if trains_flow and loss == "ClipPPOLoss":
        return "FPO (ClipPPOLoss)"
    return loss.removesuffix("Loss").removeprefix("Clip")


def differing_settings(group: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """The settings in which runs of a group differ, with their values; what does not change a result is left out."""
    flat = [dict(flatten(comparable(run.settings))) for run in group]
    different = {}
    for key in sorted({key for settings in flat for key in settings} - {"seed"}):
        values = [settings.get(key, ABSENT) for settings in flat]
        distinct = [value for i, value in enumerate(values) if value not in values[:i]]
        if len(distinct) > 1:
            different[key] = distinct
    return different
