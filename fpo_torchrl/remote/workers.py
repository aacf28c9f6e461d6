"""What workers in other processes or on other machines are to the trainer, whatever engine runs them."""

from __future__ import annotations

import contextlib
import copy
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictModule
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torchrl.envs import EnvBase

from fpo_torchrl.checks import check_counts
from fpo_torchrl.errors import NonFiniteError, WorkerLostError, WorkersNotStartedError
from fpo_torchrl.preemption import SIGNALS
from fpo_torchrl.training.collecting import PLAIN, derived_seed

WORKER = ("collector", "worker")
"""Where a batch says which worker collected it."""


class RemoteWorkers(ABC):
    """Processes that collect for the trainer, each with an equal share of the environments, on CPUs.

    Before each batch every worker gets the policy's weights, with the statistics of its normaliser, and only then do
    they collect: no batch is of older weights. Each has random numbers of its own, for episodes and noise.

    Args:
        make_env: builds environments; called in the workers with ``num_envs`` and ``seed``.
        num_envs (int): copies of all workers together, a multiple of ``num_workers``.
        seed (int): of the run, at least 0.
        num_workers (int): at least 1.

    Raises:
        ValueError: for numbers that do not fit.
    """

    def __init__(self, *, make_env: Callable[..., EnvBase], num_envs: int, seed: int = 0, num_workers: int = 2) -> None:
        check_counts(num_workers=num_workers)
        if num_envs % num_workers:
            raise ValueError(
                f"num_envs={num_envs} cannot be shared equally by {num_workers} workers: give a multiple of "
                f"{num_workers}"
            )
        self.make_env, self.num_envs, self.seed, self.num_workers = make_env, num_envs, seed, num_workers

    def start(self, policy: Any, frames_per_batch: int, *, device: torch.device | None, frames: int) -> RemoteBatches:
        """Start them.

        Args:
            policy: whose weights the workers get.
            frames_per_batch: of all workers together.
            device: where batches go.
            frames: where the run is, from which their random numbers follow.

        Raises:
            ConfigError, WorkersNotStartedError: as :meth:`check`; the second also if they do not start.
        """
        self.check()
        seeds = [derived_seed(self.seed, part=worker + 1, frames=frames) for worker in range(self.num_workers)]
        envs = [WorkerEnv(self.make_env, self.num_envs // self.num_workers, seed) for seed in seeds]
        with kept_signal_handlers(), told(WorkersNotStartedError, "the workers did not start"):
            collector = self.connect(
                envs,
                on_cpu(policy),
                frames_per_batch=frames_per_batch,
                total_frames=sys.maxsize,
                collector_kwargs=[{**PLAIN, "postproc": Numbered(worker)} for worker in range(self.num_workers)],
                sync=True,
            )
        return RemoteBatches(collector, policy, device)

    @abstractmethod
    def check(self) -> None:
        """Refuse workers that could not start, before anything is written.

        Raises:
            ConfigError: saying why.
            WorkersNotStartedError: if a cluster that they need is not there.
        """

    @abstractmethod
    def connect(self, envs: list[WorkerEnv], policy: Any, **settings: Any) -> Any:
        """A collector of TorchRL whose workers are ready."""


def on_cpu(policy: Any) -> Any:
    """A copy of ``policy`` for workers without a GPU, with what its distribution keeps beside its buffers."""
    policy = copy.deepcopy(policy).cpu()
    for module in policy.modules():
        if isinstance(module, ProbabilisticTensorDictModule):
            module.distribution_kwargs = tree_map_only(Tensor, Tensor.cpu, module.distribution_kwargs)
    return policy


class RemoteBatches:
    """Endless batches ``[num_envs, time]`` from a collector of TorchRL, each of the policy's weights at that time.

    Args:
        collector: its workers number their batches.
        policy: whose weights they get.
        device: where batches go.
    """

    def __init__(self, collector: Any, policy: Any, device: torch.device | None) -> None:
        self._collector, self._policy, self._device = collector, policy, device
        self._batches = iter(collector)

    def __iter__(self) -> Iterator[TensorDictBase]:
        return self

    def __next__(self) -> TensorDictBase:
        """The next batch: the copies of the first worker, then those of the second and so on.

        Raises:
            NonFiniteError: a worker's.
            WorkerLostError: if one is gone.
        """
        with told(WorkerLostError, "a worker is gone or has failed"):
            self._collector.update_policy_weights_(TensorDict.from_module(self._policy).data.cpu())
            batch = next(self._batches)
        batch = batch.reshape(-1, batch.shape[-1])
        batch = batch[batch[WORKER][:, 0].argsort(stable=True)].exclude(WORKER[0])
        return batch if self._device is None else batch.to(self._device)

    def shutdown(self) -> None:
        """End the workers, as far as they are there."""
        with contextlib.suppress(Exception):
            self._collector.shutdown()
        for process in getattr(self._collector, "jobs", ()):  # of RPC, whose others wait for the one that is gone
            process.kill()


@dataclass(frozen=True)
class WorkerEnv:
    """Seeds a worker's random numbers, and then builds its environments."""

    make_env: Callable[..., EnvBase]
    num_envs: int
    seed: int

    def __call__(self) -> EnvBase:
        """The environments; the policy's noise is of torch's own generator."""
        torch.manual_seed(self.seed)
        return self.make_env(num_envs=self.num_envs, seed=self.seed)


@dataclass(frozen=True)
class Numbered:
    """Writes a worker's number into its batches, since they arrive in any order."""

    worker: int

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        """``batch`` with one more entry."""
        return batch.set(WORKER, torch.full(batch.shape, self.worker))


@contextlib.contextmanager
def told(kind: type[Exception], what: str) -> Iterator[None]:
    """Turn what goes wrong inside into errors of a kind that say so; a NaN stays one."""
    try:
        yield
    except Exception as error:
        if isinstance(error, NonFiniteError) or str(error).startswith("NonFiniteError"):  # RPC loses the type
            raise NonFiniteError(f"in a worker: {getattr(error, 'cause', error)}") from error
        raise kind(f"{what} ({type(error).__name__}: {error})") from error


@contextlib.contextmanager
def kept_signal_handlers() -> Iterator[None]:
    """Inside, libraries may install signal handlers; afterwards the ones of before are back."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
