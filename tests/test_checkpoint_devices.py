"""Checkpoints, weights and random numbers that move between machines with GPUs and without."""

from __future__ import annotations

import copy
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torchrl.checkpoint import GlobalRNGState

from fpo_torchrl import BetaTime
from fpo_torchrl.checkpoint import Checkpointer, RandomNumbers
from fpo_torchrl.modules.gaussian import gaussian_actor
from fpo_torchrl.remote.workers import on_cpu
from fpo_torchrl.seeds.generator import AgentGenerator


def as_if_from_a_gpu(path: Path) -> None:
    """Write into a checkpoint what TorchRL notes of tensors on a GPU."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    cpu, gpu = b'"device":"cpu"', b'"device":"cuda:0"'
    states = [name for name, content in members.items() if name.endswith("state.json") and cpu in content]
    assert states
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(cpu, gpu) if name in states else content)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to load to")
def test_weights_from_a_gpu_load_where_there_is_none(tmp_path, monkeypatch):
    saved, loaded = nn.Linear(3, 2), nn.Linear(3, 2)
    path = Checkpointer(tmp_path, net=saved).save(64)
    as_if_from_a_gpu(path)
    monkeypatch.setattr("fpo_torchrl.checkpoint.verify", lambda path: None)  # the checksums are of before
    Checkpointer(tmp_path, net=loaded).load(path)
    assert loaded.weight.equal(saved.weight)


def test_random_numbers_of_gpus_that_are_not_here_are_left_out():
    state = GlobalRNGState().state_dict()
    expected = torch.randn(3)
    RandomNumbers().load_state_dict(state | {"torch_cuda": [torch.zeros(16, dtype=torch.uint8)] * 64})
    assert torch.randn(3).equal(expected)


def test_an_agent_takes_the_random_numbers_of_the_current_gpu(monkeypatch):
    gpus = [torch.Generator().manual_seed(seed) for seed in range(3)]
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "default_generators", gpus)
    before = [gpu.get_state() for gpu in gpus]
    with AgentGenerator("cuda"):
        for gpu in gpus:
            gpu.manual_seed(99)
    assert [gpu.get_state().equal(state) for gpu, state in zip(gpus, before, strict=True)] == [False, False, True]


def test_bounds_of_a_gaussian_go_to_the_workers_cpu(monkeypatch):
    actor = gaussian_actor(obs_dim=3, action_dim=2, action_low=torch.tensor([-1.0, -2.0]), action_high=torch.ones(2))
    moved, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: moved.append(self.tolist()) or cpu(self))
    on_cpu(actor)
    assert [-1.0, -2.0] in moved


def test_a_copy_of_beta_times_keeps_only_the_tables_of_the_cpu():
    times = BetaTime(2.0, 3.0)
    times._tables[torch.device("meta")] = (torch.empty(0, device="meta"),) * 2  # as after a draw on another device
    assert {*copy.deepcopy(times)._tables} == {torch.device("cpu")}
