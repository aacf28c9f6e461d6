"""The runs of a sweep: overrides of ``fpo-train``, each with a directory that follows from its resolved config."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from omegaconf import DictConfig, OmegaConf

from fpo_torchrl.cli import quoted
from fpo_torchrl.config import BOOKKEEPING, check_components, check_run, registered_schemas
from fpo_torchrl.envs.registry import check_task, make_env
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.files import intact, locked, make_directory, read_json, write_json
from fpo_torchrl.runs.auto_resume import other_settings
from fpo_torchrl.runs.hold import LOCK
from fpo_torchrl.runs.settings import RUN_DEFAULTS, comparable, flatten, load_run_config

FILE = "manifest.json"
OF_THE_SWEEP = {
    "num_seeds": "a sweep has a run for each seed, give seed=0,1,2",
    "run_dir": "a sweep gives each of its runs a directory, leave it out",
    "resume": "the runs of a sweep go on by themselves, leave it out",
}
"""Settings that its runs cannot have, and why."""


@dataclass(frozen=True)
class Entry:
    """One run of a sweep: where it is below the sweep's directory, and what ``fpo-train`` is told.

    ``nan_rollbacks`` is among the latter; entries of older versions do not have it.
    """

    path: str
    task: str
    label: str
    seed: int
    total_frames: int
    overrides: tuple[str, ...]
    nan_rollbacks: int = 0

    @property
    def setting(self) -> str:
        """The directory of all its seeds."""
        return self.path.partition("/")[0]

    def __str__(self) -> str:
        return f"{self.task} {self.label} seed {self.seed} ({self.path})"


class Sweep:
    """The runs in a directory, kept in its ``manifest.json``.

    Args:
        directory: of the sweep; created by :meth:`add`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def exists(self) -> bool:
        """Whether it has runs."""
        return (self.directory / FILE).is_file()

    def entries(self) -> list[Entry]:
        """Every run, in the order in which they were added.

        Raises:
            ConfigError: if there is no sweep in the directory, or its file is damaged.
        """
        path = self.directory / FILE
        if not self.exists:
            raise ConfigError(f"{self.directory} holds no sweep: fpo-sweep run {self.directory} seed=0,1,2 makes one")
        remedy = "remove it and give the settings of the runs again, which are found by them"
        with intact(path, remedy):
            runs = read_json(path, remedy)["runs"]
            return [Entry(**{**entry, "overrides": tuple(entry["overrides"])}) for entry in runs]

    def add(self, points: Sequence[Sequence[str]]) -> list[Entry]:
        """Add the runs with these overrides; returns them. Those that are there already take over the bookkeeping.

        Raises:
            ConfigError, HydraException: for a wrong setting, before anything is written.
        """
        configs = member_configs(points)
        make_directory(self.directory)
        with locked(self.directory / LOCK):
            there = self.entries() if self.exists else []
            labels = {entry.setting: entry.label for entry in there} | {entry.path: entry.label for entry in there}
            made = {entry: deciding(entry.overrides) for entry in there}
            tasks = {cfg.task for cfg in configs}
            varied = varied_keys([*points, *(of for entry, of in made.items() if entry.task in tasks)])
            found: dict[str, Entry] = {}
            for point, cfg in zip(points, configs, strict=True):
                path = self._path(deciding(point), cfg, made)
                found.setdefault(path, entry_of(point, varied, cfg, path, labels))  # of two spellings the first
            every = {entry.path: entry for entry in there} | found
            write_json(self.directory / FILE, {"runs": [asdict(entry) for entry in every.values()]})
        return [*found.values()]

    def _path(self, overrides: Sequence[str], cfg: DictConfig, made: Mapping[Entry, Sequence[str]]) -> str:
        """The directory of the run of ``cfg``; one that an older version hashed with fewer settings keeps its own.

        Args:
            overrides: those that decide its results.
            made: the runs that are there, with theirs.
        """
        for known in (known for known, theirs in made.items() if theirs == overrides):
            trained = [self.run_dir(other) for other in made if other.setting == known.setting]
            saved = [load_run_config(run_dir) for run_dir in trained if (run_dir / "config.yaml").is_file()]
            different = {key for other in saved for key in other_settings(other, cfg)}
            if different <= {"seed"}:  # a preset may have changed meanwhile
                return known.path
        return path_of(cfg)

    def run_dir(self, entry: Entry) -> Path:
        """Where a run is."""
        return self.directory / entry.path


@contextmanager
def composer() -> Iterator[Callable[[Sequence[str]], DictConfig]]:
    """A function from overrides to the config that ``fpo-train`` composes of them."""
    with registered_schemas(), initialize_config_module("fpo_torchrl.conf", version_base="1.3"):

        def composed(overrides: Sequence[str]) -> DictConfig:
            cfg = compose("config", [*overrides])
            check_run(cfg)
            check_components(cfg)
            if cfg.env._target_ == f"{make_env.__module__}.{make_env.__qualname__}":
                try:
                    check_task(cfg.task)
                except ValueError as error:
                    raise ConfigError(f"task: {error}") from error
            return cfg

        yield composed


def member_configs(points: Sequence[Sequence[str]]) -> list[DictConfig]:
    """The configs of a sweep's runs with these overrides.

    Raises:
        ConfigError, HydraException: for a wrong setting, or one that is not for the runs of a sweep.
    """
    with composer() as composed:
        configs = [composed(point) for point in points]
    for cfg in configs:
        for key, reason in OF_THE_SWEEP.items():
            if cfg[key] != RUN_DEFAULTS[key]:
                raise ConfigError(f"{key}={cfg[key]}: {reason}")
    return configs


def path_of(cfg: DictConfig) -> str:
    """The directory of a run in its sweep's, after the hash of all that decides its results, and its seed."""
    settings = dict(flatten(comparable(OmegaConf.to_container(cfg, resolve=True))))
    del settings["seed"]
    return f"{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]}/seed{cfg.seed}"


def entry_of(
    overrides: Sequence[str], varied: Sequence[str], cfg: DictConfig, path: str, labels: Mapping[str, str]
) -> Entry:
    """The run of ``cfg``, which is at ``path``.

    Without a label of its own it keeps the one that it had, or has that of the other seeds (``labels``, by path and by
    setting), else it is called by its values of the ``varied`` settings, as reports tell them apart.
    """
    label = cfg.label
    if label is None:
        values = " ".join(override for override in overrides if key_of(override) in varied)
        label = labels.get(path, labels.get(path.partition("/")[0], values.replace("'", "")))
        overrides = [*overrides, *([f"label={quoted(label)}"] if label else [])]
    return Entry(path, cfg.task, label, cfg.seed, cfg.total_frames, tuple(overrides), cfg.nan_rollbacks)


def varied_keys(points: Sequence[Sequence[str]]) -> list[str]:
    """The settings, beside task, seed and bookkeeping, in which points differ."""
    first, *others = (set(point) for point in points)
    shared = first.intersection(*others)
    varied = (key_of(override) for point in points for override in deciding(point) if override not in shared)
    return [key for key in dict.fromkeys(varied) if key not in ("task", "seed")]


def deciding(overrides: Sequence[str]) -> list[str]:
    """The overrides that decide a run's results: all but the bookkeeping.

    >>> deciding(["optim.lr=0.1", "label=small", "logger.kind=wandb"])
    ['optim.lr=0.1']
    """
    return [override for override in overrides if key_of(override).partition(".")[0] not in BOOKKEEPING]


def key_of(override: str) -> str:
    """The setting that an override is of."""
    return override.partition("=")[0].lstrip("+~")


def grid(overrides: Sequence[str]) -> list[list[str]]:
    """Every combination of overrides as Hydra's ``-m`` takes them: ``seed=0,1``, ``optim.lr=choice(1e-3,1e-4)``.

    Raises:
        ConfigError: for an interval.

    >>> grid(["task=PointMass", "seed=0,1"])
    [['task=PointMass', 'seed=0'], ['task=PointMass', 'seed=1']]
    """
    choices = []
    for override in OverridesParser.create().parse_overrides([*overrides]):
        if override.is_sweep_override():
            choices.append([f"{override.get_key_element()}={value}" for value in values_of(override)])
        else:
            choices.append([override.input_line])
    return [list(point) for point in itertools.product(*choices)]


def values_of(override: Override) -> list[str]:
    """The values of an override that has several, as text.

    Raises:
        ConfigError: for an interval, whose values cannot be counted, for a pattern, and where there is no value.
    """
    if override.value_type in (ValueType.INTERVAL_SWEEP, ValueType.GLOB_CHOICE_SWEEP):
        raise ConfigError(
            f"{override.input_line}: expected values, as of a,b or range(1,4); only fpo-sweep search takes an interval"
        )
    values = [*override.sweep_string_iterator()]
    if not values:
        raise ConfigError(f"{override.input_line}: it has no values; range(0,3) is 0, 1 and 2")
    return values
