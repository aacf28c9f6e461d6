"""What every batched environment of the package shares: resets, time limits, seeds, restorable state."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from fpo_torchrl.checks import check_counts
from fpo_torchrl.devices import with_index
from fpo_torchrl.errors import NonFiniteError

NUM_PHASES = 32


def spread_phases(num_envs: int, max_episode_steps: int, generator: torch.Generator) -> Tensor:
    """Step counters int64 ``[num_envs]`` at which first episodes start, drawn from up to 32 evenly spaced values."""
    phases = min(NUM_PHASES, max_episode_steps)
    drawn = torch.randint(phases, (num_envs,), generator=generator, device=generator.device)
    return drawn * max_episode_steps // phases


def non_finite_rows(values: Tensor) -> list[int]:
    """The copies in which an entry of ``values`` ``[num_envs, *]`` is NaN or infinite."""
    return (~values.isfinite()).flatten(1).any(-1).nonzero().flatten().tolist()


class BatchedEnv(EnvBase):
    """``num_envs`` copies of one task, stepped together as one TorchRL environment.

    A subclass is four short methods on plain tensors: :meth:`start_episodes`, :meth:`advance`,
    :meth:`observe`, and :meth:`task_state` with its inverse :meth:`load_task_state`. This class
    adds what is the same for all of them: specs, partial resets (only the rows under ``"_reset"``
    change), ``terminated`` and ``truncated`` kept apart, a private random generator, and a state
    that can be saved and restored bit for bit.

    Keys: reads ``"action"`` ``[num_envs, action_dim]``; writes ``"observation"``
    ``[num_envs, obs_dim]`` float32, ``"reward"``, ``"done"``, ``"terminated"`` and
    ``"truncated"``, each ``[num_envs, 1]``. A task whose observation has several parts writes
    each under its own key, ``[num_envs, *shape]`` float32, instead of ``"observation"``.

    Args:
        num_envs (int): copies of the task, at least 1.
        obs_dim (int or dict): size of the observation, or the shape of each of its parts by key.
        action_dim (int): size of the action; actions are bounded by -1 and 1.
        max_episode_steps (int): control steps after which an episode is truncated.
        device: where every tensor of the environment lives.
        seed (int): seed of the private generator.
        spread_episodes (bool): at the very first reset start each copy at one of 32 evenly spaced phases of
            an episode, so that episodes end at different times. The first episode of a copy is then shorter.
            A phase is shared by several copies, so that most steps need no reset at all.

    Raises:
        ValueError: if ``num_envs`` or ``max_episode_steps`` is below 1.
    """

    def __init__(
        self,
        *,
        num_envs: int,
        obs_dim: int | Mapping[str, Sequence[int]],
        action_dim: int,
        max_episode_steps: int,
        device: torch.device | str = "cpu",
        seed: int = 0,
        spread_episodes: bool = True,
    ) -> None:
        check_counts(num_envs=num_envs, max_episode_steps=max_episode_steps)
        super().__init__(device=torch.device(device), batch_size=torch.Size([num_envs]))
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.spread_episodes = spread_episodes
        self.step_count = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self.generator = torch.Generator(device=self.device)
        self.ended = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
        """Copies whose episode is over and has not started again."""
        self._started = False
        self._restored = False

        shape, device = (num_envs,), self.device
        self._action_shape = torch.Size([num_envs, action_dim])
        parts = {"observation": (obs_dim,)} if isinstance(obs_dim, int) else obs_dim
        self.observation_spec = Composite(
            {key: Unbounded((*shape, *part), device=device, dtype=torch.float32) for key, part in parts.items()},
            shape=shape,
            device=device,
        )
        self.action_spec = Bounded(-1.0, 1.0, (*shape, action_dim), device=device, dtype=torch.float32)
        self.reward_spec = Unbounded((*shape, 1), device=device, dtype=torch.float32)
        flag = Binary(1, (*shape, 1), dtype=torch.bool, device=device)
        self.done_spec = Composite(
            done=flag.clone(), terminated=flag.clone(), truncated=flag.clone(), shape=shape, device=device
        )
        self.set_seed(seed)

    # What a task defines.
    @abstractmethod
    def start_episodes(self, rows: Tensor) -> None:
        """Draw a fresh initial state for the copies ``rows`` (int64 ``[k]``) from ``self.generator``."""

    @abstractmethod
    def advance(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Advance every copy by one control step; return reward and termination, each ``[num_envs]``.

        Both must be tensors that later steps do not overwrite.
        """

    @abstractmethod
    def observe(self) -> Tensor | dict[str, Tensor]:
        """The current observation ``[num_envs, obs_dim]``, or its parts; tensors that later steps do not overwrite."""

    @abstractmethod
    def task_state(self) -> dict[str, Tensor]:
        """Every tensor that the task's future depends on, the generator and step counter aside."""

    @abstractmethod
    def load_task_state(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`task_state` returned."""

    def metrics(self) -> dict[str, float]:
        """What a training log says of the task besides the rewards, since the last call; nothing unless overridden."""
        return {}

    # What TorchRL asks for.
    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is not None:
            rows = mask.flatten().nonzero().flatten()
        elif self._restored:  # other episodes go on where the state was saved
            rows = self.ended.nonzero().flatten()
        else:
            rows = torch.arange(self.num_envs, device=self.device)
        if len(rows):
            self.start_episodes(rows)
            self.step_count[rows] = 0
            self.ended = self.ended.index_fill(0, rows, False)
            if self.spread_episodes and not self._started and len(rows) == self.num_envs:
                self.step_count.copy_(spread_phases(self.num_envs, self.max_episode_steps, self.generator))
        if not self._started or self._restored:  # to set an attribute of a module takes microseconds
            self._started, self._restored = True, False
        never = torch.zeros(self.num_envs, 1, dtype=torch.bool, device=self.device)
        return self._pack(done=never, terminated=never.clone(), truncated=never.clone())

    def maybe_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """TorchRL's: the given step with the first observation of a new episode in each copy whose last one is over.

        A reset returns here what holds for all copies, so that its entries need no merging, which took longer than it.
        """
        if not self.any_done(tensordict):
            return tensordict
        first = self._reset(tensordict)
        is_over = tensordict.pop("_reset").squeeze(-1)
        carried = tensordict.exclude(*first.keys())
        if not (carried.is_empty() or is_over.all()):  # what is not of the environment becomes 0, as in TorchRL
            tensordict.update(carried.where(~is_over, carried.empty(), pad=0))
        return tensordict.update(first)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self._restored:
            self._restored = False
        action = tensordict.get("action")
        self._check_action(action)
        reward, terminated = self.advance(action)
        self.step_count.add_(1)
        truncated = self.out_of_time() & ~terminated
        self.ended = terminated | truncated
        return self._pack(
            reward=reward.to(torch.float32).unsqueeze(-1),
            done=(terminated | truncated).unsqueeze(-1),
            terminated=terminated.unsqueeze(-1),
            truncated=truncated.unsqueeze(-1),
        )

    def _check_action(self, action: Tensor) -> None:
        if action.shape != self._action_shape:
            raise ValueError(
                f"{type(self).__name__}: expected an action of shape {list(self._action_shape)} "
                f"[num_envs, action_dim], got {list(action.shape)}"
            )

    def refuse_non_finite(self, action: Tensor) -> None:
        """Raise ``NonFiniteError`` for an action with NaN or infinity, for tasks whose physics does not look."""
        if math.isfinite(action.sum().item()) or action.isfinite().all():
            return
        rows = ", ".join(map(str, non_finite_rows(action)))
        raise NonFiniteError(
            f"{type(self).__name__}: the action of env {rows} is not finite. Look for a diverged policy"
        )

    def out_of_time(self) -> Tensor:
        """Which copies have reached the end of their episode, ``[num_envs]``."""
        return self.step_count >= self.max_episode_steps

    def _pack(self, **entries: Tensor) -> TensorDictBase:
        """The current observation with ``entries``."""
        observation = self.observe()
        parts = {"observation": observation} if isinstance(observation, Tensor) else observation
        return TensorDict({**parts, **entries}, batch_size=self.batch_size, device=self.device)

    def to(self, device: torch.device | str) -> Self:
        """This environment, if it is on ``device`` already; ``ValueError`` if not, since it cannot move."""
        if with_index(torch.device(device)) != with_index(torch.device(self.device)):
            raise ValueError(
                f"{type(self).__name__} is on {self.device} and stays there: build it with device={str(device)!r}"
            )
        return self

    def _set_seed(self, seed: int | None) -> None:
        self.generator.manual_seed(0 if seed is None else seed)
        self._started = self._restored = False

    # What a checkpoint asks for.
    def get_state(self) -> TensorDict:
        """Everything the environment's future depends on, as a TensorDict that can be saved."""
        return TensorDict(
            {
                "task": TensorDict({key: value.clone() for key, value in self.task_state().items()}),
                "step_count": self.step_count.clone(),
                "ended": self.ended.clone(),
                "generator": self.generator.get_state(),
                "started": torch.tensor(self._started),
            }
        )

    def set_state(self, state: TensorDictBase) -> None:
        """Restore what :meth:`get_state` returned: the same actions then bring the same future.

        If the next call is a full :meth:`reset`, as a collector makes it when it is built, it starts new episodes only
        for copies whose last one was over, and returns the restored observation, so that collection goes on where it
        stopped.

        Raises:
            ValueError: if ``state`` is of another number of copies, or another kind of device.
        """
        if state["step_count"].shape != self.step_count.shape:
            raise ValueError(
                f"the state is of {state['step_count'].numel()} environment copies, "
                f"this environment has {self.num_envs}"
            )
        if state["generator"].shape != self.generator.get_state().shape:
            raise ValueError(
                f"the state's random generator belongs to another kind of device than {self.device}: continue on the "
                "kind of device the run was started on"
            )
        self.load_task_state({key: value.clone() for key, value in state["task"].items()})
        self.step_count.copy_(state["step_count"])
        self.ended = state.get("ended", torch.zeros_like(self.ended)).to(self.ended, copy=True)  # older states had none
        self.generator.set_state(state["generator"].cpu())
        self._started = self._restored = bool(state["started"])
