"""Evaluation of a policy on fresh episodes, and pictures of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict.nn import TensorDictModule
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from fpo_torchrl.flow import FixedNoise, RandomNoise, Solver, StartNoise, ZeroNoise
from fpo_torchrl.modules.actor import FlowActor

START_NOISES: dict[str, Callable[[], StartNoise]] = {
    "random": RandomNoise,
    "zero": ZeroNoise,
    "fixed": FixedNoise,
}


@dataclass
class Evaluation:
    """Returns of the episodes of one evaluation, one per environment copy.

    ``interval`` is a 95 % bootstrap interval of the mean over episodes of this one policy; it says
    nothing about other training seeds.
    """

    returns: list[float]
    latency_s: float

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % percentile bootstrap interval of the mean."""
        generator = np.random.default_rng(0)
        draws = generator.choice(self.returns, (2000, len(self.returns))).mean(1)
        low, high = np.percentile(draws, [2.5, 97.5])
        return float(low), float(high)

    def as_dict(self) -> dict[str, Any]:
        """The numbers that are written to files."""
        low, high = self.interval
        return {"mean": self.mean, "low": low, "high": high, "latency_s": self.latency_s, "returns": self.returns}


@contextlib.contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Random numbers of their own inside, so that evaluating does not change the training that goes on."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        yield


def evaluation_policy(
    actor: TensorDictModule, noise: str, solver: Solver | None = None
) -> tuple[TensorDictModule, ExplorationType]:
    """The policy to evaluate and its exploration type: for a Gaussian, ``"zero"`` noise is its mode."""
    if isinstance(actor, FlowActor):
        return actor.for_inference(solver=solver, start_noise=START_NOISES[noise]()), ExplorationType.RANDOM
    return actor, ExplorationType.RANDOM if noise == "random" else ExplorationType.DETERMINISTIC


@torch.no_grad()
def evaluate(
    actor: TensorDictModule,
    env: EnvBase,
    *,
    noise: str = "random",
    solver: Solver | None = None,
    seed: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> Evaluation:
    """Return of one episode in each copy of ``env``.

    Args:
        actor: a :class:`FlowActor` or any TorchRL policy.
        env: batched environment that does not spread its episodes; it is seeded and reset here.
        noise: start noise of the flow: ``"random"`` (the policy that is trained), ``"zero"`` or ``"fixed"``.
        solver: of the flow; default the actor's own.
        seed (int): of the environment and of the policy's noise.
        on_step: called with the step's index, for recording.
    """
    policy, exploration = evaluation_policy(actor, noise, solver)
    env.set_seed(seed)
    num_envs = env.batch_size.numel()
    returns = torch.zeros(num_envs, dtype=torch.float64)
    running = torch.ones(num_envs, dtype=torch.bool)
    acting, step = 0.0, 0
    with isolated_rng(seed), set_exploration_type(exploration):
        tensordict = env.reset()
        while running.any():
            if on_step is not None:
                on_step(step)
            started = time.perf_counter()
            tensordict = policy(tensordict)
            acting += time.perf_counter() - started
            tensordict, following = env.step_and_maybe_reset(tensordict)
            reward, done = tensordict["next", "reward"], tensordict["next", "done"]
            returns += torch.where(running, reward.flatten().double().cpu(), 0.0)
            running &= ~done.flatten().cpu()
            tensordict, step = following, step + 1
    return Evaluation(returns.tolist(), acting / (step * num_envs))


def record(
    actor: TensorDictModule,
    env: EnvBase,
    path: str | Path,
    *,
    noise: str = "zero",
    seed: int = 0,
    max_frames: int = 150,
) -> Path | None:
    """Save the beginning of one episode as an animated GIF; None if the environment cannot draw itself.

    Args:
        env: environment with one copy and a method ``render(index) -> uint8 [height, width, 3]``.
        path: where to write.
        max_frames (int): pictures taken, one every second step of the episode.
    """
    import imageio.v3 as iio

    render = getattr(env, "render", None)
    if render is None:
        return None
    pictures: list[np.ndarray] = []

    def draw(step: int) -> None:
        if step % 2 == 0 and len(pictures) < max_frames:
            pictures.append(render(0))

    evaluate(actor, env, noise=noise, seed=seed, on_step=draw)
    destination = Path(path)
    iio.imwrite(destination, np.stack(pictures), extension=".gif", duration=40, loop=0)
    return destination
