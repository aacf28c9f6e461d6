"""Physics back ends behind one protocol: torch tensors in, torch tensors out."""

from fpo_torchrl.envs.physics.protocol import Physics, PhysicsError, PhysicsState

__all__ = ["Physics", "PhysicsError", "PhysicsState"]
