"""Results as text: tables in Markdown, LaTeX and CSV, and lengths of time."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import select
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpo_torchrl.files import write_whole

LATEX_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
)


@dataclass(frozen=True)
class Table:
    """Rows of text under a header.

    ``num_aggregates`` of the rows, the last ones, are set apart from the others.
    """

    header: list[str]
    rows: list[list[str]]
    num_aggregates: int = 0

    def markdown(self, *, rule: str = " --- ") -> str:
        """The table in GitHub's Markdown, with ``rule`` below the header of each column."""
        cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (self.header, *self.rows)]
        header, *rows = (f"| {' | '.join(line)} |\n" for line in cells)
        return "".join([header, "|" + f"{rule}|" * len(self.header) + "\n", *rows])

    def latex(self) -> str:
        """The table as a ``tabular`` with the rules of the package booktabs."""
        lines = [" & ".join(map(escape_latex, cells)) + r" \\" for cells in [self.header, *self.rows]]
        split = len(lines) - self.num_aggregates
        rule = [r"\midrule"] if self.num_aggregates and self.num_aggregates < len(self.rows) else []
        body = [r"\toprule", lines[0], r"\midrule", *lines[1:split], *rule, *lines[split:], r"\bottomrule"]
        begin = rf"\begin{{tabular}}{{{'l' * len(self.header)}}}"
        return "\n".join(["% needs \\usepackage{booktabs}", begin, *body, r"\end{tabular}"]) + "\n"


def escape_latex(text: str) -> str:
    r"""Text in which no character has a meaning to LaTeX.

    >>> print(escape_latex("two_walls, 95 %"))
    two\_walls, 95 \%
    """
    return text.translate(LATEX_ESCAPES)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write rows that may have different columns; what is missing or None is an empty cell.

    Args:
        columns: which to write, in this order; default all.
    """
    text = io.StringIO()
    columns = columns if columns is not None else list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(90), duration(9000)
    ('1.5 min', '2.5 h')
    """
    for limit, unit, size in ((60, "s", 1), (3600, "min", 60)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    hours = seconds / 3600
    return f"{hours:.3g} h" if hours < 100 else f"{hours:.0f} h"


def say(*lines: str) -> None:
    """Print ``lines``, unless whoever read the output, or the terminal, has gone."""
    try:
        print(*lines, sep="\n", flush=True)
    except OSError:
        if not output_is_closed():
            raise
        drop_output()


def output_is_closed() -> bool:
    """Whether nobody reads standard output any more."""
    with contextlib.suppress(OSError, ValueError):  # it may be no file
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    return False


def drop_output() -> None:
    """Let go of standard output, lest Python complain when it is flushed to a pipe that was closed."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
