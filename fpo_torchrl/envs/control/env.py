"""One TorchRL environment for every control task and every physics back end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fpo_torchrl.checks import check_index
from fpo_torchrl.envs.base import BatchedEnv, non_finite_rows
from fpo_torchrl.envs.control.catalogue import find_task
from fpo_torchrl.envs.control.nursery import Nursery
from fpo_torchrl.envs.control.task import ControlTask
from fpo_torchrl.envs.physics import PhysicsError
from fpo_torchrl.envs.physics.backends import make_physics
from fpo_torchrl.errors import NonFiniteError

if TYPE_CHECKING:
    import numpy as np

    from fpo_torchrl.envs.control.camera import Camera
    from fpo_torchrl.envs.control.sketch import Sketch


class ControlEnv(BatchedEnv):
    """``num_envs`` copies of a control task, stepped together.

    Episodes end by truncation only: no task has a terminal state. Keys are those of
    :class:`~fpo_torchrl.envs.base.BatchedEnv`.

    Args:
        task (str or ControlTask): a name in ``CONTROL_TASKS``, or a task of your own.
        num_envs (int): copies of the task, at least 1.
        device: where observations, rewards and actions live; the physics may run elsewhere.
        seed (int): seed of the initial states. The same seed repeats a run.
        max_episode_steps (int): control steps after which an episode is truncated.
        spread_episodes (bool): give the copies different phases at the very first reset.
        backend (str): physics back end; ``"c"`` is native MuJoCo on the CPU, in float64; ``"mjx"`` (MuJoCo in JAX)
            and ``"warp"`` (MuJoCo Warp) run on ``device``, in float32, and are meant for GPUs. Where one step takes
            them from the same state differs by less than 1e-5 in the median.
        num_threads (int, optional): threads that step the physics of ``"c"``; None means every core.
        max_contacts (int, optional): room for contacts that ``"warp"`` has in a copy; None means 64.

    Raises:
        ValueError: for an unknown task or back end, a count below 1, or an action of the wrong shape.
        ImportError: for a back end whose package is not installed.
        CapacityError: when stepping, if there are more contacts than MuJoCo Warp has room for.
        NonFiniteError: when stepping, if an action is not finite or the physics of a copy breaks down;
            it names copy and step.

    Example:
        >>> env = ControlEnv("CartpoleBalance", num_envs=4, num_threads=1)
        >>> env.rollout(3)["next", "reward"].shape
        torch.Size([4, 3, 1])
    """

    def __init__(
        self,
        task: str | ControlTask,
        *,
        num_envs: int,
        device: torch.device | str = "cpu",
        seed: int = 0,
        max_episode_steps: int = 1000,
        spread_episodes: bool = True,
        backend: str = "c",
        num_threads: int | None = None,
        max_contacts: int | None = None,
    ) -> None:
        task = find_task(task)
        model = task.build_spec().compile()
        physics = make_physics(
            backend,
            model,
            num_envs=num_envs,
            num_substeps=_substeps(task, model.opt.timestep),
            device=device,
            num_threads=num_threads,
            max_contacts=max_contacts,
        )
        super().__init__(
            num_envs=num_envs,
            obs_dim=task.observe(physics.state).shape[-1],
            action_dim=physics.control_dim,
            max_episode_steps=max_episode_steps,
            device=device,
            seed=seed,
            spread_episodes=spread_episodes,
        )
        self.task, self.physics = task, physics
        self.control_dt = task.control_dt
        self._nursery = Nursery(task, physics.sibling(physics.draw_size))
        self._camera: Camera | Sketch | None = None

    def start_episodes(self, rows: Tensor) -> None:
        """Start the copies ``rows`` (int64 ``[k]``) afresh."""
        if not self._started:
            self._nursery.discard()
        try:
            self._nursery.hand_out(rows.to(self.physics.device), self.physics, self.generator)
        except PhysicsError as error:
            raise NonFiniteError(
                f"{self.task.name}: the physics broke down ({error.reason}) while episodes were started. Look at the "
                "states that the task draws"
            ) from error

    def advance(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """One control step of every copy: reward and termination (never), each ``[num_envs]``."""
        action = action.to(self.physics.device)
        try:
            self.physics.step(action)
        except PhysicsError as error:
            raise self._explain(error, action) from error
        reward = self.task.reward(self.physics.state, action)
        never = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        return reward.to(self.device, torch.float32, copy=True), never

    def observe(self) -> Tensor:
        """The current observation ``[num_envs, obs_dim]``, a tensor that later steps do not overwrite."""
        return self.task.observe(self.physics.state).to(self.device, torch.float32, copy=True)

    def task_state(self) -> dict[str, Tensor]:
        """The state of the physics, and of the episodes drawn ahead."""
        nursery = {f"nursery_{name}": tensor for name, tensor in self._nursery.tensors().items()}
        return self.physics.state.tensors() | nursery

    def load_task_state(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`task_state` returned."""
        self.physics.state.load(state)
        prefix = "nursery_"
        self._nursery.load({key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)})

    def render(self, index: int = 0, *, height: int = 240, width: int = 320) -> np.ndarray:
        """A picture of copy ``index``, uint8 ``[height, width, 3]``.

        Drawn by :class:`Camera`, or where OpenGL does not work, with a warning, by :class:`Sketch`.
        """
        from fpo_torchrl.envs.control.camera import camera_for

        check_index(index, self.num_envs)
        self._camera = camera_for(self._camera, self.task.build_spec, height, width)
        return self._camera.draw(self.physics.state, index)

    def _explain(self, error: PhysicsError, action: Tensor) -> Exception:
        """What a user should read: whose fault it is, and where to look."""
        if bad := non_finite_rows(action):
            return NonFiniteError(
                f"{self.task.name}: the action of env {', '.join(map(str, bad))} is not finite (env {bad[0]} got "
                f"{action[bad[0]].tolist()} at step {int(self.step_count[bad[0]])} of its episode). Look for a "
                "diverged policy."
            )
        where = ", ".join(f"env {row} at step {int(self.step_count[row])} of its episode" for row in error.rows)
        return NonFiniteError(
            f"{self.task.name}: the physics broke down ({error.reason}) in {where}. Nothing was advanced: "
            "get_state() still returns the state before this step."
        )


def _substeps(task: ControlTask, timestep: float) -> int:
    """Simulation steps in a control step."""
    substeps = task.control_dt / timestep
    if abs(substeps - round(substeps)) > 1e-6:
        raise ValueError(
            f"{task.name}: control_dt must be a multiple of the model's timestep, "
            f"got {task.control_dt} s and {timestep} s"
        )
    return round(substeps)
