"""A saved state: all that the future depends on is in it, and it fits the motions that it was saved with only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from motions import write_npz
from tensordict import TensorDict

from fpo_torchrl.checkpoint import Checkpointer
from fpo_torchrl.envs.humanoid import HumanoidEnv
from fpo_torchrl.errors import CheckpointError


def make(**settings) -> HumanoidEnv:
    return HumanoidEnv("humanoid/planar", num_envs=8, num_threads=1, **settings)


def play(env: HumanoidEnv, num_steps: int) -> None:
    """Reset and step without an action; what ends starts again."""
    td = env.reset()
    for _ in range(num_steps):
        _, td = env.step_and_maybe_reset(td.set("action", torch.zeros(8, 12)))


def older(state: TensorDict) -> TensorDict:
    """The state as versions saved it that did not know which motions it is of, and what was lost last."""
    return TensorDict({**state, "task": state["task"].exclude("motions", "lost")})


def folder(path, **num_frames: int) -> str:
    """A folder of motions by name."""
    path.mkdir()
    for name, count in num_frames.items():
        write_npz(path / f"{name}.npz", num_frames=count)
    return str(path)


def test_what_was_lost_in_the_last_step_counts_after_a_restore_too():
    env = make(failure_share=0.9, max_distance=0.02, spread_episodes=False)
    td = env.reset()
    while not td["terminated"].any():
        td = env.step(td.exclude("reward").set("action", torch.zeros(8, 12)))["next"]
    env.failures.rates.fill_(0.5)
    other = make(failure_share=0.9, max_distance=0.02, seed=7)
    other.set_state(env.get_state())
    for one in (env, other):
        one.reset(TensorDict({"_reset": td["terminated"]}, batch_size=8))
    assert (env.failures.rates > 0.5).any()
    assert torch.equal(other.failures.rates, env.failures.rates)
    assert torch.equal(other.clip, env.clip)


def test_a_state_of_an_older_version_is_loaded():
    env, other = make(cycles=1), make(cycles=1, seed=7)
    play(env, 3)
    other.set_state(older(env.get_state()))
    assert torch.equal(other.clip, env.clip)
    assert torch.equal(other.reset()["observation"], env.observe())


@pytest.mark.parametrize(
    ("frames", "settings", "message"),
    [
        ({"walk": 12}, {}, r"jump \(9 frames then, 0 now\). Take the motions, clips, mirror and cycles"),
        ({"walk": 12, "jump": 8}, {}, r"jump \(9 frames then, 8 now\)"),
        ({"walk": 12, "run": 9}, {}, r"jump \(9 frames then, 0 now\), run \(0 frames then, 9 now\)"),
        ({"walk": 12, "jump": 9}, {"clips": ["walk", "jump"]}, "in another order"),
        ({"walk": 12, "jump": 9}, {"mirror": True}, r"jump_mirrored \(0 frames then, 9 now\)"),
        (dict.fromkeys("abcdefg", 9), {}, r"c \(0 frames then, 9 now\) and 4 more. Take"),
    ],
)
def test_a_state_of_other_motions_is_refused_and_changes_nothing(tmp_path, frames, settings, message):
    env = make(motions=folder(tmp_path / "then", walk=12, jump=9), mirror=False)
    play(env, 2)
    other = make(motions=folder(tmp_path / "now", **frames), **{"mirror": False, **settings})
    other.reset()
    before = other.get_state()
    with pytest.raises(ValueError, match=f"saved with other motions: .*{message}"):
        other.set_state(env.get_state())
    assert (other.get_state() == before).all()


class Saved:
    """An environment as a component of checkpoints."""

    def __init__(self, env: HumanoidEnv) -> None:
        self.env = env

    def state_dict(self) -> dict[str, Any]:
        return self.env.get_state().to_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env.set_state(TensorDict(state))


def test_a_checkpoint_of_other_motions_is_refused_in_words(tmp_path):
    long, same, short = make(cycles=3), make(cycles=3, seed=7), make(cycles=1)
    play(long, 2)
    path = Checkpointer(tmp_path, env=Saved(long)).save(1)
    Checkpointer(tmp_path, env=Saved(same)).load(path)
    assert torch.equal(same.frame, long.frame)
    with pytest.raises(CheckpointError, match=r"other motions: stroll \(\d+ frames then, \d+ now\)"):
        Checkpointer(tmp_path, env=Saved(short)).load(path)


def test_it_goes_on_outside_of_inference_mode():
    env = make(failure_share=0.5, max_episode_steps=2)
    for go_on in (lambda: None, lambda: env.set_state(env.get_state()), lambda: env.set_seed(0)):
        with torch.inference_mode():
            play(env, 4)
        go_on()
        play(env, 4)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_gradients_go_through_what_a_step_returns(num_envs):
    env = HumanoidEnv("humanoid/planar", num_envs=num_envs, num_threads=1)
    step = env.rollout(1)[:, 0]["next"]
    for entry in (step["observation"], step["reward"]):
        weight = torch.zeros_like(entry, requires_grad=True)
        (weight * entry).sum().backward()
        assert torch.equal(weight.grad, entry)
        entry.add_(1)
