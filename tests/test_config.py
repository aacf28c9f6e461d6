"""The schema that rejects wrong settings, generated from signatures, and what it says on the command line."""

from __future__ import annotations

import importlib.util
import re
import sys
from typing import Literal

import pytest
import tiny
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, ValidationError
from torch import nn

from fpo_torchrl import FlowActor
from fpo_torchrl.config import SUPPLIED, RunConfig, check_components, check_run, schema
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.train import main


def example(
    size: int,
    rate: float = 0.5,
    *,
    mode: Literal["a", "b"] = "a",
    limit: float | None = None,
    widths: tuple[int, ...] = (1, 2),
    net: nn.Module | None = None,
    radius: float | tuple[float, float] = 0.1,
    given: object = None,
    **kwargs: object,
) -> None:
    """A component whose parameters are of every kind."""


class TestSchema:
    @pytest.fixture
    def cfg(self):
        return OmegaConf.structured(schema(example, {"given"}))

    def test_parameters_become_settings_with_their_defaults(self, cfg):
        assert OmegaConf.to_container(cfg) == {
            "_target_": f"{__name__}.example",
            "size": MISSING,
            "rate": 0.5,
            "mode": "a",
            "limit": None,
            "widths": [1, 2],
            "net": None,
            "radius": 0.1,
        }

    @pytest.mark.parametrize(
        ("key", "value"),
        [("size", 1.5), ("rate", "fast"), ("mode", [1]), ("limit", "high"), ("widths", 3), ("widths", ["a"])],
    )
    def test_wrong_types_are_refused(self, cfg, key, value):
        with pytest.raises(ValidationError):
            cfg[key] = value

    @pytest.mark.parametrize(("key", "value"), [("radius", [0.1, 0.2]), ("net", {"_target_": "x"}), ("limit", 3)])
    def test_right_types_pass(self, cfg, key, value):
        cfg[key] = value

    @pytest.mark.parametrize("key", ["given", "kwargs", "sise"])
    def test_other_names_are_refused(self, cfg, key):
        with pytest.raises(ConfigKeyError):
            cfg[key] = 1

    def test_a_component_that_passes_keywords_on_has_the_settings_of_its_base_too(self):
        cfg = OmegaConf.structured(schema(FlowActor, SUPPLIED["actor"]))
        assert (cfg.num_mc_samples, cfg.squash) == (8, "tanh")
        with pytest.raises(ValidationError):
            cfg.squash = [1]
        with pytest.raises(ConfigKeyError):
            cfg["sampler_settings"] = 1


class TestRunSettings:
    @staticmethod
    def run_config(**changes) -> RunConfig:
        return OmegaConf.merge(OmegaConf.structured(RunConfig(task="t", total_frames=1)), changes)  # pyright: ignore

    def test_the_defaults_pass(self):
        check_run(self.run_config())

    @pytest.mark.parametrize(
        "name",
        [
            *("num_envs", "total_frames", "num_threads", "eval_episodes", "final_eval_episodes"),
            *("eval_interval_frames", "checkpoint_interval_frames", "keep_checkpoints"),
        ],
    )
    def test_counts_are_at_least_one(self, name):
        with pytest.raises(ConfigError, match=f"^{name}=0 is out of range: it must be at least 1"):
            check_run(self.run_config(**{name: 0}))

    @pytest.mark.parametrize("seed", [-1, 2**64 - 6])
    def test_the_seed_leaves_room_for_those_derived_from_it(self, seed):
        with pytest.raises(
            ConfigError, match=rf"^seed={seed} is out of range: it must be from 0 to 4611686018427387904"
        ):
            check_run(self.run_config(seed=seed))

    @pytest.mark.parametrize("device", ["mps", "gpu", "cuda:", "meta"])
    def test_the_device_is_one_that_everything_runs_on(self, device):
        with pytest.raises(ConfigError, match=rf"^device={device}: expected cpu or cuda, perhaps with a number as in"):
            check_run(self.run_config(device=device))

    def test_the_logger_is_known(self):
        with pytest.raises(ConfigError, match=r"^logger.kind=mlflow is unknown: .* tensorboard or wandb"):
            check_run(self.run_config(logger={"kind": "mlflow"}))


TYPED_WRONG = {
    # what was typed: words of the message
    "optim.learning_rate=1": ["optim.learning_rate is not a setting", "allowed in optim: lr, critic_lr, betas"],
    "optm.lr=1": ["optm is not a setting", "did you mean optim?", "optim, trainer"],
    "total_frame=64": ["did you mean total_frames?"],
    "lr=1e-4": ["did you mean optim.lr?"],
    "total_frames=1e4": ["a whole number is written 10_000"],
    "seed": ["seed is no setting=value: write seed=VALUE"],
    "optim.lr=fast": ["optim.lr", "'fast'", "Float"],
    "actor=gauss": ["'actor/gauss'", "flow", "gaussian"],
    "loss/trust_region=trpo": ["'loss/trust_region/trpo'", "aspo", "clip", "spo"],
    "experiment=common/paper": ["several presets have in common", "experiment=fpo_paper"],
    "+experiment/common=paper": ["several presets have in common", "experiment=fpo_paper"],
    "experiment=paper_common": ["Could not find 'experiment/paper_common'", "fpo_paper"],
    "normalizer=null": ["must be a string", "the name of an option"],
    "task.motions=walks": ["task.motions=walks: task is a name", "did you mean env.motions=walks?"],
    "experiment=humanoid actor=gaussian loss=ppo": ["humanoid chooses actor/target, which the actor", "leave out"],
    "task=Cartpole": ["unknown task 'Cartpole'. Did you mean 'CartpoleBalance'?", "PointMass", "gym/<Id>"],
}


@pytest.mark.parametrize("override", TYPED_WRONG)
def test_a_wrong_command_line_exits_with_2_and_says_what_is_allowed(override, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fpo-train", *override.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    for words in TYPED_WRONG[override]:
        assert words in message
    assert not list(tmp_path.iterdir())


OUT_OF_RANGE = {
    "optim.lr=-1": r"optim: lr must be positive and finite, got -1",
    "actor.solver.num_steps=0": r"actor.solver: num_steps .* at least 1, got 0",
    "actor.squash=sin": r"actor: squash must be one of tanh, clip, none, got 'sin'",
    "task=gym/CartPole-v1": r"env: .*Discrete\(2\).* needs continuous bounded actions",
    "device=gpu": r"device=gpu: expected cpu or cuda",
    "loss.trust_region.epsilon=2": r"loss.trust_region: .* 0 < low < 1 .*low=2.0",
    "num_envs=100": r"trainer: frames_per_batch must be a multiple of num_envs=100, got 4096; for example 4100",
    "env.max_episode_steps=0": r"env: max_episode_steps must be at least 1, got 0",
    "seed=-1": r"seed=-1 is out of range: it must be from 0 to",
    "actor=gaussian": r"loss: FPOLoss needs a FlowActor as actor_network, .*, got ProbabilisticActor; .*ClipPPOLoss",
    "logger=wandb": r"logger=wandb needs .* pip install fpo-torchrl\[wandb\]",
    "vmap=true": r"vmap=True is a setting of several seeds in one process: give num_seeds as well",
    "run_dir=' '": r"run_dir=' ' is empty: give a directory",
}
if importlib.util.find_spec("wandb") is not None:
    del OUT_OF_RANGE["logger=wandb"]


@pytest.mark.parametrize("override", OUT_OF_RANGE)
def test_a_value_out_of_range_stops_before_anything_is_written(override, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=OUT_OF_RANGE[override]):
        start_run(tiny.compose(override))
    assert not list(tmp_path.iterdir())


def test_a_setting_without_a_value_is_named(tmp_path):
    cfg = tiny.compose("actor/velocity_net=custom")
    with pytest.raises(MissingMandatoryValue, match=r"actor.velocity_net._target_"):
        start_run(cfg)


@pytest.mark.parametrize(
    ("overrides", "gamma"),
    [
        (["task=FingerSpin"], 0.95),
        (["task=CheetahRun"], 0.99),
        (["task=gym/Pendulum-v1"], 0.99),
        (["task=FingerSpin", "advantage.gamma=0.5"], 0.5),
        (["task=FingerSpin", "experiment=fpo_playground"], 0.95),
        (["task=CheetahRun", "experiment=ppo"], 0.995),
        (["task=playground/ReacherEasy"], 0.95),
        (["task=playground/BallInCup", "experiment=fpo_paper"], 0.95),
        (["task=cshape", "experiment=gridworld"], 0.95),
        (["task=two_walls", "experiment=gridworld"], 0.9),
    ],
)
def test_a_task_has_the_discount_that_the_preset_gives_it(overrides, gamma):
    assert tiny.compose(*overrides).advantage.gamma == gamma


def test_the_loss_that_is_asked_for_is_not_the_presets():
    own, other = (tiny.compose("experiment=humanoid", *more).loss.trust_region for more in ([], ["loss=fpo_released"]))
    assert (own._target_.rpartition(".")[2], own.epsilon) == ("SPO", 0.15)
    assert (other._target_.rpartition(".")[2], other.epsilon) == ("Clip", 0.05)


@pytest.mark.parametrize(
    "change",
    ["actor=3", "optim=null", "actor.solver=fast", "actor.velocity_net=null", "loss.log_ratio_clamp=2", "env=[1]"],
)
def test_a_value_in_the_place_of_a_component_is_refused(change):
    key, _, value = change.partition("=")
    cfg = tiny.compose(*tiny.GRIDWORLD)
    OmegaConf.update(cfg, key, OmegaConf.create(f"x: {value}").x, merge=False)
    with pytest.raises(ConfigError, match=f"{re.escape(key)}=.* is no component: choose an option of the group"):
        check_components(cfg)
