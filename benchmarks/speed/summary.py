"""The report of the suite as markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {"ours": "FPO, this package", "ours compiled": "the same, trainer.compile", "plain": "plain torch, no TorchRL"}
NAMES |= {"ppo": "Gaussian, TorchRL's ClipPPOLoss", "reference": "the authors' JAX code"}


def markdown(report: Mapping[str, Any]) -> str:
    """Tables of what the report holds; ratios are seconds over ours."""
    machine, settings = report["machine"], report["settings"]
    where = machine["gpu"] or f"{machine['cpu']}, {settings['threads']} threads"
    lines = [
        f"Written by `{report['command']}` on {report['date'][:10]}: {where}, load {machine['load']} before it began.",
        f"A ratio is seconds over ours in the same round, the median of {settings['rounds']} rounds; above 1, ours is "
        "faster. In brackets the lowest and the highest round; then the ratio of the CPU time of all threads, which "
        "other load hardly touches.",
    ]
    if "sampling" in report:
        lines += ["", "### Sampling actions", ""]
        names = list(report["sampling"][0]["contenders"])
        rest = [name for name in names if name != "ours"]
        lines += table_head("observations", "ours, ms", *(NAMES[name] for name in rest))
        for row in report["sampling"]:
            cells = [f"{row['contenders']['ours']['median_s'] * 1e3:.2f}"]
            cells += [ratio(row["contenders"][name]) for name in rest]
            lines.append(table_row(row["observations"], *cells))
    if "update" in report:
        update = report["update"]
        lines += ["", f"### One epoch of the update, {update['frames']} transitions", ""]
        lines += contenders(update["contenders"])
        lines += [
            "",
            f"Matrix products alone are {update['matmul_gflops_per_epoch']:.1f} GFLOP: "
            f"{update['share_of_matmul_ceiling']:.0%} of the rate of the largest product. Own time of the operators: "
            + ", ".join(f"{kind} {share:.0%}" for kind, share in update["kinds"].items())
            + ".",
        ]
    for row in report.get("collection", ()):
        lines += ["", f"### Collecting {row['frames']} frames, back end {row['backend']}", ""]
        lines += contenders(row["contenders"])
    if "iteration" in report:
        iteration = report["iteration"]
        lines += ["", f"### A whole iteration of {iteration['frames']} frames", ""]
        lines += contenders(iteration["contenders"], frames=iteration["frames"])
        total = sum(iteration["phases_s"].values())
        lines += ["", *table_head("phase", "ms", "share")]
        for name, spent in sorted(iteration["phases_s"].items(), key=lambda item: -item[1]):
            lines.append(table_row(name, f"{spent * 1e3:.1f}", f"{spent / total:.0%}"))
    if "memory" in report:
        memory = report["memory"]
        lines += ["", f"### Peak memory of a batch of {memory['frames']} transitions and its update", ""]
        lines += table_head("", "MB")
        lines += [table_row(NAMES[name], f"{peak:.0f}") for name, peak in memory["peak_mb"].items()]
        lines += [
            "",
            f"A transition takes {memory['bytes_per_frame']:.0f} bytes, "
            f"its pairs {memory['share_of_pairs']:.0%} of them.",
        ]
    return "\n".join(lines) + "\n"


def contenders(table: Mapping[str, Mapping[str, float]], frames: int | None = None) -> list[str]:
    """A table of contenders, with frames per second where a unit of work is so many."""
    lines = table_head("", "ms", *(["frames/s"] if frames else []), "ratio")
    for name, row in table.items():
        rate = [f"{frames / row['median_s']:.0f}"] if frames else []
        lines.append(table_row(NAMES[name], f"{row['median_s'] * 1e3:.1f}", *rate, ratio(row)))
    return lines


def ratio(row: Mapping[str, float]) -> str:
    """The median ratio with its range, and that of CPU time."""
    wall = f"{row['over_ours']:.2f} [{row['lowest_ratio']:.2f}, {row['highest_ratio']:.2f}]"
    return f"{wall}, CPU {row['cpu_over_ours']:.2f}"


def table_head(*names: str) -> list[str]:
    """The first two lines of a table."""
    return [table_row(*names), "|---" * len(names) + "|"]


def table_row(*cells: Any) -> str:
    """A line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"
