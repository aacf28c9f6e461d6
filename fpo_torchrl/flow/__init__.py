"""The flow itself: path, times, (noise, time) pairs, start noise, targets, solvers, exact flows. Imports torch only."""

from fpo_torchrl.flow.draws import Draws, SeededDraws, TorchDraws
from fpo_torchrl.flow.marginal import MarginalFlow
from fpo_torchrl.flow.noise import FixedNoise, RandomNoise, StartNoise, ZeroNoise
from fpo_torchrl.flow.pairs import AntitheticPairs, IndependentPairs, PairSampler
from fpo_torchrl.flow.path import LinearPath
from fpo_torchrl.flow.solver import (
    RK4,
    SOLVERS,
    Euler,
    EulerMaruyama,
    Heun,
    Midpoint,
    NoisyEuler,
    RandomSteps,
    RandomStepsPerRollout,
    Solver,
)
from fpo_torchrl.flow.target import ActionTarget, NoiseTarget, RegressionTarget, VelocityTarget
from fpo_torchrl.flow.time import BetaTime, GridTime, LogitNormalTime, TimeSampler, UniformTime

__all__ = [
    "RK4",
    "SOLVERS",
    "ActionTarget",
    "AntitheticPairs",
    "BetaTime",
    "Draws",
    "Euler",
    "EulerMaruyama",
    "FixedNoise",
    "GridTime",
    "Heun",
    "IndependentPairs",
    "LinearPath",
    "LogitNormalTime",
    "MarginalFlow",
    "Midpoint",
    "NoiseTarget",
    "NoisyEuler",
    "PairSampler",
    "RandomNoise",
    "RandomSteps",
    "RandomStepsPerRollout",
    "RegressionTarget",
    "SeededDraws",
    "Solver",
    "StartNoise",
    "TimeSampler",
    "TorchDraws",
    "UniformTime",
    "VelocityTarget",
    "ZeroNoise",
]
