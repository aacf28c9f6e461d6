"""What an update does to a policy when the reward says nothing: how far the spread of its actions drifts.

Advantages are drawn independently of the actions, so a sound algorithm has nothing to learn, and what changes on
average is its own bias. One line per variant: standard deviation of the action before squashing, from 1 at the start.

    python benchmarks/null_reward.py --out benchmarks/results/null_reward.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from fpo_torchrl import (
    ASPO,
    SPO,
    AntitheticPairs,
    Clip,
    Euler,
    FlowActor,
    FPOLoss,
    Heun,
    NoiseTarget,
    VelocityMLP,
    VelocityTarget,
)
from fpo_torchrl.files import write_json
from fpo_torchrl.provenance import origin

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clip": ({}, {"trust_region": Clip(0.05)}),
    "ASPO": ({}, {"trust_region": ASPO(0.05)}),
    "SPO": ({}, {"trust_region": SPO(0.05)}),
    "ASPO, velocity target": ({"target": VelocityTarget()}, {"trust_region": ASPO(0.15)}),
    "SPO, velocity target": ({"target": VelocityTarget()}, {"trust_region": SPO(0.15)}),
    "ASPO, cfm_coeff 0.3": ({}, {"trust_region": ASPO(0.05), "cfm_coeff": 0.3}),
    "ASPO, prior_coeff 0.05": ({}, {"trust_region": ASPO(0.05), "prior_coeff": 0.05}),
    "SPO, prior_coeff 0.05, Heun": ({"solver": Heun(5)}, {"trust_region": SPO(0.05), "prior_coeff": 0.05}),
}
"""Settings of actor and loss, by name; the others are those of the preset ``fpo``."""
OBS_DIM, ACTION_DIM, BATCH, MINIBATCH, NUM_EPOCHS = 4, 2, 1024, 256, 8


def drift(actor_settings: dict[str, Any], loss_settings: dict[str, Any], seed: int, num_iterations: int) -> list[float]:
    """Standard deviation of ``flow_action`` before each update, and after the last."""
    torch.manual_seed(seed)
    settings = {"solver": Euler(10), "target": NoiseTarget(), "pairs": AntitheticPairs(), **actor_settings}
    actor = FlowActor(VelocityMLP(OBS_DIM, ACTION_DIM), **settings)
    loss = FPOLoss(actor, functional=False, **loss_settings)
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3, fused=True)
    spreads = []
    for _ in range(num_iterations + 1):
        with torch.no_grad():
            batch = actor(TensorDict(observation=torch.randn(BATCH, OBS_DIM), batch_size=BATCH))
        spreads.append(batch["flow_action"].std().item())
        batch["advantage"] = torch.randn(BATCH, 1)
        for _ in range(NUM_EPOCHS):
            for index in torch.randperm(BATCH).split(MINIBATCH):
                losses = loss(batch[index])
                optimizer.zero_grad()
                sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
                torch.nn.utils.clip_grad_norm_(actor.parameters(), 0.5)
                optimizer.step()
    return spreads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=60, help="updates of 32 gradient steps; default 60")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--out", type=Path, help="JSON file with every curve")
    arguments = parser.parse_args()
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    torch.set_num_threads(1)
    curves: dict[str, dict[int, list[float]]] = {}
    print(f"spread of the action after {arguments.iterations} updates on noise, from 1")
    for name in arguments.variants:
        curves[name] = {seed: drift(*VARIANTS[name], seed, arguments.iterations) for seed in arguments.seeds}
        print(f"  {name:<30}", *(f"{spreads[-1]:6.2f}" for spreads in curves[name].values()), flush=True)
    if arguments.out is not None:
        write_json(arguments.out, {**origin("cpu"), "iterations": arguments.iterations, "spread": curves})


if __name__ == "__main__":
    main()
