"""Physics back ends behind one protocol: torch tensors in, torch tensors out."""

from fpo_torchrl.envs.physics.protocol import CapacityError, Physics, PhysicsError, PhysicsState

__all__ = ["CapacityError", "Physics", "PhysicsError", "PhysicsState"]
