"""The policy that a run trained: the newest or the best, and the environment that it is evaluated in."""

from __future__ import annotations

import pytest
import torch
from tiny import CARTPOLE, compose
from torchrl.checkpoint import Checkpoint

from fpo_torchrl import trained
from fpo_torchrl.errors import CheckpointError
from fpo_torchrl.evaluation import Evaluation
from fpo_torchrl.runs.start import resume_run, start_run


@pytest.mark.parametrize(
    ("changes", "device", "backend"),
    [
        (["task=CartpoleBalance", "env.backend=warp"], "cpu", "c"),
        (["task=CartpoleBalance", "env.backend=warp"], "cuda", "warp"),
        (["task=CartpoleBalance"], "cpu", None),
        (["task=gym/Own-v0", "env.backend=positional"], "cpu", "positional"),
        (["task=own", "env._target_=own.make", "env.backend=mjx"], "cpu", "mjx"),
    ],
)
def test_on_a_cpu_only_our_own_physics_is_native_mujocos(changes, device, backend, monkeypatch):
    built = {}
    monkeypatch.setattr("fpo_torchrl.builders.build", lambda node, path, **context: built.update(node | context))
    monkeypatch.setattr(trained, "check_device", lambda device, error: device)  # as if there were one
    trained.task_env(compose(*changes), 3, device)
    assert (built["backend"], built["spread_episodes"]) == (backend, False)
    assert (built["num_envs"], built["device"]) == (3, device)


def evaluated_as(run, means: list[float]) -> dict[int, dict[str, torch.Tensor]]:
    """Let the evaluations of ``run`` have these means, and train it; returns the actor's weights by frame."""
    weights, left = {}, iter(means)

    def evaluate(noise: str, num_episodes: int) -> Evaluation:
        weights[run.trainer.frames] = {name: value.clone() for name, value in run.agent.actor.state_dict().items()}
        return Evaluation([next(left, 0.0)] * 2, policy_s=0.0, action_spread=0.0)

    run.evaluate = evaluate
    run.train()
    return weights


class TestTheBestPolicy:
    @pytest.fixture
    def run_dir(self, tmp_path):
        return tmp_path / "run"

    def start(self, run_dir, *changes):
        return start_run(compose(*CARTPOLE, f"run_dir={run_dir}", "eval_interval_frames=64", *changes))

    def test_it_is_that_of_the_best_evaluation_and_of_equal_ones_the_last(self, run_dir, capsys):
        weights = evaluated_as(self.start(run_dir), [1.0, 5.0, 5.0, 2.0])
        best = trained.load_policy(run_dir, checkpoint="best")
        assert best.checkpoint == run_dir / "checkpoints" / "best.torchrl"
        assert Checkpoint.manifest(best.checkpoint)["metadata"].items() >= {"frames": 192, "return": 5.0}.items()
        for name, value in best.actor.state_dict().items():
            torch.testing.assert_close(value, weights[192][name], rtol=0, atol=0)
        assert trained.load_policy(run_dir).checkpoint.name == "checkpoint-000000000256.torchrl"
        assert "best evaluation: 5 after 192 frames, the policy of best.torchrl" in capsys.readouterr().out

    def test_a_resumed_run_keeps_a_better_one_from_before(self, run_dir):
        evaluated_as(self.start(run_dir, "total_frames=128"), [1.0, 5.0])
        evaluated_as(resume_run(run_dir, {"total_frames": 256}), [4.0, 3.0])
        assert Checkpoint.manifest(run_dir / "checkpoints" / "best.torchrl")["metadata"]["frames"] == 128

    def test_another_run_begins_with_it(self, run_dir, tmp_path):
        weights = evaluated_as(self.start(run_dir), [1.0, 5.0, 2.0, 2.0])
        run = self.start(tmp_path / "second", f"init_from={run_dir / 'checkpoints' / 'best.torchrl'}")
        for name, value in run.agent.actor.state_dict().items():
            torch.testing.assert_close(value, weights[128][name], rtol=0, atol=0)

    def test_a_run_that_kept_none_is_told_of(self, run_dir):
        evaluated_as(self.start(run_dir), [1.0, 5.0, 5.0, 2.0])
        (run_dir / "checkpoints" / "best.torchrl").unlink()
        with pytest.raises(
            CheckpointError, match=r"checkpoints has no best.torchrl: .* Without checkpoint=best the new"
        ):
            trained.load_policy(run_dir, checkpoint="best")
