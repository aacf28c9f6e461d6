"""The flow policies and the networks they are made of."""

from fpo_torchrl.modules.actor import FlowActor
from fpo_torchrl.modules.denoising import DenoisingActor
from fpo_torchrl.modules.gaussian import GaussianMLP, gaussian_actor
from fpo_torchrl.modules.masking import MaskedObservation
from fpo_torchrl.modules.normalizer import ObservationNormalizer
from fpo_torchrl.modules.policy import FlowPolicy
from fpo_torchrl.modules.sampler import FlowSampler
from fpo_torchrl.modules.velocity import (
    CosSinTimeEmbedding,
    FourierTimeEmbedding,
    IdentityTimeEmbedding,
    ValueMLP,
    VelocityMLP,
)

__all__ = [
    "CosSinTimeEmbedding",
    "DenoisingActor",
    "FlowActor",
    "FlowPolicy",
    "FlowSampler",
    "FourierTimeEmbedding",
    "GaussianMLP",
    "IdentityTimeEmbedding",
    "MaskedObservation",
    "ObservationNormalizer",
    "ValueMLP",
    "VelocityMLP",
    "gaussian_actor",
]
