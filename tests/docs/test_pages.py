"""The pages of the documentation: code runs, commands exist, links lead somewhere, and the site builds from them."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from operator import attrgetter
from pathlib import Path

import pytest
import tiny
from hydra import compose, initialize_config_module

from fpo_torchrl.config import register_schemas
from fpo_torchrl.runs.assembly import build_trainer
from fpo_torchrl.training.parallel import Processes

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
OPTIONS = {
    "fpo-distill": ROOT / "fpo_torchrl/distill/command.py",
    "fpo-export": ROOT / "fpo_torchrl/export/command.py",
    "fpo-report": ROOT / "fpo_torchrl/report/command.py",
    "fpo-sbatch": ROOT / "fpo_torchrl/sweep/slurm.py",
    "fpo-sweep": ROOT / "fpo_torchrl/sweep/command.py",
}
"""Where the options of a command are."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.S | re.M)


def commands(page: Path) -> list[list[str]]:
    """The words of each command in the page's bash blocks; of a script, what it does with this package."""
    found = []
    for block in blocks(page, "bash"):
        lines = block.replace("\\\n", " ").splitlines()
        words = [as_fpo_train(words) for line in lines if (words := shlex.split(line, comments=True))]
        found += [it for it in words if it[0].startswith("fpo-") or not block.startswith("#!")]
    return found


def as_fpo_train(words: list[str]) -> list[str]:
    """``torchrun ... -m fpo_torchrl.train settings`` is ``fpo-train settings``."""
    module = "fpo_torchrl.train"
    return ["fpo-train", *words[words.index(module) + 1 :]] if module in words else words


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda page: page.stem)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_the_python_blocks_of_a_page_run_one_after_the_other(page, capsys):
    scope: dict = {"__name__": f"page_{page.stem}"}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), scope)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_preset_in_python_is_the_one_of_fpo_train():
    scope: dict = {"__name__": "preset"}
    for block in blocks(ROOT / "docs/index.md", "python"):
        exec(compile(block, "index.md", "exec"), scope)
    ours, (_, trainer) = scope["trainer"], build_trainer(tiny.compose("task=CartpoleBalance"), Processes())

    def settings(of) -> dict:
        plain = {name: value for name, value in vars(of).items() if isinstance(value, (bool, int, float, str))}
        return {name: value for name, value in plain.items() if name != "training" and not name.startswith("_")}

    parts = ("loss", "advantage", "normalizer")
    for here, there in [(ours, trainer), *((getattr(ours, part), getattr(trainer, part)) for part in parts)]:
        assert settings(here) == settings(there)
    for name in ("actor", "loss.critic_network", "loss.trust_region", "optimizer.limits", "optimizer", "env.num_envs"):
        assert repr(attrgetter(name)(ours)) == repr(attrgetter(name)(trainer)), name


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash")], ids=lambda page: page.stem)
def test_the_commands_of_a_page_exist_with_their_options(page):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for program, *words in commands(page):
        assert program in scripts, program
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert f'"{option}"' in OPTIONS[program].read_text(), (program, option)


def overrides_of(page: Path) -> list[list[str]]:
    return [
        [w for w in words if not w.startswith(("-", "resume="))]
        for name, *words in commands(page)
        if name == "fpo-train"
    ]


@pytest.mark.parametrize("overrides", [o for page in PAGES for o in overrides_of(page) if o], ids=" ".join)
def test_the_settings_that_a_page_gives_fpo_train_compose(overrides):
    register_schemas()
    with initialize_config_module("fpo_torchrl.conf", version_base="1.3"):
        compose("config", overrides=[o for o in overrides if "," not in o])


def test_every_row_of_paper_against_code_is_there():
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs/paper_and_code.md").read_text(), flags=re.M)
    assert rows == [str(number) for number in range(1, 29)]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("needs pip install 'fpo-torchrl[docs]'")
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return directory


def test_the_site_builds_without_a_warning_and_has_every_page(site):
    assert {page.stem for page in PAGES} <= {path.stem for path in site.glob("*.html")}


def test_the_site_asks_the_network_for_nothing(site):
    for path in site.rglob("*.html"):
        remote = re.findall(
            r"""<(?:script|img|link|iframe)[^>]+(?:src|href)=["']?(https?:[^"' >]+)""", path.read_text()
        )
        assert remote == [], path
    for path in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?https?:", path.read_text()), path


def test_the_api_page_shows_signatures_and_no_markup_of_sphinx(site):
    text = (site / "api.html").read_text()
    assert 'id="fpo_torchrl.FPOLoss"' in text
    assert not re.findall(r":(?:class|func|meth):", text)
    assert text.count("<blockquote>") == 0, "a doctest that became a quotation"
