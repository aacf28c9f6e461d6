"""The policy that a run trained: the newest or the best, and the environment that it is evaluated in."""

from __future__ import annotations

import pytest
import torch
from tiny import CARTPOLE, compose
from torchrl.checkpoint import Checkpoint

from fpo_torchrl import trained
from fpo_torchrl.errors import CheckpointError, ConfigError
from fpo_torchrl.evaluation import Evaluation
from fpo_torchrl.runs.hold import Hold
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.settings import load_run_config
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
        assert best.frames == 192
        assert f"{best.checkpoint} is of the best evaluation, 5 after 192 frames" in capsys.readouterr().out

    def test_a_resumed_run_keeps_a_better_one_from_before(self, run_dir):
        evaluated_as(self.start(run_dir, "total_frames=128"), [1.0, 5.0])
        evaluated_as(resume_run(run_dir, {"total_frames": 256}), [4.0, 3.0])
        assert Checkpoint.manifest(run_dir / "checkpoints" / "best.torchrl")["metadata"]["frames"] == 128

    def test_another_run_begins_with_it(self, run_dir, tmp_path):
        weights = evaluated_as(self.start(run_dir), [1.0, 5.0, 2.0, 2.0])
        run = self.start(tmp_path / "second", f"init_from={run_dir / 'checkpoints' / 'best.torchrl'}")
        for name, value in run.agent.actor.state_dict().items():
            torch.testing.assert_close(value, weights[128][name], rtol=0, atol=0)

    def test_one_from_a_part_of_the_run_that_was_undone_does_not_count(self, run_dir):
        """The newest checkpoint is of frame 128, and the run goes on from there with smaller steps."""
        evaluated_as(self.start(run_dir), [1.0, 2.0, 5.0, 3.0])
        for frames in (192, 256):
            (run_dir / "checkpoints" / f"checkpoint-{frames:012d}.torchrl").unlink(missing_ok=True)
        run = Run(load_run_config(run_dir), Hold(run_dir))
        run.trainer.frames = 128
        run._keep_best(0.5)
        assert self.best(run_dir).items() >= {"frames": 128, "return": 0.5}.items()
        run.hold.close()

    def best(self, run_dir):
        return Checkpoint.manifest(run_dir / "checkpoints" / "best.torchrl")["metadata"]

    @pytest.mark.parametrize("content", [None, b"", b"PK damaged"])
    def test_a_file_that_is_missing_or_damaged_is_replaced_and_stops_no_run(self, run_dir, content, capsys):
        evaluated_as(self.start(run_dir), [1.0, 5.0, 5.0, 2.0])
        path = run_dir / "checkpoints" / "best.torchrl"
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"best.torchrl (does not exist: a run keeps|is truncated or damaged)"
        ):
            trained.load_policy(run_dir, checkpoint="best")
        evaluated_as(resume_run(run_dir, {}), [])  # there is nothing left to train
        capsys.readouterr()
        evaluated_as(resume_run(run_dir, {"total_frames": 320}), [3.0])
        assert self.best(run_dir).items() >= {"frames": 320, "return": 3.0}.items()
        assert "checkpoints/best.torchrl\n" in capsys.readouterr().out

    def test_where_all_checkpoints_are_damaged_it_is_named(self, run_dir):
        evaluated_as(self.start(run_dir), [1.0, 5.0, 5.0, 2.0])
        for path in (run_dir / "checkpoints").glob("checkpoint-*"):
            path.write_bytes(b"")
        with pytest.raises(CheckpointError, match=r"The best policy is whole: .*best.torchrl"):
            trained.load_policy(run_dir)

    def test_an_empty_name_is_refused(self, run_dir):
        evaluated_as(self.start(run_dir), [1.0])
        with pytest.raises(ConfigError, match="checkpoint is empty: give the path of a checkpoint, best, or leave it"):
            trained.load_policy(run_dir, checkpoint=" ")

    @pytest.mark.parametrize(
        ("name", "what"), [("", "holds no run"), ("none", "does not exist"), ("run/checkpoints", "holds no")]
    )
    def test_what_training_cannot_begin_with(self, run_dir, name, what, monkeypatch):
        evaluated_as(self.start(run_dir), [1.0])
        (run_dir.parent / "elsewhere").mkdir()
        monkeypatch.chdir(run_dir.parent / "elsewhere" if not name else run_dir.parent)
        with pytest.raises(
            CheckpointError, match=f"^init_from={name} {what}.*: give a run's directory or one of its ch"
        ):
            self.start(run_dir.parent / "second", f"init_from='{name}'")
