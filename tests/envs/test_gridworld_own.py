"""Worlds and starts of one's own."""

from __future__ import annotations

import pytest
import torch

from fpo_torchrl.envs import GridWorld
from fpo_torchrl.envs.gridworld_layout import Layout


@pytest.mark.parametrize("bad", [(17, 12), [17, 12], [(1, 2, 3)], [(1.5, 2)], ["ab"]])
def test_initial_cells_must_be_pairs(monkeypatch, bad):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # the checks of types, which only tests have
    with pytest.raises(ValueError, match=r"initial_cells must be pairs of whole numbers, as in \[\(17, 12\)\], got"):
        GridWorld("two_walls", initial_cells=bad)


def test_initial_cells_may_be_a_tensor(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    env = GridWorld("two_walls", num_envs=2, initial_cells=torch.tensor([[17, 12]]))
    env.reset()
    assert env.position.tolist() == [[17, 12]] * 2


@pytest.mark.parametrize(
    ("masks", "came"),
    [
        ({"wall": torch.zeros(5, 7, dtype=torch.bool)}, r"wall \[5, 7\]"),
        ({"goal": torch.zeros(5, 5)}, r"goal \[5, 5\] torch.float32"),
        (dict.fromkeys(("goal", "death", "wall"), torch.zeros(4, 4, dtype=torch.bool)), r"goal \[4, 4\]"),
        (dict.fromkeys(("goal", "death", "wall"), torch.tensor(True)), r"goal \[\]"),
        (dict.fromkeys(("goal", "death", "wall"), torch.zeros(1, 1, dtype=torch.bool)), r"goal \[1, 1\]"),
    ],
)
def test_layout_refuses_masks_that_do_not_fit(monkeypatch, masks, came):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    free = torch.zeros(5, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=rf"shape \[size, size\] with an odd size of at least 3, got .*{came}"):
        Layout("own", **(dict.fromkeys(("goal", "death", "wall"), free) | masks))


@pytest.mark.parametrize("masks", [{"wall": "all"}, {"goal": "corner", "death": "corner"}])
def test_layout_refuses_worlds_without_a_start_and_cells_of_two_kinds(masks):
    found = {name: torch.zeros(3, 3, dtype=torch.bool) for name in ("goal", "death", "wall")}
    for name, where in masks.items():
        found[name][0 if where == "corner" else slice(None)] = True
    with pytest.raises(ValueError, match="needs a free cell, and no cell may be two of"):
        Layout("own", **found)


def test_a_state_of_another_layout_is_refused():
    state = GridWorld("two_walls", num_envs=1, initial_cells=[(15, 12)])
    state.reset()
    with pytest.raises(ValueError, match="the state is of another layout than two_slits: an agent is in a wall"):
        GridWorld("two_slits", num_envs=1).set_state(state.get_state())
