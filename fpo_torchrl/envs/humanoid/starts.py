"""Where episodes start: frames of motions, with what is observed there."""

from __future__ import annotations

import torch
from torch import Tensor

from fpo_torchrl.envs.humanoid.failures import FailureWeights
from fpo_torchrl.envs.humanoid.motion_library import MotionLibrary
from fpo_torchrl.envs.humanoid.observation import observe


class Starts:
    """Starts of episodes in the reference's state, drawn ``num_envs`` at a time and handed out as they are needed.

    In most steps a few copies of hundreds start again. What they observe first would cost as much as what all observe
    next: a CPU spends more on starting an operation than on its numbers.

    Args:
        motion_library: what to track.
        failures: draws motions; of what it learns since the last draw, the next one knows.
        num_envs (int): copies of the environment.
        generator: draws frames; None to start copy ``i`` in motion ``i`` (counted round), from its first frame.
    """

    def __init__(
        self,
        motion_library: MotionLibrary,
        failures: FailureWeights,
        num_envs: int,
        *,
        generator: torch.Generator | None,
    ) -> None:
        self.motion_library, self.failures, self.generator = motion_library, failures, generator
        number = torch.arange(num_envs, device=motion_library.num_frames.device)
        self._keep(number % len(motion_library), torch.zeros_like(number))
        self.drop()

    def _keep(self, clip: Tensor, frame: Tensor) -> None:
        self._clip, self._frame = clip, frame
        now_and_next, in_plane = self.motion_library.now_and_next(clip, frame), self.motion_library.skeleton.is_planar
        self._observation = observe(*now_and_next, in_plane=in_plane)

    def _draw(self) -> None:
        """Draw anew; what was left is as good as any, and dropped."""
        assert self.generator is not None
        device, num_starts = self.generator.device, len(self._clip)
        draw = torch.rand(2, num_starts, generator=self.generator, device=device).to(self._clip.device)
        clip = self.failures.draw(draw[0])
        # The last frame is a goal only, and so no episode starts where it would be the next.
        self._keep(clip, (draw[1] * (self.motion_library.num_frames[clip] - 2)).long())
        self._num_left = num_starts

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Motion and frame in it, int64 ``[k]``, and first observation ``[k, obs_dim]`` for the copies ``rows``."""
        taken = rows
        if self.generator is not None:
            if self._num_left < len(rows):
                self._draw()
            taken = slice(self._num_left - len(rows), self._num_left)
            self._num_left -= len(rows)
        return self._clip[taken], self._frame[taken], self._observation[taken]

    def drop(self) -> None:
        """Forget what is left, as after a new seed."""
        self._num_left = 0

    def state(self) -> dict[str, Tensor]:
        """What was drawn and not yet taken."""
        if self.generator is None:
            return {}
        return {"clip": self._clip, "frame": self._frame, "num_left": torch.tensor(self._num_left)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state` returned, by an older version nothing; then, the next starts are drawn anew."""
        self.drop()
        if self.generator is None or not state:
            return
        self._keep(state["clip"].to(self._clip), state["frame"].to(self._frame))
        self._num_left = int(state["num_left"])
