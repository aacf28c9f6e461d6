"""How well a policy tracks each motion: success, time alive and position errors, as the paper's Table 2 has them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor

from fpo_torchrl.envs.humanoid import rotations
from fpo_torchrl.envs.humanoid.env import HumanoidEnv
from fpo_torchrl.envs.humanoid.goal import conditioned_bodies
from fpo_torchrl.evaluation import evaluate

_MM = 1000.0


def position_errors(own: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """Mean per-joint position errors (mm) of positions ``[3, num_bodies, n]`` in metres, each ``[n]``.

    ``"global"`` compares them as they are, ``"local"`` from the first body, the root, and ``"procrustes"`` after the
    similarity (turn, shift and scale) that brings ``own`` closest to the reference; for a single body it is 0.
    """
    aligned = _most_similar(own, reference)
    pairs = {
        "global": (own, reference),
        "local": (own - own[:, :1], reference - reference[:, :1]),
        "procrustes": (aligned, reference),
    }
    return {name: _MM * rotations.length(one - other).mean(0) for name, (one, other) in pairs.items()}


def _most_similar(points: Tensor, target: Tensor) -> Tensor:
    """``points`` ``[3, k, n]`` turned, shifted and scaled onto ``target`` (Umeyama 1991, Eq. 40-42)."""
    points, target = (it.double().permute(2, 1, 0) for it in (points, target))
    centre = target.mean(1, keepdim=True)
    points, spread = points - points.mean(1, keepdim=True), target - centre
    u, singular, vh = torch.linalg.svd(spread.mT @ points)
    sign = torch.ones_like(singular)
    sign[:, -1] = torch.linalg.det(u @ vh).sign()
    variance = points.square().sum((1, 2)).clamp_min(1e-12)
    scale = ((singular * sign).sum(-1) / variance)[:, None, None]
    turned = points @ (u * sign.unsqueeze(1) @ vh).mT
    return (scale * turned + centre).permute(2, 1, 0)


class TrackingRecorder:
    """Follows one episode of each copy of ``env`` and keeps what the scores are made of.

    Pass it as ``on_step`` to :func:`~fpo_torchrl.evaluation.evaluate`. A copy counts up to and with the step at
    which it loses the reference or the motion ends; what it does later, after its reset, does not.
    """

    def __init__(self, env: HumanoidEnv) -> None:
        self.env = env
        self.bodies = {"all": list(range(len(env.skeleton.bodies)))}
        self.bodies["conditioned"] = conditioned_bodies(env.skeleton, env.conditioning)

    def __call__(self, step: int) -> None:
        """Take the state of every copy after ``step`` steps."""
        env = self.env
        if step == 0:
            self.clip = env.clip.clone()
            self.running, self.lost = torch.ones_like(env.lost), torch.zeros_like(env.lost)
            self.steps = torch.zeros_like(env.clip)
            self.sums: dict[str, Tensor] = {}
            return
        self.steps += self.running
        for kind, bodies in self.bodies.items():
            errors = position_errors(env.bodies.pos[:, bodies], env.reference.pos[:, bodies])
            for name, error in errors.items():
                key = f"mpjpe_{name}_{kind}_mm"
                self.sums[key] = self.sums.get(key, 0.0) + torch.where(self.running, error.double(), 0.0)
        self.lost |= self.running & env.lost
        self.running &= ~(env.lost | env.out_of_time().to(env.lost.device))

    def by_copy(self) -> dict[str, Tensor]:
        """The scores of each copy's episode, ``[num_envs]``."""
        scores = {"success": (~self.lost).double(), "alive_s": self.steps * self.env.control_dt}
        return scores | {name: total / self.steps for name, total in self.sums.items()}


@dataclass(frozen=True)
class TrackingScores:
    """Scores by motion: ``success`` (share of episodes that got to the end), ``alive_s``, position errors in mm.

    ``"all"`` errors are those of all bodies, ``"conditioned"`` those of the bodies whose goal the policy sees.
    """

    clips: dict[str, dict[str, float]]

    @property
    def mean(self) -> dict[str, float]:
        """The mean over motions."""
        rows = list(self.clips.values())
        return {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}

    def as_dict(self) -> dict[str, Any]:
        """The numbers that are written to files."""
        return {"mean": self.mean, "clips": self.clips}


def evaluate_tracking(
    actor: TensorDictModule,
    env: HumanoidEnv,
    *,
    noise: str = "zero",
) -> TrackingScores:
    """Track every motion from its first frame to its end, or until the reference is lost.

    Args:
        actor: the policy.
        env: made with ``random_start=False``, at least one copy for each motion and time for the longest.
        noise: start noise of a flow, ``"random"``, ``"zero"`` or ``"fixed"``; a Gaussian samples or takes its mode.

    Raises:
        ValueError: if ``env`` starts at random, or leaves a motion out or cuts it short.
    """
    longest = int(env.motion_library.num_frames.max()) - 2
    num_motions = len(env.motion_library)
    if env.random_start or env.num_envs < num_motions or env.max_episode_steps < longest:
        raise ValueError(
            f"tracking is scored from the first frame of each of {num_motions} motions: make the environment with "
            f"random_start=False, num_envs of at least {num_motions} and max_episode_steps of at least {longest}"
        )
    recorder = TrackingRecorder(env)
    evaluate(actor, env, noise=noise, on_step=recorder, with_spread=False)
    scores = recorder.by_copy()
    rows = {
        name: {key: values[recorder.clip == number].mean().item() for key, values in scores.items()}
        for number, name in enumerate(env.motion_library.names)
    }
    return TrackingScores(rows)
