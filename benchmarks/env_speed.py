"""Speed of the control tasks: the raw simulator, ``ControlEnv`` and a TorchRL ``Collector``, side by side.

Raw is the plain way to use a back end from Python one control step at a time: the same model, threads and
substeps, actions drawn beforehand, checks off, no resets, no observation and no reward. For ``c`` that is
``mujoco.rollout`` with arrays made once and no warm start, the fastest there is; for ``mjx`` it is
``jit(vmap(step))`` in JAX alone, which keeps all of MJX's data between two steps; for ``warp`` it is MuJoCo Warp's
``step``, on a GPU captured into a CUDA graph.
With ``mjx`` TorchRL's own ``MujocoPlaygroundEnv`` of the same task takes part, if Playground is installed.
All take turns in short rounds, so that other load on the machine hits them alike.

    python benchmarks/env_speed.py
    python benchmarks/env_speed.py --backend mjx --tasks CartpoleBalance
    python benchmarks/env_speed.py --backend warp --device cuda --num-envs 2048 8192
"""

# MuJoCo ships no type stubs; JAX and Warp are optional.
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false
from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from mujoco.rollout import Rollout
from torchrl.envs import EnvBase
from torchrl.modules import RandomPolicy

from fpo_torchrl.envs.control import CONTROL_TASKS, ControlEnv
from fpo_torchrl.envs.jax_bridge import jax_device, load_jax
from fpo_torchrl.envs.physics.c import CPhysics
from fpo_torchrl.files import write_json
from fpo_torchrl.machine import available_cores
from fpo_torchrl.provenance import origin
from fpo_torchrl.training.collecting import make_collector

_STEPS_PER_BATCH = 32


def raw_stepper(env: ControlEnv, num_threads: int) -> Callable[[], int]:
    """A function that takes one control step of all copies with bare ``mujoco.rollout``."""
    assert isinstance(env.physics, CPhysics)
    model, state, num_envs, substeps = env.physics.model, env.physics.state, env.num_envs, env.physics.num_substeps
    threads = Rollout(nthread=num_threads if num_threads > 1 else 0)
    data, models = [mujoco.MjData(model) for _ in range(num_threads)], [model] * num_envs
    start = torch.cat([state.time, state.qpos, state.qvel, state.act], dim=-1).numpy()
    path = np.zeros((num_envs, substeps, start.shape[-1]))
    sensors = np.zeros((num_envs, substeps, model.nsensordata))
    controls = np.random.default_rng(0).uniform(-1, 1, (16, num_envs, 1, model.nu)).repeat(substeps, axis=2)
    spec = mujoco.mjtState.mjSTATE_CTRL.value
    if model.nmocap:
        spec |= mujoco.mjtState.mjSTATE_MOCAP_POS.value
        mocap = state.mocap_pos.flatten(1).numpy()[None, :, None].repeat(substeps, axis=2).repeat(16, axis=0)
        controls = np.concatenate([controls, mocap], axis=-1)
    turn = 0

    def step() -> int:
        nonlocal turn
        turn = (turn + 1) % len(controls)
        threads.rollout(
            models,
            data,
            start,
            controls[turn],
            control_spec=spec,
            skip_checks=True,
            nstep=substeps,
            state=path,
            sensordata=sensors,
        )
        np.copyto(start, path[:, -1])
        return num_envs

    return step


def raw_mjx_stepper(env: ControlEnv) -> Callable[[], int]:
    """A function that takes one control step of all copies in JAX alone, and waits for it."""
    jax = load_jax("mjx")
    from mujoco import mjx

    model, num_envs, substeps = env.physics.model, env.num_envs, env.physics.num_substeps
    device = jax_device(env.physics.device, "mjx")
    mjx_model, blank = (make(model, device=device, impl="jax") for make in (mjx.put_model, mjx.make_data))
    state = env.physics.state
    fields = {"qpos": state.qpos, "qvel": state.qvel, "mocap_pos": state.mocap_pos}
    start = jax.device_put({name: tensor.numpy(force=True).copy() for name, tensor in fields.items()}, device)
    controls = jax.device_put(
        np.random.default_rng(0).uniform(-1, 1, (16, num_envs, model.nu)).astype(np.float32), device
    )

    def advance(data: Any, control: Any) -> Any:
        return jax.lax.fori_loop(0, substeps, lambda _, now: mjx.step(mjx_model, now), data.replace(ctrl=control))

    data = jax.jit(jax.vmap(lambda fields: blank.replace(**fields)))(start)
    program, turn = jax.jit(jax.vmap(advance)), 0

    def step() -> int:
        nonlocal turn, data
        turn = (turn + 1) % len(controls)
        data = jax.block_until_ready(program(data, controls[turn]))
        return num_envs

    return step


def raw_warp_stepper(env: ControlEnv) -> Callable[[], int]:
    """A function that takes one control step of all copies in MuJoCo Warp alone, and waits for it."""
    import mujoco_warp
    import warp

    model, num_envs, place = env.physics.model, env.num_envs, warp.device_from_torch(env.physics.device)
    with warp.ScopedDevice(place):
        constants = mujoco_warp.put_model(model)
        data = mujoco_warp.make_data(model, nworld=num_envs, nconmax=64, njmax=320)
        warp.to_torch(data.qpos).copy_(env.physics.state.qpos)
        controls = warp.to_torch(data.ctrl)

        def advance() -> None:
            for _ in range(env.physics.num_substeps):
                mujoco_warp.step(constants, data)

        graph = None
        if place.is_cuda:
            advance()
            with warp.ScopedCapture(device=place) as capture:
                advance()
            graph = capture.graph

    def step() -> int:
        controls.uniform_(-1, 1)
        with warp.ScopedDevice(place):
            advance() if graph is None else warp.capture_launch(graph)
        warp.synchronize_device(place)
        return num_envs

    return step


def torchrl_env(task: str, num_envs: int, device: str) -> EnvBase:
    """TorchRL's wrapper of the Playground environment of that name."""
    from torchrl.envs import MujocoPlaygroundEnv

    return MujocoPlaygroundEnv(task, config_overrides={"impl": "jax"}, batch_size=[num_envs], device=device)


def env_stepper(env: EnvBase) -> Callable[[], int]:
    """A function that takes one step of ``env`` with a random action, resetting what is done."""
    current, spec = env.reset(), env.action_spec

    def step() -> int:
        nonlocal current
        _, current = env.step_and_maybe_reset(current.set("action", spec.rand()))
        return env.numel()

    return step


def collector_stepper(env: ControlEnv) -> Callable[[], int]:
    """A function that takes one batch from a TorchRL collector, the trainer's, with a random policy."""
    batches = iter(make_collector(env, RandomPolicy(env.action_spec), env.num_envs * _STEPS_PER_BATCH))

    def step() -> int:
        return next(batches).numel()

    return step


def run(step: Callable[[], int], seconds: float) -> tuple[int, float]:
    """Control steps of single copies taken in about ``seconds``, and the exact time."""
    frames, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        frames += step()
    return frames, elapsed


RAW_ON_DEVICE = {"mjx": raw_mjx_stepper, "warp": raw_warp_stepper}


def make_steppers(task: str, num_envs: int, backend: str, num_threads: int, device: str) -> dict[str, Callable]:
    """What is compared, by name."""

    def make() -> ControlEnv:
        threads = {"num_threads": num_threads} if backend == "c" else {}
        return ControlEnv(task, num_envs=num_envs, backend=backend, device=device, **threads)

    raw_env = make()
    raw_env.reset()
    steppers = {
        "raw": raw_stepper(raw_env, num_threads) if backend == "c" else RAW_ON_DEVICE[backend](raw_env),
        "env": env_stepper(make()),
        "collector": collector_stepper(make()),
    }
    if backend == "mjx" and importlib.util.find_spec("mujoco_playground"):
        steppers["torchrl"] = env_stepper(torchrl_env(task, num_envs, device))
    return steppers


def measure(steppers: dict[str, Callable[[], int]], rounds: int, seconds: float) -> dict:
    """Rates of all, taking turns; over all rounds, since resets come in lumps."""
    totals = dict.fromkeys(steppers, (0, 0.0))
    for step in steppers.values():
        for _ in range(3):  # compiles come first
            step()
        run(step, 0.2)
    for _ in range(rounds):
        for name, step in steppers.items():
            frames, elapsed = run(step, seconds)
            totals[name] = (totals[name][0] + frames, totals[name][1] + elapsed)
    rates = {name: frames / elapsed for name, (frames, elapsed) in totals.items()}
    return {
        **{f"{name}_steps_per_s": round(value) for name, value in rates.items()},
        **{f"{name}_over_raw": round(rates[name] / rates["raw"], 3) for name in rates if name != "raw"},
        **({"env_over_torchrl": round(rates["env"] / rates["torchrl"], 2)} if "torchrl" in rates else {}),
    }


def memory_mb(task: str, num_envs: int) -> float:
    """Megabytes that ``num_envs`` copies add to a fresh process, reset and stepped."""
    script = (
        "import resource, torch; from fpo_torchrl.envs.control import ControlEnv\n"
        "def rss(): return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() / 2**20\n"
        f"ControlEnv('{task}', num_envs=1).rollout(3)\n"
        f"before = rss(); env = ControlEnv('{task}', num_envs={num_envs}); data = env.reset()\n"
        "for _ in range(50): data = env.step_and_maybe_reset(env.rand_action(data))[1]\n"
        "print(rss() - before)"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return round(float(output.split()[-1]), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["c", *RAW_ON_DEVICE], default="c")
    parser.add_argument("--device", default="cpu", help="of the environments")
    parser.add_argument("--tasks", nargs="+", default=list(CONTROL_TASKS))
    parser.add_argument("--num-envs", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--num-threads", type=int, default=available_cores(), help="that step the physics of c")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each turn in a round")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/env_speed[_BACKEND].json")
    args = parser.parse_args()
    out = args.out or Path("benchmarks/results") / f"env_speed{'' if args.backend == 'c' else f'_{args.backend}'}.json"
    out.parent.mkdir(parents=True, exist_ok=True)

    report = {
        **origin(args.device),
        "backend": args.backend,
        "device": args.device,
        "num_threads": args.num_threads if args.backend == "c" else None,
        "speed": [],
    }
    for task in args.tasks:
        for num_envs in args.num_envs:
            steppers = make_steppers(task, num_envs, args.backend, args.num_threads, args.device)
            row = {"task": task, "num_envs": num_envs, **measure(steppers, args.rounds, args.seconds)}
            report["speed"].append(row)
            print("  ".join(f"{name}={value}" for name, value in row.items()), flush=True)
    if args.backend == "c":
        report["memory_mb_of_1024_envs"] = {task: memory_mb(task, 1024) for task in args.tasks}
        print("memory of 1024 envs (MB):", report["memory_mb_of_1024_envs"])
    write_json(out, report)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
