"""Objectives for flow policies: FPO, and supervised flow matching."""

from fpo_torchrl.objectives.cfm import CFMLoss
from fpo_torchrl.objectives.fpo import Clamp, FPOLoss
from fpo_torchrl.objectives.trust_region import ASPO, SPO, Clip, TrustRegion

__all__ = ["ASPO", "SPO", "CFMLoss", "Clamp", "Clip", "FPOLoss", "TrustRegion"]
