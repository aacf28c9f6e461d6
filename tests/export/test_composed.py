"""Policies with encoders before the flow, several observations and nested keys, in a file of each format."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import tiny
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential, dispatch
from tensordict.nn.common import TensorDictModuleBase
from torch import nn
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import ConvNet, GRUModule, LSTMModule

from fpo_torchrl import Euler, FixedNoise, FlowActor, FlowPolicy, Heun, ObservationNormalizer, VelocityMLP, ZeroNoise
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.export import FORMATS, command, export_policy

NUM_OBSERVATIONS, ACTION_DIM, FEATURES = 1000, 2, 6
PIXELS, STATE = ("camera", "pixels"), ("robot", "state")


class Scale(TensorDictModuleBase):
    """A module without a network inside: it reads and writes the TensorDict itself."""

    in_keys, out_keys = [STATE], ["scaled"]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict.set("scaled", tensordict.get(STATE) / 3)


class Fused(VelocityMLP):
    """Velocity from the features of a picture and a state."""

    def forward(self, features, state, x_t, time):
        batch = torch.broadcast_shapes(features.shape[:-1], state.shape[:-1])
        both = [value.expand(*batch, -1) for value in (features, state)]
        return super().forward(torch.cat(both, -1), x_t, time)


def composed() -> tuple[TensorDictSequential, dict]:
    """Pictures and states under nested keys, each with an encoder, nested in another sequence; bounds of its own."""
    cnn = ConvNet(1, num_cells=[4], kernel_sizes=3, strides=2)
    pictures = TensorDictModule(nn.Sequential(cnn, nn.LazyLinear(FEATURES)), in_keys=[PIXELS], out_keys=["features"])
    flow = FlowActor(
        Fused(FEATURES + 3, ACTION_DIM, output_scale=6.0),
        Euler(10),
        in_keys=["features", "scaled"],
        action_low=torch.tensor([-1.0, 0.0]),
        action_high=torch.tensor([3.0, 0.5]),
    )
    inputs = {PIXELS: torch.rand(NUM_OBSERVATIONS, 1, 8, 8), STATE: 4 * torch.randn(NUM_OBSERVATIONS, 3)}
    policy = TensorDictSequential(pictures, TensorDictSequential(Scale(), flow))
    policy(TensorDict({key: value[:2] for key, value in inputs.items()}, 2))  # sizes of the lazy layer
    return policy, inputs


def actions(policy: TensorDictSequential, inputs: dict, batch: int = NUM_OBSERVATIONS) -> torch.Tensor:
    """What the policy does in TorchRL from zero noise: called with a TensorDict, without exploration."""
    td = TensorDict({key: value[:batch] for key, value in inputs.items()}, batch)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        return policy(td)["action"]


class TestFlowPolicy:
    def test_it_acts_as_the_composed_policy_does(self):
        policy, inputs = composed()
        function = FlowPolicy(policy, start_noise=ZeroNoise())
        assert function.in_keys == [PIXELS, STATE]
        expected = actions(policy, inputs)
        torch.testing.assert_close(function(*inputs.values()), expected, rtol=0, atol=1e-6)
        assert (expected.amax(0) - expected.amin(0) > torch.tensor([0.5, 0.05])).all()
        fixed = FlowPolicy(policy, solver=Heun(3), start_noise=FixedNoise(1))(*inputs.values())
        assert not torch.allclose(fixed, expected, atol=1e-2)

    @pytest.mark.parametrize("module", [LSTMModule, GRUModule])
    def test_a_recurrent_policy_is_refused(self, module):
        memory = module(input_size=3, hidden_size=4, in_key="observation", out_key="memory")
        policy = TensorDictSequential(memory, FlowActor(VelocityMLP(4, 2), in_keys=["memory"]))
        with pytest.raises(ValueError, match=r"recurrent: with each action it writes .*recurrent_state"):
            FlowPolicy(policy, start_noise=ZeroNoise())


@pytest.mark.parametrize("format", FORMATS)
def test_a_thousand_observations_give_the_actions_of_the_composed_policy(format, tmp_path):
    for package in FORMATS[format].packages:
        pytest.importorskip(package, reason=f"needs the extra 'export': {package} is not installed")
    policy, inputs = composed()
    named = {".".join(key): value for key, value in inputs.items()}
    path = tmp_path / "policy"
    assert export_policy(FlowPolicy(policy, start_noise=ZeroNoise()), named, path, format=format) < 1e-5
    function = FORMATS[format].read(path)
    for batch in (1, 2, NUM_OBSERVATIONS):
        found = function(*(value[:batch] for value in inputs.values()))
        torch.testing.assert_close(found.detach(), actions(policy, inputs, batch), rtol=0, atol=1e-5)


def encoder_before_flow(obs_dim: int, action_dim: int, normalizer: ObservationNormalizer | None = None, **bounds):
    """What a config can name as its actor."""
    encoder = TensorDictModule(nn.Linear(obs_dim, 4), in_keys=["observation"], out_keys=["features"])
    return TensorDictSequential(encoder, FlowActor(VelocityMLP(4, action_dim), Euler(2), in_keys=["features"]))


def memory_before_flow(obs_dim: int, action_dim: int, normalizer: ObservationNormalizer | None = None, **bounds):
    """The same with a memory."""
    memory = GRUModule(input_size=obs_dim, hidden_size=4, in_key="observation", out_key="memory")
    return TensorDictSequential(memory, FlowActor(VelocityMLP(4, action_dim), Euler(2), in_keys=["memory"]))


class TestFpoExport:
    @pytest.fixture
    def export(self, tmp_path, run_command, monkeypatch):
        """Export, as TorchScript, the untrained policy that a function of this file builds."""

        def export(builder) -> tuple[int, str, str]:
            monkeypatch.setitem(sys.modules, "composed_policies", sys.modules[__name__])
            run_dir = tmp_path / "run"
            windows = ("trainer.advantage_every=minibatch", "trainer.unroll_length=8")
            cfg = tiny.compose(*tiny.SMALL, *windows, "task=CartpoleBalance", f"run_dir={run_dir}")
            cfg.actor = {"_target_": f"composed_policies.{builder.__name__}"}
            tiny.begin(cfg).checkpointer.save(0)
            return run_command(command.main, run_dir, "--format", "torchscript")

        return export

    def test_an_encoder_of_ones_own(self, export, tmp_path):
        code, out, err = export(encoder_before_flow)
        assert code == 0, err
        assert "Euler(num_steps=2), zero noise; inputs observation" in out
        function = FORMATS["torchscript"].read(Path(tmp_path / "run" / "policy.ts"))
        assert function(torch.zeros(3, 5)).shape == (3, 1)

    def test_a_memory(self, export, tmp_path):
        code, _, err = export(memory_before_flow)
        assert code == 2
        assert "cannot be exported: the policy is recurrent" in err
        assert not list((tmp_path / "run").glob("policy*"))


def test_rounding_counts_in_proportion_to_a_coordinates_range(tmp_path, monkeypatch):
    """A motor from -1 to 1 beside one from -1000 to 1000."""
    observation, bounds = torch.randn(4, 3), torch.tensor([1000.0, 1.0])
    actor = FlowActor(VelocityMLP(3, 2), action_low=-bounds, action_high=bounds)
    policy = FlowPolicy(actor, start_noise=ZeroNoise())
    for share, is_kept in ((5e-6, True), (5e-5, False)):
        for shift in (share * bounds).diag():
            monkeypatch.setattr(type(FORMATS["torchscript"]), "read", lambda *_, s=shift: lambda x: policy(x) + s)
            path = tmp_path / "policy"
            with nullcontext() if is_kept else pytest.raises(ConfigError, match="differ from the actor's by"):
                export_policy(policy, {"observation": observation}, path, format="torchscript")
            assert path.exists() is is_kept
            path.unlink(missing_ok=True)


@pytest.mark.parametrize(("noise", "given"), [(None, 1), (None, 3), (ZeroNoise(), 2)])
def test_another_number_of_inputs_is_refused(noise, given):
    policy = FlowPolicy(FlowActor(VelocityMLP(3, 2)), start_noise=noise)
    with pytest.raises(TypeError, match=rf"takes observation(, noise)?, \d in all; got {given}"):
        policy(*[torch.zeros(4, 3)] * given)
