"""What the processes that train one policy go on from, as a component of checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict

from fpo_torchrl.checkpoint import RandomNumbers
from fpo_torchrl.errors import CheckpointError
from fpo_torchrl.trainer import Trainer
from fpo_torchrl.training.collecting import derived_seed, is_restorable
from fpo_torchrl.training.parallel import Processes


class States:
    """What each process goes on from: its environments and random numbers, as they were when they were gathered.

    A component of checkpoints where several processes train.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.states: list[dict[str, Any]] = []

    def gather(self, trainer: Trainer) -> None:
        """Take note of them, in all processes."""
        if self.processes.size > 1 and is_restorable(trainer.env):
            own = {"env": trainer.env.get_state().cpu().to_dict(), "tracker": trainer.tracker.state_dict()}
            self.states = self.processes.everyone({**own, "rng": RandomNumbers().state_dict()})

    def go_on(self, trainer: Trainer, seed: int) -> bool:
        """Let the collection of this process go on where it was, if there is a state for each; else with a new seed.

        Returns:
            Whether it goes on where it was.

        Raises:
            CheckpointError: if the state is of other environments.
        """
        if trainer.env_restored:
            trainer.start()
            return True
        if len(self.states) == self.processes.size:
            state = self.states[self.processes.rank]
            try:
                trainer.env.set_state(TensorDict(state["env"]))
            except ValueError as error:  # of a simulator on another kind of device
                raise CheckpointError(f"the checkpoint's environments do not fit this run's: {error}") from error
            trainer.tracker.load_state_dict(state["tracker"])
            trainer.start()
            RandomNumbers().load_state_dict(state["rng"])
            return True
        seed = derived_seed(seed, part=self.processes.rank, frames=trainer.frames)
        trainer.env.set_seed(seed)
        if trainer.workers is None:
            trainer.start()
        torch.manual_seed(seed)
        return False

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores, by the processes' numbers."""
        return {str(rank): state for rank, state in enumerate(self.states)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.states = [state[str(rank)] for rank in range(len(state))]
