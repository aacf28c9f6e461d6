"""The speed suite compares like with like: its plain loop learns what the trainer learns, and its ratios are right."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import tiny
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "speed"))

import contenders
import profiling
import reference
import reference_worker
import run
import timing

SIZES = tuple(o for o in tiny.CARTPOLE if "pairs" not in o)


def make_trainer():
    """The paper's recipe on tiny networks, with batches of one minibatch."""
    return contenders.make_trainer("fpo_paper", *SIZES, "trainer.minibatch_size=64", "logger=none")


@pytest.fixture
def trainer():
    return make_trainer()


def test_the_plain_loop_learns_what_the_trainer_learns(trainer):
    other = make_trainer()
    other.loss.load_state_dict(trainer.loss.state_dict())
    batch = contenders.random_batch(trainer)
    start = [p.detach().clone() for p in trainer.loss.parameters()]
    contenders.make_plain(other).learn(contenders.plain_batch(batch))
    trainer.learn(batch)
    ours, plain = ([p.detach() for p in it.loss.parameters()] for it in (trainer, other))
    torch.testing.assert_close(plain, ours, rtol=1e-4, atol=1e-6)
    assert max((new - old).abs().max() for new, old in zip(ours, start, strict=True)) > 1e-4
    torch.testing.assert_close(other.normalizer.mean, trainer.normalizer.mean)


def test_the_plain_loop_collects_episodes_that_end(trainer):
    plain = contenders.make_plain(trainer, with_env=True)
    first, second = plain.collect(), plain.collect()
    assert first["observation"].shape == (8, 8, trainer.env.observation_spec["observation"].shape[-1])
    assert first["next_observation"][:-1].equal(first["observation"][1:])
    assert second["observation"][0].equal(first["next_observation"][-1])
    assert second["done"].nonzero()[:, 0].unique().tolist() == [3]  # an episode has 12 steps
    assert not second["observation"][4].equal(second["next_observation"][3])
    assert plain.cfm_loss(
        trainer.normalizer(first["observation"]), first["flow_action"], first["noise"], first["time"]
    ).equal(first["cfm_loss"])


def test_ratios_are_of_the_same_round():
    ours = [timing.Seconds(1.0, 1.0), timing.Seconds(10.0, 2.0), timing.Seconds(2.0, 2.0)]
    plain = [timing.Seconds(2.0, 2.0), timing.Seconds(10.0, 2.0), timing.Seconds(3.0, 8.0)]
    table = timing.compare({"ours": ours, "plain": plain})
    assert table["plain"] == {
        "median_s": 3.0,
        "over_ours": 1.5,
        "lowest_ratio": 1.0,
        "highest_ratio": 2.0,
        "cpu_over_ours": 2.0,
    }
    assert table["ours"]["over_ours"] == 1.0


def test_contenders_take_turns_after_a_round_that_does_not_count(monkeypatch):
    calls, seconds = [], iter(timing.Seconds(s, s) for s in [9.0, 9.0, 1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: calls.append("."))

    def worker(name):
        return lambda: calls.append(name) or next(seconds)

    taken = timing.take_turns({name: worker(name) for name in "ab"}, rounds=2)
    assert "".join(calls) == "ab.a.b.a.b"
    assert taken == {"a": [(1.0, 1.0), (3.0, 3.0)], "b": [(2.0, 2.0), (4.0, 4.0)]}


def test_phases_make_up_the_iteration_and_leave_no_timers_behind(trainer, monkeypatch):
    report, reported = trainer.report, {}
    monkeypatch.setattr(trainer, "report", lambda *args, **timed: reported.update(timed) or report(*args, **timed))
    spent = profiling.phases(trainer)
    assert len(spent) == 8
    assert sum(spent.values()) == pytest.approx(reported["collect_s"] + reported["update_s"])
    assert min(spent.values()) > 0  # the rests are what is left of an iteration
    assert "forward" not in vars(trainer.actor)
    assert trainer.advantage.critic is not None


@pytest.mark.parametrize(("path", "message"), [(None, "no --reference"), (Path("nowhere"), "nowhere: no playground")])
def test_without_a_checkout_the_authors_code_is_left_out_with_a_message(path, message, capsys):
    assert run.open_reference(argparse.Namespace(reference=path)) is None
    assert message in capsys.readouterr().out


def test_a_reference_that_fails_says_why(tmp_path):
    client = reference.Reference(tmp_path, sys.executable, threads=1)
    try:
        with pytest.raises(RuntimeError, match="failed on sample: ModuleNotFoundError"):
            client.work("sample", config={})()
    finally:
        client.close()


def test_type_parameters_are_read_by_an_older_python(tmp_path, monkeypatch):
    package = tmp_path / "flow_policy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "rollouts.py").write_text(
        '"""Words."""\n\nfrom __future__ import annotations\nfrom typing import Protocol\n'
        "class Agent[TActionInfo](Protocol):\n    pass\n"
        "class Struct[TActionInfo]:\n    def rollout[TActionInfo](self, agent: Agent[TActionInfo]) -> int:\n"
        "        return 3\nOfInt = Struct[int]\n"
    )
    monkeypatch.setattr(sys, "meta_path", [reference_worker.Finder(tmp_path), *sys.meta_path])
    from flow_policy import rollouts  # pyright: ignore[reportMissingImports]

    assert rollouts.OfInt().rollout(None) == 3
