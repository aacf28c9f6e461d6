"""The files of a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fpo_torchrl.files import make_directory, write_whole
from fpo_torchrl.provenance import now
from fpo_torchrl.text import Table, write_csv

from .figures import draw_curves, draw_improvements, draw_profiles
from .runs import Results, RunRecord, differing_settings
from .tables import (
    cost_table,
    differences_table,
    failures_table,
    improvements,
    main_table,
    measures_table,
    plural,
    provenance_table,
    relative,
    show,
)

METRICS = {
    "random": "the policy as it is trained, from random start noise or by samples of the Gaussian",
    "zero": "zero start noise, or the mode of the Gaussian",
}
CURVE_COLUMNS = ("return", "eval_zero", "eval_zero_low", "eval_zero_high")


def write_report(results: Results, out: Path) -> list[str]:
    """Write scores, curves, tables, pictures and ``report.md`` to ``out``; returns warnings about the runs."""
    make_directory(out / "curves")
    warnings = [*differences(results), *budget_warnings(results), *range_warnings(results)]
    write_csv(out / "scores.csv", [score_row(run, out) for _, _, group in results.groups() for run in group])
    drop_curves(out / "curves", kept=results.tasks)
    for task in results.tasks:
        rows = [row for label in results.labels for run in results.group(task, label) for row in curve_rows(run)]
        write_csv(out / "curves" / curve_file(task), rows)
    table, found = main_table(results), improvements(results)
    note = table_note(results)
    write_whole(out / "table.md", f"{table.markdown()}\n{note}\n")
    write_whole(out / "table.tex", table.latex())
    draw_curves(results, out / "curves.png")
    for name in ("profiles.png", "improvement.png"):
        (out / name).unlink(missing_ok=True)  # of an earlier report; these two are not always drawn
    if results.shared_tasks:
        draw_profiles(results, out / "profiles.png")
    if found:
        draw_improvements(found, out / "improvement.png")
    sections = [
        ("Returns", f"{table.markdown()}\n{note}"),
        ("Runs that did not finish", as_markdown(failures_table(results, out))),
        ("Warnings", "\n".join(f"* {warning}" for warning in warnings)),
        ("Learning curves", f"{curves_note(results)}\n\n![learning curves](curves.png)"),
        ("Performance profiles", "![performance profiles](profiles.png)" if results.shared_tasks else ""),
        ("Differences", differences_section(differences_table(results))),
        ("Probability of improvement", improvement_section(found)),
        ("Other measures", as_markdown(measures_table(results))),
        ("Cost", f"{cost_table(results).markdown()}\n{COST_NOTE}"),
        ("Provenance", f"{provenance_table(results).markdown()}\nEvery run by itself: [scores.csv](scores.csv)."),
    ]
    title = f"{plural(len(results.runs), 'run')}, {plural(len(results.tasks), 'task')}"
    head = f"# {title}\n\nWritten by `fpo-report` on {now()[:10]}.\n"
    body = [f"\n## {heading}\n\n{text.rstrip()}\n" for heading, text in sections if text]
    write_whole(out / "report.md", head + "".join(body))
    return warnings


def curve_file(task: str) -> str:
    """The name of the file with the curves of a task."""
    return f"{task.replace('/', '-')}.csv"


def drop_curves(directory: Path, *, kept: Sequence[str]) -> None:
    """Remove the curves of an earlier report on other tasks, and no other files."""
    for path in directory.glob("*.csv"):
        if path.name not in map(curve_file, kept) and path.read_text().startswith("algorithm,seed,status,frames,"):
            path.unlink()


COST_NOTE = (
    "Frames a second of collecting and updating, without evaluations, and the time that a finished run took for all "
    "of its frames, means over runs. A machine that was shared with other work is slower: scores.csv has its load."
)


def as_markdown(table: Table | None) -> str:
    """A table that may not be there."""
    return table.markdown() if table is not None else ""


def differences(results: Results) -> list[str]:
    """A warning for each group whose runs were set to different things, besides their seeds."""
    return [
        f"{label} on {task}: runs differ in "
        + ", ".join(f"{key} ({', '.join(map(str, v))})" for key, v in keys.items())
        for task, label, group in results.groups()
        if (keys := differing_settings(group))
    ]


def budget_warnings(results: Results) -> list[str]:
    """A warning for each task on which algorithms were trained for different numbers of frames."""
    warnings = []
    for task in results.tasks:
        groups = {label: results.group(task, label) for label in results.labels}
        budgets = {label: {run.settings.get("total_frames") for run in group} for label, group in groups.items()}
        frames = {label: found.pop() for label, found in budgets.items() if len(found) == 1}
        if len({*frames.values()}) > 1:
            told = ", ".join(f"{label} for {number}" for label, number in frames.items())
            warnings.append(f"on {task} runs were trained for different numbers of frames: {told}")
    return warnings


def range_warnings(results: Results) -> list[str]:
    """A warning if all returns of a task are outside the range from the worst to the best possible one.

    A twentieth of the range is the margin at both ends: a sum of rewards may be a little more than the best return. If
    those of all tasks are at the bottom of the range, it is not theirs either.
    """
    evaluated = [(run.task, run.evaluation[results.metric]["mean"]) for run in results.runs if run.evaluation]
    margin = (results.best - results.worst) / 20
    low, high = results.worst - margin, results.best + margin
    if not any(results.worst + margin <= value <= high for _, value in evaluated):
        low = high
    returns = {task: [value for of, value in evaluated if of == task] for task in results.tasks}
    outside = [
        f"{task} ({min(found):.3g} to {max(found):.3g})"
        for task, found in returns.items()
        if found and not any(low <= value <= high for value in found)
    ]
    if not outside:
        return []
    return [
        f"a return is taken to be between {results.worst:g} and {results.best:g}, and those on {', '.join(outside)} "
        "are not, or all at the bottom: give the tasks' range with --min-return and --max-return, and make tasks of "
        "another range a report of their own, or the pictures show little and a diverged run counts as what it is not"
    ]


def table_note(results: Results) -> str:
    """What the numbers of the main table are."""
    evaluated = {len(run.evaluation[results.metric]["returns"]) for run in results.runs if run.evaluation}
    episodes = " or ".join(map(str, sorted(evaluated)))
    lines = [
        f"Return after training: {METRICS[results.metric]}.",
        f"Mean over seeds of the mean over {episodes or 'the'} evaluation episodes. In brackets its 95 % stratified "
        "bootstrap interval over seeds, which is too narrow when there are few; in parentheses the number of seeds.",
        f"A diverged run counts as {results.worst:g}; one that was interrupted or is unfinished is shown, not counted.",
    ]
    left_out = [task for task in results.tasks if task not in results.shared_tasks]
    if left_out:
        lines.append(f"Not in the aggregates, for want of a score of every algorithm: {', '.join(left_out)}.")
    return " ".join(lines)


def curves_note(results: Results) -> str:
    """What the curves show."""
    lines = (
        "Mean over seeds with its 95 % bootstrap interval, up to the end of the shortest run; each seed as a thin line."
    )
    if any(run.status != "finished" for run in results.runs):
        lines += (
            f" A cross: the run diverged there, and counts as {results.worst:g} from then on. A dot: it stopped there."
        )
    return lines


def differences_section(table: Table | None) -> str:
    """By how much the first algorithm earns more, task by task."""
    if table is None:
        return ""
    return (
        f"{table.markdown()}\nMean return of the first algorithm minus that of another, with the 95 % bootstrap "
        "interval of this difference: where it holds 0, the runs do not tell which one earns more. The interval is "
        "too narrow when seeds are few, and of many tasks some differ by chance."
    )


def improvement_section(found: dict[str, Any]) -> str:
    """The probabilities of improvement, in numbers and as a picture."""
    if not found:
        return ""
    table = Table(["", "probability that a run earns more"], [[name, show(value, 2)] for name, value in found.items()])
    note = "Over pairs of runs of a task; the intervals are too narrow when seeds are few, and have no width with one."
    return f"{table.markdown()}\n{note}\n\n![probability of improvement](improvement.png)"


def score_row(run: RunRecord, out: Path) -> dict[str, Any]:
    """Everything about one run that ``scores.csv`` in ``out`` shows."""
    row: dict[str, Any] = {"task": run.task, "algorithm": run.label, "seed": run.seed, "status": run.status}
    row["frames"] = run.frames
    for noise in METRICS:
        found = run.evaluation.get(noise, {})
        columns = {f"return_{noise}": "mean", f"return_{noise}_low": "low", f"return_{noise}_high": "high"}
        row |= {column: found.get(key) for column, key in columns.items()}
    row |= dict.fromkeys(("best_eval_zero", "best_eval_zero_frames", "drop_from_best"))
    frames, values = run.series("eval_zero")
    if len(values):
        row |= {"best_eval_zero": values.max(), "best_eval_zero_frames": int(frames[values.argmax()])}
        if row["return_zero"] is not None:
            row["drop_from_best"] = values.max() - row["return_zero"]
    origin, machine = run.origin, run.origin.get("machine", {})
    row |= {"frames_per_s": run.frames_per_s if run.metrics else None, "training_s": run.training_s}
    row |= {"device": run.device, "load": machine.get("load"), "date": origin.get("date")}
    row |= {"starts": len(run.provenance.get("starts", [])), "error": run.provenance.get("error")}
    row |= {"directory": relative(run.directory, out), "commit": origin.get("commit")}
    return row | origin.get("versions", {}) | run.measures


def curve_rows(run: RunRecord) -> list[dict[str, Any]]:
    """The learning curve of one run."""
    same = {"algorithm": run.label, "seed": run.seed, "status": run.status}
    return [
        {**same, "frames": int(row["frames"]), **{name: row.get(name) for name in CURVE_COLUMNS}} for row in run.metrics
    ]


def print_report(results: Results, out: Path, warnings: list[str]) -> None:
    """Say on the terminal what came out and where it is."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print((out / "table.md").read_text())
    failures = failures_table(results, out)
    if failures is not None:
        print(f"{len(failures.rows)} of {len(results.runs)} runs did not finish:\n{failures.markdown()}")
    print(f"  {out / 'report.md'}")
