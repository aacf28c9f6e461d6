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

from fpo_torchrl.auto_resume import other_settings
from fpo_torchrl.config import check_components, check_run, registered_schemas
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.files import locked, write_json
from fpo_torchrl.run_directory import LOCK
from fpo_torchrl.settings import comparable, flatten
from fpo_torchrl.start import load_run_config

FILE = "manifest.json"


@dataclass(frozen=True)
class Entry:
    """One run of a sweep: where it is below the sweep's directory, and what ``fpo-train`` is told."""

    path: str
    task: str
    label: str
    seed: int
    total_frames: int
    overrides: tuple[str, ...]

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
            ConfigError: if there is no sweep in the directory.
        """
        path = self.directory / FILE
        if not self.exists:
            raise ConfigError(f"{self.directory} holds no sweep: fpo-sweep run {self.directory} seed=0,1,2 makes one")
        return [
            Entry(**{**entry, "overrides": tuple(entry["overrides"])}) for entry in json.loads(path.read_text())["runs"]
        ]

    def add(self, points: Sequence[Sequence[str]]) -> list[Entry]:
        """Add the runs with these overrides, those that are not there yet; returns the runs of ``points``.

        Raises:
            ConfigError, HydraException: for a wrong setting, before anything is written.
        """
        varied = varied_keys(points)
        with composer() as composed:
            configs = [composed(point) for point in points]
        self.directory.mkdir(parents=True, exist_ok=True)
        with locked(self.directory / LOCK):
            there = self.entries() if self.exists else []
            labels = {entry.setting: entry.label for entry in there}
            found: dict[str, Entry] = {}
            for point, cfg in zip(points, configs, strict=True):
                entry = self._made_before(entry_of(point, varied, cfg, labels), cfg, there)
                found.setdefault(entry.path, entry)  # two spellings of one value are one run
            known = {entry.path: entry for entry in there}
            new = [entry for path, entry in found.items() if path not in known]
            write_json(self.directory / FILE, {"runs": [asdict(entry) for entry in [*there, *new]]})
        return [known.get(path, entry) for path, entry in found.items()]

    def _made_before(self, entry: Entry, cfg: DictConfig, there: Sequence[Entry]) -> Entry:
        """The entry that an older version of this package, with fewer settings, made of this run; else ``entry``."""
        for known in (known for known in there if known.overrides == entry.overrides):
            trained = [self.run_dir(other) for other in there if other.setting == known.setting]
            saved = [load_run_config(run_dir) for run_dir in trained if (run_dir / "config.yaml").is_file()]
            different = {key for other in saved for key in other_settings(other, cfg)}
            if different <= {"seed"}:  # a preset may have changed meanwhile
                return known
        return entry

    def run_dir(self, entry: Entry) -> Path:
        """Where a run is."""
        return self.directory / entry.path


@contextmanager
def composer() -> Iterator[Callable[[Sequence[str]], DictConfig]]:
    """A function from overrides to the config that ``fpo-train`` composes of them."""
    with registered_schemas(), initialize_config_module("fpo_torchrl.conf", version_base="1.3"):

        def composed(overrides: Sequence[str]) -> DictConfig:
            cfg = compose("config", [*overrides])
            check_run(cfg)  # pyright: ignore[reportArgumentType]
            if cfg.num_seeds != 1:
                raise ConfigError(f"num_seeds={cfg.num_seeds}: a sweep has a run for each seed, give seed=0,1,2")
            check_components(cfg)
            return cfg

        yield composed


def entry_of(overrides: Sequence[str], varied: Sequence[str], cfg: DictConfig, labels: Mapping[str, str]) -> Entry:
    """The run of ``cfg``, in a directory named after the hash of all that decides its results, and its seed.

    Without a label of its own it has that of the other seeds (``labels``, by their directory), else it is called by its
    values of the ``varied`` settings, as reports tell them apart.
    """
    settings = dict(flatten(comparable(OmegaConf.to_container(cfg, resolve=True))))  # pyright: ignore
    del settings["seed"]
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    label = cfg.label
    if label is None:
        values = " ".join(override for override in overrides if key_of(override) in varied)
        label = labels.get(key, values.replace("'", ""))
        overrides = [*overrides, *([f"label='{label}'"] if label else [])]
    return Entry(f"{key}/seed{cfg.seed}", cfg.task, label, cfg.seed, cfg.total_frames, tuple(overrides))


def varied_keys(points: Sequence[Sequence[str]]) -> list[str]:
    """The settings, beside task and seed, in which points differ."""
    first, *others = (set(point) for point in points)
    shared = first.intersection(*others)
    varied = dict.fromkeys(key_of(override) for point in points for override in point if override not in shared)
    return [key for key in varied if key not in ("task", "seed")]


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
