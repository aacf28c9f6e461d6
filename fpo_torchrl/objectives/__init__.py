"""Objectives for flow policies: FPO, the DPPO baseline, and supervised flow matching."""

from fpo_torchrl.objectives.cfm import CFMLoss
from fpo_torchrl.objectives.denoising_mdp import DenoisingMDPLoss
from fpo_torchrl.objectives.fpo import Clamp, FPOLoss
from fpo_torchrl.objectives.surrogate import FlowPPOLoss
from fpo_torchrl.objectives.trust_region import ASPO, SPO, Clip, TrustRegion

__all__ = ["ASPO", "SPO", "CFMLoss", "Clamp", "Clip", "DenoisingMDPLoss", "FPOLoss", "FlowPPOLoss", "TrustRegion"]
