"""What training reports, by hand: returns of episodes that begin and end anywhere in a batch, and summaries."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Unbounded

from fpo_torchrl.training.tracking import EpisodeTracker, describe, summarize


def batch(*rows: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One row per environment: digits are rewards, and a "|" after one ends the episode."""
    rewards = [[float(step[0]) for step in row.split()] for row in rows]
    done = [[step.endswith("|") for step in row.split()] for row in rows]
    return torch.tensor(rewards).unsqueeze(-1), torch.tensor(done).unsqueeze(-1)


def test_returns_go_on_across_batches():
    tracker = EpisodeTracker(2, skip_first=False)
    tracker.update(*batch("1 2| 3", "4 5 6"))
    assert list(tracker.returns) == [3.0]
    tracker.update(*batch("1 1 1|", "1| 2| 7"))
    # in the order of their ends: 4+5+6+1, then 2, then 3+1+1+1
    assert list(tracker.returns) == [3.0, 16.0, 2.0, 6.0]
    assert tracker.num_episodes == 4
    assert tracker.mean_return == (3 + 16 + 2 + 6) / 4
    assert tracker.running.tolist() == [0.0, 7.0]


def test_first_episodes_are_left_out_where_they_were_cut_short():
    tracker = EpisodeTracker(2, skip_first=True)
    tracker.update(*batch("1 2| 3|", "9 9 9"))
    assert list(tracker.returns) == [3.0]  # the second episode of the first copy
    tracker.update(*batch("5| 1 1", "9| 2| 1"))
    assert list(tracker.returns) == [3.0, 5.0, 2.0]


def test_the_mean_is_over_the_newest_episodes():
    tracker = EpisodeTracker(1, skip_first=False, window=2)
    assert math.isnan(tracker.mean_return)
    tracker.update(*batch("1| 2| 4|"))
    assert tracker.mean_return == 3.0
    assert tracker.num_episodes == 3


def test_a_restored_tracker_goes_on_as_the_first_would():
    first, second = EpisodeTracker(2), EpisodeTracker(2)
    first.update(*batch("1 2| 3", "4 5 6"))
    second.update(*batch("8| 8| 8|", "8 8 8|"))  # its own past must vanish
    second.load_state_dict(first.state_dict())
    for tracker in (first, second):
        tracker.update(*batch("1 1| 1|", "1| 2| 7"))
    assert list(second.returns) == list(first.returns) == [5.0, 2.0, 1.0]
    assert second.num_episodes == first.num_episodes == 3
    assert second.running.equal(first.running)


def test_where_episodes_begin_anew_the_unfinished_ones_are_forgotten():
    tracker = EpisodeTracker(2, skip_first=True)
    tracker.update(*batch("1| 2| 3", "4| 5 6"))
    tracker.restart_episodes()
    tracker.update(*batch("1| 7| 1", "1| 8| 1"))  # the first of each copy is cut short again
    assert list(tracker.returns) == [2.0, 7.0, 8.0]


def test_a_summary_has_means_extremes_and_the_first_ratios_error():
    rows = [(1.0, 0.5, 1.1, 0.25), (1.2, 0.9, 2.0, 0.75)]
    names = ("mean_ratio", "min_ratio", "max_ratio", "clip_fraction")
    history = [TensorDict({name: torch.tensor(v) for name, v in zip(names, row, strict=True)}) for row in rows]
    found = summarize(history, weight_max=torch.tensor(7.0))
    expected = {"ratio": 1.1, "ratio_min": 0.5, "ratio_max": 2.0, "clip_fraction": 0.5, "weight_max": 7.0}
    assert found == pytest.approx(expected | {"first_ratio_error": 0.5, "first_clip_fraction": 0.25})


class TestDescribe:
    def batch(self, action: list[list[float]]) -> TensorDict:
        """One environment, one action a step."""
        action = torch.tensor(action).unsqueeze(0)
        steps = action.shape[1]
        next = TensorDict(reward=torch.arange(float(steps)).reshape(1, steps, 1), batch_size=(1, steps))
        return TensorDict(action=action, next=next, batch_size=(1, steps))

    def test_by_hand(self):
        batch = self.batch([[1.0, 0.0], [-2.0, 2.0], [1.0, 1.0], [0.0, 1.0]])
        batch["advantage"] = torch.tensor([[[1.0], [3.0], [1.0], [3.0]]])
        found = describe(batch, Bounded(torch.tensor([[-2.0, 0.0]]), torch.tensor([[1.0, 2.0]]), (1, 2)))
        assert found["reward"] == 1.5
        assert found["advantage_std"] == 1.0
        assert found["action_saturation"] == 5 / 8  # 1, -2, 1 of the first entry, 0 and 2 of the second
        assert found["action_std"] == pytest.approx((math.sqrt(1.5) + math.sqrt(0.5)) / 2)

    def test_actions_without_bounds_are_never_saturated(self):
        assert "action_saturation" not in describe(self.batch([[1.0], [2.0]]), Unbounded((1, 1)))
        largest = torch.finfo().max
        for low, high in [(0.0, math.inf), (0.0, largest), (-largest, largest)]:  # the last as TorchRL has no bound
            spec = Bounded(torch.full((1, 1), low), torch.full((1, 1), high), (1, 1))
            assert describe(self.batch([[1.0], [2.0]]), spec)["action_saturation"] == 0

    def test_the_trainer_reports_them(self):
        (first, *_) = tiny.make_trainer(*tiny.CARTPOLE)
        assert 0 < first["action_std"] <= 1
        assert 0 <= first["action_saturation"] < 1
        assert first["advantage_std"] > 0
