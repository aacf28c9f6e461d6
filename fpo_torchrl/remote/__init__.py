"""Batches from workers in other processes or on other machines, through TorchRL's Ray and RPC collectors."""

from .engines import RayWorkers, RPCWorkers
from .workers import RemoteWorkers

__all__ = ["RPCWorkers", "RayWorkers", "RemoteWorkers"]
