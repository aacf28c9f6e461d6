"""``fpo-gridworld``: what trained policies do on GridWorld, as numbers, a picture and an animation of the flow."""

from __future__ import annotations

import argparse
from pathlib import Path

from fpo_torchrl.cli import friendly_errors, take_defaults
from fpo_torchrl.envs.gridworld_layout import make_layout
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.files import make_directory, write_json
from fpo_torchrl.trained import load_policy

from .gridworld import STARTS, GridPolicy, measure
from .runs import read_run, run_directories

PREFIX = "gridworld/"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="fpo-gridworld",
        description="Show side by side what policies trained on a GridWorld do with their sampled actions: "
        "gridworld.json has the numbers, gridworld.png the actions over the grid and at the saddle and episodes, "
        "flow.gif the first flow policy's way from noise to actions.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUNS", help="directories with runs on one layout, at any depth"
    )
    parser.add_argument("--out", type=Path, help="where to write; default: %(default)s")
    return take_defaults(parser, show)


def show(runs: list[Path], out: Path = Path("gridworld")) -> dict[str, dict[str, float]]:
    """Measure and draw the policies of ``runs``; returns the numbers by the name of each policy.

    Raises:
        ConfigError: if there is no run, or they are not on one of the authors' layouts.
    """
    records = [read_run(directory) for run in runs for directory in run_directories([run])]
    if not records:
        raise ConfigError(f"no run in {', '.join(map(str, runs))}: fpo-train task=gridworld/two_walls makes one")
    tasks = {record.task for record in records}
    name = records[0].task.removeprefix(PREFIX)
    if len(tasks) > 1 or name not in STARTS or not records[0].task.startswith(PREFIX):
        known = ", ".join(PREFIX + layout for layout in STARTS)
        raise ConfigError(f"the runs must be of one task of {known}; got {', '.join(sorted(tasks))}")
    layout, starts = make_layout(name), [*STARTS[name]]
    policies = {}
    for record in records:
        label = f"{record.label}, seed {record.seed}"
        if label in policies:
            raise ConfigError(f"{label} is there twice: give one of the runs, or set label= to tell two settings apart")
        policies[label] = GridPolicy(load_policy(record.directory, device="cpu").actor, layout)
    make_directory(out)
    numbers = {}
    print(f"{records[0].task}; 'both' is the share of saddle cells with two separate modes", flush=True)
    for label, policy in policies.items():
        numbers[label] = measure(policy, starts[0])
        print(f"  {label}: " + ", ".join(f"{key} {value:.2f}" for key, value in numbers[label].items()), flush=True)
    write_json(out / "gridworld.json", numbers)
    print(f"  {out / 'gridworld.json'}")
    from .gridworld_figures import draw_flow, draw_policies

    draw_policies(policies, starts, out / "gridworld.png", title=records[0].task)
    print(f"  {out / 'gridworld.png'}", flush=True)
    if flows := [policy for policy in policies.values() if policy.is_flow]:
        draw_flow(flows[0], starts[:2], out / "flow.gif")
        print(f"  {out / 'flow.gif'}")
    return numbers


def main() -> None:
    """Show the runs that the command line names."""
    arguments = parser().parse_args()
    with friendly_errors():
        show(**vars(arguments))


if __name__ == "__main__":
    main()
