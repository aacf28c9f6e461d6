"""The command of reports, quick enough for tests."""

from __future__ import annotations

import pytest

from fpo_torchrl.report import command, statistics


@pytest.fixture
def fpo_report(monkeypatch, run_command):
    """Type ``fpo-report``; returns what ``run_command`` does."""
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 200)
    return lambda *arguments: run_command(command.main, *arguments)
