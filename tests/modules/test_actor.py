"""The flow actor as a module: keys and shapes, copies, compilation, arguments."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from observing import ConstantVelocity, deterministic, observations
from tensordict import TensorDict
from tensordict.nn import set_composite_lp_aggregate
from torch import nn

from fpo_torchrl import (
    RK4,
    Euler,
    FixedNoise,
    FlowActor,
    Heun,
    ObservationNormalizer,
    UniformTime,
    VelocityMLP,
    ZeroNoise,
)


class TestKeysAndShapes:
    @pytest.mark.parametrize("batch", [(), (4,), (4, 3)])
    def test_it_writes_exactly_its_out_keys_with_the_documented_shapes(self, make_actor, batch):
        actor, td = make_actor(num_mc_samples=8), observations(*batch)
        written = set(actor(td).keys()) - {"observation"}
        assert written == set(actor.out_keys)
        shapes = {key: tuple(td[key].shape[len(batch) :]) for key in written}
        assert shapes == {
            "action": (2,),
            "flow_action": (2,),
            "flow_noise": (8, 2),
            "flow_time": (8, 1),
            "cfm_loss": (8,),
            "action_log_prob": (),
        }
        torch.testing.assert_close(td["action_log_prob"], -td["cfm_loss"].mean(-1))

    def test_every_action_gets_its_own_start_noise_and_its_own_pairs(self, make_actor):
        td = make_actor(num_mc_samples=8, time_sampler=UniformTime())(
            TensorDict(observation=torch.zeros(50, 3), batch_size=50)
        )
        assert len(td["action"].unique(dim=0)) == 50
        assert len(td["flow_noise"].flatten(0, 1).unique(dim=0)) == 400
        assert len(td["flow_time"].unique()) > 390

    def test_flow_keys_sit_beside_a_nested_action(self, make_actor):
        actor = make_actor(action_key=("agents", "action"), in_keys=[("agents", "observation")])
        td = TensorDict(agents=TensorDict(observation=torch.randn(4, 5, 3), batch_size=(4, 5)), batch_size=4)
        actor(td)
        assert td["agents", "action"].shape == (4, 5, 2)
        assert td["agents", "flow_noise"].shape == (4, 5, 4, 2)
        assert set(td.keys(True, True)) == {*actor.out_keys, ("agents", "observation")}
        torch.testing.assert_close(actor.cfm_loss(td), td["agents", "cfm_loss"])

    def test_a_nested_action_needs_no_entry_beside_it(self, make_actor):
        td = make_actor(action_key=("agent", "action"))(observations(4))
        assert td["agent", "action"].shape == (4, 2)
        assert td["agent", "flow_time"].shape == (4, 4, 1)

    def test_actors_with_actions_of_other_names_share_a_tensordict(self, make_actor):
        high, low = make_actor(action_key="high"), make_actor(action_key=("arm", "low"))
        td = low(high(observations(4)))
        keys = {"high", "high_flow_action", "high_flow_noise", "high_flow_time", "high_cfm_loss", "high_log_prob"}
        assert keys < set(td.keys())
        assert set(td["arm"].keys()) == {key.replace("high", "low") for key in keys}
        torch.testing.assert_close(high.cfm_loss(td), td["high_cfm_loss"])

    @pytest.mark.parametrize("batch", [(), (5,), (5, 4)])
    def test_called_by_keyword_it_treats_each_observation_on_its_own(self, make_actor, batch):
        actor = make_actor()
        outputs = dict(zip(actor.out_keys, actor(observation=torch.zeros(*batch, 3)), strict=True))
        assert outputs["flow_noise"].shape == (*batch, 4, 2)
        actions = outputs["action"].reshape(-1, 2)
        assert len(actions.unique(dim=0)) == math.prod(batch)

    def test_one_observation_key_may_be_a_plain_string(self):
        actor = FlowActor(VelocityMLP(3, 2), in_keys="pose")
        assert actor.in_keys == ["pose"]
        assert actor(TensorDict(pose=torch.zeros(4, 3), batch_size=4))["action"].shape == (4, 2)

    def test_a_missing_observation_is_named_with_what_is_there(self, make_actor):
        with pytest.raises(
            KeyError, match=r"FlowActor reads \['observation'\], which the tensordict lacks: .*in_keys.* It has pixels"
        ):
            make_actor()(TensorDict(pixels=torch.zeros(4, 3), batch_size=4))

    def test_a_batch_size_that_does_not_cover_the_observation_is_refused(self, make_actor):
        broadcasts, does_not = (4, ValueError), (5, RuntimeError)
        for steps, error in (broadcasts, does_not):
            with pytest.raises(error, match=rf"batch \(4,\).*\(4, {steps}, 3\): set the tensordict's batch_size"):
                make_actor()(TensorDict(observation=torch.zeros(4, steps, 3), batch_size=4))

    def test_the_log_prob_key_is_the_one_that_ppo_losses_look_for(self, make_actor):
        with set_composite_lp_aggregate(True):
            assert "sample_log_prob" in make_actor().out_keys
        with set_composite_lp_aggregate(False):
            assert "action_log_prob" in make_actor().out_keys

    def test_several_observation_keys_reach_a_network_of_ones_own(self):
        class Sum(nn.Module):
            def forward(self, position, speed, x_t, time):
                return position + 10 * speed + 0 * (x_t + time)

        actor = FlowActor(Sum(), action_dim=2, in_keys=["position", "speed"], squash="none", start_noise=ZeroNoise())
        position, speed = torch.randn(4, 2), torch.randn(4, 2)
        td = actor(TensorDict(position=position, speed=speed, batch_size=4))
        torch.testing.assert_close(td["action"], position + 10 * speed)
        torch.testing.assert_close(actor.cfm_loss(td), td["cfm_loss"])

    def test_a_subclass_of_the_default_network_is_asked_itself(self):
        """Overriding ``forward`` alone counts, although the parent's ``condition`` is there to be called."""

        class Doubled(VelocityMLP):
            def forward(self, observation, x_t, time):
                return 2 * super().forward(observation, x_t, time)

        net = Doubled(3, 2)
        td = FlowActor(net, Euler(1), squash="none", start_noise=ZeroNoise())(observations(4))
        velocity = VelocityMLP.forward(net, td["observation"], torch.zeros(4, 2), torch.zeros(1))
        torch.testing.assert_close(td["action"], 2 * velocity)

    def test_a_network_that_offers_condition_is_conditioned_once_per_use(self):
        class Counted(VelocityMLP):
            conditioned = 0

            def condition(self, observation):
                Counted.conditioned += 1
                return super().condition(observation)

        actor = FlowActor(Counted(3, 2), Euler(10), num_mc_samples=8, start_noise=FixedNoise())
        plain = FlowActor(VelocityMLP(3, 2), Euler(10), num_mc_samples=8, start_noise=FixedNoise())
        plain.load_state_dict(actor.state_dict())
        td = observations(4)
        torch.testing.assert_close(actor(td.clone())["action"], plain(td.clone())["action"])
        assert Counted.conditioned == 2  # for the flow, and for the pairs

    def test_an_observation_may_be_read_twice(self):
        class Twice(ConstantVelocity):
            def forward(self, one, other, x_t, time):
                return super().forward(one, x_t, time)

        actor = FlowActor(Twice(0.0, 0.0), Euler(1), in_keys=["observation", "observation"])
        assert actor(observations(4))["action"].shape == (4, 2)

    def test_the_network_gets_the_observation_once_not_once_per_pair(self):
        net = ConstantVelocity(0.0, 0.0)
        FlowActor(net, Euler(1), num_mc_samples=8)(observations(4, 5))
        integrate, score = net.calls
        assert integrate == {"observation": (4, 5, 3), "x_t": (4, 5, 2), "time": (1,)}
        assert score == {"observation": (4, 5, 1, 3), "x_t": (4, 5, 8, 2), "time": (4, 5, 8, 1)}


class TestForInference:
    def test_it_writes_actions_and_no_pairs(self, make_actor):
        view = make_actor().for_inference()
        assert view.out_keys == ["action", "flow_action"]
        assert set(view(observations(4)).keys()) == {"observation", "action", "flow_action"}

    def test_it_may_sample_in_another_way_and_leaves_the_original_as_it_was(self, make_actor):
        actor = make_actor(solver=Euler(3))
        view = actor.for_inference(solver=RK4(5), start_noise=ZeroNoise())
        assert (repr(view.solver), repr(view.start_noise)) == ("RK4(num_steps=5)", "ZeroNoise()")
        assert (repr(actor.solver), actor.start_noise, actor.num_mc_samples) == ("Euler(num_steps=3)", None, 4)
        assert "flow_noise" in actor(observations(4))

    def test_a_module_set_on_the_view_is_not_the_originals(self, make_actor):
        actor = make_actor(normalizer=ObservationNormalizer(3))
        actor.for_inference().normalizer = None
        assert isinstance(actor.normalizer, ObservationNormalizer)

    def test_it_follows_the_weights_of_the_original(self, make_actor, move_weights):
        actor = make_actor(normalizer=ObservationNormalizer(3), start_noise=FixedNoise())
        view, td = actor.for_inference(), observations(4)
        before = view(td.clone())["action"]
        move_weights(actor)
        actor.normalizer.update(5 * torch.randn(100, 3))
        assert not torch.allclose(view(td.clone())["action"], before)
        assert torch.equal(view(td.clone())["action"], actor(td.clone())["action"])

    @pytest.mark.parametrize("solver", [RK4(20), Heun(50)])
    def test_solvers_agree_on_one_set_of_weights(self, make_actor, solver):
        actor, td = make_actor(start_noise=FixedNoise(), squash="none"), observations(4)
        exact = actor.for_inference(solver=RK4(200))(td.clone())["action"]
        torch.testing.assert_close(actor.for_inference(solver=solver)(td.clone())["action"], exact, atol=1e-3, rtol=0)
        assert not torch.allclose(actor.for_inference(solver=Euler(1))(td.clone())["action"], exact, atol=1e-3)


class TestModule:
    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda actor: pickle.loads(pickle.dumps(actor))])
    def test_copies_and_pickles_act_alike(self, make_actor, copied):
        actor, td = make_actor(normalizer=ObservationNormalizer(3), start_noise=FixedNoise(1)), observations(4)
        assert torch.equal(copied(actor)(td.clone())["action"], actor(td.clone())["action"])

    def test_state_dict_carries_weights_normaliser_and_bounds(self, make_actor):
        actor = make_actor(normalizer=ObservationNormalizer(3), action_low=-2.0, action_high=5.0)
        actor.normalizer.update(7 * torch.randn(100, 3) + 1)
        other = make_actor(normalizer=ObservationNormalizer(3))
        td = observations(4)
        with deterministic():
            expected = actor(td.clone())["action"]
            assert not torch.allclose(other(td.clone())["action"], expected)
            other.load_state_dict(actor.state_dict())
            assert torch.equal(other(td.clone())["action"], expected)

    def test_it_moves_to_double_precision(self, make_actor):
        actor = make_actor(normalizer=ObservationNormalizer(3), start_noise=FixedNoise()).double()
        actor.normalizer.update(torch.randn(10, 3))
        td = actor(TensorDict(observation=torch.randn(4, 3, dtype=torch.float64), batch_size=4))
        assert {value.dtype for value in td.values()} == {torch.float64}
        assert torch.equal(actor.cfm_loss(td), td["cfm_loss"])

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    def test_on_a_gpu_a_fixed_noise_gives_the_action_of_the_cpu(self, make_actor):
        actor, td = make_actor(normalizer=ObservationNormalizer(3), start_noise=FixedNoise(1)), observations(4)
        expected = actor(td.clone())["action"]
        on_gpu = actor.cuda()(td.cuda())
        assert {value.device.type for value in on_gpu.values()} == {"cuda"}
        torch.testing.assert_close(on_gpu["action"].cpu(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(actor.cfm_loss(on_gpu), on_gpu["cfm_loss"])

    def test_it_compiles_without_a_break(self, make_actor):
        actor = make_actor(start_noise=ZeroNoise(), num_mc_samples=0)
        compiled = torch.compile(actor, fullgraph=True, backend="eager")
        td = observations(4)
        torch.testing.assert_close(compiled(td.clone())["action"], actor(td.clone())["action"])

    def test_gradients_reach_every_weight_through_the_sampler(self, make_actor):
        actor = make_actor()
        actor(observations(8))["action"].sum().backward()
        assert all(p.grad.any() for p in actor.parameters())


class TestArguments:
    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"num_mc_samples": -1}, "num_mc_samples must not be negative, got -1"),
            ({"action_noise_std": -0.1}, r"action_noise_std must not be negative, got -0\.1"),
            ({"action_low": torch.zeros(5)}, r"action_low should be a number or have the shape \[2\] .*, got \[5\]"),
            ({"squash": "sigmoid"}, "squash must be one of tanh, clip, none, got 'sigmoid'"),
            ({"squash_gain": 0.0}, r"squash_gain must be positive and finite, got 0\.0"),
            ({"squash": "none", "squash_gain": 2.0}, r'squash_gain=2\.0 has no effect with squash="none"'),
            ({"action_reduction": "max"}, "action_reduction must be one of mean, sum, sqrt, got 'max'"),
            (
                {"normalizer": ObservationNormalizer(3), "in_keys": ["a", "b"]},
                r"one observation, got in_keys=\['a', 'b'\]; normalise inside velocity_net",
            ),
        ],
    )
    def test_a_setting_out_of_range_is_refused(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            FlowActor(VelocityMLP(3, 2), **kwargs)

    def test_a_network_without_action_dim_is_refused(self):
        with pytest.raises(ValueError, match="give Linear an attribute action_dim, or pass action_dim="):
            FlowActor(nn.Linear(2, 2))

    def test_repr_tells_how_it_samples(self, make_actor):
        text = repr(make_actor(solver=Heun(5), squash="clip", start_noise=FixedNoise(3)))
        for part in ("Heun(num_steps=5)", "FixedNoise(seed=3)", "squash='clip'", "NoiseTarget()", "num_mc_samples=4"):
            assert part in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": Euler}, r"solver must be a Solver such as Euler\(num_steps=10\), got <class .*Euler'>"),
        ({"solver": 10}, "solver must be a Solver"),
        ({"start_noise": "zero"}, r"start_noise must be a StartNoise such as ZeroNoise\(\), got 'zero'"),
        ({"target": "noise"}, r"target must be a RegressionTarget such as NoiseTarget\(\), got 'noise'"),
        ({"num_mc_samples": 8.0}, "num_mc_samples must be an int such as 8, got 8.0"),
        ({"pairs": "antithetic"}, "pairs must be a PairSampler"),
    ],
)
def test_a_name_in_the_place_of_an_object_is_refused(settings, message):
    with pytest.raises(TypeError, match=message):
        FlowActor(VelocityMLP(3, 2), **settings)


def test_it_is_built_in_the_default_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        written = FlowActor(VelocityMLP(3, 2), Euler(2))(observations(4))
    finally:
        torch.set_default_dtype(before)
    assert written["action"].dtype == written["cfm_loss"].dtype == torch.float64


def test_an_observation_may_be_a_category():
    class Table(torch.nn.Module):
        action_dim = 2

        def __init__(self) -> None:
            super().__init__()
            self.rows = torch.nn.Embedding(5, 2)

        def forward(self, observation, x_t, time):
            return self.rows(observation) + 0 * x_t

    td = FlowActor(Table(), num_mc_samples=3)(TensorDict(observation=torch.arange(4), batch_size=4))
    assert td["cfm_loss"].shape == (4, 3)


def test_an_observation_that_would_be_given_to_other_agents_is_refused(make_actor):
    """Three environments and three agents: without a check agent j of each would get environment j's observation."""
    actor = make_actor(action_key=("agents", "action"))
    td = TensorDict(observation=torch.randn(3, 3), agents=TensorDict(batch_size=(3, 3)), batch_size=3)
    with pytest.raises(ValueError, match=r"per entry of the batch \(3, 3\), but the observation has shape \(3, 3\)"):
        actor(td)
    td["observation"] = td["observation"].unsqueeze(1)
    assert actor(td)["agents", "action"].shape == (3, 3, 2)


def test_an_action_that_is_changed_in_place_leaves_the_flows():
    td = FlowActor(VelocityMLP(3, 2), squash="none")(observations(4))
    before = td["flow_action"].clone()
    td["action"].clamp_(-0.01, 0.01)
    assert torch.equal(td["flow_action"], before)
