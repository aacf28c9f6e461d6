"""A run killed at some moment and resumed in a fresh process is the run that was never killed, bit for bit."""

from __future__ import annotations

import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
from omegaconf import OmegaConf

from fpo_torchrl.errors import CheckpointError, ConfigError, DamagedFileError
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.runs.auto_resume import unfinished_run
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.settings import load_run_config
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.seeds.run import resume

LENGTH = ("total_frames=384", "eval_interval_frames=256", "trainer.num_epochs=1")
"""Six iterations, each with a checkpoint."""
TASKS = {
    "gridworld": (*tiny.GRIDWORLD, "task=gridworld/two_walls", "normalizer=running", *LENGTH),
    "control": (*tiny.CARTPOLE, *LENGTH),
}
TIMES = ("collect_s", "update_s", "frames_per_s")


@dataclass
class Story:
    """The directories of the two runs, and how the killed one went."""

    straight: Path
    killed: Path
    frames_when_killed: int
    exit_codes: dict[str, int | None]
    output: str


@pytest.fixture(scope="module", params=TASKS)
def story(request, tmp_path_factory) -> Story:
    overrides = TASKS[request.param]
    directory = tmp_path_factory.mktemp(request.param)
    straight, killed = directory / "straight", directory / "killed"
    first = tiny.start(tiny.fpo_train, directory / "killed.log", *overrides, f"run_dir={killed}")
    other = tiny.start(tiny.fpo_train, directory / "straight.log", *overrides, f"run_dir={straight}")
    deadline = time.monotonic() + 120
    while not list((killed / "checkpoints").glob("checkpoint-*")) and first.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    first.kill()
    first.join()
    frames = int(max((killed / "checkpoints").glob("checkpoint-*")).stem.partition("-")[2])
    second = tiny.start(tiny.fpo_train, directory / "resumed.log", f"resume={killed}")
    processes = {"killed": first, "straight": other, "resumed": second}
    for process in processes.values():
        process.join(120)
    codes = {name: process.exitcode for name, process in processes.items()}
    return Story(straight, killed, frames, codes, (directory / "resumed.log").read_text())


def test_it_was_killed_early_and_then_finished(story):
    assert story.exit_codes == {"killed": -signal.SIGKILL, "straight": 0, "resumed": 0}
    assert story.frames_when_killed < 384
    assert f"at frame {story.frames_when_killed}" in story.output


def test_every_weight_and_all_other_state_is_equal(story):
    straight, resumed = tiny.read_checkpoint(story.straight), tiny.read_checkpoint(story.killed)
    assert straight.keys() == resumed.keys()
    unused = ("rng.python", "rng.numpy")  # of generators that nothing draws from; each process has its own
    different = [k for k in straight if not tiny.same({k: straight[k]}, {k: resumed[k]}) and not k.startswith(unused)]
    assert not different
    assert straight["trainer.frames"] == 384
    for part in (
        "actor.velocity_net",
        "critic",
        "optimizer.state",
        "trainer.env.task",
        "trainer.env.generator",
        "rng.torch",
    ):
        assert any(key.startswith(part) for key in straight), part


def test_every_row_is_there_once_and_every_column_is_equal_but_the_times(story):
    straight, resumed = (read_metrics(run / "metrics.csv") for run in (story.straight, story.killed))
    assert [row["frames"] for row in resumed] == [64.0 * i for i in range(1, 7)]
    assert len(straight[1]) > 20
    for row in (*straight, *resumed):
        for name in TIMES:
            assert row.pop(name) > 0
    assert resumed == straight


def test_the_final_evaluation_is_equal(story):
    straight, resumed = ((run / "evaluation.json").read_text() for run in (story.straight, story.killed))
    without_times = [[line for line in text.splitlines() if "policy_s" not in line] for text in (straight, resumed)]
    assert without_times[0] == without_times[1]


class TestASimulatorThatCannotBeRestored:
    @pytest.fixture
    def overrides(self):
        sizes = ("env.max_episode_steps=20", "trainer.frames_per_batch=240", "trainer.minibatch_size=240")
        return ("task=gym/Pendulum-v1", *tiny.FLOW, *sizes, "trainer.anneal_lr=false", "total_frames=480")

    def test_it_says_so_starts_fresh_episodes_and_keeps_the_rest(self, overrides, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("fpo_torchrl.runs.run.draw_learning_curve", lambda *args, **kwargs: None)
        first = start_run(tiny.compose(*overrides, f"run_dir={tmp_path}"))
        first.train()
        episodes = first.trainer.tracker.num_episodes
        assert episodes > 0
        capsys.readouterr()
        second = resume([f"resume={tmp_path}", "total_frames=720"])
        assert (
            "its simulator's state cannot be restored, episodes start afresh; the rest is exact"
            in capsys.readouterr().out
        )
        assert tiny.same(tiny.flat(second.agent.actor.state_dict()), tiny.flat(first.agent.actor.state_dict()))
        assert tiny.same(tiny.flat(second.agent.optimizer.state_dict()), tiny.flat(first.agent.optimizer.state_dict()))
        assert second.trainer.frames == 480
        second.train()
        rows = read_metrics(tmp_path / "metrics.csv")
        assert [row["frames"] for row in rows] == [240, 480, 720]
        # 30 steps of 8 copies: a first episode of each is cut short and left out, so at most one of each counts
        assert episodes < rows[-1]["episodes"] <= episodes + 8


class TestResumingWithOtherValues:
    @pytest.fixture(scope="class")
    def original(self, tmp_path_factory):
        """A run of four iterations, without its picture."""
        run = start_run(tiny.compose(*tiny.GRIDWORLD, f"run_dir={tmp_path_factory.mktemp('runs') / 'run'}"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Run, "finish", lambda self: {})
            run.train()
        return run.run_dir

    @pytest.fixture
    def finished(self, original, tmp_path, monkeypatch):
        """A copy of its directory to go on with."""
        monkeypatch.setattr(Run, "finish", lambda self: {})
        return Path(shutil.copytree(original, tmp_path / "run"))

    def resume(self, finished: Path, *changes: str) -> Run:
        return resume([f"resume={finished}", *changes])

    def test_a_longer_run_with_a_smaller_step_size(self, finished):
        run = self.resume(finished, "total_frames=320", "optim.lr=1e-5")
        assert [group["lr"] for group in run.agent.optimizer.param_groups] == [1e-5, 1e-5]
        before = tiny.flat(run.agent.actor.state_dict())
        before = {key: value.clone() for key, value in before.items()}
        run.train()
        assert load_run_config(finished).total_frames == 320
        moved = max((v - before[k]).abs().max().item() for k, v in tiny.flat(run.agent.actor.state_dict()).items())
        assert 0 < moved < 4 * 2e-5  # four steps of Adam
        assert [row["frames"] for row in read_metrics(finished / "metrics.csv")] == [64, 128, 192, 256, 320]

    def test_a_run_of_a_version_with_fewer_settings(self, finished):
        saved = OmegaConf.load(finished / "config.yaml")
        del saved["nan_rollbacks"]
        OmegaConf.save(saved, finished / "config.yaml")
        assert self.resume(finished, "total_frames=320").cfg.nan_rollbacks == 0

    def test_the_saved_config_counts_not_the_defaults(self, finished):
        run = self.resume(finished)
        assert (run.cfg.task, run.trainer.frames) == ("gridworld/two_walls", 256)
        assert OmegaConf.select(run.cfg, "trainer.frames_per_batch") == 64

    def test_components_cannot_change(self, finished):
        with pytest.raises(ValueError, match="a resumed run keeps its components"):
            self.resume(finished, "actor.velocity_net.hidden_sizes=[9]")

    def test_the_collector_can_change(self, finished):
        run = tiny.settled(self.resume(finished, "collector.num_workers=4", "collector=rpc", "total_frames=320"))
        assert (run.trainer.workers.num_workers, run.trainer.frames) == (4, 256)
        assert load_run_config(finished).collector.num_workers == 4
        with pytest.raises(ConfigError, match=r"total_frames=320 \(not 640\)\."):
            unfinished_run(tiny.compose(*tiny.GRIDWORLD, "total_frames=640"), finished)
        run = unfinished_run(tiny.compose(*tiny.GRIDWORLD, "total_frames=320"), finished)  # a local collector
        assert run is not None
        assert run.trainer.workers is None
        run.train()
        assert [row["frames"] for row in read_metrics(finished / "metrics.csv")] == [64, 128, 192, 256, 320]

    def test_what_is_repeated_unchanged_is_no_change_and_the_logger_can_change(self, finished):
        saved = OmegaConf.load(finished / "config.yaml")
        saved.logger.project = "mine"
        OmegaConf.save(saved, finished / "config.yaml")
        run = self.resume(finished, "task=gridworld/two_walls", "seed=0", "logger=tensorboard", "total_frames=320")
        assert (run.cfg.logger.kind, run.cfg.logger.project) == ("tensorboard", "mine")

    def test_a_change_from_one_kind_of_workers_to_another(self, finished):
        """The settings of the one before do not stay: RPC has no cpus_per_worker."""
        saved = OmegaConf.load(finished / "config.yaml")
        saved.collector = {"_target_": "fpo_torchrl.remote.RayWorkers", "num_workers": 8, "cpus_per_worker": 2.0}
        saved.total_frames = 320
        OmegaConf.save(saved, finished / "config.yaml")
        overrides = ("total_frames=320", "collector=rpc", "collector.num_workers=4")
        run = unfinished_run(tiny.compose(*tiny.GRIDWORLD, *overrides), finished)
        assert run is not None
        assert {*run.cfg.collector} == {"_target_", "num_workers"}
        assert run.trainer.workers.num_workers == 4

    def test_environments_that_a_process_cannot_go_on_with(self, finished):
        run = self.resume(finished)
        run.trainer.env_restored = False
        other = tiny.make_trainer(*tiny.GRIDWORLD, "num_envs=4")
        run.states.states = [{"env": other.env.get_state().to_dict(), "tracker": other.tracker.state_dict()}]
        with pytest.raises(CheckpointError, match="the checkpoint's environments do not fit this run's: "):
            run.states.go_on(run.trainer, seed=0)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("task=gridworld/cshape", "task=gridworld/cshape cannot change when a run is resumed"),
            ("seed=1", "seed=1 cannot change"),
            ("init_from=runs/other", "init_from=runs/other cannot change"),
            ("experiment=bandit", "experiment=bandit cannot change"),
            ("actor=gaussian", "a resumed run keeps its components"),
            ("collector=dask", "collector must be one of ray, rpc, local, got 'dask'"),
            ("collector=[ray]", r"collector must be one of ray, rpc, local, got \['ray'\]"),
            ("logger=mlflow", "logger must be one of none, tensorboard, wandb, got 'mlflow'"),
            ("optim.lr=1e-3,1e-4", "optim.lr has several values, and a run that is resumed goes on with one"),
            ("total_frames=128", "total_frames=128 is less than the 256 frames that .* has trained on"),
            ("collector.num_workers=3", "collector.num_workers is not a setting of"),
            ("loss/trust_region=spo", "a resumed run keeps its components"),
            ("optim.learning_rate=1", r"optim.learning_rate is not a setting of .*config.yaml lists them"),
            ("total_frames=many", "total_frames='many': .* could not be converted to Integer; the run has 256"),
            ("total_frames=null", "total_frames=None: .* not Optional; the run has 256"),
            ("num_envs=4", "num_envs=4 cannot change when a run is resumed: start a new run for that"),
            ("eval_interval_frames=abc", "eval_interval_frames='abc': .*Integer"),
            ("trainer.anneal_lr=perhaps", "trainer.anneal_lr=.perhaps.: .*bool"),
            ("trainer.num_epochs=2.5", "trainer.num_epochs=2.5: .*Integer"),
            ("actor.solver.num_steps=null", "actor.solver.num_steps=None: "),
            ("logger.offline=maybe", "logger.offline='maybe': .*bool"),
        ],
    )
    def test_what_makes_another_run_is_refused(self, finished, change, message):
        before = {name: (finished / name).read_text() for name in ("config.yaml", "metrics.csv")}
        with pytest.raises(ConfigError, match=message):
            self.resume(finished, change)
        assert {name: (finished / name).read_text() for name in before} == before

    def test_no_directory(self):
        with pytest.raises(ConfigError, match="resume='' is empty: give a directory"):
            resume(["resume="])

    def test_settings_of_a_gaussian_can_change(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Run, "finish", lambda self: {})
        overrides = ("actor=gaussian", "loss=ppo", "task=probe/constant", *tiny.SMALL, f"run_dir={tmp_path}")
        start_run(tiny.compose(*overrides)).train()
        run = resume([f"resume={tmp_path}", "loss.entropy_coeff=0", "total_frames=1024"])
        assert run.agent.loss.entropy_coeff == 0

    def test_a_directory_without_a_run(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"is not the directory of a run: it has no config.yaml"):
            resume([f"resume={tmp_path}"])

    @pytest.mark.parametrize("content", ["task: [gridworld", "3", "[task]"])
    def test_a_config_that_is_damaged(self, finished, content):
        (finished / "config.yaml").write_text(content)
        with pytest.raises(DamagedFileError, match=r"config.yaml is damaged \("):
            self.resume(finished)

    def test_a_record_that_is_damaged(self, finished):
        (finished / "provenance.json").write_text("")
        with pytest.raises(DamagedFileError, match=r"provenance.json is damaged .*: restore it, or remove it"):
            unfinished_run(tiny.compose(*tiny.GRIDWORLD), finished)

    def test_a_run_without_a_checkpoint(self, finished):
        for path in (finished / "checkpoints").iterdir():
            path.unlink()
        with pytest.raises(CheckpointError, match=r"no whole checkpoint in .*its own command with resume=auto"):
            self.resume(finished)
