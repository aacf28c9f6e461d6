"""A run for each of several seeds, trained together; each leaves the directory that it would leave alone."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from omegaconf import DictConfig

from fpo_torchrl.errors import CheckpointError, ConfigError, NonFiniteError
from fpo_torchrl.evaluation import Evaluation, evaluation_table
from fpo_torchrl.modules.chain import is_flow
from fpo_torchrl.preemption import StopOnSignal
from fpo_torchrl.provenance import recorded
from fpo_torchrl.runs.auto_resume import AUTO, directory_of, final_evaluation, other_settings, unfinished_run
from fpo_torchrl.runs.directory import (
    SEEDS,
    check_no_run,
    check_unused,
    holds_run,
    new_run_dir,
    record_seeds,
    seed_dirs,
)
from fpo_torchrl.runs.progress import progress_bar
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.start import changed_config, resume_arguments, resume_run, start_run
from fpo_torchrl.seeds.generator import AgentGenerator
from fpo_torchrl.seeds.stack import Member, vmap_obstacle
from fpo_torchrl.seeds.training import train_in_turn, train_together
from fpo_torchrl.training.parallel import Processes

OWN = ("seed", "init_from", "total_frames", "optim", "eval_interval_frames", "eval_episodes", "final_eval_episodes")
"""Settings in which vectorized agents may differ; in the others all would get those of the first."""


class SeedRuns:
    """Runs that differ in their seeds, trained in one process.

    A run that diverges ends, and the others go on.

    Args:
        runs: an iterable that builds each run on demand and leaves torch's generators in the state in which its
            training starts. None stands for one that has finished.
        vmap (bool): whether the agents are vectorized (:func:`train_together`) or take turns
            (:func:`train_in_turn`); None for what is faster, the first on a GPU and the second on a CPU.
        directories: of all runs whose final evaluations count, some of which may have finished before; default these.

    Raises:
        ConfigError: if the agents are to be vectorized and cannot, or differ in a setting.
    """

    def __init__(
        self,
        runs: Iterable[Run | None],
        *,
        vmap: bool | None = None,
        directories: Sequence[Path] | None = None,
    ) -> None:
        self.directories = directories
        self.runs: dict[Member, Run] = {}
        with contextlib.ExitStack() as holds:
            for run in runs:
                if run is not None:
                    holds.enter_context(run.hold)
                    self.runs[Member(run.trainer, AgentGenerator(run.cfg.device))] = run
            built = [*self.runs.values()]
            obstacle = next(filter(None, (vmap_obstacle(member.trainer) for member in self.runs)), None)
            if vmap and obstacle is not None:
                raise ConfigError(f"{obstacle}: it needs vmap=false")
            different = _different([run.cfg for run in built])
            if vmap and different:
                raise ConfigError(
                    f"vmap=true gives all seeds the settings of the first, and they differ in {different}: give "
                    "vmap=false, or resume them with one value"
                )
            can_share = obstacle is None and not different
            self.vmap = vmap if vmap is not None else can_share and all(map(_gains_from_vmap, built))
            self.hold = holds.pop_all()
        self.stop = StopOnSignal(built[0].run_dir.parent if built else None)
        for run in built:
            run.stop = self.stop

    def settle(self) -> None:
        """:meth:`Run.settle` each, and name them in the directory that they share."""
        for run in self.runs.values():
            run.settle()
        record_seeds([run.run_dir for run in self.runs.values()])

    def train(self) -> dict[str, Evaluation]:
        """Train all to the end; returns the seeds' mean returns in the final evaluations, by start noise.

        Raises:
            NonFiniteError: once the others have finished, if a run diverged.
            Preempted: as in :meth:`Run.train`.
        """
        diverged: dict[Run, NonFiniteError] = {}
        with self.stop, self.hold, contextlib.ExitStack() as records:
            self.settle()
            ends = {run: records.enter_context(_recorded(run)) for run in self.runs.values()}
            for run, error in self._train():
                diverged[run] = error
                ends[run](error)
            for member, run in self.runs.items():
                if run in diverged:
                    continue
                try:
                    with member.generator:
                        run.finish()
                except NonFiniteError as error:
                    diverged[run] = error
                ends[run](diverged.get(run))
        if diverged:
            told = "; ".join(f"seed {run.cfg.seed}: {error}" for run, error in diverged.items())
            raise NonFiniteError(f"{len(diverged)} of {len(self.runs)} seeds diverged, the others finished. {told}")
        runs = [*self.runs.values()]
        return evaluation_across(self.directories or [run.run_dir for run in runs], runs[0].cfg.task)

    def _train(self) -> Iterator[tuple[Run, NonFiniteError]]:
        """Train, evaluate, log and save; yields the runs that diverge."""
        runs = [*self.runs.values()]
        cfg = runs[0].cfg
        how = "vectorized" if self.vmap else "in turn"
        print(f"{cfg.task}, seeds {', '.join(str(run.cfg.seed) for run in runs)} {how}: {cfg.total_frames} frames each")
        train = train_together if self.vmap else train_in_turn
        with progress_bar((run.trainer for run in runs), shown=cfg.progress) as bar:
            for results in train([*self.runs]):
                stopping = self.stop.received is not None
                for member, result in results.items():
                    run = self.runs[member]
                    try:
                        if isinstance(result, NonFiniteError):
                            raise result
                        with member.generator:
                            findings = run.record(result, stopping=stopping)
                    except NonFiniteError as error:
                        results[member] = error
                        bar.write(f"seed {run.cfg.seed} diverged: {error}")
                        yield run, error
                        continue
                    for finding in findings:
                        bar.write(f"warning: seed {run.cfg.seed}: {finding}")
                if stopping:
                    self.stop.check()
                bar.set_postfix_str(_postfix(results.values()), refresh=False)
                bar.update(sum(run.trainer.frames for run in runs) - bar.n)


def evaluation_across(run_dirs: Sequence[Path], task: str) -> dict[str, Evaluation]:
    """The mean returns of finished runs in their final evaluations, by start noise; prints them as a table."""
    across = {}
    for noise in ("random", "zero"):
        reports = [final_evaluation(run_dir, noise) for run_dir in run_dirs]
        means, spreads = ([report[name] for report in reports] for name in ("mean", "action_spread"))
        across[noise] = Evaluation(means, reports[0]["policy_s"], fmean(spreads))
    print(evaluation_table(across, f"{task}, means of {len(run_dirs)} seeds", counted="seeds"))
    return across


def _different(configs: Sequence[DictConfig]) -> str:
    """The settings in which agents cannot differ under ``vmap``, and do; empty if there are none."""
    found = {}
    for cfg in configs[1:]:
        for key, (first, other) in other_settings(configs[0], cfg).items():
            if key.partition(".")[0] not in OWN:
                found.setdefault(key, f"{key} ({first} of seed {configs[0].seed}, {other} of seed {cfg.seed})")
    return ", ".join(found.values())


def _recorded(run: Run) -> Any:
    return recorded(run.run_dir, device=run.cfg.device, frames=lambda: run.trainer.frames)


def _gains_from_vmap(run: Run) -> bool:
    return torch.device(run.cfg.device).type == "cuda" and is_flow(run.agent.actor)


def _postfix(results: Iterable[Mapping[str, float] | NonFiniteError]) -> str:
    """What the progress bar says: mean and spread over the seeds."""
    rows = [row for row in results if not isinstance(row, NonFiniteError)]
    if not rows:
        return ""
    returns = [row["return"] for row in rows if row["episodes"]]
    spread = f"{fmean(returns):.1f} ± {pstdev(returns):.1f}" if returns else "(no episode over yet)"
    return f"{len(rows)} seeds, return {spread}, reward per step {fmean(row['reward'] for row in rows):.3f}"


def configs_of_seeds(cfg: DictConfig, directory: Path) -> Iterator[tuple[DictConfig, Path]]:
    """The config of each seed's run, as if it were started alone, and its place in ``directory``."""
    for seed in range(cfg.seed, cfg.seed + cfg.num_seeds):
        own, run_dir = copy.deepcopy(cfg), directory / f"seed{seed}"
        own.seed, own.num_seeds, own.vmap, own.run_dir = seed, 1, None, str(run_dir)
        yield own, run_dir


def check_seeds(cfg: DictConfig, vmap: Any) -> None:
    """Refuse what several seeds in one process cannot do.

    Raises:
        ConfigError: naming the setting and what to do.
    """
    if cfg.num_seeds < 1:
        raise ConfigError(f"num_seeds={cfg.num_seeds} is out of range: it must be at least 1")
    if vmap not in (None, True, False):
        raise ConfigError(f"vmap={vmap!r}: expected true, false or null")
    if cfg.logger.kind == "wandb":
        raise ConfigError("logger=wandb takes one run in a process: with num_seeds use logger=tensorboard or none")
    if cfg.nan_rollbacks:
        raise ConfigError(f"nan_rollbacks={cfg.nan_rollbacks} takes a single run back: it needs num_seeds=1")
    if cfg.collector is not None:
        raise ConfigError("several seeds collect in their own process: it needs collector=local")
    if Processes().size > 1:
        raise ConfigError("several seeds train in one process: start it without torchrun")


def train_seeds(cfg: DictConfig, sweep_dir: Path | None = None) -> float:
    """Train ``cfg.num_seeds`` runs in ``seed0``, ``seed1`` ... of the run directory; with ``resume=auto`` go on there.

    Args:
        cfg: the composed config.
        sweep_dir: the directory, if it is one of a sweep.

    Returns:
        The mean over seeds of the final evaluation's return, under random start noise.

    Raises:
        ConfigError: for a wrong setting, or a directory that holds other runs.
        InUseError: with ``resume=auto``, if another process trains in one of the directories.
    """
    check_seeds(cfg, cfg.vmap)
    if cfg.resume == AUTO or sweep_dir is not None:
        return _ensure_trained(cfg, sweep_dir)
    with new_run_dir(cfg) as directory:
        configs = [*configs_of_seeds(cfg, directory)]
        check_no_run(directory)
        check_unused(directory, [run_dir for _, run_dir in configs])
        runs = SeedRuns((start_run(own) for own, _ in configs), vmap=cfg.vmap)
    return runs.train()["random"].mean


def _ensure_trained(cfg: DictConfig, sweep_dir: Path | None) -> float:
    directory = directory_of(cfg, sweep_dir)
    configs = [*configs_of_seeds(cfg, directory)]
    directories = [run_dir for _, run_dir in configs]
    if not any(map(holds_run, directories)):
        check_no_run(directory)
    runs = SeedRuns((unfinished_run(*own) for own in configs), vmap=cfg.vmap, directories=directories)
    evaluations = runs.train() if runs.runs else evaluation_across(directories, cfg.task)
    return evaluations["random"].mean


def resume(overrides: Sequence[str]) -> Run | SeedRuns:
    """The continuation of a run, or of all runs ``seed0``, ``seed1`` ... in a directory of ``num_seeds``.

    Args:
        overrides: as on the command line, one of them ``resume=RUN_DIRECTORY``; ``vmap`` is for several seeds.

    Raises:
        CheckpointError: if one of the seeds is missing, and as :class:`Run`.
        ConfigError: as :func:`~fpo_torchrl.runs.start.resume_run`.
    """
    directory, changes = resume_arguments(overrides)
    run_dirs = seed_dirs(directory)
    begun = [run_dir for run_dir in run_dirs if (run_dir / "config.yaml").is_file()]
    if (directory / "config.yaml").is_file() or not begun:
        return resume_run(directory, changes)
    if missing := [str(run_dir) for run_dir in run_dirs if run_dir not in begun]:
        raise CheckpointError(
            f"no config.yaml in {', '.join(missing)}: the command that started these seeds, with resume=auto, begins "
            f"what is missing; resume={begun[0]} continues one seed. To do without those, remove what is left of them, "
            f"and their names in {directory / SEEDS}"
        )
    vmap = changes.pop("vmap", None)
    for run_dir in begun:
        check_seeds(changed_config(run_dir, changes), vmap)
    return SeedRuns((resume_run(run_dir, changes) for run_dir in begun), vmap=vmap)
