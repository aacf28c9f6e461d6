"""The authors' JAX code in a process of its own: ``reference_worker.py CHECKOUT THREADS``, asked by JSON lines.

Needs jax, jax_dataclasses and mujoco_playground. Their logging package, wandb, is not imported but replaced by an empty
module; under Python 3.11 the type parameters of their classes, a syntax of 3.12, are written the old way.
"""

# Runs in an environment with JAX, where this package need not be.
# pyright: reportMissingImports=false, reportMissingModuleSource=false
from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import re
import sys
import time
import types
from pathlib import Path

OLD_TYPE_PARAMETERS = {
    r"^(class \w+)\[(\w+)\]\(Protocol\)": r"\1(Protocol[\2])",
    r"^(class \w+)\[(\w+)\]": r"\1(__import__('typing').Generic[\2])",
    r"(def \w+)\[\w+\]\(": r"\1(",
    r"^(from __future__ import annotations)": r"\1\nTActionInfo = __import__('typing').TypeVar('TActionInfo')",
}


class OldSyntax(importlib.machinery.SourceFileLoader):
    """Loads a module with its type parameters rewritten."""

    def source_to_code(self, data, path, *, _optimize=-1):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Compile the rewritten source."""
        text = bytes(data).decode()
        for new, old in OLD_TYPE_PARAMETERS.items():
            text = re.sub(new, old, text, flags=re.M)
        return super().source_to_code(text.encode(), path)


class Finder(importlib.abc.MetaPathFinder):
    """Finds the package ``flow_policy`` in a checkout."""

    def __init__(self, source: Path) -> None:
        self.source = source

    def find_spec(self, fullname, path=None, target=None):
        """The module's file with :class:`OldSyntax`."""
        if fullname.split(".")[0] != "flow_policy":
            return None
        file = self.source.joinpath(*fullname.split("."))
        search = [str(file)] if file.is_dir() else None
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        loader = OldSyntax(fullname, str(file))
        return importlib.util.spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=search)


class Sized:
    """Stands in for an environment where only its sizes are read."""

    def __init__(self, obs_dim: int, action_dim: int) -> None:
        self.observation_size, self.action_size = obs_dim, action_dim


def prepare(request: dict):
    """A function that does one unit of the requested work and waits for it."""
    import jax
    from flow_policy import fpo, rollouts  # pyright: ignore[reportMissingImports]

    settings = request["config"]
    config = fpo.FpoConfig(**settings)
    key = jax.random.key(0)
    if request["work"] == "iteration":
        from mujoco_playground import registry

        env_config = registry.get_default_config(request["task"])
        env_config.impl = "jax"
        env = registry.load(request["task"], config=env_config)
        state = fpo.FpoState.init(prng=key, env=env, config=config)
        rollout = rollouts.BatchedRolloutState.init(env, prng=key, num_envs=config.num_envs)

        def work():
            nonlocal state, rollout
            rollout, transitions = rollout.rollout(
                state, episode_length=config.episode_length, iterations_per_env=config.iterations_per_env
            )
            state, _ = jax.block_until_ready(state.training_step(transitions))

        return work
    env = Sized(request["obs_dim"], request["action_dim"])
    state = fpo.FpoState.init(prng=key, env=env, config=config)
    sample = jax.jit(lambda state, obs, key: state.sample_action(obs, key, deterministic=False))
    batch = (
        (request["num_observations"],)
        if request["work"] == "sample"
        else (
            config.iterations_per_env,
            config.num_envs,
        )
    )
    obs = jax.random.normal(key, (*batch, request["obs_dim"]))
    if request["work"] == "sample":
        return lambda: jax.block_until_ready(sample(state, obs, key))
    action, info = sample(state, obs, key)
    ones = jax.numpy.ones(batch)
    transitions = rollouts.TransitionStruct(
        obs=obs, next_obs=obs, action=action, action_info=info, reward=ones, truncation=0 * ones, discount=ones
    )

    def work():
        nonlocal state
        state, _ = jax.block_until_ready(state.training_step(transitions))

    return work


def main() -> None:
    checkout, threads = Path(sys.argv[1]), int(sys.argv[2])
    if threads and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    source = checkout / "playground" / "src"
    if sys.version_info < (3, 12):
        sys.meta_path.insert(0, Finder(source))
    else:
        sys.path.insert(0, str(source))
    for name in ("wandb", "wandb.sdk", "wandb.sdk.wandb_run"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["wandb.sdk.wandb_run"].Run = object  # pyright: ignore[reportAttributeAccessIssue]
    answers, sys.stdout = sys.stdout, sys.stderr
    prepared = {}
    for line in sys.stdin:
        request = json.loads(line)
        turn_s = request.pop("turn_s")
        name = json.dumps(request, sort_keys=True)
        try:
            work = prepared[name] = prepared.get(name) or prepare(request)
            calls, start, cpu_start = 0, time.perf_counter(), time.process_time()
            while True:
                work()
                calls, elapsed = calls + 1, time.perf_counter() - start
                if elapsed >= turn_s:
                    break
            answer = {"wall": elapsed / calls, "cpu": (time.process_time() - cpu_start) / calls}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
