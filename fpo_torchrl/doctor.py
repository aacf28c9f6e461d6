"""``fpo-doctor``: what is wrong with a run, what that means and what to try."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fpo_torchrl.checkpoint import verify
from fpo_torchrl.cli import friendly_errors
from fpo_torchrl.errors import CheckpointError, ConfigError
from fpo_torchrl.health import examine
from fpo_torchrl.report.runs import RunRecord, read_run, run_directories


def diagnose(run: RunRecord) -> tuple[str, list[str]]:
    """How far a run came, and what is wrong with it: nothing, if the list is empty."""
    state = f"{run.directory}: {run.status}, {run.frames} of {run.settings['total_frames']} frames"
    if run.metrics:
        last = run.metrics[-1]
        state += f", return {last['return']:.4g}" if "return" in last else ", no episode over yet"
    rows = list(run.metrics)
    if rows and run.evaluation:  # of the policy at the end, unlike the return of training
        rows[-1] = {**rows[-1], **{f"eval_{noise}": run.evaluation[noise]["mean"] for noise in ("zero", "random")}}
    findings = [str(finding) for finding in examine(rows)]
    if not rows and run.status == "finished":
        findings.insert(0, "metrics.csv is missing or empty. Try: a copy of it from before.")
    findings += damaged_checkpoints(run.directory)
    if run.status in ("diverged", "interrupted"):
        findings.insert(0, f"{run.status}: {run.provenance.get('error')}")
    return state, findings


def damaged_checkpoints(run_dir: Path) -> list[str]:
    """What is wrong with the newest checkpoint of a run, if anything."""
    for path in sorted((run_dir / "checkpoints").glob("checkpoint-*"))[-1:]:
        try:
            verify(path)
        except CheckpointError as error:
            return [f"checkpoint: {error}. A run that is resumed goes on from the one before, if there is one."]
    return []


def diagnose_in(directory: Path) -> tuple[str, list[str]]:
    """As :func:`diagnose` of the run in a directory; a damaged file is what is wrong with it, not an error."""
    try:
        return diagnose(read_run(directory))
    except (ConfigError, LookupError) as error:  # the latter of a setting or column that is not there
        seen = " ".join(f"{type(error).__name__}: {error}".split())
        return f"{directory}: unreadable", [f"damaged file: {seen}. Try: a copy of it from before."]


def main() -> None:
    """Examine the runs that the command line names; exits with 1 if something is wrong with one of them."""
    parser = argparse.ArgumentParser(
        prog="fpo-doctor",
        description="Check runs, finished or not: first ratio, CFM loss, clipping, advantages, start noise, "
        "forgetting, saturation, gradients, damaged files. Exits with 1 if something is wrong.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIRS", help="directories with runs at any depth")
    sick = False
    with friendly_errors():
        given = parser.parse_args().runs
        if not (directories := run_directories(given)):
            raise ConfigError(f"there is no run in {', '.join(map(str, given))}: a run's directory has a config.yaml")
        for directory in directories:
            state, findings = diagnose_in(directory)
            print("\n  ".join([state, *(findings or ["nothing found"])]))
            sick |= bool(findings)
    sys.exit(1 if sick else 0)


if __name__ == "__main__":
    main()
