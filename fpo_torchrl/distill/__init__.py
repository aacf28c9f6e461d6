"""A student that does in a few steps of its flow what a trained policy does in many."""

from .student import action_error, distill

__all__ = ["action_error", "distill"]
