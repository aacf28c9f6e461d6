"""Writes the reference values of docs/flow.html from the package: what the page's own formulas must agree with.

python docs/flow_reference.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from fpo_torchrl import Euler, MarginalFlow
from fpo_torchrl.advantage import GroupAdvantage

PAGE = Path(__file__).with_name("flow.html")
BLOCK = re.compile(r'(<script type="application/json" id="reference">\n).*?(\n</script>)', flags=re.S)

CENTRES, MODE_STD, POINTS_PER_MODE = [-1.6, 0.3, 1.7], 0.22, 9
SAMPLES = [-2.1, -1.8, -1.6, -1.4, -1.1, -0.1, 0.3, 0.7, 1.3, 1.6, 1.8, 2.2]
REWARDS = [0.1, 0.1, 0.1, 0.1, 0.1, 0.3, 0.3, 0.3, 0.8, 0.9, 0.9, 0.7]
STD = 0.14
TIMES, POSITIONS, NOISE = [0.0, 0.3, 0.6, 0.9, 1.0], [-2.5, -1.0, 0.0, 0.4, 1.5, 3.0], [-1.7, -0.6, 0.1, 0.5, 1.3]


def column(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64).unsqueeze(-1)


def panel_one() -> dict[str, Any]:
    """Velocity, density, and where Euler's method ends, of the flow to the first panel's points."""
    levels = (torch.arange(POINTS_PER_MODE, dtype=torch.float64) + 0.5) / POINTS_PER_MODE
    offsets = (MODE_STD * torch.special.ndtri(levels)).tolist()
    flow = MarginalFlow(column([centre + offset for centre in CENTRES for offset in offsets]), std=STD)
    share = MarginalFlow(flow.points, torch.full_like(flow.points[:, 0], 1 / len(flow.points)), std=STD)
    x, times = column(POSITIONS), column(TIMES).unsqueeze(-2)
    return {
        "centres": CENTRES,
        "offsets": offsets,
        "std": STD,
        "times": TIMES,
        "positions": POSITIONS,
        "velocity": flow(x.expand(len(TIMES), -1, 1), times).squeeze(-1).tolist(),
        "density": share.density(x.expand(len(TIMES), -1, 1), times).tolist(),
        "noise": NOISE,
        "ends": {steps: Euler(steps)(flow, column(NOISE)).flatten().tolist() for steps in (1, 50)},
    }


def panel_two() -> dict[str, Any]:
    """Advantages of the second panel's samples, and the velocity that they weight at time 1/2."""
    batch = TensorDict({"next": {"reward": column(REWARDS)}}, batch_size=len(REWARDS))
    advantages: list[Tensor] = [
        GroupAdvantage(non_negative=shift)(batch)["advantage"].flatten() for shift in (False, True)
    ]
    plain, shifted = advantages
    time = torch.tensor([0.5], dtype=torch.float64)
    signed, weighted = (
        MarginalFlow(column(SAMPLES), advantage, std=STD)(column(POSITIONS), time).flatten().tolist()
        for advantage in (plain, shifted)
    )
    return {
        "samples": SAMPLES,
        "rewards": REWARDS,
        "std": STD,
        "advantage": plain.tolist(),
        "shifted": shifted.tolist(),
        "signed": signed,
        "weighted": weighted,
    }


def reference() -> dict[str, Any]:
    """The content of the page's JSON block."""
    return json.loads(json.dumps({"one": panel_one(), "two": panel_two()}))


def main() -> None:
    block = "{\n" + ",\n".join(f'"{name}": {json.dumps(panel)}' for name, panel in reference().items()) + "\n}"
    PAGE.write_text(BLOCK.sub(lambda match: match[1] + block + match[2], PAGE.read_text()))


if __name__ == "__main__":
    main()
