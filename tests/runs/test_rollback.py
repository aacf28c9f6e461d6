"""A NaN stops the run at its last good checkpoint, or takes it back there and lowers the step."""

from __future__ import annotations

import pytest
import tiny
import torch

from fpo_torchrl.config import check_run
from fpo_torchrl.errors import ConfigError, NonFiniteError
from fpo_torchrl.evaluation import Evaluation
from fpo_torchrl.loggers import LoggedOnce, read_metrics
from fpo_torchrl.optim import AgentOptimizer
from fpo_torchrl.provenance import read_provenance
from fpo_torchrl.runs.auto_resume import ensure_trained
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.settings import load_run_config
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.seeds.run import resume

LR = 1e-3
BROKEN = ("nan_rollbacks=2", "nan_lr_factor=0.25")


@pytest.fixture(autouse=True)
def no_final_evaluation(monkeypatch):
    monkeypatch.setattr(Run, "finish", lambda self: {"random": type("Evaluation", (), {"mean": 0.0})})


@pytest.fixture
def breaks(monkeypatch):
    """The gradient becomes NaN from some step on, unless the step size is small enough; returns the step sizes used."""

    def install(first_step: int, largest_lr: float) -> list[float]:
        used: list[float] = []
        backward = AgentOptimizer.backward

        def breaking(self, loss):
            lr = self.param_groups[0]["lr"]
            used.append(lr)
            done = max((int(state["step"]) for state in self.state.values()), default=0)
            backward(self, loss * torch.nan if done >= first_step and lr > largest_lr else loss)

        monkeypatch.setattr(AgentOptimizer, "backward", breaking)
        return used

    return install


def config(run_dir, *changes: str):
    return tiny.compose(*tiny.GRIDWORLD, f"optim.lr={LR}", f"run_dir={run_dir}", *changes)


def test_by_default_it_stops_and_the_last_checkpoint_is_good(tmp_path, breaks):
    breaks(8, 0)
    run = start_run(config(tmp_path))
    with pytest.raises(NonFiniteError, match=r"became NaN or infinite in the update after frame 128\."):
        run.train()
    state = tiny.read_checkpoint(tmp_path)
    assert state["trainer.frames"] == 128
    assert all(torch.isfinite(leaf).all() for leaf in state.values() if isinstance(leaf, torch.Tensor))
    assert [row["frames"] for row in read_metrics(tmp_path / "metrics.csv")] == [64, 128]
    assert read_provenance(tmp_path)["status"] == "diverged"


def test_it_goes_back_and_on_with_smaller_steps(tmp_path, breaks, capsys):
    used = breaks(10, LR / 10)  # in the third of four iterations of four steps
    start_run(config(tmp_path, *BROKEN)).train()
    assert used == [LR] * 12 + [LR / 4] * 4 + [LR / 16] * 8
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [(row["frames"], row.get("lr_scale")) for row in rows] == [
        (64, None),
        (128, None),
        (192, 1 / 16),
        (256, 1 / 16),
    ]
    assert "rolling back, with 0.25 times the step sizes of the config" in (printed := capsys.readouterr().out)
    assert "at frame 128" in printed
    assert read_provenance(tmp_path)["status"] == "finished"
    assert load_run_config(tmp_path).optim.lr == LR


def test_without_a_checkpoint_it_begins_again(tmp_path, breaks):
    used = breaks(2, LR / 2)
    start_run(config(tmp_path, *BROKEN)).train()
    assert used == [LR] * 4 + [LR / 4] * 16
    assert [row["frames"] for row in read_metrics(tmp_path / "metrics.csv")] == [64, 128, 192, 256]


def test_it_begins_again_with_the_pretrained_actor(tmp_path, breaks, capsys):
    pretrained = tiny.begin(config(tmp_path / "pretrained")).checkpointer.save(0)
    breaks(2, LR / 2)
    start_run(config(tmp_path / "run", *BROKEN, f"init_from={pretrained}")).train()
    assert capsys.readouterr().out.count(f"beginning with the actor of {pretrained}") == 2


def test_it_gives_up_in_the_end(tmp_path, breaks):
    used = breaks(0, 0)
    with pytest.raises(NonFiniteError):
        start_run(config(tmp_path, *BROKEN)).train()
    assert used == [LR] * 4 + [LR / 4] * 4 + [LR / 16] * 4


def test_the_smaller_step_is_kept_when_it_is_resumed(tmp_path, breaks):
    used = breaks(6, LR / 2)
    start_run(config(tmp_path, *BROKEN)).train()
    used.clear()
    resume([f"resume={tmp_path}", "total_frames=320"]).train()
    assert used == [LR / 4] * 4


def test_annealing_goes_on_below_the_smaller_step(tmp_path, breaks):
    used = breaks(6, LR / 2)
    start_run(config(tmp_path, *BROKEN, "trainer.anneal_lr=true")).train()
    steps = [LR, 0.75 * LR, *(LR / 4 * left for left in (0.75, 0.5, 0.25))]
    assert used[::4] == pytest.approx(steps)


def test_a_run_that_stopped_may_be_told_to_go_on_so(tmp_path, breaks):
    breaks(10, LR / 2)
    with pytest.raises(NonFiniteError):
        ensure_trained(config(tmp_path))
    ensure_trained(config(tmp_path, "nan_rollbacks=1"))
    assert [row["frames"] for row in read_metrics(tmp_path / "metrics.csv")] == [64, 128, 192, 256]


@pytest.mark.parametrize("change", ["nan_rollbacks=-1", "nan_lr_factor=0", "nan_lr_factor=2"])
def test_out_of_range(change):
    with pytest.raises(ConfigError, match=f"{change}.* is out of range: it must be "):
        check_run(tiny.compose(*tiny.GRIDWORLD, change))


def tensorboard_rows(run_dir, name: str) -> list[tuple[int, float]]:
    """What TensorBoard shows of a metric."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = event_accumulator.EventAccumulator(str(run_dir / "tensorboard")).Reload()
    return [(event.step, event.value) for event in reader.Scalars(name)]


def assert_tensorboard_shows_the_metrics(run):
    run.logger.flush()
    rows = read_metrics(run.run_dir / "metrics.csv")
    assert [row["frames"] for row in rows] == [64, 128, 192, 256]
    shown = tensorboard_rows(run.run_dir, "reward")
    assert shown == [(row["frames"], pytest.approx(row["reward"], rel=1e-6)) for row in rows]


def test_tensorboard_has_every_iteration_once_after_a_rollback(tmp_path, breaks):
    breaks(14, LR / 2)  # in the fourth iteration, two after the checkpoint
    intervals = ("checkpoint_interval_frames=128", "eval_interval_frames=64")
    run = start_run(config(tmp_path, *BROKEN, *intervals, "logger.kind=tensorboard"))
    run.train()
    assert_tensorboard_shows_the_metrics(run)


def test_tensorboard_has_every_iteration_once_after_a_stop_between_checkpoints(tmp_path, breaks):
    breaks(14, LR / 2)
    settings = ("checkpoint_interval_frames=128", "logger.kind=tensorboard")
    with pytest.raises(NonFiniteError):
        start_run(config(tmp_path, *settings)).train()
    run = resume([f"resume={tmp_path}", f"optim.lr={LR / 4}"])
    run.train()
    assert_tensorboard_shows_the_metrics(run)


def test_a_logger_that_cannot_forget_gets_no_iteration_twice():
    class Log:
        def __init__(self):
            self.got = []

        def log_scalar(self, name, value, step):
            self.got.append((name, value, step))

    before, after = Log(), Log()
    log = LoggedOnce(before)
    for frames in (64, 128, 192):
        log.log({"frames": frames})
    log.go_back(64)
    for frames in (128, 192, 256):
        log.log({"frames": frames})
    assert [step for _, _, step in before.got] == [64, 128, 192, 256]
    resumed = LoggedOnce(after, newest=192)
    for frames in (128, 192, 256):
        resumed.log({"frames": frames})
    assert [step for _, _, step in after.got] == [256]


def test_weights_that_the_last_gradient_step_loses_are_in_no_checkpoint(tmp_path):
    run = start_run(
        config(tmp_path, "trainer.num_epochs=1", "trainer.minibatch_size=64", "checkpoint_interval_frames=64")
    )
    step, steps = run.agent.optimizer.step, []

    def lose(*args, **kwargs):
        step(*args, **kwargs)
        steps.append(None)
        if len(steps) == 2:
            run.agent.optimizer.param_groups[0]["params"][0].data[0] = torch.inf

    run.agent.optimizer.step = lose
    with pytest.raises(NonFiniteError, match=r"^weight_max became NaN or infinite in the update after frame 64\."):
        run.train()
    state = tiny.read_checkpoint(tmp_path)
    assert state["trainer.frames"] == 64
    assert all(torch.isfinite(leaf).all() for leaf in state.values() if isinstance(leaf, torch.Tensor))


def test_an_evaluation_without_a_number_ends_the_run(tmp_path, monkeypatch):
    without = Evaluation([1.0, float("nan")], 0.0, 0.0)
    monkeypatch.setattr("fpo_torchrl.runs.run.evaluate", lambda *args, **kwargs: without)
    with pytest.raises(NonFiniteError, match=r"an evaluation's return is nan. Look for a reward that is not finite"):
        start_run(config(tmp_path)).train()
    assert read_provenance(tmp_path)["status"] == "diverged"
