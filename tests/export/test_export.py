"""A policy in a file: it computes the actor's actions, for any batch size, and without torch where ONNX is meant to."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.envs.utils import ExplorationType, set_exploration_type

from fpo_torchrl import (
    RK4,
    DenoisingActor,
    Euler,
    FixedNoise,
    FlowActor,
    FlowPolicy,
    Heun,
    NoisyEuler,
    ObservationNormalizer,
    RandomNoise,
    VelocityMLP,
    ZeroNoise,
)
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.export import FORMATS, command, export_policy
from fpo_torchrl.export.formats import METADATA_FILE
from fpo_torchrl.flow import Solver, StartNoise
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.trained import load_policy

OBS_DIM, ACTION_DIM, NUM_OBSERVATIONS = 3, 2, 1000


@pytest.fixture(params=FORMATS)
def format(request) -> str:
    if request.param == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason=f"needs the extra 'export': {package} is not installed")
    return request.param


@pytest.fixture
def actor() -> FlowActor:
    """With everything that comes between observation and action: statistics, a steep flow, bounds of its own."""
    normalizer = ObservationNormalizer(OBS_DIM, clip=1.5)
    normalizer.update(torch.randn(100, OBS_DIM) * torch.tensor([0.1, 1.0, 30.0]) + 2)
    net = VelocityMLP(OBS_DIM, ACTION_DIM, output_scale=8.0)
    bounds = {"action_low": torch.tensor([-1.0, 0.0]), "action_high": torch.tensor([3.0, 0.5])}
    return FlowActor(net, Euler(10), normalizer=normalizer, **bounds)


@pytest.fixture
def observation() -> torch.Tensor:
    return torch.randn(NUM_OBSERVATIONS, OBS_DIM) * torch.tensor([0.1, 1.0, 30.0]) + 2


def actions(actor: FlowActor, observation: torch.Tensor, **inference) -> torch.Tensor:
    """What the actor does in TorchRL: called with a TensorDict, without exploration."""
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        return actor.for_inference(**inference)(TensorDict(observation=observation, batch_size=len(observation)))[
            "action"
        ]


class TestFlowPolicy:
    @pytest.mark.parametrize("solver", [None, Heun(2), RK4(3)])
    @pytest.mark.parametrize("start_noise", [ZeroNoise(), FixedNoise(3)])
    def test_it_acts_as_the_actor_does(self, actor, observation, solver, start_noise):
        policy = FlowPolicy(actor, solver=solver, start_noise=start_noise)
        expected = actions(actor, observation, solver=solver, start_noise=start_noise)
        torch.testing.assert_close(policy(observation), expected, rtol=0, atol=1e-6)
        assert (expected[:, 0].amax() - expected[:, 0].amin()) > 0.5

    def test_noise_that_is_passed_in_is_where_the_flow_starts(self, actor, observation):
        fixed = FixedNoise(1).sample((NUM_OBSERVATIONS, ACTION_DIM), like=observation)
        expected = FlowPolicy(actor, start_noise=FixedNoise(1))(observation)
        assert FlowPolicy(actor, start_noise=None)(observation, fixed).equal(expected)

    def test_it_follows_the_weights_of_the_actor(self, actor, observation, move_weights):
        policy = FlowPolicy(actor, start_noise=ZeroNoise())
        before = policy(observation)
        move_weights(actor)
        assert not policy(observation).equal(before)
        torch.testing.assert_close(policy(observation), actions(actor, observation), rtol=0, atol=1e-6)

    def test_a_stochastic_solver_leaves_out_its_noise(self, observation):
        actor = DenoisingActor(VelocityMLP(OBS_DIM, ACTION_DIM), NoisyEuler(4, noise_std=0.5))
        policy = FlowPolicy(actor, start_noise=ZeroNoise())
        assert policy(observation).equal(policy(observation))
        torch.testing.assert_close(policy(observation), actions(actor, observation), rtol=0, atol=1e-6)

    def test_random_noise_is_refused(self, actor):
        with pytest.raises(ValueError, match="with None the caller draws the noise"):
            FlowPolicy(actor, start_noise=RandomNoise())


class TestFiles:
    @pytest.mark.parametrize("format", ["torchscript"])
    @pytest.mark.parametrize("solver", [Euler(10), RK4(2)])
    @pytest.mark.parametrize("start_noise", [ZeroNoise(), FixedNoise(3)])
    def test_a_thousand_observations_give_the_actions_of_the_actor(
        self, actor, observation, tmp_path, format, solver, start_noise
    ):
        path = tmp_path / "policy"
        policy = FlowPolicy(actor, solver=solver, start_noise=start_noise)
        assert export_policy(policy, {"observation": observation}, path, format=format) < 1e-5
        expected = actions(actor, observation, solver=solver, start_noise=start_noise)
        found = FORMATS[format].read(path)(observation)
        torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-5)

    def test_every_format_takes_noise_and_batches_of_any_size(self, actor, observation, tmp_path, format):
        path = tmp_path / "policy"
        noise = torch.randn(NUM_OBSERVATIONS, ACTION_DIM)
        expected = actions(actor, observation, solver=Heun(2), start_noise=Draws(noise))
        inputs = {"observation": observation, "noise": noise}
        policy = FlowPolicy(actor, solver=Heun(2), start_noise=None)
        assert export_policy(policy, inputs, path, format=format) < 1e-5
        function = FORMATS[format].read(path)
        for batch in (1, 2, NUM_OBSERVATIONS):
            found = function(*(value[:batch] for value in inputs.values()))
            torch.testing.assert_close(found.detach(), expected[:batch], rtol=0, atol=1e-5)
        assert list(tmp_path.iterdir()) == [path]

    def test_a_network_of_ones_own_with_two_inputs(self, tmp_path, format):
        class Net(nn.Module):
            action_dim = ACTION_DIM

            def __init__(self) -> None:
                super().__init__()
                self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(8 + 3 + ACTION_DIM + 1, ACTION_DIM)

            def forward(self, pixels, state, x_t, time):
                features = self.conv(pixels.flatten(0, -4)).flatten(1).unflatten(0, pixels.shape[:-3])
                parts = (features, state, x_t, time)
                return self.head(torch.cat([part.expand(*x_t.shape[:-1], -1) for part in parts], -1))

        actor = FlowActor(Net(), in_keys=["pixels", "state"])
        inputs = {"pixels": torch.randn(5, 1, 4, 4), "state": torch.randn(5, 3)}
        export_policy(FlowPolicy(actor, start_noise=ZeroNoise()), inputs, tmp_path / "policy", format=format)
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            expected = actor.for_inference()(TensorDict(inputs, batch_size=5))["action"]
        found = FORMATS[format].read(tmp_path / "policy")(*inputs.values())
        torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-5)

    def test_a_file_that_computes_something_else_is_not_kept(self, actor, observation, tmp_path, monkeypatch):
        broken = FORMATS["torchscript"]
        monkeypatch.setattr(type(broken), "read", lambda self, path: lambda *inputs: torch.full((1,), torch.nan))
        policy = FlowPolicy(actor, start_noise=ZeroNoise())
        with pytest.raises(ConfigError, match="differ from the actor's by nan: nothing was written"):
            export_policy(policy, {"observation": observation}, tmp_path / "policy", format="torchscript")
        assert list(tmp_path.iterdir()) == []

    def test_a_single_observation_is_refused(self, actor, observation):
        with pytest.raises(ValueError, match=r"need a batch dimension, got the shape \[\d+\]: unsqueeze\(0\)"):
            FlowPolicy(actor, start_noise=ZeroNoise())(observation[0])

    def test_wrong_arguments(self, actor, observation, tmp_path):
        policy = FlowPolicy(actor, start_noise=ZeroNoise())
        with pytest.raises(ConfigError, match=r"format must be one of onnx, torch.export, torchscript, got 'tflite'"):
            export_policy(policy, {"observation": observation}, tmp_path / "policy", format="tflite")
        with pytest.raises(ConfigError, match="a batch of at least 2"):
            export_policy(policy, {"observation": observation[:1]}, tmp_path / "policy", format="torchscript")


class Draws:
    """Start noise that is given."""

    def __init__(self, noise: torch.Tensor) -> None:
        self.noise = noise

    def sample(self, shape, like):
        assert self.noise.shape == shape
        return self.noise


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run of two iterations, without its picture."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "finish", lambda self: {})
        start_run(tiny.compose(*tiny.CARTPOLE, "total_frames=128", f"run_dir={path}")).train()
    return path


WITHOUT_TORCH = """
import json, sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
(action,) = session.run(["action"], {"observation": numpy.load(sys.argv[2])})
numpy.save(sys.argv[3], action)
print(json.dumps(session.get_modelmeta().custom_metadata_map))
assert not {"torch", "tensordict", "torchrl", "fpo_torchrl"} & set(sys.modules)
"""


class TestFpoExport:
    @pytest.fixture
    def fpo_export(self, run_command):
        return lambda *arguments: run_command(command.main, *arguments)

    @pytest.mark.parametrize("format", ["torchscript", "torch.export"])
    def test_solver_steps_and_noise(self, fpo_export, run_dir, tmp_path, format):
        path = tmp_path / "new" / f"policy{FORMATS[format].suffix}"
        arguments = ("--format", format, "--solver", "heun", "--steps", 3, "--noise", "fixed", "--out", path)
        code, out, err = fpo_export(run_dir, *arguments)
        assert code == 0, err
        assert "Heun(num_steps=3), fixed noise; inputs observation" in out
        assert str(path) in out
        policy = policy_of(run_dir, Heun(3), FixedNoise(0))
        observation = torch.randn(7, 5)
        found = FORMATS[format].read(path)(observation)
        torch.testing.assert_close(found.detach(), policy(observation).detach(), rtol=0, atol=1e-5)
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(METADATA_FILE)]
            metadata = json.loads(archive.read(name))
        assert metadata["task"] == "CartpoleBalance"
        assert metadata["solver"] == "Heun(num_steps=3)"
        assert metadata["inputs"] == {"observation": [5]}
        assert (metadata["action_low"], metadata["action_high"]) == ([-1], [1])

    def test_by_default_an_onnx_file_beside_the_run_that_needs_no_torch(self, fpo_export, run_dir, tmp_path):
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason=f"needs the extra 'export': {package} is not installed")
        assert fpo_export(run_dir)[0] == 0
        path, given, result = run_dir / "policy.onnx", tmp_path / "in.npy", tmp_path / "out.npy"
        observation = torch.randn(NUM_OBSERVATIONS, 5)
        np.save(given, observation.numpy())
        arguments = [sys.executable, "-c", WITHOUT_TORCH, path, given, result]
        done = subprocess.run(arguments, check=True, timeout=100, capture_output=True, text=True)
        expected = policy_of(run_dir, None, ZeroNoise())(observation).detach()
        torch.testing.assert_close(torch.from_numpy(np.load(result)), expected, rtol=0, atol=1e-5)
        assert json.loads(done.stdout)["task"] == "CartpoleBalance"

    def test_the_noise_can_be_an_input(self, fpo_export, run_dir, tmp_path):
        path = tmp_path / "policy.ts"
        code, out, _ = fpo_export(run_dir, "--format", "torchscript", "--noise", "input", "--out", path)
        assert code == 0
        assert "inputs observation, noise" in out
        function = FORMATS["torchscript"].read(path)
        observation = torch.zeros(2, 5)
        assert not function(observation, torch.zeros(2, 1)).equal(function(observation, torch.ones(2, 1)))

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["--format", "tflite"], 2, "invalid choice: 'tflite'"),
            (["--solver", "sde"], 2, "invalid choice: 'sde'"),
            (["--noise", "random"], 2, "invalid choice: 'random'"),
            (["--format", "torchscript", "--steps", "0"], 2, "steps: num_steps must be a whole number, at least 1"),
            (["--checkpoint", "none.torchrl"], 3, "none.torchrl does not exist"),
            (["--out", "."], 2, "--out=. is a directory; name a file in it that ends in .onnx"),
            (["--out", "policy.ts"], 2, "--out=policy.ts must end in .onnx"),
        ],
    )
    def test_wrong_settings(self, fpo_export, run_dir, arguments, code, words):
        actual, _, err = fpo_export(run_dir, *arguments)
        assert actual == code
        assert words in err

    def test_a_directory_without_a_run(self, fpo_export, tmp_path):
        code, _, err = fpo_export(tmp_path)
        assert code == 3
        assert "is not the directory of a run" in err

    def test_a_gaussian(self, fpo_export, tmp_path):
        overrides = (*tiny.SMALL, "task=probe/both", "actor=gaussian", "loss=ppo", "total_frames=64")
        tiny.begin(tiny.compose(*overrides, f"run_dir={tmp_path}")).checkpointer.save(0)
        code, _, err = fpo_export(tmp_path)
        assert code == 2
        assert "trained a Gaussian; fpo-export writes flow policies" in err

    def test_a_missing_package_is_named(self, fpo_export, run_dir, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnx", None)
        code, _, err = fpo_export(run_dir)
        assert code == 2
        assert "onnx" in err
        assert "pip install fpo-torchrl[export]" in err


def policy_of(run_dir: Path, solver: Solver | None, start_noise: StartNoise) -> FlowPolicy:
    """The policy of the run, restored as ``fpo-eval`` does it."""
    return FlowPolicy(load_policy(run_dir).actor, solver=solver, start_noise=start_noise)
