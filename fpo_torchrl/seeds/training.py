"""Iterations of several agents: one agent after the other, or all at once, vectorized with vmap."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, TypeVar

import torch
from tensordict import TensorDictBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from fpo_torchrl.errors import NonFiniteError
from fpo_torchrl.seeds.stack import Member, Stack

Result = TypeVar("Result")
Results = dict[Member, dict[str, float] | NonFiniteError]
"""Of an iteration, for each agent: its metrics, or the error that ended it. The caller may replace an agent's metrics
by an error, which ends that agent."""
Stacks = Callable[[tuple[Member, ...]], Stack]
"""Gives the stack of some agents."""


def train_in_turn(members: Sequence[Member]) -> Iterator[Results]:
    """Train agent by agent, an iteration each: bit for bit what each would do alone.

    An agent that diverges or reaches its ``total_frames`` drops out.
    """
    running = {member: iter(member.trainer) for member in members}
    while running:
        answers = {member: _guarded(member, partial(next, it, None)) for member, it in running.items()}
        results = {member: answer for member, answer in answers.items() if answer is not None}
        if results:
            yield results
        running = {member: running[member] for member, result in results.items() if isinstance(result, dict)}


def train_together(members: Sequence[Member]) -> Iterator[Results]:
    """Train all agents at once, policy and losses by ``torch.vmap`` over their stacked weights.

    Each does what it would do alone, up to the rounding of batched matrix products: environments, random numbers,
    minibatches, norm limits and optimiser are its own. The seconds in the metrics are an agent's share of those of
    all, so that they add up as those of :func:`train_in_turn` do. An agent that diverges or reaches its
    ``total_frames`` drops out.

    Args:
        members: agents with the same settings but for their seeds.

    Raises:
        ConfigError: for a policy, loss or trainer that cannot be mapped.
    """
    stacks = lru_cache(maxsize=1)(Stack)  # another one is built when an agent is gone
    running = [member for member in members if not _is_done(member)]
    carried = {}
    for member in running:
        with member.generator:
            carried[member] = member.trainer.start()._carrier
    while running:
        started = time.perf_counter()
        batches = _collect(stacks, carried)
        collected = time.perf_counter()
        answers = _learn(stacks, batches)
        updated = time.perf_counter()
        times = {"collect_s": (collected - started) / len(running), "update_s": (updated - collected) / len(running)}
        results = {
            member: member.trainer.report(batches[member], answer, **times) if isinstance(answer, dict) else answer
            for member, answer in answers.items()
        }
        yield results
        running = [m for m, result in results.items() if isinstance(result, dict) and not _is_done(m)]
        carried = {member: carried[member] for member in running}


def _is_done(member: Member) -> bool:
    return member.trainer.frames >= member.trainer.total_frames


@torch.no_grad()
def _collect(stacks: Stacks, carried: dict[Member, TensorDictBase]) -> dict[Member, TensorDictBase | NonFiniteError]:
    """The next batch ``[num_envs, time]`` of every agent, or the error of its environment; moves ``carried`` on."""
    steps: dict[Member, list[TensorDictBase]] = {member: [] for member in carried}
    broken: dict[Member, NonFiniteError] = {}
    trainer = next(iter(carried)).trainer
    with set_exploration_type(ExplorationType.RANDOM):
        for _ in range(trainer.frames_per_batch // trainer.env.batch_size.numel()):
            acting = [member for member in carried if member not in broken]
            if not acting:
                break
            seen = torch.stack([carried[member].select(*trainer.actor.in_keys) for member in acting])
            for member, acted in zip(acting, stacks(tuple(acting)).act(seen).unbind(0), strict=True):
                try:
                    with member.generator:  # an environment may draw from torch's own
                        step, carried[member] = member.trainer.env.step_and_maybe_reset(carried[member].update(acted))
                except NonFiniteError as error:
                    broken[member] = error
                else:
                    steps[member].append(step)
    batches = {member: torch.stack(of_member, -1) for member, of_member in steps.items() if member not in broken}
    return {**batches, **broken}


def _learn(stacks: Stacks, batches: dict[Member, TensorDictBase | NonFiniteError]) -> dict[Member, Any]:
    """The metrics of every agent's update, or the error that ended it."""
    results: dict[Member, Any] = {member: batch for member, batch in batches.items() if isinstance(batch, Exception)}
    updates = {m: m.trainer.minibatches(batch) for m, batch in batches.items() if not isinstance(batch, Exception)}
    while updates:
        minibatches = {member: _guarded(member, partial(next, update, None)) for member, update in updates.items()}
        for member, minibatch in minibatches.items():
            if minibatch is None:  # the update is over
                results[member] = _guarded(member, partial(member.trainer.end_update, batches[member]))
            elif isinstance(minibatch, NonFiniteError):
                results[member] = minibatch
        updates = {member: update for member, update in updates.items() if member not in results}
        if not updates:
            break
        losses = stacks(tuple(updates)).backward([minibatches[member] for member in updates])
        for member, reported in zip(updates, losses, strict=True):
            with member.generator:
                member.trainer.step(reported)
    return {member: results[member] for member in batches}


def _guarded(member: Member, compute: Callable[[], Result]) -> Result | NonFiniteError:
    """What ``compute`` gives on the agent's random numbers, or the error if the agent diverged."""
    try:
        with member.generator:
            return compute()
    except NonFiniteError as error:
        return error
