"""What "PPO to FPO in five lines" shows must run, and be true."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "ppo_to_fpo.md"


@pytest.fixture(scope="module")
def scope() -> dict:
    """The names that the page's program leaves behind."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    scope: dict = {}
    exec(block, scope)
    return scope


def test_the_program_trains_actor_and_critic(scope):
    assert all(parameter.grad is not None for parameter in scope["loss"].parameters())


def test_the_flow_keys_it_names_are_those_that_the_actor_writes(scope):
    named = re.search(r"`actor.flow_keys` lists .*?: (.*?)\. ", PAGE.read_text(), flags=re.S)
    assert named is not None
    assert {*re.findall(r"`(\w+)`", named[1])} == {*scope["actor"].flow_keys}


def test_torchrls_own_loss_computes_the_same_objective(scope):
    from torchrl.objectives import ClipPPOLoss

    actor, critic, batch = scope["actor"], scope["critic"], scope["batch"]
    log_prob = -batch["cfm_loss"].mean(-1)
    batch = batch.clone().update({"action": batch["flow_action"], actor.log_prob_key: log_prob})
    theirs = ClipPPOLoss(actor, critic, clip_epsilon=0.05, entropy_bonus=False, normalize_advantage=True)
    objective = theirs(batch)["loss_objective"]
    torch.testing.assert_close(objective, scope["loss"](batch)["loss_objective"])


def test_five_lines_are_numbered():
    assert re.findall(r"  # (\d)", PAGE.read_text()) == list("12345")


@pytest.mark.parametrize("page", sorted(PAGE.parent.glob("*.md")), ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
