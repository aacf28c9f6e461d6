"""What a flow actor writes, and that it is what it says."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import set_composite_lp_aggregate
from torch import nn
from torchrl.envs.utils import ExplorationType, set_exploration_type

from fpo_torchrl import (
    RK4,
    ActionTarget,
    Euler,
    EulerMaruyama,
    FixedNoise,
    FlowActor,
    GridTime,
    Heun,
    NoiseTarget,
    ObservationNormalizer,
    RandomNoise,
    UniformTime,
    VelocityMLP,
    VelocityTarget,
    ZeroNoise,
)


class ConstantVelocity(nn.Module):
    """The same velocity everywhere, so that the flow is ``action = noise + velocity`` for every solver."""

    def __init__(self, *velocity: float) -> None:
        super().__init__()
        self.velocity = nn.Parameter(torch.tensor(velocity))
        self.action_dim = len(velocity)
        self.calls: list[dict[str, tuple[int, ...]]] = []

    def forward(self, observation, x_t, time):
        self.calls.append({"observation": observation.shape, "x_t": x_t.shape, "time": time.shape})
        return self.velocity + 0 * (x_t + observation[..., :1] + time)


def observations(*batch: int) -> TensorDict:
    return TensorDict(observation=torch.randn(*batch, 3), batch_size=batch)


def exploring() -> set_exploration_type:
    return set_exploration_type(ExplorationType.RANDOM)


def deterministic() -> set_exploration_type:
    return set_exploration_type(ExplorationType.DETERMINISTIC)


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

    def test_a_batch_size_that_does_not_cover_the_observation_is_refused(self, make_actor):
        with pytest.raises(
            ValueError, match=r"batch \(4,\).*leading dimensions \(4, 4\).*set the tensordict's batch_size"
        ):
            make_actor()(TensorDict(observation=torch.zeros(4, 4, 3), batch_size=4))

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

    def test_a_hooked_network_is_called_as_a_whole(self, make_actor):
        actor, seen = make_actor(solver=Euler(5)), []
        plain = actor(observations(4).set("observation", torch.ones(4, 3)).clone())
        actor.velocity_net.register_forward_hook(lambda net, args, out: seen.append(out.shape))
        actor(plain.clone())
        assert seen == [(4, 2)] * 5 + [(4, 4, 2)]
        torch.testing.assert_close(actor.cfm_loss(plain), plain["cfm_loss"])

    def test_the_network_gets_the_observation_once_not_once_per_pair(self):
        net = ConstantVelocity(0.0, 0.0)
        FlowActor(net, Euler(1), num_mc_samples=8)(observations(4, 5))
        integrate, score = net.calls
        assert integrate == {"observation": (4, 5, 3), "x_t": (4, 5, 2), "time": (1,)}
        assert score == {"observation": (4, 5, 1, 3), "x_t": (4, 5, 8, 2), "time": (4, 5, 8, 1)}


class TestStartNoise:
    """With no velocity and no squashing the action is the start noise."""

    @pytest.fixture
    def still(self):
        return lambda **kwargs: FlowActor(ConstantVelocity(0.0, 0.0), squash="none", **kwargs)

    @pytest.mark.parametrize("kind", [kind for kind in ExplorationType if kind != ExplorationType.RANDOM])
    def test_without_exploration_the_flow_starts_at_zero(self, still, kind):
        with set_exploration_type(kind):
            assert not still()(observations(4))["action"].any()

    def test_exploring_it_starts_at_a_standard_normal(self, still):
        with exploring():
            action = still()(observations(20_000))["action"]
        torch.testing.assert_close(action.std(0), torch.ones(2), atol=0.03, rtol=0)

    def test_outside_of_any_exploration_context_it_explores(self, still):
        assert still()(observations(4))["action"].all()

    def test_a_chosen_noise_overrides_the_exploration_type(self, still):
        with deterministic():
            assert still(start_noise=RandomNoise())(observations(4))["action"].all()
        with exploring():
            assert not still(start_noise=ZeroNoise())(observations(4))["action"].any()

    def test_fixed_noise_gives_one_action_for_all_equal_observations_every_time(self, make_actor):
        actor = make_actor(start_noise=FixedNoise(seed=7))
        td = TensorDict(observation=torch.ones(4, 3), batch_size=4)
        with exploring():
            first, second = actor(td.clone())["action"], actor(td.clone())["action"]
        assert torch.equal(first, second)
        assert torch.equal(first, first[:1].expand(4, 2))

    def test_a_stochastic_solver_makes_no_noise_without_exploration(self, make_actor):
        actor, ode = make_actor(solver=EulerMaruyama(4, noise_scale=0.5)), make_actor(solver=Euler(4))
        ode.load_state_dict(actor.state_dict())
        td = observations(5)
        with deterministic():
            assert torch.equal(actor(td.clone())["action"], ode(td.clone())["action"])
        with exploring():
            assert not torch.equal(actor(td.clone())["action"], actor(td.clone())["action"])

    def test_action_noise_is_added_only_when_exploring(self, still):
        actor = still(start_noise=ZeroNoise(), action_noise_std=0.5)
        with deterministic():
            assert not actor(observations(100))["action"].any()
        with exploring():
            td = actor(observations(20_000))
        assert td["action"].std().item() == pytest.approx(0.5, rel=0.03)
        assert torch.equal(td["flow_action"], td["action"])  # the CFM target is the action that was taken
        torch.testing.assert_close(actor.cfm_loss(td), td["cfm_loss"])


def test_the_points_of_the_flow_lead_from_the_noise_to_the_action():
    actor = FlowActor(ConstantVelocity(1.0, -2.0), Euler(4), start_noise=ZeroNoise(), squash="tanh")
    points = torch.stack(actor.flow_points(observations(3)))
    expected = torch.linspace(0, 1, 5)[:, None, None] * torch.tensor([1.0, -2.0])
    torch.testing.assert_close(points, expected.expand(5, 3, 2))
    torch.testing.assert_close(actor(observations(3))["flow_action"], points[-1])


class TestSquash:
    """A strong constant velocity pushes the flow far out on one side or the other."""

    LOW, HIGH = torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 10.0])

    def actor(self, squash: str, velocity: float) -> FlowActor:
        return FlowActor(
            ConstantVelocity(velocity, velocity), squash=squash, action_low=self.LOW, action_high=self.HIGH
        )

    @pytest.mark.parametrize("squash", ["tanh", "clip"])
    def test_actions_fill_asymmetric_bounds_and_never_leave_them(self, squash):
        td = observations(500)
        far_up = self.actor(squash, 50.0)(td.clone())["action"]
        far_down = self.actor(squash, -50.0)(td.clone())["action"]
        between = self.actor(squash, 0.0)(td.clone())["action"]
        torch.testing.assert_close(far_up, self.HIGH.expand(500, 2))
        torch.testing.assert_close(far_down, self.LOW.expand(500, 2), atol=1e-6, rtol=0)
        assert ((between >= self.LOW) & (between <= self.HIGH)).all()
        torch.testing.assert_close(between.mean(0), torch.tensor([1.0, 5.0]), atol=0.5, rtol=0)

    @pytest.mark.parametrize("squash", ["tanh", "clip"])
    def test_zero_flow_gives_the_centre_of_the_bounds(self, squash):
        with deterministic():
            assert torch.equal(self.actor(squash, 0.0)(observations(1))["action"], torch.tensor([[1.0, 5.0]]))

    def test_none_leaves_the_flow_alone_whatever_the_bounds(self):
        td = FlowActor(ConstantVelocity(50.0), squash="none", action_low=-math.inf, action_high=math.inf)(
            observations(5)
        )
        assert (td["action"] > 40).all()
        assert torch.equal(td["action"], td["flow_action"])

    def test_tanh_reaches_the_bounds_at_the_rate_of_tanh(self):
        actor = FlowActor(ConstantVelocity(0.5), start_noise=ZeroNoise(), action_low=-2.0, action_high=2.0)
        assert actor(observations(1))["action"].item() == pytest.approx(2 * math.tanh(0.5))

    @pytest.mark.parametrize("squash", ["tanh", "clip", "none"])
    def test_unsquash_recovers_the_flow_action_inside_the_bounds(self, squash):
        actor = self.actor(squash, 0.0)
        td = actor(observations(500))
        inside = (td["flow_action"].abs() < (1 if squash == "clip" else 3)).all(-1)
        recovered = actor.unsquash(td["action"])
        assert inside.sum() > 200
        torch.testing.assert_close(recovered[inside], td["flow_action"][inside], atol=1e-3, rtol=1e-3)

    def test_unsquash_of_an_action_on_the_bound_is_finite(self):
        actor = self.actor("tanh", 0.0)
        flow_action = actor.unsquash(torch.stack([self.LOW, self.HIGH]))
        assert torch.isfinite(flow_action).all()
        assert (flow_action[0] < -3).all()
        assert (flow_action[1] > 3).all()

    @pytest.mark.parametrize(("low", "high"), [(-math.inf, math.inf), (1.0, 1.0), (0.0, torch.tensor([1.0, -1.0]))])
    def test_bounds_that_cannot_be_squashed_into_are_refused(self, low, high):
        with pytest.raises(ValueError, match=r"squash='tanh' needs finite bounds with low < high"):
            FlowActor(ConstantVelocity(0.0, 0.0), action_low=low, action_high=high)


class TestCfmLoss:
    """Velocity (2, 0), action (1, 2), noise (0, 1), time 0.8: the velocity error is (2, 0) - (1, 1) = (1, -1)."""

    def loss(self, **kwargs) -> float:
        actor = FlowActor(ConstantVelocity(2.0, 0.0), **kwargs)
        noise, time = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.8]])
        td = TensorDict(observation=torch.randn(3))
        loss = actor.pair_loss([td["observation"]], torch.tensor([1.0, 2.0]), noise, time)
        assert loss.shape == (1,)
        return loss.item()

    @pytest.mark.parametrize(
        ("target", "expected"), [(VelocityTarget(), 1.0), (NoiseTarget(), 0.64), (ActionTarget(), 0.04), (None, 0.64)]
    )
    def test_by_hand_for_each_target(self, target, expected):
        assert self.loss(target=target) == pytest.approx(expected)

    @pytest.mark.parametrize(("action_reduction", "expected"), [("mean", 1.0), ("sum", 2.0), ("sqrt", math.sqrt(2))])
    def test_by_hand_for_each_reduction(self, action_reduction, expected):
        assert self.loss(target=VelocityTarget(), action_reduction=action_reduction) == pytest.approx(expected)

    def test_what_is_stored_is_the_loss_at_the_stored_pairs(self):
        """For a constant velocity c the noise target's error is time * (c - action + noise)."""
        td = FlowActor(ConstantVelocity(0.5, -0.5), num_mc_samples=8)(observations(20))
        error = td["flow_time"] * (torch.tensor([0.5, -0.5]) - td["flow_action"].unsqueeze(1) + td["flow_noise"])
        torch.testing.assert_close(td["cfm_loss"], error.square().mean(-1))

    def test_a_zero_network_scores_a_zero_action_by_the_noise_alone(self):
        noise, time = torch.randn(50_000, 2), torch.rand(50_000, 1)
        td, action = TensorDict(observation=torch.zeros(3)), torch.zeros(2)
        observations = [td["observation"]]

        def loss(target):
            return FlowActor(ConstantVelocity(0.0, 0.0), target=target).pair_loss(observations, action, noise, time)

        assert loss(VelocityTarget()).mean().item() == pytest.approx(1, rel=0.02)
        assert loss(NoiseTarget()).mean().item() == pytest.approx(1 / 3, rel=0.02)
        torch.testing.assert_close(loss(NoiseTarget()), time.squeeze(-1) ** 2 * loss(VelocityTarget()))

    def test_the_noise_target_has_no_loss_and_no_gradient_at_time_zero(self, make_actor):
        actor = make_actor(target=NoiseTarget(), time_sampler=GridTime(num_steps=1))  # whose only value is 0
        td = actor(observations(5))
        assert not td["flow_time"].any()
        assert not td["cfm_loss"].any()
        actor.cfm_loss(td.detach()).sum().backward()
        assert not any(p.grad.any() for p in actor.parameters() if p.grad is not None)

    @pytest.mark.parametrize("batch", [(), (5,), (5, 4)])
    def test_the_stored_action_scores_the_same_again(self, make_actor, collect, batch):
        actor = make_actor(normalizer=ObservationNormalizer(3), action_noise_std=0.1)
        actor.normalizer.update(3 * torch.randn(100, 3))
        td = actor(observations(*batch))
        assert torch.equal(actor.cfm_loss(td), td["cfm_loss"])
        assert torch.equal(actor.get_dist(td).log_prob(td["action"]), td["action_log_prob"])

    def test_pairs_are_not_redrawn_for_an_action_that_is_not_there(self, make_actor):
        with pytest.raises(KeyError, match=r"lacks \['flow_action'\]"):
            make_actor().redraw_pairs(observations(4))

    @pytest.mark.parametrize("missing", ["flow_action", "flow_noise", "flow_time"])
    def test_a_batch_without_a_flow_key_is_refused_by_its_name(self, make_actor, missing):
        actor = make_actor()
        td = actor(observations(4)).exclude(missing)
        with pytest.raises(KeyError, match=rf"lacks \['{missing}'\].*num_mc_samples of at least 1"):
            actor.get_dist(td)


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
            ({"squash": "sigmoid"}, "squash must be one of tanh, clip, none, got 'sigmoid'"),
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
