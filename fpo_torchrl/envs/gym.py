"""Any Gymnasium environment with continuous actions, batched, through TorchRL's wrapper."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TransformAction, TransformObservation
from tensordict import TensorDictBase
from torchrl.envs import GymWrapper

from fpo_torchrl.checks import check_index, closest
from fpo_torchrl.envs.base import non_finite_rows, spread_phases
from fpo_torchrl.errors import NonFiniteError


def make_gym_env(
    env_id: str,
    *,
    num_envs: int = 1,
    device: torch.device | str = "cpu",
    seed: int = 0,
    max_episode_steps: int | None = None,
    spread_episodes: bool = True,
    **kwargs: Any,
) -> GymnasiumEnv:
    """Build ``num_envs`` copies of the Gymnasium environment ``env_id``, stepped one after the other.

    Keys: ``"observation"`` ``[num_envs, obs_dim]`` float32, flattened; ``"action"`` ``[num_envs, action_dim]``
    in [-1, 1], clipped and rescaled to the bounds of the simulator's action.

    Args:
        env_id (str): such as "Pendulum-v1", or "my_package:MyEnv-v0" to import a package first.
        num_envs, device, seed, spread_episodes: as in :class:`BatchedEnv`; the simulator stays on the CPU.
        max_episode_steps (int): steps after which an episode is truncated; by default the id's own limit. Evaluations
            play whole episodes, so there has to be one.
        kwargs: handed to ``gymnasium.make``, which for a single copy gets ``render_mode="rgb_array"`` too, if it is
            one of the environment's.

    Raises:
        ValueError: if the id is unknown, has no limit on the length of an episode and none is given, or its
            actions are not a bounded ``Box``, or its observations cannot be flattened.
        ImportError: if the environment needs a package that is not installed.

    >>> make_gym_env("Pendulum-v1", num_envs=2).reset()["observation"].shape
    torch.Size([2, 3])
    """
    make = partial(_make, env_id, max_episode_steps, kwargs)
    vector_env = SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
    draws = "rgb_array" in vector_env.metadata.get("render_modes", ())
    if num_envs == 1 and draws and "render_mode" not in kwargs:  # one copy may be there to be looked at
        with contextlib.suppress(Exception):  # whatever keeps it from drawing: nobody asked for pictures yet
            make = partial(_make, env_id, max_episode_steps, {**kwargs, "render_mode": "rgb_array"})
            drawn = SyncVectorEnv([make], autoreset_mode=AutoresetMode.DISABLED)
            vector_env.close()
            vector_env = drawn
    spec = vector_env.envs[0].spec
    limit = max_episode_steps if spec is None else spec.max_episode_steps
    if limit is None:
        raise ValueError(
            f"{env_id} sets no limit on the length of an episode, and evaluations play whole ones: give "
            "max_episode_steps, a large one if every episode ends by itself"
        )
    return GymnasiumEnv(vector_env, device=device, seed=seed, max_episode_steps=limit, spread_episodes=spread_episodes)


class GymnasiumEnv(GymWrapper):
    """TorchRL's ``GymWrapper`` for a vector environment, with spread episodes and independent seeds.

    The simulator's state can neither be saved nor restored: unlike :class:`BatchedEnv`, there is no
    ``get_state``. A run that resumes starts fresh episodes here.

    Args:
        env: a Gymnasium vector environment whose autoreset mode is ``DISABLED``.
        max_episode_steps (int): steps after which an episode is truncated; None leaves that to ``env``.
        seed (int): each copy's own seed is derived from it, so that two seeds share no copy.
        spread_episodes (bool): see :class:`BatchedEnv`.

    Raises:
        ValueError: for another autoreset mode.
    """

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv,
        *,
        max_episode_steps: int | None = None,
        seed: int = 0,
        spread_episodes: bool = True,
        **kwargs: Any,
    ) -> None:
        if (mode := env.metadata.get("autoreset_mode")) is not AutoresetMode.DISABLED:
            raise ValueError(
                f"the vector environment must be made with autoreset_mode=AutoresetMode.DISABLED, got {mode}: another "
                "hides the last observation of an episode"
            )
        super().__init__(env, **kwargs)
        self.num_envs: int = env.num_envs
        self.max_episode_steps = max_episode_steps
        self.spread_episodes = spread_episodes
        self.step_count = torch.zeros(self.num_envs, dtype=torch.int64)
        self.generator = torch.Generator()
        self.set_seed(seed)

    @property
    def control_dt(self) -> float:
        """Seconds that a step lasts, by the frames per second in the environment's metadata; without them 0.1."""
        return 1 / self._env.metadata.get("render_fps", 10)

    def render(self, index: int = 0) -> np.ndarray:
        """A picture of copy ``index``, uint8 ``[height, width, 3]``.

        Raises:
            ValueError: for a copy that is not there.
            RuntimeError: if the copies were not built with the render mode "rgb_array", or have none.
        """
        check_index(index, self.num_envs)
        copy = self._env.envs[index]
        if copy.render_mode != "rgb_array":
            raise RuntimeError(f'{copy} draws no pictures: its render mode is {copy.render_mode}, not "rgb_array"')
        return np.asarray(copy.render())

    def _set_seed(self, seed: int | None) -> None:
        seed = 0 if seed is None else seed
        self._env.reset(seed=np.random.SeedSequence(seed).generate_state(self.num_envs).tolist())
        self.generator.manual_seed(seed)
        self._started = False

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        if tensordict is not None:
            tensordict = tensordict.select("_reset", strict=False).cpu()
        mask = None if tensordict is None else tensordict.get("_reset", None)
        result = super()._reset(None if mask is None else tensordict, **kwargs)
        restarted = torch.ones(self.num_envs, dtype=torch.bool) if mask is None else mask.reshape(self.num_envs)
        self.step_count[restarted] = 0
        if restarted.all() and self.spread_episodes and not self._started and self.max_episode_steps is not None:
            self.step_count.copy_(spread_phases(self.num_envs, self.max_episode_steps, self.generator))
        self._started = True
        return result

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action, observation = tensordict.get("action"), tensordict.get("observation", None)
        if not action.isfinite().all():  # the simulator might raise anything, or take it as a number
            name, rows = "action", non_finite_rows(action)
            if observation is not None and (observed := non_finite_rows(observation)):
                name, rows = "observation", observed
            raise NonFiniteError(
                f"the {name} of env {', '.join(map(str, rows))} is not finite. Look for "
                + ("a fault of the simulator" if name == "observation" else "a diverged policy")
            )
        result = super()._step(tensordict)
        self.step_count += 1
        if self.max_episode_steps is not None:
            terminated, truncated = result["terminated"], result["truncated"]
            late = (self.step_count >= self.max_episode_steps).to(terminated.device).view_as(terminated)
            result["truncated"] = (truncated | late) & ~terminated
            result["done"] = result["truncated"] | terminated
        return result


def _make(env_id: str, max_episode_steps: int | None, kwargs: dict[str, Any]) -> gymnasium.Env:
    try:
        env = gymnasium.make(env_id, max_episode_steps=max_episode_steps, disable_env_checker=True, **kwargs)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ImportError(f"Gymnasium's {env_id!r} needs a package that is not installed: {error}") from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:  # an unknown id, or none at all
        close = closest(env_id, gymnasium.registry, 3)
        raise ValueError(
            f"Gymnasium cannot find {env_id!r}: {error} "
            + (f"Close ids: {', '.join(close)}. " if close else "")
            + "Ids look like 'Pendulum-v1' or 'package:MyEnv-v0', and the package that registers one must be "
            "installed, or a module in the directory of the command or on PYTHONPATH."
        ) from error
    return _flat_observation(_unit_action(env, env_id), env_id)


def _unit_action(env: gymnasium.Env, env_id: str) -> gymnasium.Env:
    """Let the agent act in [-1, 1] with one flat vector."""
    space = env.action_space
    if not isinstance(space, gymnasium.spaces.Box) or not space.is_bounded():
        raise ValueError(f"{env_id!r} has the action space {space}; a flow needs continuous bounded actions (Box)")
    low, high = space.low, space.high
    center, half = (high.astype(np.float64) + low) / 2, (high.astype(np.float64) - low) / 2

    def rescale(action: np.ndarray) -> np.ndarray:
        scaled = center + half * np.clip(action, -1, 1).reshape(space.shape)
        whole = np.rint(scaled) if np.issubdtype(space.dtype, np.integer) else scaled
        return np.clip(whole.astype(space.dtype), low, high)

    unit = gymnasium.spaces.Box(-1.0, 1.0, (int(np.prod(space.shape)),), np.float32)
    return TransformAction(env, rescale, unit)


def _flat_observation(env: gymnasium.Env, env_id: str) -> gymnasium.Env:
    """Flatten the observation to float32; no bounds, since simulators leave theirs."""
    space = env.observation_space
    flat = gymnasium.spaces.flatten_space(space) if space.is_np_flattenable else None
    if flat is None or flat.shape is None:
        raise ValueError(f"{env_id!r} has the observation space {space}, which does not flatten to a vector")

    def flatten(observation: Any) -> np.ndarray:
        return np.asarray(gymnasium.spaces.flatten(space, observation), dtype=np.float32)

    return TransformObservation(env, flatten, gymnasium.spaces.Box(-np.inf, np.inf, flat.shape, np.float32))
