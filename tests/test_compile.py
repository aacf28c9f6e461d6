"""What ``trainer.compile`` computes is what the uncompiled trainer does: actions, losses, gradients, trained weights.

Compiled code cannot run below the shape checks that pytest adds to the equations, so each test is a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from fpo_torchrl import ZeroNoise
from fpo_torchrl.trainer import Trainer
from fpo_torchrl.training.collecting import make_collector

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))),
    reason="torch.compile on a CPU needs a C++ compiler",
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
LOSSES = {
    "fpo": (),
    "seeded": ("actor.noise_storage=seed",),
    "fpopp": ("loss=fpopp",),
    "ppo": ("actor=gaussian", "loss=ppo", "actor.squash=none"),
}
POLICIES = {"fpo": (), "fpopp": ("actor=flow_fpopp", "loss=fpopp"), "dppo": ("actor=denoising", "loss=dppo")}
"""By name. Without squashing PPO's entropy is in closed form; else random actions estimate it."""
SIZES = tuple(o for o in tiny.CARTPOLE if not o.startswith("actor."))


def make_trainers(name: str, *overrides: str) -> tuple[Trainer, Trainer]:
    """An uncompiled and a compiled trainer with the same weights and environments."""
    trainers = []
    for setting in ("false", "true"):
        torch.manual_seed(0)
        trainers.append(tiny.make_trainer(*SIZES, *LOSSES[name], *overrides, f"trainer.compile={setting}"))
    return trainers[0], trainers[1]


def losses_and_gradients(trainer: Trainer, batch) -> dict[str, Tensor]:
    total, losses = trainer._evaluate(batch)
    total.backward()
    gradients = {key: p.grad for key, p in trainer.loss.named_parameters() if p.grad is not None}
    return {"total": total.detach(), **losses.to_dict(), **gradients}


def errors_of_one_step(name: str, device: str) -> dict[str, float]:
    """Largest difference of each loss, diagnostic and gradient, relative to its largest entry."""
    eager, compiled = make_trainers(name, f"device={device}")
    batch = next(iter(eager.start()))
    eager.advantage(batch)
    with torch.no_grad():  # away from a ratio of 1, where the trust region is flat
        for mine, theirs in zip(eager.loss.parameters(), compiled.loss.parameters(), strict=True):
            theirs.copy_(mine.add_(0.05 * torch.randn_like(mine)))
    expected, found = (losses_and_gradients(trainer, batch.reshape(-1)) for trainer in (eager, compiled))
    assert expected.keys() == found.keys()
    assert len([value for value in expected.values() if value.ndim and value.any()]) > 8  # gradients of both networks
    scale = {key: value.abs().max().clamp_min(1e-2) for key, value in expected.items()}
    return {key: ((found[key] - value).abs().max() / scale[key]).item() for key, value in expected.items()}


def errors_of_training(name: str, device: str) -> dict[str, float]:
    """Largest difference of trained weights and metrics after two iterations, whose last minibatches are smaller."""
    results = []
    for trainer in make_trainers(name, f"device={device}", "trainer.minibatch_size=24"):
        torch.manual_seed(1)
        metrics = [row for row, _ in zip(trainer, range(2), strict=False)][-1]
        results.append(([p.detach() for p in trainer.loss.parameters()], metrics))
    (eager, metrics), (compiled, compiled_metrics) = results
    names = ["loss_objective", "loss_critic", "grad_norm_actor", "grad_norm_critic"]
    errors = {key: abs(metrics[key] - compiled_metrics[key]) for key in names}
    return errors | {"weights": max((a - b).abs().max().item() for a, b in zip(eager, compiled, strict=True))}


def errors_of_collection(name: str, device: str) -> dict[str, float]:
    """Largest difference of each entry of three batches: of a compiled policy's from the uncompiled one's."""
    torch._inductor.config.fallback_random = True  # the same random numbers as without a compiler
    batches = []
    for compile in (False, True):
        torch.manual_seed(0)
        trainer = tiny.make_trainer(*SIZES, *POLICIES[name], f"device={device}")
        if device == "cuda":  # a graph has random numbers of its own
            trainer.actor.start_noise = ZeroNoise()
        torch.manual_seed(1)
        collector = make_collector(trainer.env, trainer.actor, 64, compile=compile)
        found = []
        for _ in range(3):
            found.append(next(iter(collector)).clone())
            with torch.no_grad():  # as an update does, in place
                for weight in trainer.actor.parameters():
                    weight.mul_(1.1)
            trainer.normalizer.update(found[-1]["observation"])
        batches.append(torch.stack(found))
    eager, compiled = batches
    drawn = set(trainer.actor.flow_keys) - {"flow_action"} if device == "cuda" else set()
    if drawn:
        noise = compiled["flow_noise"]
        assert (noise[1:] != noise[:-1]).all()
        assert noise.mean().abs() < 0.2
        assert 0.8 < noise.std() < 1.2
    keys = [key for key in eager.keys(True, True) if key not in {*drawn, "action_log_prob"}]
    return {str(key): (eager[key].double() - compiled[key].double()).abs().max().item() for key in keys}


def in_a_process(function: str, *arguments: str) -> dict[str, float]:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, function, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@needs_compiler
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_the_uncompiled_ones(name):
    errors = in_a_process("errors_of_one_step", name, "cpu")
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.slow
@pytest.mark.timeout(1200)
@needs_compiler
def test_a_compiled_trainer_learns_the_same():
    errors = in_a_process("errors_of_training", "fpo", "cpu")
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.slow
@pytest.mark.timeout(1200)
@needs_compiler
@pytest.mark.parametrize("name", POLICIES)
def test_a_compiled_policy_collects_the_same(name):
    errors = in_a_process("errors_of_collection", name, "cpu")
    assert {"action", "flow_action", "('next', 'reward')"} <= errors.keys()
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.gpu
@pytest.mark.timeout(600)
@needs_cuda
@pytest.mark.parametrize("name", ["fpo", "fpopp"])
def test_a_policy_in_a_cuda_graph_collects_the_same(name):
    errors = in_a_process("errors_of_collection", name, "cuda")
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.parametrize(
    ("overrides", "compilable"),
    [
        ((), True),
        (("actor/solver=random_steps",), False),
        (("actor/solver=random_steps_per_rollout",), False),
        (("actor=gaussian", "loss=ppo"), False),
    ],
)
def test_a_policy_that_draws_its_steps_or_looks_at_values_is_not_compiled(overrides, compilable):
    trainer = tiny.make_trainer(*SIZES, *overrides)
    collector = make_collector(trainer.env, trainer.actor, 64, compile=True)
    assert collector.compiled_policy is compilable


@pytest.mark.gpu
@pytest.mark.timeout(600)
@needs_cuda
@pytest.mark.parametrize("name", LOSSES)
def test_cuda_graphs_compute_what_eager_does(name):
    errors = in_a_process("errors_of_one_step", name, "cuda")
    assert max(errors.values()) < 1e-3, errors


@pytest.mark.gpu
@pytest.mark.timeout(600)
@needs_cuda
def test_a_graph_that_is_replayed_does_not_write_over_earlier_results():
    errors = in_a_process("errors_of_training", "fpo", "cuda")
    assert max(errors.values()) < 1e-3, errors


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
