"""The engines that run the workers: a Ray cluster, or processes of this machine by torch's RPC."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing import active_children
from typing import Any

import torch
from torchrl.collectors import Collector
from torchrl.envs import EnvBase

from fpo_torchrl.errors import ConfigError, WorkersNotStartedError
from fpo_torchrl.preemption import SIGNALS
from fpo_torchrl.remote.workers import RemoteWorkers, WorkerEnv, kept_signal_handlers, told


class RayWorkers(RemoteWorkers):
    """Workers in a Ray cluster: that of ``RAY_ADDRESS``, or the one that runs on this machine, or else a new one here.

    Args:
        cpus_per_worker (float): that Ray reserves for each, above 0.
        shared: as for :class:`RemoteWorkers`.

    Raises:
        ImportError: without Ray.
    """

    def __init__(self, *, cpus_per_worker: float = 1.0, **shared: Any) -> None:
        super().__init__(**shared)
        if cpus_per_worker <= 0:
            raise ValueError(f"cpus_per_worker must be above 0, got {cpus_per_worker}")
        if importlib.util.find_spec("ray") is None:
            raise ImportError("collector=ray needs Ray: pip install 'fpo-torchrl[ray]'")
        self.cpus_per_worker = cpus_per_worker

    def check(self) -> None:
        """Join or start the cluster, and refuse one without room for the workers."""
        import ray  # pyright: ignore[reportMissingImports] - of the extra "ray"

        if not ray.is_initialized():
            with kept_signal_handlers(), told(WorkersNotStartedError, "no Ray cluster was reached or started"):
                ray.init(include_dashboard=False, logging_level="warning")
        cpus = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        room = sum(int(there // self.cpus_per_worker) for there in cpus)
        if room < self.num_workers:
            raise ConfigError(
                f"collector.num_workers={self.num_workers}: the Ray cluster has room for {room}, with "
                f"collector.cpus_per_worker={self.cpus_per_worker:g} on machines of {cpus} CPUs"
            )

    def connect(self, envs: list[WorkerEnv], policy: Any, **settings: Any) -> Any:
        """Spread the workers over the machines of the cluster."""
        from torchrl.collectors.distributed import RayCollector

        each = {"num_cpus": self.cpus_per_worker, "scheduling_strategy": "SPREAD"}
        return RayCollector(envs, policy, collector_class=WorkerCollector, remote_configs=each, **settings)


class WorkerCollector(Collector):
    """A worker of Ray, which asks a collector that failed whether it is true: an endless one has no length to tell."""

    def __bool__(self) -> bool:
        return True


class RPCWorkers(RemoteWorkers):
    """Workers in processes of this machine, which torch's RPC talks to; it starts once in a process."""

    has_started = False

    def check(self) -> None:
        """Refuse a second start."""
        if RPCWorkers.has_started:
            raise ConfigError(
                "collector=rpc: RPC starts once in a process; start each run by itself, or use collector=ray"
            )

    def connect(self, envs: list[WorkerEnv], policy: Any, **settings: Any) -> Any:
        """Start the processes; what signals the learner gets, such as Ctrl-C, is not for them."""
        from torchrl.collectors.distributed import RPCCollector

        RPCWorkers.has_started = True
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        others = {*active_children()}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # which processes started from here on inherit
        try:
            threads = max(1, torch.get_num_threads() // len(envs))
            places = zip(envs, shares(len(envs)), strict=True)
            own = [RPCWorkerEnv(env, threads, cores, os.getpid()) for env, cores in places]
            return RPCCollector(own, policy, launcher="mp", tcp_port=port, **settings)
        except Exception:
            for process in {*active_children()} - others:
                process.kill()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class RPCWorkerEnv:
    """A :class:`WorkerEnv` that also limits the worker's threads and cores, and ends it when the learner has died."""

    make_env: WorkerEnv
    num_threads: int
    cores: frozenset[int]
    learner: int

    def __call__(self) -> EnvBase:
        """The environments."""
        torch.set_num_threads(self.num_threads)
        if self.cores:  # for RPC's own threads too, one of which collects; the physics takes every core that it may
            for thread in os.listdir("/proc/self/task"):
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.sched_setaffinity(int(thread), self.cores)
        threading.Thread(target=self._watch, daemon=True).start()
        return self.make_env()

    def _watch(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(self.learner, 0)  # tells whether it is there
                time.sleep(1)
        os._exit(1)


def shares(num_workers: int) -> list[frozenset[int]]:
    """The cores of this process, dealt out to workers; every worker has one, and none where cores cannot be chosen."""
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    return [frozenset(cores[worker % max(1, len(cores)) :: num_workers]) for worker in range(num_workers)]
