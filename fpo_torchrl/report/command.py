"""``fpo-report``: tables, curves and intervals of finished runs."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from fpo_torchrl.cli import friendly_errors, take_defaults
from fpo_torchrl.errors import ConfigError


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="fpo-report",
        description="Compare runs: per-seed scores and curves as CSV, tables in Markdown and LaTeX, and pictures, "
        "with 95 % stratified bootstrap intervals.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIRS", help="directories with runs at any depth")
    parser.add_argument("--out", type=Path, help="where to write; default: %(default)s")
    parser.add_argument(
        "--metric",
        choices=("random", "zero"),
        help="start noise of the final evaluation, where random is the policy as it is trained; default: %(default)s",
    )
    parser.add_argument("--max-return", type=float, help="best possible return; default: %(default)g")
    parser.add_argument(
        "--min-return", type=float, help="worst possible return, which a diverged run counts as; default: %(default)g"
    )
    parser.add_argument(
        "--algorithms",
        nargs="+",
        metavar="LABEL",
        dest="labels",
        help="which to show, in this order; the first is compared with each other. Default: all, by name",
    )
    return take_defaults(parser, report)


def report(
    runs: list[Path],
    out: Path = Path("report"),
    *,
    metric: str = "random",
    max_return: float = 1000.0,
    min_return: float = 0.0,
    labels: list[str] | None = None,
) -> None:
    """Read the runs, write the report to ``out`` and print its table.

    Raises:
        ConfigError: for wrong arguments or runs, or if the extra ``report`` is not installed.
    """
    if not -math.inf < min_return < max_return < math.inf:
        raise ConfigError(
            f"--max-return {max_return:g} is out of range: it must be above --min-return {min_return:g}, both of them "
            "finite"
        )
    try:
        from .runs import read_results
        from .write import print_report, write_report
    except ImportError as error:
        raise ConfigError(f"fpo-report needs a package ({error}): pip install fpo-torchrl[report]") from error
    results = read_results(runs, metric=metric, labels=labels, worst=min_return, best=max_return)
    print_report(results, out, write_report(results, out))


def main() -> None:
    """Report as the command line says."""
    arguments = parser().parse_args()
    with friendly_errors():
        report(**vars(arguments))


if __name__ == "__main__":
    main()
