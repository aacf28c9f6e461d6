"""One run from config to pictures: train, evaluate, log, checkpoint, resume."""

from __future__ import annotations

import math
from contextlib import closing
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from fpo_torchrl.builders import env_maker
from fpo_torchrl.checkpoint import Checkpointer, RandomNumbers
from fpo_torchrl.config import check_components, check_run
from fpo_torchrl.devices import check_device
from fpo_torchrl.errors import CheckpointError, ConfigError, NonFiniteError, WorkersError
from fpo_torchrl.evaluation import EVALUATION_SEED, Evaluation, evaluate, evaluation_table, isolated_rng, try_to_record
from fpo_torchrl.files import write_json, write_whole
from fpo_torchrl.health import Finding, Watch
from fpo_torchrl.loggers import LoggedOnce, MetricsCSV, build_logger, check_logger, newest_frames
from fpo_torchrl.machine import prepare_machine
from fpo_torchrl.modules.chain import acting_module
from fpo_torchrl.plots import draw_learning_curve
from fpo_torchrl.preemption import StopOnSignal
from fpo_torchrl.provenance import recorded
from fpo_torchrl.runs.assembly import build_trainer
from fpo_torchrl.runs.directory import begun_seeds, check_is_run, holds_run
from fpo_torchrl.runs.follow import lead
from fpo_torchrl.runs.hold import Hold
from fpo_torchrl.runs.progress import progress_bar
from fpo_torchrl.runs.states import States
from fpo_torchrl.text import say
from fpo_torchrl.training.collecting import is_restorable
from fpo_torchrl.training.parallel import Processes


class Run:
    """A training run in a directory of its own, where it writes nothing before :meth:`train`.

    The directory then holds ``config.yaml`` (resolved), ``provenance.json`` (machine, versions, how it ended),
    ``metrics.csv``, ``learning_curve.png``, ``evaluation.json``, ``rollout.gif`` and ``checkpoints/``.

    Args:
        cfg: the composed config.
        hold: of the directory; it ends with :meth:`train`.
        resume: continue from the newest whole checkpoint there.

    Raises:
        ConfigError: for a wrong setting.
        CheckpointError: when resuming fails.
        WorkersNotStartedError: if the cluster of remote workers is not there.
    """

    def __init__(self, cfg: DictConfig, hold: Hold, *, resume: bool = False) -> None:
        check_run(cfg)
        check_components(cfg)
        check_logger(cfg.logger.kind)
        check_device(cfg.device, ConfigError)
        prepare_machine(cfg.num_threads)
        self.cfg, self.run_dir, self.hold = cfg, hold.run_dir, hold
        self.stop = StopOnSignal(self.run_dir)
        self.eval_interval = cfg.eval_interval_frames or max(1, cfg.total_frames // 10)
        self.checkpoint_interval = cfg.checkpoint_interval_frames or self.eval_interval
        self.metrics = MetricsCSV(self.run_dir / "metrics.csv")
        self.logger: LoggedOnce | None = None
        self.make_env = partial(env_maker(cfg, spread_episodes=False), device=cfg.device, seed=0)
        self.processes = Processes()
        self._build()
        if resume:
            self._load(self.checkpointer.newest_whole())
        else:
            self._begin()

    def settle(self) -> None:
        """Make config, logger and metrics in the directory those of this run: the first that it writes there."""
        run_dir, logger, newest = self.run_dir, self.cfg.logger, newest_frames(self.metrics.path)
        self.logger = build_logger(
            logger.kind, run_dir, name=run_dir.name, project=logger.project, offline=logger.offline, newest=newest
        )
        write_whole(run_dir / "config.yaml", OmegaConf.to_yaml(self.cfg, resolve=True))
        self._drop_rows()
        self.hold.keep()

    def _build(self) -> None:
        """Everything that trains, as it is before the first iteration."""
        cfg = self.cfg
        self.agent, self.trainer = build_trainer(cfg, self.processes)
        self.states = States(self.processes)
        self.checkpointer = Checkpointer(
            self.run_dir,
            keep_last=cfg.keep_checkpoints,
            actor=self.agent.actor,
            critic=self.agent.critic,
            optimizer=self.agent.optimizer,
            trainer=self.trainer,
            metrics=self.metrics,
            rng=RandomNumbers(),
            **({"states": self.states} if self.processes.size > 1 else {}),
        )

    def _begin(self) -> None:
        """Take over the actor of ``init_from``, in the newest checkpoint of that run, or in the checkpoint it names."""
        if self.cfg.init_from is None:
            return
        source = Path(self.cfg.init_from)
        if not source.exists() or (source.is_dir() and not (holds_run(source) or begun_seeds(source))):
            what = "holds no run and no checkpoints/" if source.is_dir() else "does not exist"
            raise CheckpointError(
                f"init_from={self.cfg.init_from} {what}: give a run's directory or one of its checkpoints"
            )
        directory, path = (source, None) if source.is_dir() else (source.parent.parent, source)
        if path is None and begun_seeds(directory):
            check_is_run(directory)
        found = Checkpointer(directory, actor=self.agent.actor).load(path)
        print(f"beginning with the actor of {found}")

    def _load(self, path: Path | None) -> None:
        path = self.checkpointer.load(path, components={"actor", "critic", "optimizer", "trainer"})
        too_many = self.trainer.frames - self.cfg.total_frames
        if too_many >= self.trainer.frames_per_batch:
            raise ConfigError(
                f"total_frames={self.cfg.total_frames} is less than the {self.trainer.frames} frames that "
                f"{self.run_dir} has trained on: give as many or more"
            )
        if self.checkpointer.holds(path, "metrics"):
            self.checkpointer.load(path, components={"metrics"})
        else:  # it is of a version that did not save them
            self.metrics.read()
        if self.processes.size > 1 and self.checkpointer.holds(path, "states"):
            self.checkpointer.load(path, components={"states"})
        goes_on = self.states.go_on(self.trainer, self.cfg.seed)
        self.checkpointer.load(path, components={"rng"})
        print(f"resuming from {path} at frame {self.trainer.frames}")
        if not goes_on:
            print(f"{self._what_is_new()} start afresh; the rest is exact")

    def _what_is_new(self) -> str:
        """What a resumed run cannot go on with."""
        if self.trainer.workers is not None:
            return f"{self.trainer.workers.num_workers} workers: their episodes and random numbers"
        if not is_restorable(self.trainer.env):
            return f"{self.cfg.task}: its simulator's state cannot be restored, episodes"
        return "the checkpoint is of another number of processes, or of workers: episodes and random numbers"

    def train(self) -> dict[str, Evaluation]:
        """Train to the end, then evaluate, draw and record; returns the final evaluations by start noise.

        Raises:
            Preempted: on SIGTERM, SIGUSR1, SIGUSR2 or Ctrl-C, after the iteration and its checkpoint.
            NonFiniteError: for a NaN or infinity, once ``nan_rollbacks`` are used up.
            WorkersError: if a remote worker is gone or does not start.
        """
        with self.hold, self.stop:
            self.settle()
            with recorded(self.run_dir, device=self.cfg.device, frames=lambda: self.trainer.frames):
                try:
                    self._train_with_rollbacks()
                except WorkersError:
                    self.stop.check()  # a scheduler signals the workers too, and they die of it
                    raise
                return self.finish()

    def _train_with_rollbacks(self) -> None:
        for rollbacks_left in range(self.cfg.nan_rollbacks, -1, -1):
            try:
                return self._train()
            except NonFiniteError as error:
                if rollbacks_left == 0:
                    raise
                self._roll_back(error)

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
        self._drop_rows()

    def _drop_rows(self) -> None:
        """Forget what was logged after the frame that the run goes on from."""
        self.metrics.truncate(self.trainer.frames)
        if self.logger is not None:
            self.logger.go_back(self.trainer.frames)
        self.watch = Watch(self.metrics.rows)

    def _train(self) -> None:
        cfg, trainer = self.cfg, self.trainer
        lead(cfg, self.agent, trainer, self.states)
        batch, whole = trainer.frames_per_batch, trainer.whole_frames
        of = "" if whole == cfg.total_frames else f", which are {whole} in whole batches of {batch}"
        parts = f"{type(acting_module(self.agent.actor)).__name__} with {type(self.agent.loss).__name__}"
        print(f"{cfg.task}, {parts}, seed {cfg.seed}: {cfg.total_frames} frames{of}; run directory {self.run_dir}")
        with closing(trainer), progress_bar([trainer], shown=cfg.progress) as bar:
            for metrics in trainer:
                stopping = self.stop.agree(self.processes.largest)
                if self.processes.tell(stopping or self._is_due(self.checkpoint_interval)):
                    self.states.gather(trainer)
                for finding in self.processes.check(partial(self.record, metrics, stopping=stopping)):
                    bar.write(f"warning: {finding}")
                if stopping:  # a signal that came since then waits for the next iteration, and its checkpoint
                    self.stop.check()
                finished = f"{metrics['return']:.1f}" if metrics["episodes"] else "(no episode over yet)"
                ratio = f", ratio {metrics['ratio']:.4f}" if "ratio" in metrics else ""
                reward = f"reward per step {metrics['reward']:.3f}"
                bar.set_postfix_str(f"return {finished}, {reward}{ratio}", refresh=False)
                bar.update(trainer.frames - bar.n)

    def record(self, metrics: dict[str, float], *, stopping: bool) -> list[Finding]:
        """Evaluate, log and save an iteration as far as they are due; returns what is new about the run's health.

        If the run is ``stopping``, a checkpoint is due.
        """
        if self._is_due(self.eval_interval):
            # Training episodes already show the return under random start noise.
            evaluation = self.evaluate("zero", self.cfg.eval_episodes)
            self._keep_best(evaluation.mean)
            low, high = evaluation.interval
            metrics |= {"eval_zero": evaluation.mean, "eval_zero_low": low, "eval_zero_high": high}
            metrics["eval_action_spread"] = evaluation.action_spread
        if self.trainer.lr_scale != 1:
            metrics["lr_scale"] = self.trainer.lr_scale
        self.log(metrics)
        if self._is_due(self.checkpoint_interval) or stopping:
            if self.logger is not None:
                self.logger.flush()
            self.checkpointer.save(self.trainer.frames)
        return self.watch.new(self.metrics.rows)

    def _is_due(self, interval: int) -> bool:
        """Whether this iteration crossed a multiple of ``interval`` frames, or is the last."""
        frames, batch = self.trainer.frames, self.trainer.frames_per_batch
        return frames // interval > (frames - batch) // interval or frames >= self.trainer.total_frames

    def _keep_best(self, mean_return: float) -> None:
        """Keep this policy if none before it was better; one from a part of the run that was undone does not count."""
        best, frames = self.checkpointer.best(), self.trainer.frames
        if best is None or best.frames >= frames or mean_return >= best.mean_return:
            self.checkpointer.save_best(frames, mean_return)

    def log(self, metrics: dict[str, float]) -> None:
        """Write a row to ``metrics.csv`` and to the other logger."""
        self.metrics.log(metrics)
        if self.logger is not None:
            self.logger.log(metrics)

    def evaluate(self, noise: str, num_episodes: int) -> Evaluation:
        """Evaluate the current policy on fresh episodes; ``NonFiniteError`` if their returns are no numbers."""
        seed = self.cfg.seed + EVALUATION_SEED
        with isolated_rng(seed):  # an environment may seed torch, or draw, when it is built
            env = self.make_env(num_envs=num_episodes)
        evaluation = evaluate(self.agent.actor, env, noise=noise, seed=seed)
        if not math.isfinite(evaluation.mean):
            raise NonFiniteError(
                f"{self.cfg.task}: an evaluation's return is {evaluation.mean}. Look for a reward that is not finite"
            )
        return evaluation

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
        if self.cfg.render:
            files += self._filmed("rollout.gif")
        latest, best = self.checkpointer.latest(), self.checkpointer.best()
        if latest is not None:
            files.append(f"checkpoints/{latest.name}")
        say(evaluation_table(evaluations, self.cfg.task), *(f"  {self.run_dir / name}" for name in files))
        if best is not None:
            earlier = f" is of the best evaluation, {best.mean_return:.4g} after {best.frames} frames"
            say(f"  {best.path}{earlier if best.frames < self.trainer.frames else ''}")
        return evaluations

    def _filmed(self, name: str) -> list[str]:
        """Film an evaluation episode: the file's name; none, with a message, where machine or task cannot draw."""
        seed, make_env = self.cfg.seed + EVALUATION_SEED, partial(self.make_env, num_envs=1)
        reason = try_to_record(self.agent.actor, make_env, self.run_dir / name, task=self.cfg.task, seed=seed)
        if reason is not None:
            print(f"no {name}: {reason}")
            return []
        return [name]
