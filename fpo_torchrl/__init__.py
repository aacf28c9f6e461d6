"""Flow Policy Optimization as TorchRL components.

A :class:`FlowActor` samples actions by carrying noise along a learned velocity field, and :class:`FPOLoss`
is PPO with the likelihood ratio replaced by ``exp(L_old - L_new)``, the difference of conditional
flow-matching losses of the policy's own action (arXiv 2507.21053).
"""

from fpo_torchrl.advantage import GAE, GroupAdvantage
from fpo_torchrl.envs import make_env
from fpo_torchrl.flow import (
    RK4,
    ActionTarget,
    AntitheticPairs,
    BetaTime,
    Euler,
    EulerMaruyama,
    FixedNoise,
    GridTime,
    Heun,
    IndependentPairs,
    LinearPath,
    LogitNormalTime,
    MarginalFlow,
    Midpoint,
    NoiseTarget,
    NoisyEuler,
    RandomNoise,
    RandomSteps,
    RandomStepsPerRollout,
    Solver,
    UniformTime,
    VelocityTarget,
    ZeroNoise,
)
from fpo_torchrl.modules import DenoisingActor, FlowActor, FlowPolicy, ObservationNormalizer, ValueMLP, VelocityMLP
from fpo_torchrl.objectives import ASPO, SPO, CFMLoss, Clamp, Clip, DenoisingMDPLoss, FPOLoss, TrustRegion
from fpo_torchrl.optim import AgentOptimizer
from fpo_torchrl.torchrl_configs import register
from fpo_torchrl.trainer import Trainer

register()
del register

__version__ = "0.1.0"

__all__ = [
    "ASPO",
    "GAE",
    "RK4",
    "SPO",
    "ActionTarget",
    "AgentOptimizer",
    "AntitheticPairs",
    "BetaTime",
    "CFMLoss",
    "Clamp",
    "Clip",
    "DenoisingActor",
    "DenoisingMDPLoss",
    "Euler",
    "EulerMaruyama",
    "FPOLoss",
    "FixedNoise",
    "FlowActor",
    "FlowPolicy",
    "GridTime",
    "GroupAdvantage",
    "Heun",
    "IndependentPairs",
    "LinearPath",
    "LogitNormalTime",
    "MarginalFlow",
    "Midpoint",
    "NoiseTarget",
    "NoisyEuler",
    "ObservationNormalizer",
    "RandomNoise",
    "RandomSteps",
    "RandomStepsPerRollout",
    "Solver",
    "Trainer",
    "TrustRegion",
    "UniformTime",
    "ValueMLP",
    "VelocityMLP",
    "VelocityTarget",
    "ZeroNoise",
    "__version__",
    "make_env",
]
