"""Evaluation of a policy on fresh episodes, and pictures of them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type, step_mdp

from fpo_torchrl.checks import check_choice
from fpo_torchrl.flow import FixedNoise, RandomNoise, Solver, StartNoise, ZeroNoise
from fpo_torchrl.modules.chain import for_inference, is_flow
from fpo_torchrl.video import write_video

EVALUATION_SEED = 10_000
"""Added to the run's seed for evaluation, so that no training episode is evaluated."""
_SPREAD_INTERVAL = 10
START_NOISES: dict[str, Callable[[], StartNoise]] = {
    "random": RandomNoise,
    "zero": ZeroNoise,
    "fixed": FixedNoise,
}


@dataclass
class Evaluation:
    """Returns of the episodes of one evaluation, one per environment copy.

    ``interval`` is a 95 % bootstrap interval of the mean over episodes of this one policy; it says
    nothing about other training seeds. ``policy_s`` is the median time of one policy call, for all copies at once.
    ``action_spread`` is how much actions differ in one state, whatever start noise was evaluated: their standard
    deviation over random start noise, or a Gaussian's, in the states that were met, as a mean over the entries.
    """

    returns: list[float]
    policy_s: float
    action_spread: float

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
        numbers = {"mean": self.mean, "low": low, "high": high}
        return {**numbers, "policy_s": self.policy_s, "action_spread": self.action_spread, "returns": self.returns}


def decimals_of(scale: float) -> int:
    """Decimals that show returns of this size to about three digits: 0 for 1000, 2 for 1."""
    return max(0, 2 - math.floor(math.log10(scale))) if 0 < scale < math.inf else 2


def show_return(row: Mapping[str, Any], decimals: int | None = None) -> tuple[str, str]:
    """A mean return and its interval as text, without one where there is a single return.

    Args:
        row: with "mean", "low" and "high", and perhaps "returns", as :meth:`Evaluation.as_dict` has them.
        decimals: default about three digits.

    >>> show_return({"mean": 0.142, "low": 0.053, "high": 0.214})
    ('0.142', '[0.053, 0.214]')
    >>> show_return({"mean": 5.0, "low": 5.0, "high": 5.0, "returns": [5.0]})
    ('5.00', '-')
    """
    decimals = decimals if decimals is not None else max(1, decimals_of(abs(row["mean"])))
    low, high = (f"{row[name]:.{decimals}f}" for name in ("low", "high"))
    return f"{row['mean']:.{decimals}f}", "-" if len(row.get("returns", ())) == 1 else f"[{low}, {high}]"


def evaluation_table(evaluations: dict[str, Evaluation], task: str, counted: str = "episodes") -> str:
    """The evaluations as a small table of text; ``counted`` is what a return is of."""
    decimals = max(1, decimals_of(max(abs(evaluation.mean) for evaluation in evaluations.values())))
    lines = [
        f"evaluation on {task}",
        f"  {'start noise':<12} {'mean return':>12}   {'95 % interval of the mean':<26} {counted}",
    ]
    for noise, evaluation in evaluations.items():
        mean, interval = show_return(evaluation.as_dict(), decimals)
        lines.append(f"  {noise:<12} {mean:>12}   {interval:<26} {len(evaluation.returns)}")
    return "\n".join(lines)


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
    """The policy to evaluate and its exploration type: for a Gaussian, ``"zero"`` noise is its mode.

    Raises:
        ValueError: for an unknown start noise.
    """
    check_choice("noise", noise, START_NOISES)
    if is_flow(actor):
        return for_inference(actor, solver=solver, start_noise=START_NOISES[noise]()), ExplorationType.RANDOM
    return actor, ExplorationType.RANDOM if noise == "random" else ExplorationType.DETERMINISTIC


class ActionSpread:
    """How much a policy's actions differ in one state, from two more draws in every tenth step.

    Args:
        actor, solver: as :func:`evaluate` takes them.
        action_key: where the actor writes.
    """

    def __init__(self, actor: TensorDictModule, solver: Solver | None, action_key: NestedKey = "action") -> None:
        self.action_key = action_key
        self.policy, self.exploration = evaluation_policy(actor, "random", solver)
        self.variances: list[Tensor] = []

    def add(self, tensordict: TensorDictBase, step: int) -> None:
        """Draw in the states of ``tensordict``, with random numbers of its own."""
        if step % _SPREAD_INTERVAL:
            return
        with isolated_rng(step), set_exploration_type(self.exploration):
            first, second = (self.policy(tensordict.clone())[self.action_key].double() for _ in range(2))
        difference = first - second
        self.variances.append(difference.square().reshape(-1, difference.shape[-1]).mean(0).cpu() / 2)

    def mean(self) -> float:
        """Standard deviation in one state, as a mean over the action's entries."""
        return torch.stack(self.variances).mean(0).sqrt().mean().item() if self.variances else math.nan


@torch.no_grad()
def evaluate(
    actor: TensorDictModule,
    env: EnvBase,
    *,
    noise: str = "random",
    solver: Solver | None = None,
    seed: int = 0,
    on_step: Callable[[int], None] | None = None,
    max_steps: int | None = None,
    with_spread: bool = True,
) -> Evaluation:
    """Return of one episode in each copy of ``env``.

    Args:
        actor: a flow policy or any TorchRL policy.
        env: batched environment that does not spread its episodes; it is seeded and reset here.
        noise: start noise of the flow: ``"random"`` (the policy that is trained), ``"zero"`` or ``"fixed"``. A
            stochastic solver keeps its own noise, action noise is left out.
        solver: of the flow; default the actor's own.
        seed (int): of the environment and of the policy's noise.
        on_step: called with the number of steps taken, at the start and after each step, for recording.
        max_steps (int): stop after so many steps even if episodes go on; their returns are then incomplete.
        with_spread (bool): measure ``action_spread`` too, with two more calls of the policy in every tenth step; it is
            NaN without.
    """
    policy, exploration = evaluation_policy(actor, noise, solver)
    num_envs = env.batch_size.numel()
    returns = torch.zeros(num_envs, dtype=torch.float64)
    running = torch.ones(num_envs, dtype=torch.bool)
    acting_s, step, spread = [], 0, ActionSpread(actor, solver, env.action_key)
    with isolated_rng(seed), set_exploration_type(exploration):
        env.set_seed(seed)
        tensordict = env.reset()
        if on_step is not None:
            on_step(0)
        while running.any() and step != max_steps:
            if with_spread:
                spread.add(tensordict, step)
            started = time.perf_counter()
            tensordict = policy(tensordict)
            if (action := tensordict[env.action_key]).is_cuda:
                torch.cuda.synchronize(action.device)
            acting_s.append(time.perf_counter() - started)
            tensordict, step = env.step(tensordict), step + 1
            reward, done = tensordict["next", "reward"], tensordict["next", "done"]
            returns += torch.where(running, reward.flatten().double().cpu(), 0.0)
            running &= ~done.flatten().cpu()
            if on_step is not None:
                on_step(step)
            tensordict = env.maybe_reset(step_mdp(tensordict))
    return Evaluation(returns.tolist(), median(acting_s) if acting_s else math.nan, spread.mean())


def record(
    actor: TensorDictModule,
    env: EnvBase,
    path: str | Path,
    *,
    noise: str = "zero",
    solver: Solver | None = None,
    seed: int = 0,
    max_frames: int = 100,
) -> Path | None:
    """Save the beginning of one episode as an animation; None if the environment cannot draw itself.

    It plays at the speed of the simulation where ``env`` has a ``control_dt`` (s), else at ten steps a second.

    Args:
        env: environment with one copy and a method ``render(index) -> uint8 [height, width, 3]``.
        path: where to write, as a ``.gif`` or ``.mp4``.
        max_frames (int): pictures taken at most, 25 a second.
    """
    render = getattr(type(env), "render", None)  # not that of a simulator which a wrapper passes on
    if render is None:
        return None
    step_s = getattr(env, "control_dt", 0.1)
    interval = max(1, round(0.04 / step_s))
    pictures: list[np.ndarray] = []

    def draw(step: int) -> None:
        if step % interval == 0:
            pictures.append(render(env, 0))

    length = {"max_steps": interval * (max_frames - 1), "with_spread": False}
    evaluate(actor, env, noise=noise, solver=solver, seed=seed, on_step=draw, **length)
    write_video(pictures, path, duration_s=interval * step_s)
    return Path(path)


def try_to_record(
    actor: TensorDictModule, make_env: Callable[[], EnvBase], path: str | Path, *, task: str, **settings: Any
) -> str | None:
    """:func:`record` an episode of what ``make_env`` builds; where machine or task cannot draw, says why it did not."""
    try:
        recorded = record(actor, make_env(), path, **settings)
    except Exception as error:  # of drivers and packages for drawing, of any kind
        return f"drawing failed ({type(error).__name__}: {error})"
    return f"{task} cannot draw itself" if recorded is None else None
