"""The training loop: collect, estimate advantages, take several epochs of gradient steps, report."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.objectives import LossModule

from fpo_torchrl.advantage import GAE
from fpo_torchrl.checks import check_counts
from fpo_torchrl.envs.base import BatchedEnv
from fpo_torchrl.errors import NonFiniteError
from fpo_torchrl.modules.actor import FlowActor
from fpo_torchrl.modules.chain import acting_module, encode, unwrapped
from fpo_torchrl.modules.normalizer import ObservationNormalizer
from fpo_torchrl.optim import AgentOptimizer
from fpo_torchrl.remote import RemoteWorkers
from fpo_torchrl.training.annealing import Annealing
from fpo_torchrl.training.collecting import check_finite, innermost, is_restorable, make_collector, own_attribute
from fpo_torchrl.training.gradient import compiled, has_graphs, total_loss
from fpo_torchrl.training.parallel import Processes
from fpo_torchrl.training.parts import check_action, check_memory, check_parts, check_windows
from fpo_torchrl.training.tracking import EpisodeTracker, describe, summarize


class Trainer:
    """On-policy training of any actor and PPO-like loss; with FPOLoss and a FlowActor, it is FPO's Algorithm 1.

    Iterating over it trains: each step collects ``frames_per_batch`` frames, learns from them and yields metrics.

    Args:
        env: environment of batch size ``[num_envs]``, with one action, and its reward under ``"reward"``.
        actor: policy to collect with, the one inside ``loss``.
        loss: LossModule with ``loss_objective`` and, if it has a critic, ``loss_critic``; all its outputs are logged.
        advantage: writes advantage and value target into a batch, where the loss looks for them.
        optimizer: steps on the sum of the losses.
        normalizer: the actor's and critic's, updated after the gradient steps and frozen during them.
        total_frames (int): when to stop, rounded up to whole batches.
        frames_per_batch (int): frames between updates, a multiple of ``num_envs``.
        num_epochs (int): passes over each batch.
        minibatch_size (int): transitions per gradient step; the last one of an epoch may be smaller.
        advantage_every: recompute the advantage every ``"batch"`` (once), ``"epoch"`` or ``"minibatch"`` (the released
            code; minibatches are then whole windows, as a recurrent policy needs them).
        unroll_length (int): steps of a window, a divisor of the steps per batch.
        redraw_pairs (bool): give a FlowActor's actions other pairs in each epoch, with the CFM losses of the policy
            that collected. The published algorithm keeps the pairs.
        critic_warmup_frames (int): train the critic alone on so many frames at first, for an actor that is pretrained.
        anneal_lr (bool): lower the step sizes linearly to zero; if not, they are left to a scheduler of your own.
        anneal_prior (float, optional): share of ``total_frames`` in which the loss's ``prior_coeff`` falls to zero.
        compile (bool): compile loss and gradient, on a GPU into CUDA graphs, and there the policy too (docs/speed.md).
        processes: those that train together; the sizes above are of all. Default this one alone.
        workers: remote ones that collect instead of this process; ``env`` then only supplies the specs.

    Raises:
        ValueError: for parts or sizes that do not fit together.
        NonFiniteError: while iterating, for a NaN or infinity.
    """

    def __init__(
        self,
        env: EnvBase,
        actor: Any,
        loss: LossModule,
        advantage: GAE,
        optimizer: AgentOptimizer,
        *,
        normalizer: ObservationNormalizer | None = None,
        total_frames: int,
        frames_per_batch: int,
        num_epochs: int = 8,
        minibatch_size: int = 1024,
        advantage_every: Literal["batch", "epoch", "minibatch"] = "batch",
        unroll_length: int | None = None,
        redraw_pairs: bool = False,
        critic_warmup_frames: int = 0,
        anneal_lr: bool = False,
        anneal_prior: float | None = None,
        compile: bool = False,
        processes: Processes | None = None,
        workers: RemoteWorkers | None = None,
    ) -> None:
        check_parts(env, actor, loss, advantage, optimizer, normalizer)
        processes = processes if processes is not None else Processes()
        num_envs = env.batch_size.numel() * processes.size
        check_counts(total_frames=total_frames, num_epochs=num_epochs, minibatch_size=minibatch_size)
        check_counts(frames_per_batch=frames_per_batch, unroll_length=unroll_length)
        if critic_warmup_frames < 0:
            raise ValueError(f"critic_warmup_frames must not be negative, got {critic_warmup_frames}")
        if critic_warmup_frames and "loss_critic" not in loss.out_keys:
            raise ValueError(f"critic_warmup_frames={critic_warmup_frames} needs a loss with a critic")
        minibatch_size = processes.share("minibatch_size", minibatch_size)
        unroll_length = check_windows(num_envs, frames_per_batch, minibatch_size, unroll_length, advantage_every)
        check_memory(actor, loss, advantage, advantage_every)
        self.env, self.actor, self.loss, self.optimizer = env, actor, loss, optimizer
        self.advantage, self.normalizer, self._advantage_key = advantage, normalizer, loss.tensor_keys.advantage
        self.total_frames, self.frames_per_batch, self.num_epochs = total_frames, frames_per_batch, num_epochs
        self.minibatch_size, self.advantage_every, self.unroll_length = minibatch_size, advantage_every, unroll_length
        self.critic_warmup_frames, self.warms_up_critic = critic_warmup_frames, False
        self.processes, self.workers = processes, workers
        self.standardizes = processes.size > 1 and bool(getattr(loss, "normalize_advantage", False))
        if self.standardizes:  # over the minibatches of all processes, where the loss sees one
            loss.normalize_advantage = False
        self.redraws_pairs = redraw_pairs and isinstance(unwrapped(acting_module(actor)), FlowActor)
        self.annealing = Annealing(optimizer, loss, total_frames, lr=anneal_lr, prior=anneal_prior)
        self.compile = compile
        self._evaluate = compiled(self._total_loss, device=env.device) if compile else self._total_loss
        self.lr_scale = 1.0
        """Factor on the step sizes, which checkpoints keep."""
        self._history: list[TensorDictBase] = []
        self.frames = 0
        self.env_restored = False  # by load_state_dict: its episodes go on
        self.tracker = EpisodeTracker(num_envs, skip_first=bool(own_attribute(env, "spread_episodes")))
        self._collector: Any = None

    def __iter__(self) -> Iterator[dict[str, float]]:
        """Train to ``total_frames``, yielding the metrics of each iteration."""
        batches = iter(self.start())
        while self.frames < self.total_frames:
            started = time.perf_counter()
            batch = self.processes.check(partial(next, batches))
            collected = time.perf_counter()
            metrics = self.learn(batch)
            yield self.report(batch, metrics, collect_s=collected - started, update_s=time.perf_counter() - collected)

    def start(self) -> Any:
        """Build the collector, which resets the environment, or continues it after :meth:`load_state_dict`."""
        if self._collector is None:
            check_action(self.env, self.actor)  # again: weights that were loaded since then may bring other bounds
            device, num_frames = self.env.device, self.frames_per_batch // self.processes.size
            if self.workers is None:
                compile = self.compile and has_graphs(device)
                self._collector = make_collector(self.env, self.actor, num_frames, compile=compile)
            else:
                self._collector = self.workers.start(self.actor, num_frames, device=device, frames=self.frames)
        return self._collector

    def close(self) -> None:
        """End the workers, if there are some."""
        if self.workers is not None and self._collector is not None:
            self._collector.shutdown()

    def learn(self, batch: TensorDictBase) -> dict[str, float]:
        """Advantage, epochs of gradient steps, and then the normaliser; ``batch`` is ``[num_envs, time]``."""
        for minibatch in self.minibatches(batch):
            total, losses = self._evaluate(minibatch)
            self.optimizer.backward(total)
            self.step(losses)
        return self.end_update(batch)

    def minibatches(self, batch: TensorDictBase) -> Iterator[TensorDictBase]:
        """Begin to learn from ``batch``: its minibatches, epoch by epoch; :meth:`step` follows each."""
        keys = [*self.env.observation_keys, self.env.action_key]
        self.processes.check(partial(check_finite, batch, keys, first_frame=self.frames))
        self.annealing.apply(self.frames, lr_scale=self.lr_scale)
        self.warms_up_critic = self.frames < self.critic_warmup_frames
        behaviour = copy.deepcopy(self.actor) if self.redraws_pairs else None
        if self.normalizer is not None and self.normalizer.as_released:
            self.normalizer.update(self.processes.gather(batch["observation"]))
        self._history = []
        for epoch in range(self.num_epochs):
            if behaviour is not None and epoch > 0:
                self._redraw_pairs(behaviour, batch)
            if self.advantage_every == "epoch" or (self.advantage_every == "batch" and epoch == 0):
                self.advantage(batch)
            for minibatch in self._shuffled(batch):
                if self.standardizes:
                    minibatch[self._advantage_key] = self.processes.standardize(minibatch[self._advantage_key])
                yield minibatch

    def step(self, losses: TensorDictBase) -> None:
        """One step with the gradients that are in the weights' ``grad``, of a minibatch with these ``losses``."""
        if self.warms_up_critic:  # the actor's weights that the critic shares wait as well
            self.optimizer.keep_actor()
        self._history.append(losses.update(self.optimizer.limited_step(self.processes.average)))

    def end_update(self, batch: TensorDictBase) -> dict[str, float]:
        """The metrics of an update, after its last step; the normaliser takes ``batch`` into account."""
        metrics = self.processes.reduce(summarize(self._history, weight_max=self.optimizer.largest_weight()))
        if not all(map(math.isfinite, metrics.values())):
            names = [name for name, value in metrics.items() if not math.isfinite(value)]
            raise NonFiniteError(
                f"{', '.join(names)} became NaN or infinite in the update after frame {self.frames}. The weights are "
                "lost: go on from the last checkpoint, or start again if there is none, with a smaller step size, a "
                "tighter trust region, or SPO or ASPO in the place of the clip"
            )
        if self.normalizer is not None and not self.normalizer.as_released:
            self.normalizer.update(self.processes.gather(batch["observation"]))
        return metrics

    def _total_loss(self, minibatch: TensorDictBase) -> tuple[Tensor, TensorDictBase]:
        return total_loss(self.loss, minibatch, critic_only=self.warms_up_critic)

    def report(
        self, batch: TensorDictBase, metrics: dict[str, float], *, collect_s: float, update_s: float
    ) -> dict[str, float]:
        """Count the frames of a ``batch`` that was learnt from; returns all metrics of its iteration."""
        self.frames += self.frames_per_batch
        self.tracker.update(*(self.processes.gather(batch["next", name]) for name in ("reward", "done")))
        return {
            "frames": self.frames,
            "return": self.tracker.mean_return,
            "episodes": self.tracker.num_episodes,
            **self.processes.reduce(self._describe(batch)),
            **metrics,
            "collect_s": collect_s,
            "update_s": update_s,
            "frames_per_s": self.frames_per_batch / (collect_s + update_s),
        }

    def _describe(self, batch: TensorDictBase) -> dict[str, float]:
        """Summaries of a batch, and the environment's own metrics where it is the one that collects."""
        keys = {"action_key": self.env.action_key, "advantage_key": self._advantage_key}
        summaries, env = describe(batch, self.env.action_spec, **keys), innermost(self.env)
        if isinstance(env, BatchedEnv) and self.workers is None:
            summaries |= env.metrics()
        return summaries

    @torch.no_grad()
    def _redraw_pairs(self, behaviour: Any, batch: TensorDictBase) -> None:
        """Give ``batch`` other pairs, as many environments at a time as make a minibatch, and so in its memory."""
        flow = acting_module(behaviour)
        parts = batch.split(max(1, self.minibatch_size // batch.shape[-1]))
        redrawn = [flow.redraw_pairs(encode(behaviour, part)).select(*flow.out_keys) for part in parts]
        batch.update(torch.cat(redrawn))

    def _shuffled(self, batch: TensorDictBase) -> Iterator[TensorDictBase]:
        """One epoch of minibatches in random order: transitions, or windows with their own advantage."""
        if self.advantage_every == "minibatch":
            windows = batch.reshape(-1, self.unroll_length)
            order = torch.randperm(len(windows), device=self.env.device)
            for index in order.split(self.minibatch_size // self.unroll_length):
                yield self.advantage(windows[index])
            return
        names = self.loss.tensor_keys
        beside = {*getattr(acting_module(self.actor), "flow_keys", ()), self._advantage_key}
        keys = {key for key in self.loss.in_keys if not (isinstance(key, tuple) and key[0] == "next")}
        # Marks of transitions that do not count, by TorchRL's collectors or its GAE(shifted=True), stay with them.
        optional = {names.value, names.value_target, *self.loss._loss_mask_keys()}
        keys |= beside | (optional & {*batch.keys(True)})
        transitions = batch.select(*keys).reshape(-1)
        for index in torch.randperm(len(transitions), device=self.env.device).split(self.minibatch_size):
            yield transitions[index]

    def state_dict(self) -> dict[str, Any]:
        """Progress, episode returns and, where it can be had, the environment's state."""
        state = {"frames": self.frames, "lr_scale": self.lr_scale, "tracker": self.tracker.state_dict()}
        if self.can_restore_env:
            state["env"] = self.env.get_state().to_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; call it before the first iteration.

        Raises:
            RuntimeError: once the collector is built, since it would go on from the old observation.
        """
        if self._collector is not None:
            raise RuntimeError("load the state before training starts: this trainer's collector is running already")
        self.env_restored = "env" in state and self.can_restore_env
        if self.env_restored:
            self.env.set_state(TensorDict(state["env"]))
        self.frames = int(state["frames"])
        self.lr_scale = float(state.get("lr_scale", 1.0))  # of a checkpoint before there was one
        self.tracker.load_state_dict(state["tracker"])
        if not self.env_restored:
            self.tracker.restart_episodes()

    @property
    def whole_frames(self) -> int:
        """``total_frames``, rounded up to whole batches."""
        return -(-self.total_frames // self.frames_per_batch) * self.frames_per_batch

    @property
    def can_restore_env(self) -> bool:
        """Whether the environment's state goes into a checkpoint; if not, resuming starts fresh episodes.

        It does not where others have environments: see :class:`~fpo_torchrl.runs.states.States` for processes.
        """
        return self.processes.size == 1 and self.workers is None and is_restorable(self.env)
