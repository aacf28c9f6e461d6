"""The primary and secondary measures of docs/humanoid.md, from the stored runs of its protocol.

A cell is a policy at a goal: the mean over seeds, and the seeds. The gap is FPO minus the Gaussian at a goal, and its
growth is the gap from the root minus that from the whole goal, each with a 95 % bootstrap interval over seeds.

    python benchmarks/humanoid_gap.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from fpo_torchrl.files import read_json, write_json, write_whole
from fpo_torchrl.provenance import origin, read_provenance
from fpo_torchrl.report.statistics import Estimate, estimate
from fpo_torchrl.report.tables import show
from fpo_torchrl.text import Table

GOALS = {
    "full": ("full", ""),
    "root_hands": ("root_hands", ""),
    "root": ("root", ""),
    "root, critic too": ("root", "_masked_critic"),
}
"""Suite and ending of the labels of each goal; in the last the critic sees no more than the policy."""
POLICIES = ("fpo", "fpopp", "ppo")
MEASURES = {"success_zero": 2, "success_random": 2, "alive_s_zero": 2, "mpjpe_local_all_mm_zero": 0, "return_zero": 1}
"""What is compared, with the decimals shown: that in ``measures.json``, and the final evaluation's return."""


def read_cells(results: Path) -> tuple[dict[tuple[str, str], dict[int, dict[str, float]]], list[str]]:
    """The measures of every stored run by goal and policy, then by seed; and the runs that did not finish.

    One that diverged has no success, and no other measure; one that failed in another way has none.
    """
    cells: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    unfinished = []
    for goal, (suite, ending) in GOALS.items():
        for policy in POLICIES:
            runs = sorted((results / f"humanoid_{suite}" / "humanoid-planar" / f"{policy}{ending}").glob("seed*"))
            for run in runs:
                status = read_provenance(run).get("status")
                if status != "finished":
                    unfinished.append(f"{run.relative_to(results)} {status}")
                if (measures := measures_of(run, status)) is not None:
                    cells.setdefault((goal, policy), {})[int(run.name.removeprefix("seed"))] = measures
    return cells, unfinished


def measures_of(run: Path, status: str | None) -> dict[str, float] | None:
    """What is compared of a run that ended as ``status`` says; None if there is nothing."""
    if status == "diverged":
        return {"success_zero": 0.0, "success_random": 0.0}
    if status != "finished":
        return None
    final = {"return_zero": read_json(run / "evaluation.json")["zero"]["mean"]}
    return {**read_json(run / "measures.json"), **final}


def difference(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of the first sample minus that of the second; of four, the difference of two such differences."""
    means = [sample.mean(axis) for sample in samples]
    gaps = [one - other for one, other in zip(means[::2], means[1::2], strict=True)]
    return gaps[0] if len(gaps) == 1 else gaps[0] - gaps[1]


def gaps_of(values: dict[tuple[str, str], np.ndarray]) -> dict[str, Estimate]:
    """The gap of FPO to the Gaussian at each goal that has runs of both, and its growth from ``full`` to ``root``."""
    both = {
        goal: [values[goal, "fpo"], values[goal, "ppo"]]
        for goal in GOALS
        if {(goal, "fpo"), (goal, "ppo")} <= {*values}
    }
    found = {goal: estimate(difference, pair) for goal, pair in both.items()}
    if {"full", "root"} <= {*both}:
        found["growth"] = estimate(difference, [*both["root"], *both["full"]])
    return found


def table(cells: dict[tuple[str, str], np.ndarray], gaps: dict[str, Estimate], decimals: int) -> str:
    """One measure in Markdown: a row for each goal."""
    rows = []
    for goal in GOALS:
        of_goal = [cells.get((goal, policy)) for policy in POLICIES]
        shown = [
            "" if found is None else f"{found.mean():.{decimals}f} ({', '.join(f'{it:.{decimals}f}' for it in found)})"
            for found in of_goal
        ]
        rows.append([goal, *shown, gap(gaps.get(goal), decimals)])
    rows.append(["growth from full to root", *[""] * len(POLICIES), gap(gaps.get("growth"), decimals)])
    return Table(["goal", *POLICIES, "FPO minus PPO"], rows).markdown()


def gap(found: Estimate | None, decimals: int) -> str:
    """A gap with its interval, which a single seed has not; nothing for none."""
    return show(found, decimals, sign="+") if found is not None else ""


def numbers(found: Estimate) -> list[float | None]:
    """Value and bounds for a JSON file, which has no NaN."""
    return [None if np.isnan(it) else float(it) for it in (found.value, found.low, found.high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).with_name("results"), help="default: %(default)s"
    )
    results = parser.parse_args().results
    cells, unfinished = read_cells(results)
    if not cells:
        parser.error(f"{results} has no runs of humanoid_full, humanoid_root_hands or humanoid_root")
    report, text = {**origin("cpu"), "measures": {}}, ""
    for measure, decimals in MEASURES.items():
        of_runs = {
            cell: [of[measure] for _, of in sorted(runs.items()) if measure in of] for cell, runs in cells.items()
        }
        values = {cell: np.array(found) for cell, found in of_runs.items() if found}
        gaps = gaps_of(values)
        report["measures"][measure] = {
            "cells": {f"{goal} {policy}": found.tolist() for (goal, policy), found in values.items()},
            "gaps": {name: numbers(found) for name, found in gaps.items()},
        }
        text += f"## {measure}\n\n{table(values, gaps, decimals)}\n"
    num_runs = sum(map(len, cells.values()))
    header = (
        f"# FPO and a Gaussian from part of the goal\n\n`python benchmarks/humanoid_gap.py`, {num_runs} runs: mean "
        "over seeds, in parentheses the seeds; gaps with 95 % bootstrap intervals."
        f"{''.join(f' Not finished: {run}.' for run in unfinished)}\n\n"
    )
    write_json(results / "humanoid_gap.json", report)
    write_whole(results / "humanoid_gap.md", header + text.rstrip() + "\n")
    print(header + text.rstrip())


if __name__ == "__main__":
    main()
