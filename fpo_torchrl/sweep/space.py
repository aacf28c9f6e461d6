"""What a search chooses from: the values of settings, as Optuna's distributions, and the seeds of each trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from fpo_torchrl.cli import quoted
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.sweep.manifest import key_of, member_configs, values_of


@dataclass(frozen=True)
class SearchSpace:
    """What is searched: overrides as ``fpo-train -m`` takes them, some with values to choose from, and the seeds.

    Raises:
        ConfigError: for an override of the seed.
    """

    overrides: tuple[str, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if given := [override for override in self.overrides if key_of(override) == "seed"]:
            raise ConfigError(f"{given[0]}: every trial of a search has a run for each of its seeds, --seeds K of them")

    def distributions(self) -> dict[str, BaseDistribution]:
        """What there is to choose from."""
        parsed = OverridesParser.create().parse_overrides([*self.overrides])
        return {str(o.get_key_element()): distribution(o) for o in parsed if o.is_sweep_override()}

    def check(self) -> None:
        """Refuse a space in which nothing is right.

        Raises:
            ConfigError, HydraException: if no run can be composed, though every choice and both ends of every interval
                were tried.
        """
        values = {key: values_from(of) for key, of in self.distributions().items()}
        errors: list[Exception] = []
        for i in range(max(map(len, values.values()), default=1)):
            try:
                member_configs(self.points({key: some[i % len(some)] for key, some in values.items()})[:1])
                return
            except (ConfigError, HydraException) as error:
                errors.append(error)
        raise errors[0]

    def points(self, params: dict[str, Any]) -> list[list[str]]:
        """The overrides of each seed's run with these values, which follow a label of one's own."""
        parsed = OverridesParser.create().parse_overrides([*self.overrides])
        labels = [o for o in parsed if o.get_key_element() == "label" and not o.is_sweep_override()]
        own = [str(o.value()) for o in labels if o.value() is not None]
        fixed = [str(o.input_line) for o in parsed if not (o.is_sweep_override() or o.get_key_element() == "label")]
        chosen = [f"{key}={value}" for key, value in params.items()]
        label = quoted(" ".join([*own, *chosen]).replace("'", ""))
        return [[*fixed, *chosen, f"label={label}", f"seed={seed}"] for seed in self.seeds]


def values_from(of: BaseDistribution) -> tuple[Any, ...]:
    """Every choice, or the ends of an interval."""
    if isinstance(of, CategoricalDistribution):
        return of.choices
    assert isinstance(of, FloatDistribution | IntDistribution)
    return of.low, of.high


def distribution(override: Override) -> BaseDistribution:
    """What Optuna calls the values of an override: ``choice(a,b)``, ``range(1,9)``, ``tag(log,interval(1e-5,1e-2))``.

    An interval between two ``int`` has whole numbers; the tag ``log`` spreads it evenly over orders of magnitude.

    Raises:
        ConfigError: for bounds in the wrong order, or a logarithm of what is not positive.
    """
    values = override.value()
    try:
        if isinstance(values, IntervalSweep) and values.start is not None and values.end is not None:
            whole = isinstance(values.start, int) and isinstance(values.end, int)
            kind = IntDistribution if whole else FloatDistribution
            return kind(values.start, values.end, log="log" in values.tags)
        if isinstance(values, RangeSweep):
            start, stop, step = values.start, values.stop, values.step
            if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int) and step > 0:
                return IntDistribution(start, start + (stop - 1 - start) // step * step, step=step)
        return CategoricalDistribution(values_of(override))
    except ValueError as error:
        raise ConfigError(f"{override.input_line}: {error}") from error
