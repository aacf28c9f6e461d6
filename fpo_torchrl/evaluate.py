"""``fpo-eval``: evaluate a run's checkpoint with any solver, number of steps and start noise."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from fpo_torchrl.checks import check_choice
from fpo_torchrl.cli import friendly_errors, output_file, video_file
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.evaluation import EVALUATION_SEED, START_NOISES, evaluate, show_return, try_to_record
from fpo_torchrl.flow import SOLVERS, Solver
from fpo_torchrl.machine import prepare_machine
from fpo_torchrl.modules.chain import acting_module, is_flow
from fpo_torchrl.provenance import origin
from fpo_torchrl.report.samplers import TABLE_WRITERS, draw_samplers
from fpo_torchrl.trained import load_policy, task_env


@dataclass
class EvalConfig:
    """Settings of ``fpo-eval``; lists may be given as single values.

    Raises:
        ConfigError: for a value of another kind or out of range, or an empty list.
    """

    solvers: Any = None
    steps: Any = None
    noise: Any = field(default_factory=lambda: ["random", "zero"])
    episodes: int = 32
    seed: int = 0
    device: str | None = None
    checkpoint: str | None = None
    render: str | None = None
    output: Any = None
    plot: str | None = None

    def __post_init__(self) -> None:
        names, noises = (f"any of {', '.join(known)}" for known in (SOLVERS, START_NOISES))
        self.solvers = as_list("solvers", self.solvers, names, lambda it: it in (None, *SOLVERS))
        self.steps = as_list("steps", self.steps, "whole numbers from 1 on", is_steps)
        self.noise = as_list("noise", self.noise, noises, lambda it: it in (*START_NOISES,))
        self.output = as_list("output", self.output, "names of files", lambda it: isinstance(it, str | None))
        for name, least in {"episodes": 1, "seed": 0}.items():
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"{name}={value} is out of range: it must be at least {least}")


def as_list(name: str, value: Any, expected: str, is_valid: Callable[[Any], bool]) -> list[Any]:
    """The one or more values of a setting as a list.

    Args:
        name: of the setting.
        value: one or a list of them.
        expected: what they should be, in words.
        is_valid: one is.

    Raises:
        ConfigError: if there is none, or one is not valid.
    """
    values = value if isinstance(value, list) else [value]
    wrong = [it for it in values if not is_valid(it)]
    if wrong or not values:
        raise ConfigError(f"{name}: expected {expected}, got {wrong[0] if wrong else values!r}")
    return values


def is_steps(value: Any) -> bool:
    """Whether this is a number of solver steps, or None for those of the training.

    >>> [is_steps(value) for value in (3, None, 0, 1.5, True, "abc")]
    [True, True, False, False, False, False]
    """
    return value is None or (type(value) is int and value >= 1)


DEFAULTS = EvalConfig()
USAGE = f"""fpo-eval RUN_DIRECTORY [setting=value ...]: evaluate a checkpoint of a run.

  solvers=[euler,heun]   any of {", ".join(SOLVERS)}; default: the solver it was trained with
  steps=[1,5,10]         numbers of solver steps; default: those it was trained with
  noise=[{",".join(DEFAULTS.noise)}]    start noise: {", ".join(START_NOISES)}
  episodes={DEFAULTS.episodes}            episodes of each evaluation
  seed={DEFAULTS.seed}                 of the episodes
  device=cpu             default: the device it was trained on
  checkpoint=PATH        or best, the one of the best evaluation; default: the newest of the run
  render=PATH.gif        also record an episode with the first combination, as a .gif or .mp4
  output=[T.csv,T.md]    also write the numbers to files, as {", ".join(TABLE_WRITERS)}
  plot=PATH.png          also draw return and latency over the steps of a flow policy
"""


def solver_of(actor: Any, name: str | None, num_steps: int | None) -> Solver | None:
    """The solver of one row of the table; None for the actor's own."""
    if name is None and num_steps is None:
        return None
    if not is_flow(actor):
        raise ConfigError("solvers and steps are settings of a flow policy; this run trained a Gaussian")
    own = solver = acting_module(actor).solver
    if name is not None:
        check_choice("solver", name, SOLVERS, error=ConfigError)
        solver = SOLVERS[name]()
    try:
        return solver.with_steps(num_steps if num_steps is not None else own.num_steps)
    except ValueError as error:
        raise ConfigError(f"steps: {error}") from error


def sampler_columns(solver: Solver | None) -> dict[str, Any]:
    """What tables and pictures say of a solver: its name, its steps, and velocity evaluations for an action."""
    if solver is None:
        return {"name": "Gaussian", "steps": 0, "evaluations": 0}
    evaluations = solver.num_steps * solver.stages
    return {"name": type(solver).__name__, "steps": solver.num_steps, "evaluations": evaluations}


def evaluate_run(run_dir: str, cfg: EvalConfig) -> list[dict[str, Any]]:
    """Evaluate every combination of solver, steps and noise; prints a table and returns its rows."""
    tables = [output_file("output", path, TABLE_WRITERS) for path in cfg.output if path is not None]
    plot = output_file("plot", cfg.plot, [".png"]) if cfg.plot is not None else None
    render = video_file("render", cfg.render) if cfg.render is not None else None
    policy = load_policy(run_dir, num_envs=cfg.episodes, device=cfg.device, checkpoint=cfg.checkpoint)
    prepare_machine(policy.cfg.num_threads)
    actor, env, task = policy.actor, policy.env, policy.cfg.task
    if plot is not None and not is_flow(actor):
        raise ConfigError("plot draws the samplers of a flow policy; this run trained a Gaussian")
    pairs = itertools.product(cfg.solvers, cfg.steps)
    # random_steps with a number of steps is euler: each sampler is a row once
    solvers = {repr(solver): solver for solver in (solver_of(actor, *pair) for pair in pairs)}.values()
    print(policy)
    own = getattr(acting_module(actor), "solver", None)
    width = max(42, *(len(repr(solver if solver is not None else own)) for solver in solvers))
    latency = f"ms for {cfg.episodes} actions"
    interval, spread = "95 % interval", "spread of random"
    print(f"  {'solver':<{width}} {'noise':<7} {'return':>9}   {interval:<20} {latency:>18} {spread:>17}")
    rows = []
    for solver, noise in itertools.product(solvers, cfg.noise):
        result = evaluate(actor, env, noise=noise, solver=solver, seed=cfg.seed + EVALUATION_SEED)
        used = solver if solver is not None else own
        label = repr(used) if used is not None else "Gaussian"
        rows.append({"solver": label, **sampler_columns(used), "noise": noise, **result.as_dict()})
        mean, interval = show_return(rows[-1])
        line = f"  {label:<{width}} {noise:<7} {mean:>9}   {interval:<20} {result.policy_s * 1e3:>18.3f}"
        print(f"{line} {result.action_spread:>17.2g}")
        if render is not None and len(rows) == 1:
            how = {"noise": noise, "solver": solver, "seed": cfg.seed + EVALUATION_SEED}
            reason = try_to_record(actor, lambda: task_env(policy.cfg, 1, cfg.device), render, task=task, **how)
            print(f"  recorded {render}" if reason is None else f"  no {render}: {reason}")
    about = {**origin(str(env.device)), "checkpoint": str(policy.checkpoint), "frames": policy.frames, "seed": cfg.seed}
    for path in tables:
        TABLE_WRITERS[path.suffix](path, rows, about)
        print(f"  {path}")
    if plot is not None:
        print(f"  {draw_samplers(rows, plot, title=task)}")
    return rows


def parsed(settings: Sequence[str]) -> EvalConfig:
    """The settings of a command line, ``name=value`` each.

    Raises:
        ConfigError: for a value that is no YAML, or as :class:`EvalConfig`. OmegaConfBaseException: for a name that is
            no setting, or a value of another type.
    """
    cfg = OmegaConf.structured(EvalConfig)
    for setting in settings:
        try:
            cfg.merge_with_dotlist([setting])
        except YAMLError as error:
            raise ConfigError(
                f"{setting} cannot be read: expected a single value or a list such as [1,5], with other text in quotes"
            ) from error
    found: Any = OmegaConf.to_object(cfg)
    return found


def main() -> None:
    """Evaluate as the command line says."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        sys.exit(0 if arguments else 2)
    with friendly_errors():
        run_dir, *settings = arguments
        if ("=" in run_dir and not Path(run_dir).is_dir()) or not all("=" in setting for setting in settings):
            raise ConfigError("usage: fpo-eval RUN_DIRECTORY [setting=value ...]; fpo-eval --help lists the settings")
        evaluate_run(run_dir, parsed(settings))


if __name__ == "__main__":
    main()
