"""One run from config to pictures: train, evaluate, log, checkpoint, resume."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import MISSING, DictConfig, OmegaConf
from torchrl.checkpoint import GlobalRNGState
from tqdm import tqdm

from fpo_torchrl.builders import ConfigError, build
from fpo_torchrl.checkpoint import Checkpointer, CheckpointError
from fpo_torchrl.config import RunConfig, check_run
from fpo_torchrl.envs.base import NonFiniteError
from fpo_torchrl.evaluation import Evaluation, evaluate, evaluation_table, record
from fpo_torchrl.files import write_json, write_whole
from fpo_torchrl.follow import build_trainer, lead
from fpo_torchrl.health import Watch
from fpo_torchrl.loggers import MetricsCSV, build_logger
from fpo_torchrl.parallel import Processes
from fpo_torchrl.plots import draw_learning_curve
from fpo_torchrl.preemption import StopOnSignal
from fpo_torchrl.provenance import recorded
from fpo_torchrl.run_directory import held, new_run_dir

FIXED_ON_RESUME = ("task", "seed", "experiment", "run_dir")
"""What makes a run another one."""
EVALUATION_SEED = 10_000
"""Added to the run's seed for evaluation, so that no training episode is evaluated."""


class Run:
    """A training run in a directory of its own.

    The directory holds ``config.yaml`` (resolved), ``provenance.json`` (machine, versions, how it ended),
    ``metrics.csv``, ``learning_curve.png``, ``evaluation.json``, ``rollout.gif`` and ``checkpoints/``.

    Args:
        cfg: the composed config.
        run_dir: where everything goes; created, and kept when ``resume`` is true.
        resume: continue from the newest whole checkpoint in ``run_dir``.
        hold: of :func:`~fpo_torchrl.run_directory.held` on ``run_dir``, which ends with :meth:`train`.

    Raises:
        ConfigError: for a wrong setting, before anything is written. CheckpointError: when resuming fails.
    """

    def __init__(self, cfg: DictConfig, run_dir: Path, *, resume: bool = False, hold: ExitStack | None = None) -> None:
        check_run(cfg)  # pyright: ignore[reportArgumentType]
        if cfg.num_threads is not None:
            torch.set_num_threads(cfg.num_threads)
        self.cfg, self.run_dir = cfg, run_dir
        self.stop = StopOnSignal()
        self.eval_interval = cfg.eval_interval_frames or max(1, cfg.total_frames // 10)
        self.checkpoint_interval = cfg.checkpoint_interval_frames or self.eval_interval
        self.metrics = MetricsCSV(run_dir / "metrics.csv", keep=False)
        self.processes = Processes()
        self._build()
        if resume:
            self._load(self.checkpointer.newest_whole())
        else:
            self._begin()
        logger = cfg.logger
        self.logger = build_logger(
            logger.kind, run_dir, name=run_dir.name, project=logger.project, offline=logger.offline
        )
        run_dir.mkdir(parents=True, exist_ok=True)
        write_whole(run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        self.metrics.truncate(self.trainer.frames)
        self.watch = Watch(self.metrics.rows)
        self._hold = hold.pop_all() if hold is not None else ExitStack()

    def _build(self) -> None:
        """Everything that trains, as it is before the first iteration."""
        cfg = self.cfg
        self.agent, self.trainer = build_trainer(cfg, self.processes)
        self.checkpointer = Checkpointer(
            self.run_dir,
            keep_last=cfg.keep_checkpoints,
            actor=self.agent.actor,
            critic=self.agent.critic,
            optimizer=self.agent.optimizer,
            trainer=self.trainer,
            metrics=self.metrics,
            rng=GlobalRNGState(),
        )

    def _make_env(self, num_envs: int, seed: int, **overrides: Any):
        tree = {**OmegaConf.to_container(self.cfg.env, resolve=True), **overrides}  # pyright: ignore
        return build(tree, "env", task=self.cfg.task, num_envs=num_envs, device=self.cfg.device, seed=seed)

    def _begin(self) -> None:
        """Take over the actor of ``init_from``, in the newest checkpoint of that run, or in the checkpoint it names."""
        if self.cfg.init_from is None:
            return
        source = Path(self.cfg.init_from)
        directory, path = (source, None) if source.is_dir() else (source.parent.parent, source)
        found = Checkpointer(directory, actor=self.agent.actor).load(path)
        print(f"beginning with the actor of {found}")

    def _load(self, path: Path | None) -> None:
        path = self.checkpointer.load(path, components={"actor", "critic", "optimizer", "trainer"})
        if self.checkpointer.holds(path, "metrics"):
            self.checkpointer.load(path, components={"metrics"})
        else:  # it is of a version that did not save them
            self.metrics.read()
        self.trainer.start()
        self.checkpointer.load(path, components={"rng"})
        print(f"resuming from {path} at frame {self.trainer.frames}")
        if not self.trainer.can_restore_env:
            print(
                f"{self.cfg.task}: its simulator's state cannot be restored, episodes start afresh; the rest is exact"
                if self.processes.size == 1
                else f"{self.processes.size} processes: episodes and random numbers start afresh; the rest is exact"
            )

    def train(self) -> dict[str, Evaluation]:
        """Train to the end, then evaluate, draw and record; returns the final evaluations by start noise.

        Raises:
            Preempted: on SIGTERM, SIGUSR1, SIGUSR2 or Ctrl-C, after the iteration and its checkpoint.
            NonFiniteError: for a NaN or infinity, once ``nan_rollbacks`` are used up.
        """
        with self._hold, self.stop, recorded(self.run_dir, device=self.cfg.device, frames=lambda: self.trainer.frames):
            for rollbacks_left in range(self.cfg.nan_rollbacks, -1, -1):
                try:
                    self._train()
                    break
                except NonFiniteError as error:
                    if rollbacks_left == 0:
                        raise
                    self._roll_back(error)
            return self.finish()

    def _roll_back(self, error: NonFiniteError) -> None:
        """Go back to the newest checkpoint, or to the start, with smaller steps."""
        lr_scale = self.trainer.lr_scale * self.cfg.nan_lr_factor
        print(f"{error}\nrolling back, with {lr_scale:.3g} times the step sizes of the config")
        self.trainer.env.close()
        newest = self.checkpointer.newest_whole()
        self._build()
        if newest is not None:
            self._load(newest)
        else:
            self._begin()
        self.trainer.lr_scale = lr_scale
        self.metrics.truncate(self.trainer.frames)

    def _train(self) -> None:
        cfg, trainer = self.cfg, self.trainer
        lead(cfg, self.agent, trainer, self.processes)
        print(f"{cfg.task}, seed {cfg.seed}: {cfg.total_frames} frames; run directory {self.run_dir}")
        bar = tqdm(
            total=-(-cfg.total_frames // trainer.frames_per_batch) * trainer.frames_per_batch,
            initial=trainer.frames,
            unit="frames",
            unit_scale=True,
            disable=not cfg.progress,
            file=sys.stdout,
            mininterval=0.5 if sys.stdout.isatty() else 10,
            bar_format="{percentage:3.0f}% {n_fmt}/{total_fmt} frames [{rate_fmt}, left {remaining}]{postfix}",
        )
        with bar:
            for metrics in trainer:
                if self._is_due(self.eval_interval):
                    # Training episodes already show the return under random start noise.
                    evaluation = self.evaluate("zero", cfg.eval_episodes)
                    low, high = evaluation.interval
                    metrics |= {"eval_zero": evaluation.mean, "eval_zero_low": low, "eval_zero_high": high}
                if trainer.lr_scale != 1:
                    metrics["lr_scale"] = trainer.lr_scale
                self.log(metrics)
                for finding in self.watch.new(self.metrics.rows):
                    bar.write(f"warning: {finding}")
                stops = self.stop.agree(self.processes.largest)
                if stops or self._is_due(self.checkpoint_interval):
                    self.checkpointer.save(trainer.frames)
                if stops:
                    self.stop.check()
                finished = f"{metrics['return']:.1f}" if metrics["episodes"] else "(no episode over yet)"
                ratio = f", ratio {metrics['ratio']:.4f}" if "ratio" in metrics else ""
                reward = f"reward per step {metrics['reward']:.3f}"
                bar.set_postfix_str(f"return {finished}, {reward}{ratio}", refresh=False)
                bar.update(trainer.frames - bar.n)

    def _is_due(self, interval: int) -> bool:
        """Whether this iteration crossed a multiple of ``interval`` frames, or is the last."""
        frames, batch = self.trainer.frames, self.trainer.frames_per_batch
        return frames // interval > (frames - batch) // interval or frames >= self.trainer.total_frames

    def log(self, metrics: dict[str, float]) -> None:
        """Write a row to ``metrics.csv`` and to the other logger."""
        self.metrics.log(metrics)
        if self.logger is not None:
            for name, value in metrics.items():
                self.logger.log_scalar(name, value, step=int(metrics["frames"]))

    def evaluate(self, noise: str, num_episodes: int) -> Evaluation:
        """Evaluate the current policy on fresh episodes."""
        env = self._make_env(num_episodes, 0, spread_episodes=False)
        return evaluate(self.agent.actor, env, noise=noise, seed=self.cfg.seed + EVALUATION_SEED)

    def finish(self) -> dict[str, Evaluation]:
        """Final evaluation, learning curve and rollout; prints what came out and where it is."""
        evaluations = {}
        for noise in ("random", "zero"):
            evaluations[noise] = self.evaluate(noise, self.cfg.final_eval_episodes)
            self.stop.check()
        report = {noise: evaluation.as_dict() for noise, evaluation in evaluations.items()}
        report["frames"] = self.trainer.frames
        write_json(self.run_dir / "evaluation.json", report)
        draw_learning_curve(
            self.run_dir / "metrics.csv",
            self.run_dir / "learning_curve.png",
            title=f"{self.cfg.task}, seed {self.cfg.seed}",
        )
        files = ["config.yaml", "provenance.json", "metrics.csv", "learning_curve.png", "evaluation.json"]
        if self.cfg.render and record_rollout(self, self.run_dir / "rollout.gif"):
            files.append("rollout.gif")
        print(evaluation_table(evaluations, self.cfg.task))
        latest = self.checkpointer.latest()
        for path in [*(self.run_dir / name for name in files), *([latest] if latest else [])]:
            print(f"  {path}")
        return evaluations


def record_rollout(run: Run, path: Path) -> Path | None:
    """Record one evaluation episode; says so if this machine or task cannot draw."""
    try:
        env = run._make_env(1, 0, spread_episodes=False)
        recorded = record(run.agent.actor, env, path, seed=run.cfg.seed + EVALUATION_SEED)
    except Exception as error:
        print(f"no rollout.gif: drawing failed ({type(error).__name__}: {error})")
        return None
    if recorded is None:
        print(f"no rollout.gif: {run.cfg.task} cannot draw itself")
    return recorded


def load_run_config(run_dir: str | Path) -> DictConfig:
    """The resolved config of a run; what the version which wrote it did not have is as by default.

    Raises:
        CheckpointError: if the directory is not that of a run.
    """
    path = Path(run_dir) / "config.yaml"
    if not path.is_file():
        raise CheckpointError(f"{run_dir} is not the directory of a run: it has no config.yaml")
    defaults = {option.name: option.default for option in fields(RunConfig) if option.default is not NO_DEFAULT}
    cfg = OmegaConf.merge(defaults, OmegaConf.load(path))
    assert isinstance(cfg, DictConfig)
    return cfg


def start_run(cfg: DictConfig) -> Run:
    """A new run of ``cfg``, in the directory it names or in a new one, which it holds until it has trained."""
    if cfg.run_dir is not None and not cfg.run_dir.strip():
        raise ConfigError(f"run_dir={cfg.run_dir!r} is empty: give a directory")
    if cfg.run_dir is None:
        with new_run_dir(cfg) as new, held(new) as hold:
            return Run(cfg, new, hold=hold)
    run_dir = Path(cfg.run_dir)
    with held(run_dir) as hold:
        if (run_dir / "metrics.csv").exists():
            raise ConfigError(
                f"run_dir={run_dir} holds a run already: resume={run_dir} continues it, or choose another"
            )
        return Run(cfg, run_dir, hold=hold)


def resume_run(overrides: Sequence[str]) -> Run:
    """The continuation of a run, with single values of its saved config changed.

    Args:
        overrides: as on the command line; one of them is ``resume=RUN_DIRECTORY``.

    Raises:
        ConfigError: for a setting that the run does not have, that cannot change, or of another type.
    """
    changes = {parsed.key_or_group: parsed.value() for parsed in OverridesParser.create().parse_overrides([*overrides])}
    run_dir = str(changes.pop("resume") or "")
    if not run_dir.strip():
        raise ConfigError(f"resume={run_dir!r} is empty: give a directory")
    saved = load_run_config(run_dir)
    for key, value in changes.items():
        if key in FIXED_ON_RESUME:
            raise ConfigError(f"{key}={value} cannot change when a run is resumed: start a new run for that")
        before = OmegaConf.select(saved, key, default=MISSING)
        if OmegaConf.is_config(before) or "/" in key:
            raise ConfigError(f"{key}={value}: a resumed run keeps its components; only single values can change")
        if before == MISSING:
            raise ConfigError(f"{key} is not a setting of {run_dir}; its config.yaml lists them")
        if not same_kind(value, before):
            raise ConfigError(f"{key}={value!r}: expected a {type(before).__name__}, the run has {before!r}")
        OmegaConf.update(saved, key, value)
    with held(Path(run_dir)) as hold:
        return Run(saved, Path(run_dir), resume=True, hold=hold)


def same_kind(value: Any, before: Any) -> bool:
    """Whether a setting that is ``before`` may become ``value``: None fits everywhere, and numbers fit each other."""
    number = {int: float}
    kinds = {number.get(type(it), type(it)) for it in (value, before) if it is not None}
    return len(kinds) < 2
