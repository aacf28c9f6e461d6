"""Returns of episodes that begin and end anywhere in a batch, counted by hand."""

from __future__ import annotations

import math

import torch

from fpo_torchrl.tracking import EpisodeTracker


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
