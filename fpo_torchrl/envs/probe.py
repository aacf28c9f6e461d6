"""Probe environments: tiny tasks with a known solution that show in seconds which part of a learner is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fpo_torchrl.checks import check_choice

from .base import BatchedEnv

TARGET = 0.5
"""The best action of the ``action`` probe, and of the ``both`` probe per unit of observation."""
MODE = 0.7
"""The bandit's two best actions are +MODE and -MODE in every coordinate."""
MODE_WIDTH = 0.15
"""Standard deviation of the bandit's two reward bumps."""


@dataclass(frozen=True)
class Probe:
    """One probe: which observations start an episode, how long it lasts, what it pays, what is best.

    Each step pays ``reward(observation, action)`` and adds 1 to the observation.
    """

    tests: str
    reward: Callable[[Tensor, Tensor], Tensor]
    optimal_value: Callable[[Tensor, float], Tensor]
    """Value of an observation ``[..., 1]`` under the best policy, given the discount."""
    optimal_action: Callable[[Tensor], Tensor] | None = None
    """Best action ``[..., 1]`` for an observation; None where every action (or more than one) is best."""
    start_observations: tuple[float, ...] = (0.0,)
    num_steps: int = 1


def bimodal_reward(action: Float[Tensor, "*batch act"]) -> Float[Tensor, "*batch"]:
    """The bandit's reward: 1 at both modes, almost 0 (2e-5) at their mean.

    >>> bimodal_reward(torch.tensor([[0.7], [-0.7], [0.0]])).round(decimals=3)
    tensor([1., 1., 0.])
    """
    to_mode = [((action - mode) ** 2).mean(-1) for mode in (-MODE, MODE)]
    return (-0.5 * torch.minimum(*to_mode) / MODE_WIDTH**2).exp()


def modes_found(actions: Float[Tensor, "*batch act"], radius: float = 0.25) -> Float[Tensor, " modes"]:
    """Share of the bandit's sampled actions that lie near the mode at -0.7 and near the one at +0.7.

    An action is near a mode if no coordinate is further than ``radius`` from it. Both shares well above 0,
    with a sum near 1, means that both modes were found; one Gaussian cannot do that.

    >>> modes_found(torch.tensor([[0.7], [0.6], [-0.8], [0.0]]))
    tensor([0.2500, 0.5000])
    """
    near = [((actions - mode).abs() <= radius).all(-1).float().mean() for mode in (-MODE, MODE)]
    return torch.stack(near)


def _one(observation: Tensor, gamma: float = 0.0) -> Tensor:
    return torch.ones_like(observation)


def _near(target: Tensor, action: Tensor) -> Tensor:
    return 1 - ((action - target) ** 2).mean(-1)


PROBES: dict[str, Probe] = {
    "constant": Probe(
        tests="the value loss and the optimiser",
        reward=lambda observation, action: torch.ones_like(observation[..., 0]),
        optimal_value=_one,
    ),
    "observation": Probe(
        tests="that the value depends on the observation",
        reward=lambda observation, action: observation[..., 0],
        optimal_value=lambda observation, gamma: observation,
        start_observations=(-1.0, 1.0),
    ),
    "delayed": Probe(
        tests="discounting and bootstrapping: 0 on the first step, 1 on the second",
        reward=lambda observation, action: observation[..., 0],
        optimal_value=lambda observation, gamma: torch.where(observation > 0.5, 1.0, gamma),
        num_steps=2,
    ),
    "action": Probe(
        tests="the policy loss: pays 1 - (action - 0.5)^2",
        reward=lambda observation, action: _near(torch.full_like(observation, TARGET), action),
        optimal_value=_one,
        optimal_action=lambda observation: torch.full_like(observation, TARGET),
    ),
    "both": Probe(
        tests="that the policy depends on the observation: pays 1 - (action - 0.5 observation)^2",
        reward=lambda observation, action: _near(TARGET * observation, action),
        optimal_value=_one,
        optimal_action=lambda observation: TARGET * observation,
        start_observations=(-1.0, 1.0),
    ),
}
"""The five probes; each tests what the ones before it do not."""

BIMODAL = Probe(
    tests="that the policy represents two equally good actions",
    reward=lambda observation, action: bimodal_reward(action),
    optimal_value=_one,
)


class ProbeEnv(BatchedEnv):
    """A task from :data:`PROBES`, each with a known optimal value V* and action a*.

    ==============  ===========================  =====================  ============
    name            reward                       V*                     a*
    ==============  ===========================  =====================  ============
    constant        1                            1                      any
    observation     observation (-1 or 1)        observation            any
    delayed         0, then 1                    gamma at 0, 1 at 1     any
    action          1 - (a - 0.5)^2              1                      0.5
    both            1 - (a - 0.5 observation)^2  1                      0.5 observation
    ==============  ===========================  =====================  ============

    Keys: ``"observation"`` ``[num_envs, 1]``, ``"action"`` ``[num_envs, action_dim]``, clipped to [-1, 1].
    Episodes terminate after one step, those of ``delayed`` after two.

    Args:
        probe (str or Probe): a name in :data:`PROBES`, or a probe of your own.
        num_envs (int): copies, at least 1.
        action_dim (int): size of the action; rewards average over its coordinates.
        max_episode_steps (int): steps after which an episode is truncated; no probe lasts as long as the default.
        device, seed, spread_episodes: see :class:`BatchedEnv`.

    Raises:
        ValueError: if there is no probe of that name.

    >>> env = ProbeEnv("action", num_envs=2)
    >>> td = env.reset().set("action", torch.tensor([[0.5], [-0.5]]))
    >>> env.step(td)["next", "reward"].squeeze(-1)
    tensor([1., 0.])
    """

    def __init__(
        self,
        probe: str | Probe,
        *,
        num_envs: int = 1,
        action_dim: int = 1,
        max_episode_steps: int = 100,
        device: torch.device | str = "cpu",
        seed: int = 0,
        spread_episodes: bool = False,
    ) -> None:
        if isinstance(probe, str):
            check_choice("probe", probe, PROBES)
            probe = PROBES[probe]
        super().__init__(
            num_envs=num_envs,
            obs_dim=1,
            action_dim=action_dim,
            max_episode_steps=max_episode_steps,
            device=device,
            seed=seed,
            spread_episodes=spread_episodes,
        )
        self.probe = probe
        self.start_observations = torch.tensor(probe.start_observations, device=self.device)
        self.current = torch.zeros(num_envs, 1, device=self.device)
        self.steps_taken = torch.zeros(num_envs, dtype=torch.int64, device=self.device)

    def start_episodes(self, rows: Tensor) -> None:
        """Draw a start observation for each of ``rows``."""
        draw = torch.randint(len(self.start_observations), rows.shape, generator=self.generator, device=self.device)
        self.current[rows, 0] = self.start_observations[draw]
        self.steps_taken[rows] = 0

    def advance(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Pay for the action and count the step."""
        reward = self.probe.reward(self.observe(), action.clamp(-1, 1))  # which may return a part of the observation
        self.current += 1
        self.steps_taken += 1
        return reward, self.steps_taken >= self.probe.num_steps

    def observe(self) -> Tensor:
        """The current observation."""
        return self.current.clone()

    def task_state(self) -> dict[str, Tensor]:
        """The observation and the steps of each episode."""
        return {"current": self.current, "steps_taken": self.steps_taken}

    def load_task_state(self, state: dict[str, Tensor]) -> None:
        """Put every copy back."""
        self.current.copy_(state["current"])
        self.steps_taken.copy_(state["steps_taken"])


class BimodalBandit(ProbeEnv):
    """A one-step task whose reward is 1 at -0.7 and at +0.7 and almost 0 between them: V* is 1.

    A Gaussian reaches that value on one mode only, or covers both and pays for the middle; a flow can keep
    both. See :func:`bimodal_reward` for the reward and :func:`modes_found` for the measure.

    Args:
        kwargs: those of :class:`ProbeEnv`, without the probe.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(BIMODAL, **kwargs)
