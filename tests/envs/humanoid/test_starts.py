"""Starts of episodes are drawn many at once: in any motion and frame, each only once, and kept in a saved state."""

from __future__ import annotations

import torch
from tensordict import TensorDict

from fpo_torchrl.envs.humanoid import HumanoidEnv
from fpo_torchrl.envs.humanoid.observation import observe


def make(**settings) -> HumanoidEnv:
    return HumanoidEnv("humanoid/planar", num_envs=8, num_threads=1, **settings)


def start_again(env: HumanoidEnv, *rows: int) -> None:
    """Start episodes in the middle of others."""
    mask = torch.zeros(8, 1, dtype=torch.bool)
    mask[list(rows)] = True
    env.reset(TensorDict({"_reset": mask}, batch_size=8))


def where(env: HumanoidEnv) -> list[tuple[int, int]]:
    return [*zip(env.clip.tolist(), env.frame.tolist(), strict=True)]


def test_what_is_observed_first_is_the_reference_and_its_next_frame():
    env = make()
    env.reset()
    for rows in ((0, 3), (1,), (2, 4, 5, 6, 7), (0, 1, 2, 3, 4, 5, 6)):
        start_again(env, *rows)
        torch.testing.assert_close(env.observe(), observe(*env.motion_library.now_and_next(env.clip, env.frame)))


def test_the_others_go_on_where_they_were():
    env = make()
    env.reset()
    before = where(env)
    start_again(env, 2, 5)
    assert [before[row] == now for row, now in enumerate(where(env))] == [row not in (2, 5) for row in range(8)]


def test_every_frame_but_the_last_two_is_a_start_and_none_is_drawn_by_the_dozen():
    env = make(cycles=1)
    lengths = env.motion_library.num_frames.tolist()
    env.reset()
    seen = []
    for _ in range(400):
        start_again(env, 1, 6, 7)
        seen += [where(env)[row] for row in (1, 6, 7)]
    expected = {(clip, frame) for clip, length in enumerate(lengths) for frame in range(length - 2)}
    assert set(seen) == expected
    assert max(map(seen.count, expected)) < 8 * len(seen) / len(expected)


def test_a_restored_environment_starts_in_the_same_places():
    env, other = make(), make(seed=7)
    env.reset()
    start_again(env, 0, 1, 2)
    other.set_state(env.get_state())
    for rows in ((3, 4), (5, 6, 7), (0, 1, 2, 3)):  # the last is drawn anew
        start_again(env, *rows)
        start_again(other, *rows)
        assert where(env) == where(other)
        assert torch.equal(env.observe(), other.observe())


def test_a_new_seed_leaves_nothing_of_the_old_draws():
    env, other = make(), make()
    env.reset()
    start_again(env, 0, 1, 2)
    for it in (env, other):
        it.set_seed(5)
        it.reset()
        start_again(it, 4)
    assert where(env) == where(other)


def test_a_state_that_was_saved_before_there_were_such_draws_is_loaded():
    """What is left of other draws is dropped: both begin with new ones."""
    env, other = make(), make(seed=7)
    for it, rows in ((env, (0, 1, 2)), (other, (3,))):
        it.reset()
        start_again(it, *rows)
    state = env.get_state()
    state = TensorDict({**state, "task": state["task"].exclude("start_clip", "start_frame", "start_num_left")})
    for it in (env, other):
        it.set_state(state.exclude("ended"))
        start_again(it, 1, 4)
    assert where(env) == where(other)


def test_fixed_starts_stay_fixed_whatever_state_is_loaded():
    env, drawn = make(random_start=False), make()
    drawn.reset()
    env.set_state(drawn.get_state())
    start_again(env, *range(8))
    assert where(env) == [(row % len(env.motion_library), 0) for row in range(8)]


def test_looking_at_the_state_changes_nothing():
    """However often rates are read on the way, and though they decide what is drawn."""
    env, seen = (make(failure_share=0.9, max_distance=0.1) for _ in range(2))
    for it in (env, seen):
        td = it.reset()
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            action = torch.rand(8, 12, generator=generator) * 2 - 1
            _, td = it.step_and_maybe_reset(td.set("action", action))
            if it is seen:
                it.get_state()
    torch.testing.assert_close(env.failures.rates, seen.failures.rates, rtol=1e-12, atol=0)
    assert where(env) == where(seen)
