"""What an iteration of training reports: returns of finished episodes, and summaries of a batch and its updates."""

from __future__ import annotations

from collections import deque

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import Bounded, TensorSpec

from fpo_torchrl.modules.squash import is_bound


class EpisodeTracker:
    """Sums rewards per environment copy and keeps the returns of the newest finished episodes.

    Args:
        num_envs (int): copies of the environment.
        skip_first (bool): leave out each copy's first episode, for environments that start their
            episodes spread out and so cut the first ones short.
        window (int): number of episodes that :attr:`mean_return` averages over.
    """

    def __init__(self, num_envs: int, *, skip_first: bool = True, window: int = 100) -> None:
        self.skip_first = skip_first
        self.running = torch.zeros(num_envs, dtype=torch.float64)
        self.complete = torch.full((num_envs,), not skip_first)
        self.returns: deque[float] = deque(maxlen=window)
        self.num_episodes = 0

    def update(self, reward: Tensor, done: Tensor) -> None:
        """Add a batch: ``reward`` and ``done`` of shape ``[num_envs, time, 1]``."""
        for r, d in zip(reward.double().cpu().squeeze(-1).T, done.cpu().squeeze(-1).T, strict=True):
            self.running += r
            finished = self.running[d & self.complete].tolist()
            self.returns.extend(finished)
            self.num_episodes += len(finished)
            self.running[d] = 0
            self.complete |= d

    def restart_episodes(self) -> None:
        """Forget the unfinished episodes, where the environment begins anew; the finished ones stay."""
        self.running.zero_()
        self.complete.fill_(not self.skip_first)

    @property
    def mean_return(self) -> float:
        """Mean return over the newest episodes, NaN before the first one has finished."""
        return sum(self.returns) / len(self.returns) if self.returns else float("nan")

    def state_dict(self) -> dict:
        """What a checkpoint stores."""
        return {
            "running": self.running.clone(),
            "complete": self.complete.clone(),
            "returns": torch.tensor(list(self.returns), dtype=torch.float64),
            "num_episodes": self.num_episodes,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.running.copy_(state["running"])
        self.complete.copy_(state["complete"])
        self.returns.clear()
        self.returns.extend(state["returns"].tolist())
        self.num_episodes = int(state["num_episodes"])


METRIC_NAMES = {"mean_ratio": "ratio", "min_ratio": "ratio_min", "max_ratio": "ratio_max"}
"""Names in the metrics of some entries of a loss."""


def summarize(history: list[TensorDictBase], **beside: Tensor) -> dict[str, float]:
    """Means over an iteration's minibatches, extremes of the ratio, and how far the first ratio was from 1.

    Args:
        history: what each minibatch reported.
        beside: further scalars, which are then read from the device with these.
    """
    stacked: dict[str, Tensor] = TensorDict.stack(history).to_dict()
    stacked = {METRIC_NAMES.get(name, name): values.float() for name, values in stacked.items()}
    summary = {name: values.mean() for name, values in stacked.items()}
    extremes = {"ratio_min": torch.amin, "ratio_max": torch.amax}
    present = [name for name in extremes if name in stacked]
    for name in present:
        summary[name] = extremes[name](stacked[name])
    if present:
        summary["first_ratio_error"] = torch.stack([(stacked[name][0] - 1).abs() for name in present]).amax()
    if "clip_fraction" in stacked:
        summary["first_clip_fraction"] = stacked["clip_fraction"][0]
    summary |= {name: value.float() for name, value in beside.items()}
    values = torch.stack(list(summary.values())).tolist()
    return dict(zip(summary, values, strict=True))


def describe(
    batch: TensorDictBase,
    action_spec: TensorSpec,
    *,
    action_key: NestedKey = "action",
    advantage_key: NestedKey = "advantage",
) -> dict[str, float]:
    """Mean reward of a batch ``[num_envs, time]``, spread of its raw advantages and of its actions, and saturation.

    Saturation is the share of the actions' entries within 0.1 % of their range from a bound; there is none without two.
    """
    action: Tensor = batch.get(action_key)
    values = {"reward": batch["next", "reward"].float().mean()}
    values["action_std"] = torch.std(action, (0, 1), correction=0).mean()
    if (advantage := batch.get(advantage_key, None)) is not None:
        values["advantage_std"] = advantage.std(correction=0)
    if isinstance(action_spec, Bounded):
        low, high = (bound.unsqueeze(1) for bound in (action_spec.low, action_spec.high))
        margin = 1e-3 * (high - low)
        saturated = (action <= low + margin) | (action >= high - margin)
        values["action_saturation"] = (saturated & is_bound(low) & is_bound(high)).float().mean()
    return dict(zip(values, torch.stack([*values.values()]).tolist(), strict=True))
