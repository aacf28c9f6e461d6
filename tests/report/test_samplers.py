"""The tables that ``fpo-eval`` leaves behind, to the byte."""

from __future__ import annotations

from fpo_torchrl.report.samplers import TABLE_WRITERS

RETURNS = {"mean": 12.5, "low": 11.0, "high": 14.0, "returns": [11.0, 14.0]}
ROW = {"name": "My|Solver", "steps": 3, "evaluations": 6, "noise": "zero", "policy_s": 0.0012, "action_spread": 0.05}
ORIGIN = {"checkpoint": "c.torchrl", "seed": 4, "date": "2026-01-02T03:04", "machine": {"gpu": None, "cpu": "a CPU"}}


def test_markdown(tmp_path):
    TABLE_WRITERS[".md"](tmp_path / "t.md", [{**ROW, **RETURNS}], ORIGIN)
    assert (tmp_path / "t.md").read_text() == (
        "c.torchrl, 2 episodes from seed 4, 2026-01-02 on a CPU.\n\n"
        "| solver | steps | start noise | return | 95 % interval | ms for a call | spread in one state |\n"
        "|---|---|---|---|---|---|---|\n"
        "| My\\|Solver | 3 | zero | 12.5 | [11.0, 14.0] | 1.20 | 0.05 |\n"
    )


def test_csv(tmp_path):
    TABLE_WRITERS[".csv"](tmp_path / "t.csv", [{**ROW, **RETURNS}], ORIGIN)
    assert (tmp_path / "t.csv").read_bytes() == (
        b"name,steps,evaluations,noise,mean,low,high,policy_s,action_spread\n"
        b"My|Solver,3,6,zero,12.5,11.0,14.0,0.0012,0.05\n"
    )
