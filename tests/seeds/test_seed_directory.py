"""The directory of several seeds: which seeds it is of, and how they go on together."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import tiny

from fpo_torchrl.errors import CheckpointError, ConfigError, DamagedFileError
from fpo_torchrl.files import is_held, read_json
from fpo_torchrl.runs.auto_resume import ensure_trained
from fpo_torchrl.runs.directory import SEEDS, record_seeds, seed_dirs
from fpo_torchrl.runs.hold import LOCK
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.settings import load_run_config
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.seeds.run import SeedRuns, configs_of_seeds, resume, train_seeds


def config(directory: Path, *overrides: str):
    return tiny.compose(*tiny.GRIDWORLD, "total_frames=64", f"run_dir={directory}", *overrides)


def begin(directory: Path, *overrides: str) -> Path:
    """Runs of three seeds, with checkpoints of before the first iteration."""
    configs = configs_of_seeds(config(directory, "num_seeds=3", *overrides), directory)
    release(SeedRuns((start_run(own) for own, _ in configs), vmap=False))
    return directory


def release(runs: object) -> SeedRuns:
    """Save the runs as they are before they train, and let their directories go."""
    assert isinstance(runs, SeedRuns)
    with runs.hold:
        runs.settle()
        for run in runs.runs.values():
            run.checkpointer.save(0)
    return runs


def go_on(*overrides: str) -> list[int]:
    """The seeds that go on."""
    return [run.cfg.seed for run in release(resume(overrides)).runs.values()]


def files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def damage(run_dir: Path) -> None:
    for path in (run_dir / "checkpoints").iterdir():
        path.write_bytes(b"")


@pytest.fixture
def seeds(tmp_path) -> Path:
    return begin(tmp_path / "seeds")


class TestDifferentSettings:
    def change(self, run_dir: Path, setting: str) -> None:
        run = resume([f"resume={run_dir}", setting])
        assert not isinstance(run, SeedRuns)
        tiny.settled(run)

    def test_that_cannot_be_vectorized_are_named(self, seeds):
        self.change(seeds / "seed1", "loss.trust_region.epsilon=0.0001")
        self.change(seeds / "seed2", "actor.solver.num_steps=3")
        before = files(seeds)
        with pytest.raises(ConfigError, match=r"and they differ in .*: give vmap=false, or resume them") as refused:
            resume([f"resume={seeds}", "vmap=true"])
        assert refused.match(r"loss.trust_region.epsilon \(0.2 of seed 0, 0.0001 of seed 1\)")
        assert refused.match(r"actor.solver.num_steps \(2 of seed 0, 3 of seed 2\)")
        assert files(seeds) == before
        assert go_on(f"resume={seeds}", "vmap=false") == [0, 1, 2]
        one_value = ("loss.trust_region.epsilon=0.01", "actor.solver.num_steps=2")
        assert go_on(f"resume={seeds}", "vmap=true", *one_value) == [0, 1, 2]

    def test_take_turns_by_default(self, seeds, monkeypatch):
        monkeypatch.setattr("fpo_torchrl.seeds.run._gains_from_vmap", lambda run: True)
        assert release(resume([f"resume={seeds}"])).vmap
        self.change(seeds / "seed1", "actor.solver.num_steps=3")
        assert not release(resume([f"resume={seeds}"])).vmap

    def test_of_optimiser_and_length_are_no_obstacle(self, seeds):
        self.change(seeds / "seed1", "optim.lr=0.5")
        self.change(seeds / "seed2", "total_frames=128")
        assert go_on(f"resume={seeds}", "vmap=true") == [0, 1, 2]


def test_an_obstacle_to_vmap_lets_seeds_take_turns_unless_they_are_told_to_use_it(seeds, monkeypatch):
    monkeypatch.setattr("fpo_torchrl.seeds.run._gains_from_vmap", lambda run: True)
    assert not release(resume([f"resume={seeds}", "trainer.critic_warmup_frames=64"])).vmap
    before = files(seeds)
    with pytest.raises(ConfigError, match=r"critic_warmup_frames=64 changes what .*: it needs vmap=false"):
        resume([f"resume={seeds}", "vmap=true", "total_frames=128"])
    assert files(seeds) == before


class TestWhatCannotGoOn:
    def test_leaves_the_others_as_they_were(self, seeds):
        damage(seeds / "seed1")
        before = files(seeds)
        with pytest.raises(CheckpointError, match=r"no whole checkpoint in .*seed1"):
            resume([f"resume={seeds}", "optim.lr=0.007", "total_frames=256"])
        assert files(seeds) == before
        assert not any(is_held(path) for path in seeds.rglob(LOCK))  # seed0 was built before it

    def test_in_a_new_directory_leaves_nothing(self, tmp_path):
        (tmp_path / "seeds/seed2").mkdir(parents=True)
        (tmp_path / "seeds/seed2/metrics.csv").write_text("frames\n")
        with pytest.raises(ConfigError, match=r"holds runs already, in .*seed2: the same command with resume=auto"):
            train_seeds(config(tmp_path / "seeds", "num_seeds=3"))
        with pytest.raises(ConfigError, match="frames_per_batch"):
            train_seeds(config(tmp_path / "others", "num_seeds=3", "trainer.frames_per_batch=3"))
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["metrics.csv"]

    def test_when_the_others_are_built_already(self, tmp_path, monkeypatch):
        build = Run._build

        def building(run):
            if run.cfg.seed == 2:
                raise ConfigError("seed 2 cannot be built")
            build(run)

        monkeypatch.setattr(Run, "_build", building)
        with pytest.raises(ConfigError, match="seed 2 cannot be built"):
            train_seeds(config(tmp_path / "seeds", "num_seeds=3"))
        assert not [*tmp_path.iterdir()]


class TestAMissingSeed:
    def test_is_missed_when_the_others_go_on(self, seeds):
        config_of_2 = (seeds / "seed2/config.yaml").read_text()
        (seeds / "seed2/config.yaml").unlink()
        with pytest.raises(CheckpointError, match=r"no config.yaml in .*seed2: .* resume=.*seed0 continues one seed"):
            resume([f"resume={seeds}"])
        shutil.rmtree(seeds / "seed2")
        with pytest.raises(
            CheckpointError, match=r"no config.yaml in .*seed2: .* with resume=auto, begins what is missing"
        ):
            resume([f"resume={seeds}"])
        (seeds / "seed2").mkdir()
        (seeds / "seed2/config.yaml").write_text(config_of_2)
        with pytest.raises(CheckpointError, match=r"no whole checkpoint in .*seed2"):
            resume([f"resume={seeds}"])

    def test_of_a_directory_of_an_older_version_is_not(self, seeds):
        (seeds / SEEDS).unlink()
        shutil.rmtree(seeds / "seed2")
        assert go_on(f"resume={seeds}") == [0, 1]
        assert read_json(seeds / SEEDS) == {"runs": ["seed0", "seed1"]}

    def test_stays_named_when_others_begin(self, tmp_path):
        record_seeds([tmp_path / "seed9", tmp_path / "seed10"])  # there are no such directories
        record_seeds([tmp_path / "seed11"])
        assert [path.name for path in seed_dirs(tmp_path)] == ["seed9", "seed10", "seed11"]

    def test_seeds_that_are_added_are_named_beside_the_others(self, seeds):
        begin(seeds, "seed=9")
        assert go_on(f"resume={seeds}") == [0, 1, 2, 9, 10, 11]
        (seeds / SEEDS).write_text("{}")
        with pytest.raises(DamagedFileError, match=r"seeds.json is damaged .*: restore it, or remove it"):
            resume([f"resume={seeds}"])


class TestASingleRunInTheSameDirectory:
    def test_is_refused_where_several_seeds_are(self, seeds):
        before = files(seeds)
        with pytest.raises(ConfigError, match=r"holds runs of several seeds, such as .*seed0: choose another"):
            start_run(config(seeds, "seed=7"))
        with pytest.raises(ConfigError, match=r"holds runs of several seeds"):
            ensure_trained(config(seeds, "seed=7", "resume=auto"))
        assert files(seeds) == before

    @pytest.mark.parametrize("way", ["resume=null", "resume=auto"])
    def test_keeps_several_seeds_out(self, tmp_path, way):
        tiny.begin(config(tmp_path, "seed=7")).checkpointer.save(0)
        before = files(tmp_path)
        with pytest.raises(ConfigError, match=rf"holds a single run: choose .*, or resume={tmp_path} to continue it"):
            train_seeds(config(tmp_path, "num_seeds=2", way))
        assert files(tmp_path) == before
        assert load_run_config(tmp_path).seed == 7


def test_a_run_begins_with_the_actor_of_one_seed(seeds, tmp_path):
    with pytest.raises(CheckpointError, match=r"it holds those of several seeds, give one, such as .*seed0"):
        start_run(config(tmp_path / "run", f"init_from={seeds}"))
    assert not (tmp_path / "run").exists()
    start_run(config(tmp_path / "run", f"init_from={seeds / 'seed1'}"))


def test_a_start_that_is_refused_leaves_no_names(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="logger=tensorboard needs a package that is missing"):
        train_seeds(config(tmp_path / "runs", "num_seeds=2", "logger=tensorboard"))
    assert not [*tmp_path.iterdir()]


def test_a_directory_with_a_seed_gone_is_completed_by_resume_auto(tmp_path):
    begin(tmp_path)
    shutil.rmtree(tmp_path / "seed1")
    with pytest.raises(ConfigError, match="the same command with resume=auto continues them"):
        train_seeds(config(tmp_path, "num_seeds=3"))
