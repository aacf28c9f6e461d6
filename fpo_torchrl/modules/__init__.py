"""The flow actor and the networks it is made of."""

from fpo_torchrl.modules.actor import FlowActor
from fpo_torchrl.modules.likelihood import FlowLikelihood
from fpo_torchrl.modules.normalizer import ObservationNormalizer
from fpo_torchrl.modules.velocity import (
    CosSinTimeEmbedding,
    FourierTimeEmbedding,
    IdentityTimeEmbedding,
    ValueMLP,
    VelocityMLP,
)

__all__ = [
    "CosSinTimeEmbedding",
    "FlowActor",
    "FlowLikelihood",
    "FourierTimeEmbedding",
    "IdentityTimeEmbedding",
    "ObservationNormalizer",
    "ValueMLP",
    "VelocityMLP",
]
