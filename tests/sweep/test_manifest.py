"""The runs of a sweep: which ones a grid has, where they are and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.files import write_json
from fpo_torchrl.sweep import command
from fpo_torchrl.sweep.manifest import FILE, Entry, Sweep, composer, grid


class TestGrid:
    def test_every_combination(self):
        assert grid(["optim.lr=1e-3,1e-4", "task=PointMass", "seed=range(0,2)"]) == [
            ["optim.lr=0.001", "task=PointMass", "seed=0"],
            ["optim.lr=0.001", "task=PointMass", "seed=1"],
            ["optim.lr=0.0001", "task=PointMass", "seed=0"],
            ["optim.lr=0.0001", "task=PointMass", "seed=1"],
        ]

    def test_a_list_is_one_value(self):
        assert grid(["critic.hidden_sizes=[64,64]"]) == [["critic.hidden_sizes=[64,64]"]]

    def test_an_interval_has_no_combinations(self):
        with pytest.raises(ConfigError, match=r"optim.lr=interval\(1e-4,1e-3\): expected values, as of a,b"):
            grid(["optim.lr=interval(1e-4,1e-3)"])

    def test_a_range_without_values(self):
        with pytest.raises(ConfigError, match=r"seed=range\(1,1\): it has no values"):
            grid(["task=PointMass", "seed=range(1,1)"])

    def test_lines_of_a_file_are_combined_with_it(self, tmp_path):
        file = tmp_path / "list"
        file.write_text(
            "optim.lr=1e-3 loss.ratio=per_sample  # a comment, don't read\n\n'critic.hidden_sizes=[8, 8]'\n"
        )
        assert command.points_of(["seed=0,1"], file) == [
            ["optim.lr=1e-3", "loss.ratio=per_sample", "seed=0"],
            ["optim.lr=1e-3", "loss.ratio=per_sample", "seed=1"],
            ["critic.hidden_sizes=[8, 8]", "seed=0"],
            ["critic.hidden_sizes=[8, 8]", "seed=1"],
        ]
        file.write_text("# nothing\n")
        with pytest.raises(ConfigError, match="is empty: expected settings in each line"):
            command.points_of([], file)
        with pytest.raises(ConfigError, match="there is no such file"):
            command.points_of([], tmp_path / "none")

    def test_a_setting_of_both_is_refused(self, tmp_path):
        file = tmp_path / "list"
        file.write_text("optim.lr=1e-4\n+optim.lr=2e-4 seed=1\n")
        with pytest.raises(ConfigError, match=r"--list .*/list sets optim.lr, and so does the command line"):
            command.points_of(["optim.lr=1e-3"], file)

    def test_a_line_with_an_open_quote_is_named(self, tmp_path):
        file = tmp_path / "list"
        file.write_text("optim.lr=1e-3\n\nlabel='half\n")
        with pytest.raises(ConfigError, match=r"--list .*/list, line 3: No closing quotation in \"label='half\""):
            command.points_of([], file)


class TestManifest:
    BASE = ("experiment=bandit", "total_frames=64")

    def add(self, directory: Path, *overrides: str) -> list[Entry]:
        return Sweep(directory).add(grid([*self.BASE, *overrides]))

    def test_seeds_of_one_config_share_a_directory(self, tmp_path):
        entries = self.add(tmp_path, "optim.lr=1e-3,1e-4", "seed=0,1")
        keys, seeds = zip(*(entry.path.split("/") for entry in entries), strict=True)
        assert seeds == ("seed0", "seed1", "seed0", "seed1")
        assert keys[0] == keys[1] != keys[2] == keys[3]
        assert [entry.label for entry in entries] == ["optim.lr=0.001"] * 2 + ["optim.lr=0.0001"] * 2
        assert Sweep(tmp_path).entries() == entries

    def test_the_directory_follows_from_the_resolved_config(self, tmp_path):
        (entry,) = self.add(tmp_path / "a", "optim.lr=1e-3")
        same = ["optim.lr=0.001", "num_threads=1", "progress=false", "logger=tensorboard", "label=other"]
        (as_default,) = self.add(tmp_path / "b", *same)
        assert as_default.path == entry.path
        for other in ("optim.lr=2e-3", "actor/solver=heun", "total_frames=128"):
            assert self.add(tmp_path / "c", other)[0].path != entry.path

    def test_adding_again_adds_what_is_new(self, tmp_path):
        first = self.add(tmp_path, "seed=0,1")
        again = self.add(tmp_path, "seed=1,2")
        assert again[0] == first[1]
        assert [entry.seed for entry in Sweep(tmp_path).entries()] == [0, 1, 2]

    def test_further_seeds_of_a_setting_keep_its_label(self, tmp_path):
        self.add(tmp_path, "optim.lr=1e-3,1e-4")
        (one,) = self.add(tmp_path, "optim.lr=0.001", "seed=3")
        others = self.add(tmp_path, "optim.lr=1e-4", "actor.num_mc_samples=2,4", "seed=3")
        assert one.label == "optim.lr=0.001"
        assert one.overrides[-1] == "label='optim.lr=0.001'"
        assert [entry.label for entry in others] == [
            "optim.lr=1e-4 actor.num_mc_samples=2",  # of 4 by default
            "optim.lr=0.0001",
        ]

    def test_a_sweep_that_grows_by_one_value_is_told_apart_from_what_is_there(self, tmp_path):
        self.add(tmp_path, "optim.lr=1e-3,1e-4")
        (more,) = self.add(tmp_path, "optim.lr=1e-5")
        assert more.label == "optim.lr=1e-5"

    def test_another_task_with_a_budget_of_its_own_is_the_same_algorithm(self, tmp_path):
        for task in ("task=gridworld/two_walls total_frames=64", "task=gridworld/cshape total_frames=128"):
            assert [entry.label for entry in self.add(tmp_path, *task.split(), "seed=0,1")] == ["", ""]

    @pytest.mark.parametrize("task", ["Chetah", "gridworld/two_wals"])
    def test_a_task_that_is_not_there_is_refused_before_anything_is_written(self, tmp_path, task):
        with pytest.raises(ConfigError, match=rf"task: unknown task '{task}'. Did you mean"):
            self.add(tmp_path / "sweep", f"task={task}", "seed=0,1")
        assert not (tmp_path / "sweep").exists()

    def test_a_setting_that_had_no_label_gets_none(self, tmp_path):
        self.add(tmp_path)
        assert [entry.label for entry in self.add(tmp_path, "actor.num_mc_samples=4,16", "seed=1")] == [
            "",
            "actor.num_mc_samples=16",
        ]

    def test_two_spellings_of_a_value_are_one_run(self, tmp_path):
        spellings = ("optim.lr=1e-3", "optim.lr=0.001")
        (entry,) = Sweep(tmp_path).add([[*self.BASE, spelling] for spelling in spellings])
        assert entry.label == "optim.lr=1e-3"
        assert Sweep(tmp_path).entries() == [entry]

    def test_a_run_of_a_version_with_fewer_settings_is_the_same_run(self, tmp_path):
        (made,) = self.add(tmp_path, "seed=0", "trainer.redraw_pairs=false")
        directory = self.of_an_older_version(tmp_path, made, ["trainer.redraw_pairs"])
        assert self.add(tmp_path, "seed=0", "trainer.redraw_pairs=false") == [directory]
        assert Sweep(tmp_path).entries() == [directory]

    def test_a_run_of_a_version_whose_preset_was_another_is_not(self, tmp_path):
        (made,) = self.add(tmp_path, "seed=0")
        old = self.of_an_older_version(tmp_path, made, ["trainer.anneal_lr"])  # true in the preset, false by default
        assert self.add(tmp_path, "seed=0") == [made]
        assert Sweep(tmp_path).entries() == [old, made]

    def test_a_run_of_a_version_with_fewer_settings_takes_over_the_bookkeeping(self, tmp_path):
        (made,) = self.add(tmp_path, "seed=0", "trainer.redraw_pairs=false")
        old = self.of_an_older_version(tmp_path, made, ["trainer.redraw_pairs"])
        (again,) = self.add(tmp_path, "seed=0", "trainer.redraw_pairs=false", "nan_rollbacks=3")
        assert (again.path, again.nan_rollbacks) == (old.path, 3)
        assert Sweep(tmp_path).entries() == [again]

    def test_the_bookkeeping_is_that_of_the_last_call(self, tmp_path):
        """As ``fpo-train`` would read it from the manifest; a label stays until another one is given."""
        first = self.add(tmp_path, "optim.lr=1e-3,1e-4", "seed=0")
        changes = ("keep_checkpoints=7", "nan_rollbacks=3", "progress=false")
        (again,) = self.add(tmp_path, "optim.lr=1e-3", "seed=0", *changes)
        assert (again.path, again.label) == (first[0].path, "optim.lr=0.001")
        assert Sweep(tmp_path).entries() == [again, first[1]]
        with composer() as composed:
            cfg = composed(Sweep(tmp_path).entries()[0].overrides)
        assert (cfg.keep_checkpoints, cfg.nan_rollbacks, cfg.label) == (7, 3, "optim.lr=0.001")
        (named,) = self.add(tmp_path, "optim.lr=1e-3", "seed=0", 'label="it\'s"')
        (kept,) = self.add(tmp_path, "optim.lr=1e-3", "seed=0")
        with composer() as composed:
            assert [named.label, kept.label, composed(kept.overrides).label] == ["it's"] * 3

    def test_bookkeeping_is_no_part_of_a_label(self, tmp_path):
        points = [[*self.BASE, "optim.lr=1e-3", "keep_checkpoints=1"], [*self.BASE, "optim.lr=1e-4"]]
        assert [entry.label for entry in Sweep(tmp_path).add(points)] == ["optim.lr=1e-3", "optim.lr=1e-4"]

    @pytest.mark.parametrize("content", ['{"runs": [{"path"', '{"runs": [{"path": "ab/seed0"}]}', "[]"])
    def test_a_damaged_manifest_is_named_and_kept(self, tmp_path, content):
        path = tmp_path / FILE
        path.write_text(content)
        with pytest.raises(ConfigError, match=rf"{path} is damaged \(.*\): remove it and give the settings"):
            Sweep(tmp_path).entries()
        with pytest.raises(ConfigError, match="is damaged"):
            self.add(tmp_path)
        assert path.read_text() == content

    def test_runs_are_found_without_the_manifest(self, tmp_path):
        before = self.add(tmp_path, "optim.lr=1e-3,1e-4", "seed=0,1")
        (tmp_path / FILE).unlink()
        assert self.add(tmp_path, "optim.lr=1e-3,1e-4", "seed=0,1") == before

    @pytest.mark.parametrize("override", ["run_dir=elsewhere", "resume=auto", "resume=elsewhere", "num_seeds=2"])
    def test_what_is_the_sweeps_own_is_refused(self, tmp_path, override):
        with pytest.raises(ConfigError, match=f"{override}: (a|the runs of a) sweep "):
            self.add(tmp_path / "sweep", "seed=0,1", override)
        assert not (tmp_path / "sweep").exists()

    def of_an_older_version(self, directory: Path, entry: Entry, without: Sequence[str]) -> Entry:
        """Make the manifest and the run's config those of a version that did not have some settings."""
        sweep, old = Sweep(directory), replace(entry, path="0123456789/seed0")
        write_json(directory / FILE, {"runs": [asdict(old)]})
        with composer() as composed:
            tree: Any = OmegaConf.to_container(composed(entry.overrides), resolve=True)
        for key in without:
            group, _, name = key.partition(".")
            del tree[group][name]
        sweep.run_dir(old).mkdir(parents=True)
        OmegaConf.save(OmegaConf.create(tree), sweep.run_dir(old) / "config.yaml")
        return old

    def test_options_of_others_are_there_afterwards(self, tmp_path):
        """TorchRL's ``loss: ppo`` is the namesake of one of ours."""
        theirs = {"_target_": "somewhere.else"}
        ConfigStore.instance().store("ppo", theirs, group="loss")
        Sweep(tmp_path).add([["loss=ppo", "actor=gaussian"]])
        assert ConfigStore.instance().load("loss/ppo.yaml").node == theirs

    def test_a_wrong_setting_adds_nothing(self, tmp_path):
        with pytest.raises(Exception, match="learning_rate"):
            self.add(tmp_path, "seed=0,1", "optim.learning_rate=1")
        with pytest.raises(ConfigError, match="num_envs=0 is out of range"):
            self.add(tmp_path, "num_envs=8,0")
        with pytest.raises(ConfigError, match="holds no sweep"):
            Sweep(tmp_path).entries()
