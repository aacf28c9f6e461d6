"""Settings drawn at random: each trains, or is refused in a sentence."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import pytest
import tiny
from omegaconf import DictConfig, OmegaConf

hypothesis = pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from fpo_torchrl.cli import friendly_errors  # noqa: E402
from fpo_torchrl.config import COMPONENTS  # noqa: E402
from fpo_torchrl.errors import CheckpointError, ConfigError, NonFiniteError  # noqa: E402
from fpo_torchrl.runs.settings import flatten  # noqa: E402
from fpo_torchrl.runs.start import start_run  # noqa: E402
from fpo_torchrl.sweep.manifest import composer  # noqa: E402

PRESETS = {
    "fpo": tiny.GRIDWORLD,
    "ppo": ("actor=gaussian", "loss=ppo", "task=probe/both", *tiny.SMALL),
}
SLOW = ("device", "num_threads", "logger.kind", "run_dir", "resume")
"""Settings that ask for what this machine may not have, or change the process."""
# Sizes stay small, since memory that is not there is no mistake of ours.
VALUES = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, float("nan"), float("inf"), -float("inf")]),
    st.floats(-10, 10),
    st.booleans(),
    st.none(),
    st.sampled_from(["", " ", "euler", "l2", "none", "???", "${seed}", "${no.such}", "a/b", "gym/", "\x00", "é"]),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(-1, 8), st.floats(-1, 1), st.text(max_size=2), st.none()), max_size=3),
    st.dictionaries(st.sampled_from(["_target_", "lr", "x"]), st.one_of(st.text(max_size=5), st.integers(0, 3))),
)
MODEST = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow], max_examples=10
)


def outcome(function: Callable[[], Any]) -> tuple[int, str]:
    """The exit code of what ``function`` does and what it says on standard error; 0 if it ends well."""
    said = StringIO()
    with redirect_stderr(said), redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with friendly_errors():
                function()
        except SystemExit as stopped:
            return int(stopped.code or 0), said.getvalue()
    return 0, said.getvalue()


def check(code: int, said: str) -> None:
    assert code in (0, *(error.exit_code for error in (ConfigError, CheckpointError, NonFiniteError)))
    assert "Traceback" not in said
    if code:
        message = said.rpartition("error: ")[2].strip()
        assert len(message.split()) > 2, said


def one_iteration(cfg: DictConfig, changes: dict[str, Any]) -> None:
    """Build a run with changed settings and let it learn once."""
    cfg = OmegaConf.create(cfg)
    directory = tempfile.mkdtemp()
    try:
        OmegaConf.update(cfg, "run_dir", f"{directory}/run")
        for key, value in changes.items():
            OmegaConf.update(cfg, key, value, merge=False)
        run = start_run(cfg)
        run.settle()
        run.log(next(iter(run.trainer)))
    finally:
        shutil.rmtree(directory)


def keys_of(preset: str) -> list[str]:
    tree: Any = OmegaConf.to_container(tiny.compose(*PRESETS[preset]))
    leaves = [key for key, _ in flatten(tree)]
    parents = {key.rpartition(".")[0] for key in leaves} - {""}
    return sorted(key for key in {*leaves, *parents} if key not in SLOW)


@pytest.mark.parametrize("preset", PRESETS)
@MODEST
@given(data=st.data())
def test_values(preset, data):
    changes = data.draw(st.dictionaries(st.sampled_from(keys_of(preset)), VALUES, min_size=1, max_size=2))
    cfg = tiny.compose(*PRESETS[preset])
    check(*outcome(lambda: one_iteration(cfg, changes)))


NAMES = st.one_of(
    st.sampled_from([*COMPONENTS, "seed", "task", "optim.lr", "+new", "~optim", "hydra.run.dir", "loss/trust_region"]),
    st.text(max_size=4),
)
TEXTS = st.one_of(
    st.sampled_from(["", "null", "euler", "flow", "[1,2", "{a:1}", "choice(", "interval(0,1)", "'", "1e-3", "${x}"]),
    st.text(max_size=6),
)


@MODEST
@given(overrides=st.lists(st.tuples(NAMES, st.sampled_from(["=", "", "==", "@"]), TEXTS), min_size=1, max_size=2))
def test_command_lines(overrides):
    def compose_all() -> None:
        with composer() as composed:
            composed(["".join(parts) for parts in overrides])

    check(*outcome(compose_all))
