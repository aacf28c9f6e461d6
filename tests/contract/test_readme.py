"""What the README shows must run."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from fpo_torchrl.config import register_schemas

README = Path(__file__).parents[2] / "README.md"
MAKEFILE = README.with_name("Makefile")


def test_the_python_example_runs_and_leaves_gradients():
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    scope: dict = {}
    exec(block, scope)
    assert all(parameter.grad is not None for parameter in scope["actor"].parameters())
    assert all(parameter.grad is not None for parameter in scope["critic"].parameters())


def test_it_has_exactly_two_set_up_commands_and_the_makefile_has_both():
    (block,) = re.findall(r"```\n(make.*?)```", README.read_text(), flags=re.S)
    targets = [line.split()[1] for line in block.splitlines()]
    assert targets == ["train", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE.read_text(), flags=re.M)


def overrides_shown():
    """Every ``fpo-train`` line, and every override or preset named in the table."""
    table = "\n".join(line for line in README.read_text().splitlines() if line.startswith("|"))
    for code in re.findall(r"`([^`]+)`", table):
        words = shlex.split(code)
        if words[0] == "fpo-train":
            words = [word for word in words[1:] if not word.startswith(("-", "resume"))]
        if words and all("=" in word for word in words) and "my_package" not in code:
            yield [word for word in words if "," not in word or "[" in word]


@pytest.mark.parametrize("overrides", [o for o in overrides_shown() if o], ids=" ".join)
def test_every_override_it_names_composes(overrides):
    register_schemas()
    with initialize_config_module("fpo_torchrl.conf", version_base="1.3"):
        compose("config", overrides=overrides)
