"""How much of the noise in FPO's gradient comes from its (noise, time) pairs, by their number and how they are drawn.

    python benchmarks/pair_noise.py RUN_DIRECTORY --out benchmarks/results/pair_noise.json

Takes the last checkpoint of a run, collects a batch, and draws the pairs of 1024 of its transitions again and again:
the variance of the gradient over those draws, as a share of its variance from one such minibatch to the next, whose
pairs are averaged out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from tensordict import TensorDictBase
from torch import Tensor

from fpo_torchrl import AntitheticPairs, IndependentPairs, NoiseTarget, VelocityTarget
from fpo_torchrl.builders import build_agent, env_maker
from fpo_torchrl.checkpoint import Checkpointer
from fpo_torchrl.files import write_json
from fpo_torchrl.flow import TorchDraws
from fpo_torchrl.modules import FlowActor
from fpo_torchrl.provenance import origin
from fpo_torchrl.runs.settings import load_run_config
from fpo_torchrl.training.collecting import make_collector

MINIBATCH, NUM_MINIBATCHES = 1024, 4
PAIRS = {"independent": IndependentPairs(), "antithetic": AntitheticPairs()}
TARGETS = {"noise": NoiseTarget(), "velocity": VelocityTarget()}


def collect(run_dir: Path, seed: int) -> tuple[FlowActor, TensorDictBase]:
    """The trained actor of a run, and transitions of its own with advantages in random order, ``[frames]``."""
    cfg = load_run_config(run_dir)
    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    env = env_maker(cfg)(num_envs=cfg.num_envs, device="cpu", seed=seed)
    agent = build_agent(tree, env)
    Checkpointer(run_dir, actor=agent.actor, critic=agent.critic).load()
    torch.manual_seed(seed)
    batch = next(iter(make_collector(env, agent.actor, MINIBATCH * NUM_MINIBATCHES)))
    agent.advantage(batch)
    advantage = batch["advantage"]
    batch["advantage"] = (advantage - advantage.mean()) / advantage.std()
    assert isinstance(agent.actor, FlowActor)
    return agent.actor, batch.reshape(-1)[torch.randperm(batch.numel())]


def gradients(actor: FlowActor, batch: TensorDictBase, pairs: Any, target: Any, num_pairs: int, draws: int) -> Tensor:
    """FPO's gradient where the ratio is 1, once per draw of the pairs: ``[draws, parameters]``."""
    observations, action = actor.observations(batch), batch[actor.flow_action_key]
    parameters, found = list(actor.velocity_net.parameters()), []
    for _ in range(draws):
        shape = (len(action), num_pairs, actor.action_dim)
        noise, time = pairs.sample(shape, actor.time_sampler, TorchDraws(action))
        cfm_loss = actor.pair_loss(observations, action, noise, time, target=target).mean(-1, keepdim=True)
        gradient = torch.autograd.grad((batch["advantage"] * cfm_loss).mean(), parameters)
        found.append(torch.cat([part.flatten() for part in gradient]))
    return torch.stack(found)


def over_minibatches(actor: FlowActor, batch: TensorDictBase, target: Any, draws: int) -> float:
    """Variance of the gradient from one minibatch to the next, its pairs averaged out."""
    means = [gradients(actor, part, AntitheticPairs(), target, 16, draws).mean(0) for part in batch.split(MINIBATCH)]
    return torch.stack(means).var(0).sum().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a run of FPO, with its checkpoints")
    parser.add_argument("--pairs", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one batch each; default 0 1 2")
    parser.add_argument("--out", type=Path, help="JSON file with the numbers")
    arguments = parser.parse_args()
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    torch.set_num_threads(1)
    batches = [collect(arguments.run, seed) for seed in arguments.seeds]
    rows = []
    print("variance of the gradient over draws of the pairs / over minibatches, for each batch")
    for target_name, target in TARGETS.items():
        between = [over_minibatches(actor, batch, target, arguments.draws) for actor, batch in batches]
        for name, pairs in PAIRS.items():
            for num_pairs in arguments.pairs:
                within = [
                    gradients(actor, batch[:MINIBATCH], pairs, target, num_pairs, arguments.draws).var(0).sum().item()
                    for actor, batch in batches
                ]
                shares = [one / other for one, other in zip(within, between, strict=True)]
                rows.append({"target": target_name, "pairs": name, "num_pairs": num_pairs, "shares": shares})
                print(
                    f"  {target_name:<9} {name:<12} {num_pairs:>3} pairs ", *(f"{s:7.3f}" for s in shares), flush=True
                )
    if arguments.out is not None:
        task = load_run_config(arguments.run).task
        write_json(arguments.out, {**origin("cpu"), "task": task, "draws": arguments.draws, "rows": rows})


if __name__ == "__main__":
    main()
