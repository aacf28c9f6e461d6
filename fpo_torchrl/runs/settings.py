"""Settings of a run: read, completed by defaults, compared with another's, changed under their types."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fpo_torchrl.builders import settings_of
from fpo_torchrl.config import BOOKKEEPING, COMPONENTS, SUPPLIED, RunConfig, schema
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.files import intact
from fpo_torchrl.runs.directory import check_is_run

ABSENT = "(absent)"
RUN_DEFAULTS = {option.name: option.default for option in fields(RunConfig) if option.default is not NO_DEFAULT}
"""What a run as a whole is set to where its config, perhaps of an older version, does not say."""
_KNOWN = {f"{target.__module__}.{target.__qualname__}": target for of in COMPONENTS.values() for target in of.values()}


def load_run_config(run_dir: str | Path) -> DictConfig:
    """The resolved config of a run; what the version which wrote it did not have is as by default.

    Raises:
        CheckpointError: if the directory is not that of a run.
        DamagedFileError: if its config cannot be read.
    """
    check_is_run(Path(run_dir))
    path = Path(run_dir) / "config.yaml"
    with intact(path):
        cfg = OmegaConf.merge(RUN_DEFAULTS, OmegaConf.to_container(OmegaConf.load(path)))
    assert isinstance(cfg, DictConfig)
    return cfg


def comparable(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make a run what it is, with defaults for what the version that wrote them did not have.

    Args:
        tree: the resolved config as plain values.
    """
    # The discounts by task tell a run nothing beside its own, advantage.gamma; other tasks' come and go with versions.
    left_out = {*BOOKKEEPING, "task_gamma"}
    return completed({key: value for key, value in (RUN_DEFAULTS | dict(tree)).items() if key not in left_out})


def completed(tree: Any, group: str = "") -> Any:
    """``tree`` with all settings of this package's components in it, those it leaves out at their defaults."""
    if not isinstance(tree, Mapping):
        return tree
    own = {str(key): completed(value, f"{group}/{key}" if group else str(key)) for key, value in tree.items()}
    target = _KNOWN.get(own.get("_target_", ""))
    if target is None:
        return own
    for name, default in settings_of(target, SUPPLIED.get(group, ())).items():
        if default is not inspect.Parameter.empty:
            own.setdefault(name, default)
    return own


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested dict of settings, by their full keys.

    >>> dict(flatten({"optim": {"lr": 0.1}, "seed": 3}))
    {'optim.lr': 0.1, 'seed': 3}
    """
    if not isinstance(tree, dict):
        yield prefix, tree
        return
    for key, value in tree.items():
        yield from flatten(value, f"{prefix}.{key}" if prefix else key)


def differences(there: Any, here: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two trees of settings differ: the full key and both values.

    >>> list(differences({"optim": {"lr": 0.1}, "normalizer": None}, {"optim": {"lr": 0.2}, "normalizer": {"clip": 5}}))
    [('optim.lr', 0.1, 0.2), ('normalizer', None, {'clip': 5})]
    >>> list(differences({}, {"env": {"x": 1}}))
    [('env', '(absent)', {'x': 1})]
    """
    if isinstance(there, dict) and isinstance(here, dict):
        for name in there | here:
            yield from differences(there.get(name, ABSENT), here.get(name, ABSENT), f"{key}.{name}" if key else name)
    elif there != here:
        yield key, there, here


def change(cfg: DictConfig, key: str, value: Any) -> None:
    """Set a single value of a saved config, converted to the type that the setting has.

    Raises:
        ConfigError: if the value is of another type.
    """
    parts = key.split(".")
    above = {depth: OmegaConf.select(cfg, ".".join(parts[:depth])) for depth in range(1, len(parts))}
    depth = max((depth for depth, node in above.items() if "_target_" in node), default=0)  # of the component
    target = _KNOWN.get(above[depth]["_target_"]) if depth else RunConfig
    name = ".".join(parts[depth:])
    typed = OmegaConf.structured(schema(target) if depth else target) if target is not None else {}
    if parts[depth] in [*typed]:  # not so for what was given with a + to a component that takes any keyword
        try:
            OmegaConf.update(typed, name, value)
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{key}={value!r}: {reason}; the run has {OmegaConf.select(cfg, key)!r}") from error
        value = OmegaConf.select(typed, name)
    OmegaConf.update(cfg, key, value)
