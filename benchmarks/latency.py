"""How long one action takes: batch 1 on the CPU, by solver, number of steps and file format.

    python benchmarks/latency.py --out benchmarks/results/latency

Untrained networks of the default sizes (the time does not depend on the weights), one thread. "actor" is the FlowActor
called with a TensorDict, as a collector calls it, "policy" the FlowPolicy of the same weights.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from fpo_torchrl import RK4, Euler, FlowActor, FlowPolicy, Heun, ObservationNormalizer, VelocityMLP, ZeroNoise
from fpo_torchrl.export import FORMATS, export_policy
from fpo_torchrl.files import write_json, write_whole
from fpo_torchrl.flow import Solver
from fpo_torchrl.latency import latencies
from fpo_torchrl.provenance import origin
from fpo_torchrl.text import Table

OBS_DIM, ACTION_DIM = 17, 6
"""Of CheetahRun."""
SOLVERS: list[Solver] = [Euler(1), Euler(5), Euler(10), Heun(5), RK4(2)]


def functions(solver: Solver, folder: Path) -> dict[str, Callable[[], Any]]:
    """Calls that compute one action each, by format, on the same weights."""
    torch.manual_seed(0)
    normalizer = ObservationNormalizer(OBS_DIM)
    normalizer.update(torch.randn(1000, OBS_DIM))
    actor = FlowActor(VelocityMLP(OBS_DIM, ACTION_DIM), solver, normalizer=normalizer)
    policy = FlowPolicy(actor, start_noise=ZeroNoise()).eval()
    observation = torch.randn(1, OBS_DIM)
    acting = actor.for_inference()
    calls: dict[str, Callable[[], Any]] = {
        "actor": lambda: acting(TensorDict(observation=observation, batch_size=1)),
        "policy": lambda: policy(observation),
    }
    for name, format in FORMATS.items():
        path = folder / f"policy{format.suffix}"
        export_policy(policy, {"observation": torch.randn(64, OBS_DIM)}, path, format=name)
        calls[name] = functools.partial(format.read(path), observation)
    return calls


def markdown(rows: list[dict[str, Any]], about: dict[str, Any], num_calls: int) -> str:
    """The table, with what it was measured on."""
    names = list(rows[0]["latency"])
    times = [[f"{it['median_ms']:.3f} / {it['p99_ms']:.3f}" for it in row["latency"].values()] for row in rows]
    cells = [[row["solver"], str(row["network_calls"]), *own] for row, own in zip(rows, times, strict=True)]
    machine, versions = about["machine"], about["versions"]
    return f"{Table(['solver', 'network calls', *names], cells).markdown(rule='---')}\n" + (
        f"Milliseconds for one action, median / 99th percentile of {num_calls} calls, batch 1, one thread, "
        f"network of 4 x 32. {machine['cpu']}, load {machine['load']} before the start, torch {versions['torch']}, "
        f"{about['date'][:10]}. Written by `benchmarks/latency.py`.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000, help="of each function; default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/latency"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    about, rows = origin("cpu"), []
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        for solver in SOLVERS:
            with tempfile.TemporaryDirectory() as folder:
                latency = latencies(functions(solver, Path(folder)), arguments.calls)
            rows.append({"solver": repr(solver), "network_calls": solver.num_steps * solver.stages, "latency": latency})
            print(solver, {name: round(cell["median_ms"], 3) for name, cell in latency.items()}, flush=True)
    write_json(arguments.out / "latency.json", {**about, "calls": arguments.calls, "rows": rows})
    write_whole(arguments.out / "latency.md", markdown(rows, about, arguments.calls))


if __name__ == "__main__":
    main()
