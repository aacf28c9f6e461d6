"""Any MuJoCo Playground environment, batched, with resets of single copies and a state that can be restored."""

# JAX and Playground are optional.
# pyright: reportMissingImports=false
from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fpo_torchrl.checks import check_index, closest
from fpo_torchrl.envs.base import BatchedEnv
from fpo_torchrl.envs.jax_bridge import (
    jax_device,
    load_jax,
    to_jax,
    to_torch,
    tree_from_tensors,
    tree_tensors,
)
from fpo_torchrl.envs.optional import missing
from fpo_torchrl.errors import NonFiniteError

_DEFAULT_EPISODE_STEPS = 1000
_LOADED: dict[str, Any] = {}
"""Environments by name and configuration: they hold no state, and programs compiled for one serve every batch."""


def make_playground_env(
    name: str, *, config_overrides: Mapping[str, Any] | None = None, **kwargs: Any
) -> PlaygroundEnv:
    """Build the MuJoCo Playground environment ``name``, with its own configuration.

    Args:
        name (str): a name of Playground's registry, such as "CartpoleSwingup" or "Go1JoystickFlatTerrain".
        config_overrides (dict): replaces entries of the environment's configuration, nested ones by dotted names.
            ``{"impl": "jax"}`` is set unless it is given: Playground's own default needs Warp.
        kwargs: handed to :class:`PlaygroundEnv`.

    Raises:
        ImportError: without the optional dependency ``playground``.
        FileNotFoundError: if the environment needs robot models that are not on this machine; nothing is downloaded.
        ValueError: if the name is unknown.
    """
    load_jax("playground")
    try:
        from mujoco_playground import locomotion, manipulation, registry
        from mujoco_playground._src.mjx_env import MENAGERIE_PATH
    except ImportError as error:
        raise missing("playground", error) from error
    if name not in registry.ALL_ENVS:
        close = closest(name, registry.ALL_ENVS, 3)
        raise ValueError(
            f"MuJoCo Playground has no environment {name!r}. "
            + (f"Close names: {', '.join(close)}" if close else f"Known: {', '.join(registry.ALL_ENVS)}")
        )
    if name in {*locomotion.ALL_ENVS, *manipulation.ALL_ENVS} and not MENAGERIE_PATH.exists():
        raise FileNotFoundError(
            f"{name!r} needs the robot models of mujoco_menagerie in {MENAGERIE_PATH}. To download them, run "
            'python -c "from mujoco_playground._src.mjx_env import ensure_menagerie_exists as get; get()"'
        )
    overrides = {"impl": "jax", **(config_overrides or {})}
    key = f"{name} {sorted(overrides.items())}"
    if key not in _LOADED:
        _LOADED[key] = registry.load(name, config_overrides=overrides)
    return PlaygroundEnv(_LOADED[key], **kwargs)


class PlaygroundEnv(BatchedEnv):
    """``num_envs`` copies of a MuJoCo Playground environment, stepped together by JAX on one device.

    Keys are those of :class:`BatchedEnv`; an observation that is a dict is written entry by entry. Playground's
    ``done`` is ``"terminated"``, its time limit ``"truncated"``. Episodes that end do not restart by themselves,
    so the last observation of an episode is its own, and a copy that restarts gets a fresh initial state.

    Initial states are drawn for the whole batch at once and handed out one by one, inside the compiled program:
    the number of copies that restart never leads to another compilation.

    Args:
        env: a Playground environment (``MjxEnv``): ``reset(key)`` and ``step(state, action)`` of one copy.
        num_envs (int): copies, at least 1.
        device: ``"cpu"``, or a CUDA device that JAX can use too.
        seed (int): seed of the initial states and of what the environment draws itself.
        max_episode_steps (int, optional): steps after which an episode is truncated; by default
            ``episode_length`` of the environment's configuration.
        spread_episodes (bool): see :class:`BatchedEnv`.

    Raises:
        ValueError: if a count is below 1, or JAX cannot use the device.
        NonFiniteError: when stepping, if an action, observation or reward is not finite; nothing is advanced then.
    """

    def __init__(
        self,
        env: Any,
        *,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        seed: int = 0,
        max_episode_steps: int | None = None,
        spread_episodes: bool = True,
    ) -> None:
        config = getattr(env, "_config", {})
        repeat = int(config.get("action_repeat", 1))
        if max_episode_steps is None:
            max_episode_steps = math.ceil(config.get("episode_length", _DEFAULT_EPISODE_STEPS) / repeat)
        programs = _programs_of(env, num_envs, repeat)
        super().__init__(
            num_envs=num_envs,
            obs_dim={key: part.shape for key, part in _parts(programs.avals.obs).items()},
            action_dim=env.action_size,
            max_episode_steps=max_episode_steps,
            device=device,
            seed=seed,
            spread_episodes=spread_episodes,
        )
        self.env = env
        self.control_dt = float(getattr(env, "dt", 0.1)) * repeat
        self._programs = programs
        self._jax_device = jax_device(self.device, "playground")
        self._used = num_envs  # of the states drawn ahead
        self._lent: list[Tensor] = []
        self._state = self._fresh = self._put(programs.zeros())

    def start_episodes(self, rows: Tensor) -> None:
        """Start the copies ``rows`` (int64 ``[k]``) afresh."""
        if not self._started:
            self._used = self.num_envs
        while len(rows):
            if self._used == self.num_envs:
                self._fresh, self._used = self._fresh_state(), 0
            count = min(len(rows), self.num_envs - self._used)
            source = torch.full((self.num_envs,), -1, dtype=torch.int32, device=self.device)
            source[rows[:count]] = torch.arange(count, dtype=torch.int32, device=self.device) + self._used
            self._state = self._programs.hand_out(self._state, self._fresh, self._lend(source))
            self._used += count
            rows = rows[count:]

    def _fresh_state(self) -> Any:
        seeds = torch.randint(2**31 - 1, (2,), generator=self.generator, device=self.device, dtype=torch.int32)
        return self._programs.draw(self._lend(seeds))

    def _lend(self, tensor: Tensor) -> Any:
        """``tensor`` as an array of JAX, whose memory stays torch's: it is kept until a step has surely read it."""
        self._lent.append(tensor)
        return to_jax(tensor)

    def advance(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """One control step of every copy: reward and termination, each ``[num_envs]``."""
        action = action.detach().to(self.device, torch.float32).contiguous()
        state, sound, all_sound = self._programs.step(self._state, to_jax(action))
        if not all_sound:
            raise self._explain(action, ~to_torch(sound))
        self._state = state
        self._lent.clear()
        return _own(state.reward), to_torch(state.done) > 0.5

    def observe(self) -> dict[str, Tensor]:
        """The parts of the current observation by key; tensors that later steps do not overwrite."""
        return {key: _own(part) for key, part in _parts(self._state.obs).items()}

    def task_state(self) -> dict[str, Tensor]:
        """Every array of the environments' states, and of those drawn ahead; on the CPU."""
        return {**tree_tensors(self._trees()), "used": torch.tensor(self._used)}

    def load_task_state(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`task_state` returned; ``ValueError`` if it is of another environment."""
        trees = self._put(tree_from_tensors(self._trees(), state))
        self._state, self._fresh, self._used = trees["state"], trees["fresh"], int(state["used"])

    def _trees(self) -> dict[str, Any]:
        return {"state": self._state, "fresh": self._fresh}

    def render(self, index: int = 0, *, height: int = 240, width: int = 320) -> np.ndarray:
        """A picture of copy ``index``, uint8 ``[height, width, 3]``, by Playground's own renderer (OpenGL)."""
        check_index(index, self.num_envs)
        jax = load_jax("playground")
        return self.env.render(jax.tree.map(lambda leaf: leaf[index], self._state), height=height, width=width)

    def _put(self, tree: Any) -> Any:
        return load_jax("playground").device_put(tree, self._jax_device)

    def _explain(self, action: Tensor, bad: Tensor) -> NonFiniteError:
        wild = ~action.isfinite().all(-1)
        rows = (wild if wild.any() else bad).nonzero().flatten().tolist()
        where = ", ".join(f"env {row} at step {int(self.step_count[row])} of its episode" for row in rows)
        return NonFiniteError(
            f"{type(self.env).__name__}: {'the action' if wild.any() else 'observation or reward'} is not finite in "
            f"{where}. Nothing was advanced: get_state() still returns the state before this step."
        )


class _Programs:
    """The compiled programs of one environment and one number of copies.

    What ``reset`` and ``step`` return may differ in their numbers' types, which would compile every program
    twice; all states are therefore cast to the types of a state after a step.
    """

    def __init__(self, env: Any, num_envs: int, repeat: int) -> None:
        jax = load_jax("playground")
        jnp, self.num_envs = jax.numpy, num_envs

        def cast(state: Any) -> Any:
            return jax.tree.map(lambda leaf, aval: jnp.asarray(leaf, aval.dtype), state, self.avals)

        def step_one(state: Any, action: Any) -> Any:
            def again(state: Any, _: None) -> tuple[Any, Any]:
                state = cast(env.step(state, action))
                return state, state.reward

            state, rewards = jax.lax.scan(again, state, length=repeat)
            return dataclasses.replace(state, reward=rewards.sum(0))

        def draw(seeds: Any) -> Any:
            key = jax.random.fold_in(jax.random.PRNGKey(seeds[0]), seeds[1])
            return jax.vmap(lambda key: cast(env.reset(key)))(jax.random.split(key, num_envs))

        def hand_out(state: Any, fresh: Any, source: Any) -> Any:
            def choose(now: Any, new: Any) -> Any:
                chosen = (source >= 0).reshape(-1, *[1] * (now.ndim - 1))
                return jnp.where(chosen, new[jnp.maximum(source, 0)], now)

            return jax.tree.map(choose, state, fresh)

        def step(state: Any, action: Any) -> tuple[Any, Any, Any]:
            state = jax.vmap(step_one)(state, action)
            sound = jnp.isfinite(action).all(-1)
            for part in (state.reward, *_parts(state.obs).values()):
                sound &= jnp.isfinite(part).reshape(num_envs, -1).all(-1)
            return state, sound, sound.all()

        start = jax.eval_shape(env.reset, jax.eval_shape(jax.random.PRNGKey, 0))
        self.avals = jax.eval_shape(env.step, start, jax.ShapeDtypeStruct((env.action_size,), jnp.float32))
        self.draw: Callable[[Any], Any] = jax.jit(draw)
        self.hand_out: Callable[[Any, Any, Any], Any] = jax.jit(hand_out)
        self.step: Callable[[Any, Any], tuple[Any, Any, Any]] = jax.jit(step)

    def zeros(self) -> Any:
        """A batch of states in which every number is 0, to be replaced by the first reset."""
        jax = load_jax("playground")
        return jax.tree.map(lambda aval: np.zeros((self.num_envs, *aval.shape), aval.dtype), self.avals)


_programs_of = functools.lru_cache(maxsize=16)(_Programs)
"""An environment built for an evaluation need not compile again."""


def _parts(obs: Any) -> dict[str, Any]:
    return dict(obs) if isinstance(obs, Mapping) else {"observation": obs}


def _own(array: Any) -> Tensor:
    """A float32 tensor of torch's own."""
    return to_torch(array).to(torch.float32, copy=True)
