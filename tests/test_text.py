"""Tables in Markdown, LaTeX and CSV, and lengths of time."""

from __future__ import annotations

import pytest

from fpo_torchrl.text import Table, duration, write_csv


def test_latex_keeps_every_character_as_text():
    text = Table([r"a_b & 5 % of $x^2 #1 {y} ~ \z"], [["<1>"]]).latex()
    expected = r"a\_b \& 5 \% of \$x\textasciicircum{}2 \#1 \{y\} \textasciitilde{} \textbackslash{}z \\"
    assert expected in text.splitlines()
    assert r"\textless{}1\textgreater{} \\" in text


def test_markdown_keeps_a_cell_a_cell():
    assert Table(["a"], [["x | y\nz"]]).markdown() == "| a |\n| --- |\n| x \\| y z |\n"


def test_the_rule_of_a_table_may_be_another():
    assert Table(["a", "b"], [["1", "2"]]).markdown(rule="---") == "| a | b |\n|---|---|\n| 1 | 2 |\n"


class TestCsv:
    rows = ({"a": 1, "b": None}, {"a": "x,y", "c": 2.5})

    def test_every_column_of_every_row(self, tmp_path):
        write_csv(tmp_path / "table.csv", self.rows)
        assert (tmp_path / "table.csv").read_bytes() == b'a,b,c\n1,,\n"x,y",,2.5\n'

    def test_chosen_columns(self, tmp_path):
        write_csv(tmp_path / "table.csv", self.rows, ("c", "a"))
        assert (tmp_path / "table.csv").read_bytes() == b'c,a\n,1\n2.5,"x,y"\n'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4, "4 s"), (59.96, "60 s"), (90, "1.5 min"), (86400, "24 h"), (5_400_000, "1500 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
