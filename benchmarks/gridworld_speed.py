"""Steps per second of GridWorld on one thread: plain tensors, ``EnvBase.step``, and stepping with resets.

python benchmarks/gridworld_speed.py --out benchmarks/results/gridworld_speed.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fpo_torchrl.envs import GridWorld, gridworld_step
from fpo_torchrl.files import write_json
from fpo_torchrl.provenance import origin


def steps_per_s(step: Callable[[], None], num_envs: int, num_steps: int, num_repeats: int) -> dict[str, float]:
    """Environment steps per second over ``num_repeats`` timings of ``num_steps`` calls, after a warm-up."""
    for _ in range(num_steps // 10 + 1):
        step()
    speeds = []
    for _ in range(num_repeats):
        start = time.perf_counter()
        for _ in range(num_steps):
            step()
        speeds.append(num_envs * num_steps / (time.perf_counter() - start))
    return {"median": statistics.median(speeds), "min": min(speeds), "max": max(speeds)}


def plain(env: GridWorld) -> Callable[[], None]:
    actions = torch.empty(16, env.num_envs, 2).uniform_(-1, 1).unbind(0)
    position, calls = env.position.clone(), 0

    def step() -> None:
        nonlocal position, calls
        position, _, _ = gridworld_step(position, actions[calls % 16], env.wall, env.reward_map)
        calls += 1

    return step


def through_env(env: GridWorld, reset: bool) -> Callable[[], None]:
    actions = torch.empty(16, env.num_envs, 2).uniform_(-1, 1).unbind(0)
    td, calls = env.reset(), 0

    def step() -> None:
        nonlocal td, calls
        td.set("action", actions[calls % 16])
        calls += 1
        if reset:
            _, td = env.step_and_maybe_reset(td)
        else:
            env.step(td)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", default="two_walls")
    parser.add_argument("--num-envs", type=int, default=4096)
    parser.add_argument("--num-steps", type=int, default=200, help="calls per timing")
    parser.add_argument("--num-repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gridworld_speed.json"))
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    env = GridWorld(args.layout, num_envs=args.num_envs)
    cases = {
        "plain_tensors": plain(env),
        "env_step": through_env(env, reset=False),
        "env_step_and_maybe_reset": through_env(env, reset=True),
    }
    result = {
        **origin("cpu"),
        "layout": args.layout,
        "num_envs": args.num_envs,
        "num_threads": torch.get_num_threads(),
        "steps_per_s": {
            name: steps_per_s(step, args.num_envs, args.num_steps, args.num_repeats) for name, step in cases.items()
        },
    }
    write_json(args.out, result)
    for name, speed in result["steps_per_s"].items():
        print(f"{name:26s} {speed['median'] / 1e6:7.2f} M steps/s (best {speed['max'] / 1e6:.2f})")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
