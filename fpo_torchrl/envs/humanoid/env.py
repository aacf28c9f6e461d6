"""The environment in which a humanoid tracks motions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torchrl.data import Bounded

from fpo_torchrl.checks import check_choice, check_index
from fpo_torchrl.envs.base import BatchedEnv
from fpo_torchrl.envs.humanoid.failures import FailureWeights
from fpo_torchrl.envs.humanoid.goal import goal_dim
from fpo_torchrl.envs.humanoid.kinematics import Kinematics
from fpo_torchrl.envs.humanoid.model import FORCE_LIMIT, build_spec
from fpo_torchrl.envs.humanoid.motion_library import MotionLibrary
from fpo_torchrl.envs.humanoid.observation import observation_masks, observation_rows, self_dim
from fpo_torchrl.envs.humanoid.reward import DISTANCES, WEIGHTS, power, servo_torque, tracking_terms
from fpo_torchrl.envs.humanoid.skeleton import SKELETONS
from fpo_torchrl.envs.humanoid.starts import Starts
from fpo_torchrl.envs.physics import PhysicsError
from fpo_torchrl.envs.physics.backends import make_physics
from fpo_torchrl.errors import NonFiniteError

if TYPE_CHECKING:
    import numpy as np

    from fpo_torchrl.envs.control.camera import Camera
    from fpo_torchrl.envs.control.sketch import Sketch

HUMANOID_TASKS = [f"humanoid/{name}" for name in SKELETONS]
_CONTROL_HZ, _SUBSTEPS = 30.0, 4
_FREE_STEPS = 3  # at the start of an episode, without a price on power (phc/puffer_phc/humanoid_phc.py:1548-1556)
_DIVERGED_SHARE, _DIVERGED_FREE = 0.01, 10
_REWARDS = tuple(f"reward_{name}" for name in (*WEIGHTS, "power"))


class HumanoidEnv(BatchedEnv):
    """``num_envs`` humanoids that each track a motion, 30 control steps a second.

    An episode starts in a random frame of a random motion, in the reference's state; it terminates when the body is
    too far from the reference and is truncated at the end of the motion. Actions set the targets of the servos.
    The reward, at most 1, is that of the whole body under every conditioning, less a price on power.

    Keys, and the arguments that are not below: as :class:`~fpo_torchrl.envs.base.BatchedEnv`. The observation is the
    body and then the *whole* goal (:func:`~fpo_torchrl.envs.humanoid.observation.observe`); what a policy may see of
    it is up to ``observation_masks``, which ``fpo-train`` puts behind the normaliser.

    Args:
        task (str): ``"humanoid/full"`` (28 servos) or ``"humanoid/planar"`` (12).
        motions (str, optional): a motion's file or a folder of them; None for a walk made of sines.
        clips: names of the motions to take; None for all.
        mirror (bool): track their mirror images too.
        cycles (int): how often a motion that loops is repeated.
        conditioning (str): the goal that the policy sees: ``"full"``, ``"root_hands"`` or ``"root"``.
        critic_goal (str): the goal that the critic sees: ``"full"``, or ``"masked"`` as the policy's.
        distance (str): what ends an episode: the ``"farthest"`` body's distance or the ``"mean"`` distance.
        max_distance (float): in metres, positive.
        action_unit (float): share of a servo's range, at most 1, that 1 in an action stands for: bounds are
            +-1 / action_unit. At 0.055 standard normal actions are as wide as the reference's exploration.
        power_coeff (float): price of a watt per control step.
        failure_share (float): of the episodes, those that start in motions that were often lost
            (:class:`~fpo_torchrl.envs.humanoid.failures.FailureWeights`) when starts were drawn last; the others start
            in any.
        random_start (bool): if false, copy ``i`` tracks motion ``i`` (counted round) from its first frame.
        backend (str): ``"c"``, MuJoCo on the CPU in float64, or ``"warp"``, MuJoCo Warp on ``device`` in float32.
        num_threads (int, optional): that step the physics of ``"c"``; None means every core.
        max_contacts (int, optional): room for contacts that ``"warp"`` has in a copy; None means 64.

    Raises:
        ValueError: for a setting out of range or an action of the wrong shape; its kind MotionError for motions that
            cannot be used.
        ImportError: without MuJoCo Warp.
        CapacityError: when stepping, as in ``ControlEnv``.
        NonFiniteError: when stepping, for an action that is not finite, or if physics breaks down in more than 1 % of
            the steps. A copy in which it does so now and then terminates without reward (``num_diverged``).

    >>> env = HumanoidEnv("humanoid/planar", num_envs=4, num_threads=1)
    >>> env.rollout(3, break_when_any_done=False)["observation"].shape
    torch.Size([4, 3, 583])
    """

    def __init__(
        self,
        task: str = "humanoid/full",
        *,
        num_envs: int,
        device: torch.device | str = "cpu",
        seed: int = 0,
        max_episode_steps: int = 300,
        spread_episodes: bool = True,
        motions: str | None = None,
        clips: Sequence[str] | None = None,
        mirror: bool = True,
        cycles: int = 3,
        conditioning: Literal["full", "root_hands", "root"] = "full",
        critic_goal: Literal["full", "masked"] = "full",
        distance: Literal["farthest", "mean"] = "farthest",
        max_distance: float = 0.25,
        action_unit: float = 1.0,
        power_coeff: float = 5e-4,
        failure_share: float = 0.0,
        random_start: bool = True,
        backend: Literal["c", "warp"] = "c",
        num_threads: int | None = None,
        max_contacts: int | None = None,
    ) -> None:
        check_choice("task", task, HUMANOID_TASKS)
        check_choice("distance", distance, DISTANCES)
        check_choice("backend", backend, ("c", "warp"))
        skeleton = SKELETONS[task.partition("/")[2]]
        if not max_distance > 0:
            raise ValueError(f"max_distance must be positive, got {max_distance}")
        if not 0 < action_unit <= 1:
            raise ValueError(f"action_unit must be above 0 and at most 1, got {action_unit}")
        if not power_coeff >= 0:
            raise ValueError(f"power_coeff must be 0 or more, got {power_coeff}")
        masks = observation_masks(skeleton, conditioning, critic_goal)
        super().__init__(
            num_envs=num_envs,
            obs_dim=self_dim(skeleton) + goal_dim(skeleton),
            action_dim=skeleton.action_dim,
            max_episode_steps=max_episode_steps,
            device=device,
            seed=seed,
            spread_episodes=spread_episodes,
        )
        bound, shape = 1 / action_unit, self.action_spec.shape
        self.action_spec = Bounded(-bound, bound, shape, device=self.device, dtype=torch.float32)
        self.task, self.conditioning, self.skeleton = task, conditioning, skeleton
        self.control_dt, self.random_start, self.power_coeff = 1 / _CONTROL_HZ, random_start, power_coeff
        self.distance, self.max_distance, self._action_unit = DISTANCES[distance], max_distance, action_unit
        self.observation_masks = {role: mask.to(self.device) for role, mask in masks.items()}
        model = build_spec(skeleton, timestep=self.control_dt / _SUBSTEPS).compile()
        settings = {"num_threads": num_threads, "max_contacts": max_contacts, "device": device}
        self.physics = make_physics(backend, model, num_envs=num_envs, num_substeps=_SUBSTEPS, **settings)
        place = self.physics.device
        path = Path(motions).expanduser() if motions is not None else None
        self.motion_library = MotionLibrary.load(
            path, skeleton, clips=clips, fps=_CONTROL_HZ, mirror=mirror, cycles=cycles, device=place
        )
        self.failures = FailureWeights(len(self.motion_library), share=failure_share, device=place)
        generator = self.generator if random_start else None
        self._starts = Starts(self.motion_library, self.failures, num_envs, generator=generator)
        self._kinematics = Kinematics(skeleton, device=place, dtype=torch.float32)
        self._range, self._stiffness, self._damping = (
            skeleton.per_servo(field).to(self.physics.state.qpos) for field in ("target_scale", "stiffness", "damping")
        )
        self.clip = torch.zeros(num_envs, dtype=torch.int64, device=place)
        self._counters = torch.zeros(2, num_envs, dtype=torch.int64, device=place)
        self.frame, self._age = self._counters
        self.num_diverged = self.num_steps = 0
        self._logged = {"num_diverged": 0, "num_steps": 0}  # at the last call of metrics
        self._rewards = torch.zeros(len(_REWARDS), num_envs, dtype=self._range.dtype, device=place)
        self._num_saturated = torch.zeros(num_envs, skeleton.action_dim, dtype=torch.int64, device=place)
        self.lost = torch.zeros_like(self.clip, dtype=torch.bool)
        self._observation = torch.zeros(num_envs, self_dim(skeleton) + goal_dim(skeleton), device=place)
        self.bodies = self.reference = self.motion_library.bodies(self.clip, self.frame)
        self._camera: Camera | Sketch | None = None

    def start_episodes(self, rows: Tensor) -> None:
        """Put the copies ``rows`` (int64 ``[k]``) into the reference's state at the start of an episode."""
        place = self.physics.device
        rows = rows.to(place)
        if self._started:
            ended = rows[self.ended.to(place)[rows]]  # and not reset in the middle
            self.failures.record(self.clip[ended], self.lost[ended])
        else:  # the first episodes of a seed are the same whatever was before
            self.failures.rates.fill_(1)
            self._starts.drop()
        self.clip[rows], self.frame[rows], first = self._starts.take(rows)
        self._age[rows] = 0
        self._place(rows)
        self._observation = self._observation.index_copy(0, rows, first)  # not in place: the last one was handed out

    def advance(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """One control step of every copy: reward and termination, each ``[num_envs]``."""
        action = action.to(self._range)
        self.refuse_non_finite(action)
        targets = (self._action_unit * action).clamp(-1, 1) * self._range
        diverged = self._step_physics(targets)
        self._counters.add_(1)
        with torch.inference_mode():  # whose tensors cost less; those that are handed out are copied
            observation, reward, is_near = self._look(targets)  # bodies and reference stay such tensors
        lost = ~is_near  # where a number is NaN, too
        if diverged is not None:
            reward, lost = reward.where(~diverged, 0.0), lost | diverged
        self._observation, self.lost = observation.T.clone(memory_format=torch.contiguous_format), lost
        return reward.to(self.device, torch.float32, copy=True), lost.to(self.device)

    def _look(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observation ``[obs_dim, num_envs]`` and reward after a step, and whether the reference is near."""
        state = self.physics.state
        self.bodies = self._kinematics(state.qpos, state.qvel)
        self.reference, goal = self.motion_library.now_and_next(self.clip, self.frame)
        is_near = self.distance(self.bodies, self.reference) <= self.max_distance
        torque, rates = self._servos(targets)
        price = self.power_coeff * power(torque, rates) * (self._age > _FREE_STEPS)
        rewards = torch.cat([tracking_terms(self.bodies, self.reference), -price.unsqueeze(0)])
        self._rewards.add_(rewards)
        self._num_saturated.add_(torque.abs() >= FORCE_LIMIT)
        return observation_rows(self.bodies, goal, in_plane=self.skeleton.is_planar), rewards.sum(0), is_near

    def _step_physics(self, targets: Tensor) -> Tensor | None:
        """Step every copy; put those in which physics breaks down (bool ``[num_envs]``) back to the reference."""
        diverged = None
        self.num_steps += self.num_envs
        while True:
            try:
                self.physics.step(targets)
                return diverged
            except PhysicsError as error:
                if diverged is None:
                    diverged = torch.zeros_like(self.lost)
                new = [row for row in error.rows if not diverged[row]]
                self.num_diverged += len(new)
                if not new or self.num_diverged > _DIVERGED_FREE + _DIVERGED_SHARE * self.num_steps:
                    reason = error.reason if new else f"{error.reason}, in the reference's state too"
                    raise NonFiniteError(
                        f"{self.task}: the physics broke down {self.num_diverged} times in {self.num_steps} steps, "
                        f"last in env {', '.join(map(str, error.rows))} ({reason}). Look for motions with jumps"
                    ) from error
                diverged[new] = True
                self._place(diverged.nonzero().flatten())
                targets = torch.where(diverged.unsqueeze(-1), 0.0, targets)

    def _place(self, rows: Tensor) -> None:
        """Put the copies ``rows`` into the state of the reference in their frame."""
        state = self.physics.state
        for tensor in (state.time, state.warm_start):
            tensor.index_fill_(0, rows, 0)
        qpos, qvel = self.motion_library.joints(self.clip[rows], self.frame[rows])
        state.qpos[rows], state.qvel[rows] = qpos.to(state.qpos), qvel.to(state.qvel)

    def _servos(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Torques (Nm) and rates (rad/s) of all servos in the state reached: ``[num_envs, action_dim]``."""
        rates = self.physics.state.qvel[:, self.skeleton.num_root_velocities :]
        angles = self._kinematics.servo_angles(self.physics.state.qpos)
        return servo_torque(angles, rates, targets, self._stiffness, self._damping, FORCE_LIMIT), rates

    def out_of_time(self) -> Tensor:
        """Which copies are at the end of their time, or of their motion, whose last frame is a goal only."""
        at_end = self.frame >= self.motion_library.num_frames[self.clip] - 2
        return super().out_of_time() | at_end.to(self.device)

    def observe(self) -> Tensor:
        """The current observation ``[num_envs, obs_dim]``, a tensor that later steps do not overwrite."""
        return self._observation.to(self.device)

    def task_state(self) -> dict[str, Tensor]:
        """The state of the physics, where each copy is in which motion, and what it observes."""
        own = {"clip": self.clip, "frame": self.frame, "age": self._age, "lost": self.lost}
        own |= {"observation": self._observation, "motions": self.motion_library.inventory}
        own |= {f"start_{name}": tensor for name, tensor in self._starts.state().items()}
        counts = torch.tensor([self.num_diverged, self.num_steps])
        return self.physics.state.tensors() | own | {"counts": counts, "failure_rates": self.failures.rates}

    def load_task_state(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`task_state` returned, by an older version too; ``ValueError`` if of other motions."""
        self.motion_library.check_inventory(state.get("motions", self.motion_library.inventory))
        self.physics.state.load(state)
        starts = {name.removeprefix("start_"): tensor for name, tensor in state.items() if name.startswith("start_")}
        self._starts.load(starts)
        self.clip.copy_(state["clip"])
        self.frame.copy_(state["frame"])
        self._age.copy_(state["age"])
        self._observation = state["observation"].to(self._observation, copy=True)  # the last one was handed out
        self.lost = state.get("lost", torch.zeros_like(self.lost)).to(self.lost, copy=True)  # handed out too
        self.failures.rates.copy_(state.get("failure_rates", torch.ones_like(self.failures.rates)))
        self.num_diverged, self.num_steps = state["counts"].tolist()
        self.metrics()  # of before: forgotten

    def metrics(self) -> dict[str, float]:
        """Since the last call: parts of the reward, share of saturated servos, breakdowns; and the failures of late."""
        counts = {"num_diverged": self.num_diverged, "num_steps": self.num_steps}
        since = {name: count - self._logged[name] for name, count in counts.items()}
        steps = max(1, since["num_steps"] // self.num_envs)
        means = dict(zip(_REWARDS, (self._rewards.mean(-1) / steps).tolist(), strict=True))
        means["servo_saturation"] = self._num_saturated.double().mean().item() / steps
        self._rewards.zero_()
        self._num_saturated.zero_()
        self._logged = counts
        return means | {"failure_rate": self.failures.rates.mean().item(), "num_diverged": float(since["num_diverged"])}

    def render(self, index: int = 0, *, height: int = 240, width: int = 320) -> np.ndarray:
        """A picture of copy ``index``, with its reference as a green ghost: uint8 ``[height, width, 3]``."""
        from fpo_torchrl.envs.control.camera import camera_for

        check_index(index, self.num_envs)
        self._camera = camera_for(self._camera, lambda: build_spec(self.skeleton, ghost=True), height, width)
        row, state = slice(index, index + 1), self.physics.state
        qpos, qvel = self.motion_library.joints(self.clip[row], self.frame[row])
        qpos, qvel = (torch.cat(pair, -1) for pair in ((state.qpos[row], qpos), (state.qvel[row], qvel)))
        return self._camera.draw(replace(state, qpos=qpos, qvel=qvel), 0)
