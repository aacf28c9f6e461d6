"""Tables that pages keep by hand agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny
from omegaconf import OmegaConf

from fpo_torchrl import health, make_env

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    section = (DOCS / page).read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("row", rows("choosing.md", "Tasks"), ids=lambda row: row[0].strip("`"))
def test_a_task_has_the_sizes_and_discount_that_the_page_says(row):
    task, observation, action, steps, _, discount = row
    task = task.strip("`")
    env = make_env(task, num_envs=1)
    assert env.observation_spec["observation"].shape == (1, int(observation))
    assert env.action_spec.shape == (1, int(action))
    assert env.max_episode_steps == int(steps)
    family = task.partition("/")[0]
    preset = {"gridworld": ["experiment=gridworld"], "humanoid": ["experiment=humanoid"]}.get(family, [])
    assert tiny.compose(*preset, f"task={task}").advantage.gamma == float(discount)


@pytest.mark.parametrize("row", rows("choosing.md", "What to tune first"), ids=lambda row: row[0].strip("`"))
def test_a_setting_has_the_default_that_the_page_says(row):
    names, default, *_ = row
    cfg = tiny.compose("task=CheetahRun")  # whose discount is not its own
    for name, value in zip(re.findall(r"`([^`]+)`", names), default.split(", "), strict=False):
        there = OmegaConf.select(cfg, name.replace("/", "."))
        if "/" in name:
            assert there._target_.endswith(f".{value.strip('`').capitalize()}Target")
        else:
            assert there == float(value)


def test_every_finding_of_the_doctor_has_its_row():
    findings = re.findall(r'Finding\(\s*"([^"]+)"', Path(health.__file__).read_text())
    assert len(findings) == len(health.CHECKS)
    assert sorted(row[0] for row in rows("doctor.md", "Findings")) == sorted(findings)
