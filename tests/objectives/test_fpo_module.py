"""FPO's loss as a LossModule: keys, shapes, parameters, compilation and bad input."""

from __future__ import annotations

import re

import pytest
import torch
from by_hand import RATIOS, gradients
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal
from torchrl.objectives import ClipPPOLoss, ValueEstimators
from torchrl.objectives.value import VTrace

from fpo_torchrl import (
    ASPO,
    DenoisingActor,
    DenoisingMDPLoss,
    FPOLoss,
    ObservationNormalizer,
    VelocityMLP,
)


class TestAsALossModule:
    @pytest.mark.parametrize(
        "kwargs",
        [
            {},
            {"critic_coeff": 0.0},
            {"log_explained_variance": False},
            {"clip_value": 0.0},
            {"ratio": "per_sample"},
            {"cfm_coeff": 0.3, "prior_coeff": 0.1},
        ],
    )
    def test_it_returns_exactly_its_out_keys(self, make_actor, make_critic, collect, kwargs):
        actor = make_actor()
        loss = FPOLoss(actor, make_critic(), **kwargs)
        assert set(loss(collect(actor)).keys()) == set(loss.out_keys)

    def test_diagnostics_are_finite_scalars_without_gradient(self, make_actor, make_critic, collect, move_weights):
        actor = make_actor()
        loss, batch = FPOLoss(actor, make_critic(), ratio="per_sample"), collect(actor, 4, 5)
        move_weights(actor)
        for key, value in loss(batch).items():
            assert value.shape == (), key
            assert torch.isfinite(value), key
            assert value.requires_grad == key.startswith("loss_"), key

    def test_batch_dimensions_make_no_difference(self, make_actor, make_critic, collect, move_weights):
        actor = make_actor()
        loss, batch = FPOLoss(actor, make_critic(), ratio=2), collect(actor, 4, 5)
        move_weights(actor)
        out, flat = loss(batch), loss(batch.reshape(20))
        for key in set(loss.out_keys) - {"explained_variance"}:
            torch.testing.assert_close(out[key], flat[key], rtol=1e-5, atol=1e-6)

    def test_reductions_agree(self, make_actor, make_critic, collect, move_weights):
        actor, critic = make_actor(), make_critic()
        batch = collect(actor, 4, 5)
        move_weights(actor)
        none, total, mean = (FPOLoss(actor, critic, reduction=how)(batch) for how in ("none", "sum", "mean"))
        for key in ("loss_objective", "loss_critic"):
            assert none[key].shape == (4, 5)
            torch.testing.assert_close(none[key].sum(), total[key])
            torch.testing.assert_close(none[key].mean(), mean[key])

    def test_padding_marked_by_the_collector_counts_for_nothing(self, make_actor, make_critic, collect):
        actor = make_actor()
        loss, batch = FPOLoss(actor, make_critic(), normalize_advantage=False), collect(actor, 6)
        expected = loss(batch[:4])
        batch["advantage"][4:], batch["value_target"][4:] = 1e6, 1e6
        batch["collector", "mask"] = torch.tensor([True] * 4 + [False] * 2)
        for key in ("loss_objective", "loss_critic"):
            torch.testing.assert_close(loss(batch)[key], expected[key])

    @pytest.mark.parametrize("functional", [True, False])
    def test_its_parameters_are_those_of_actor_and_critic(
        self, make_actor, make_critic, collect, move_weights, functional
    ):
        actor, critic = make_actor(), make_critic()
        loss, batch = FPOLoss(actor, critic, functional=functional), collect(actor)
        ours = {p.data_ptr() for p in loss.parameters()}
        assert ours == {p.data_ptr() for module in (actor, critic) for p in module.parameters()}
        move_weights(actor, critic)
        torch.testing.assert_close(loss(batch)["cfm_loss_new"], actor.cfm_loss(batch).mean())

    def test_functional_or_not_it_is_the_same_loss(self, make_actor, make_critic, collect, move_weights):
        actor, critic = make_actor(), make_critic()
        batch = collect(actor)
        move_weights(actor, critic)
        out, plain = (FPOLoss(actor, critic, functional=functional)(batch) for functional in (True, False))
        for key in out.keys():  # noqa: SIM118 - iterating over a tensordict is iterating over its batch
            torch.testing.assert_close(out[key], plain[key])
        for key in ("loss_objective", "loss_critic"):
            module = actor if key == "loss_objective" else critic
            torch.testing.assert_close(gradients(out[key], module), gradients(plain[key], module))

    def test_each_loss_trains_its_own_network(self, make_actor, make_critic, collect):
        actor, critic = make_actor(), make_critic()
        out = FPOLoss(actor, critic)(collect(actor))
        out["loss_objective"].backward()
        assert all(p.grad.any() for p in actor.parameters())
        assert all(p.grad is None for p in critic.parameters())
        actor.zero_grad(set_to_none=True)
        out["loss_critic"].backward()
        assert all(p.grad is None for p in actor.parameters())
        assert all(p.grad.any() for p in critic.parameters())

    def test_in_keys_name_everything_that_an_update_reads(self, make_actor, make_critic, collect):
        actor = make_actor()
        loss, batch = FPOLoss(actor, make_critic()), collect(actor)
        assert {"observation", *actor.flow_keys, ("next", "reward"), ("next", "done")} <= set(loss.in_keys)
        selected = batch.select(*loss.in_keys, "advantage", "value_target", strict=False)
        assert "action" not in selected
        torch.testing.assert_close(loss(selected)["loss_objective"], loss(batch)["loss_objective"])

    def test_called_by_keyword_it_returns_its_out_keys_in_order(self, make_actor, make_critic, collect):
        actor = make_actor()
        loss, batch = FPOLoss(actor, make_critic()), collect(actor, 5)
        batch["next"] = TensorDict(
            observation=torch.randn(5, 3),
            reward=torch.randn(5, 1),
            done=torch.zeros(5, 1, dtype=torch.bool),
            terminated=torch.zeros(5, 1, dtype=torch.bool),
            batch_size=5,
        )
        batch = batch.exclude("advantage", "value_target")
        kwargs = {"_".join(key) if isinstance(key, tuple) else key: batch[key] for key in loss.in_keys}
        expected = loss(batch.refine_names("time"))
        for key, value in zip(loss.out_keys, loss(**kwargs), strict=True):
            torch.testing.assert_close(value, expected[key], msg=key)

    def test_keys_may_be_renamed_and_those_it_does_not_read_make_no_difference(self, make_actor, make_critic, collect):
        actor = make_actor()
        loss, batch = FPOLoss(actor, make_critic()), collect(actor)
        expected = loss(batch)["loss_objective"]
        loss.set_keys(advantage="gain", action="another", sample_log_prob="absent")
        batch.rename_key_("advantage", "gain")
        torch.testing.assert_close(loss(batch)["loss_objective"], expected)

    def test_a_list_of_keys_as_ppo_allows_it_is_no_obstacle(self, make_actor, make_critic, collect):
        actor = make_actor()
        loss, batch = FPOLoss(actor, make_critic()), collect(actor)
        loss.set_keys(action=["action", "flow_action"], sample_log_prob=["a", "b"])
        assert {"observation", *actor.flow_keys} <= set(loss.in_keys)
        assert loss(batch)["max_ratio"] == 1

    def test_nested_action_keys_need_no_set_keys(self, make_actor, collect):
        actor = make_actor(action_key=("agent", "action"))
        batch = collect(actor)
        out = FPOLoss(actor)(batch)
        assert out["max_ratio"] == 1
        assert ("agent", "flow_noise") in FPOLoss(actor).in_keys

    @pytest.mark.parametrize("action_key", ["high", ("agent", "action")])
    def test_torchrls_loss_finds_an_action_of_any_name(self, make_actor, make_critic, collect, action_key):
        actor, critic = make_actor(action_key=action_key), make_critic()
        batch = collect(actor)
        theirs = ClipPPOLoss(actor, critic, clip_epsilon=0.05, entropy_bonus=False)(batch.clone())
        ours = FPOLoss(actor, critic, normalize_advantage=False)(batch.clone())
        torch.testing.assert_close(ours["loss_objective"], theirs["loss_objective"])

    def test_it_compiles_without_a_break(self, make_actor, make_critic, collect, move_weights, monkeypatch):
        monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # the checks, only there in tests, do not trace
        actor, critic = make_actor(), make_critic()
        batch = collect(actor)
        move_weights(actor)
        loss = FPOLoss(actor, critic, functional=False)
        compiled = torch.compile(loss, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(batch.clone())["loss_objective"], loss(batch.clone())["loss_objective"])

    def test_state_dict_restores_actor_and_critic(self, make_actor, make_critic, collect):
        actor, other = make_actor(), make_actor()
        loss, restored = FPOLoss(actor, make_critic()), FPOLoss(other, make_critic())
        restored.load_state_dict(loss.state_dict())
        batch = collect(actor)
        for key, value in loss(batch).items():
            assert torch.equal(restored(batch)[key], value), key

    def test_double_precision_stays_double(self, make_actor, make_critic, collect):
        actor, critic = make_actor().double(), make_critic().double()
        out = FPOLoss(actor, critic)(collect(actor))
        assert {value.dtype for value in out.values()} == {torch.float64}

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    @pytest.mark.parametrize("ratio", RATIOS)
    def test_on_a_gpu_it_agrees_with_the_cpu(self, make_actor, make_critic, collect, move_weights, ratio):
        actor, critic = make_actor(normalizer=ObservationNormalizer(3)), make_critic()
        batch = collect(actor, 4, 5)
        move_weights(actor, critic)
        expected = FPOLoss(actor, critic, ratio=ratio)(batch)
        out = FPOLoss(actor.cuda(), critic.cuda(), ratio=ratio)(batch.cuda())
        for key, value in expected.items():
            torch.testing.assert_close(out[key].cpu(), value, rtol=1e-4, atol=1e-5)

    @pytest.mark.filterwarnings("error")
    def test_building_and_calling_it_warns_of_nothing(self, make_actor, make_critic, collect):
        actor = make_actor()
        FPOLoss(actor, make_critic())(collect(actor, 4, 5))

    def test_actor_and_critic_may_be_given_by_torchrls_short_names(self, make_actor, make_critic, collect):
        actor, critic = make_actor(), make_critic()
        batch = collect(actor)
        short, long = FPOLoss(actor=actor, critic=critic)(batch), FPOLoss(actor, critic)(batch)
        assert torch.equal(short["loss_critic"], long["loss_critic"])


class TestBadInput:
    def test_an_advantage_without_its_last_dimension(self, make_actor, collect):
        actor = make_actor()
        batch = collect(actor)
        batch["advantage"] = batch["advantage"].squeeze(-1)
        with pytest.raises(
            ValueError, match=r"shape \(6, 1\), one value per action, .* a 1, got \(6,\), .*unsqueeze\(-1\)"
        ):
            FPOLoss(actor)(batch)

    @pytest.mark.parametrize("shape", [(1,), (3, 1), (6, 2, 1), (6, 3, 1, 1)])
    def test_an_advantage_of_another_batch(self, make_actor, collect, shape):
        actor = make_actor()
        batch = TensorDict({**collect(actor, 6, 3)}, batch_size=[]).set("advantage", torch.zeros(shape))
        with pytest.raises(ValueError, match=r"should have shape \(6, 3, 1\), one value per action"):
            FPOLoss(actor)(batch)

    @pytest.mark.parametrize("key", ["flow_action", "flow_noise", "flow_time", "cfm_loss"])
    def test_a_batch_without_a_flow_key(self, make_actor, collect, key):
        actor = make_actor()
        with pytest.raises(KeyError, match=f"reads .*'{key}'.*which the tensordict lacks"):
            FPOLoss(actor)(collect(actor).exclude(key))

    def test_old_losses_for_another_number_of_pairs(self, make_actor, collect):
        actor = make_actor()
        batch = collect(actor)
        batch["cfm_loss"] = batch["cfm_loss"][..., :3]
        with pytest.raises(ValueError, match=r"shape \(6, 4\), got \(6, 3\)"):
            FPOLoss(actor)(batch)

    def test_a_batch_collected_with_another_number_of_pairs(self, make_actor, collect):
        batch = collect(make_actor(num_mc_samples=8))
        with pytest.raises(ValueError, match=r"num_mc_samples=4 pairs of an action, the batch has 8"):
            FPOLoss(make_actor(num_mc_samples=4), ratio="per_sample")(batch)

    def test_a_batch_collected_with_gradients(self, make_actor):
        actor = make_actor()
        batch = actor(TensorDict(observation=torch.randn(6, 3), advantage=torch.randn(6, 1), batch_size=6))
        with pytest.raises(RuntimeError, match=r"collect under torch\.no_grad"):
            FPOLoss(actor)(batch)

    @pytest.mark.parametrize("ratio", [3, 0, 8, "per_pair", 1.0])
    def test_groups_that_do_not_divide_the_pairs(self, make_actor, ratio):
        with pytest.raises(ValueError, match=f"divides the actor's num_mc_samples=4, got {ratio!r}"):
            FPOLoss(make_actor(), ratio=ratio)

    @pytest.mark.parametrize("stores_none", [lambda make: make(num_mc_samples=0), lambda make: make().for_inference()])
    def test_an_actor_that_stores_no_pairs(self, make_actor, stores_none):
        with pytest.raises(ValueError, match=r"FPOLoss needs .*with num_mc_samples=0, nor what for_inference\(\)"):
            FPOLoss(stores_none(make_actor))

    def test_an_entropy_coefficient_is_left_out_with_a_warning(self, make_actor):
        with pytest.warns(UserWarning, match=r"entropy_coeff=0.01 has no effect"):
            FPOLoss(make_actor(), entropy_coeff=0.01)

    def test_two_names_for_one_argument(self, make_actor, make_critic):
        with pytest.raises(ValueError, match="actor and actor_network are two names of one argument"):
            FPOLoss(make_actor(), actor=make_actor())
        with pytest.raises(ValueError, match="critic and critic_network are two names"):
            FPOLoss(make_actor(), make_critic(), critic=make_critic())

    def test_not_a_compiled_actor(self, make_actor, make_critic, collect):
        actor = make_actor()
        assert FPOLoss(torch.compile(actor, backend="eager"), make_critic()).flow_actor.num_mc_samples == 4

    def test_an_argument_that_torchrl_would_forget(self, make_actor, make_critic):
        with pytest.raises(TypeError, match="FPOLoss has no argument 'prior_coef'; did you mean 'prior_coeff'"):
            FPOLoss(make_actor(), make_critic(), prior_coef=1.0)
        with pytest.raises(TypeError, match="DenoisingMDPLoss has no argument 'log_ratio_clamp'"):
            DenoisingMDPLoss(DenoisingActor(VelocityMLP(3, 2)), make_critic(), log_ratio_clamp=1.0)

    def test_a_plain_module_as_critic(self, make_actor):
        with pytest.raises(TypeError, match=r"got a plain Linear: wrap it in TensorDictModule"):
            FPOLoss(make_actor(), nn.Linear(3, 1))

    @pytest.mark.parametrize("kind", [ValueEstimators.VTrace, VTrace, "vtrace", "VTrace"])
    def test_v_trace_which_weighs_by_likelihoods(self, make_actor, make_critic, kind):
        with pytest.raises(ValueError, match="FPOLoss has no likelihood for V-trace's importance weights: choose GAE"):
            FPOLoss(make_actor(), make_critic()).make_value_estimator(kind)

    def test_an_entropy_bonus(self, make_actor):
        with pytest.raises(ValueError, match="no entropy in closed form"):
            FPOLoss(make_actor(), entropy_bonus=True)

    def test_a_trust_region_beside_a_clip(self, make_actor):
        with pytest.raises(ValueError, match=r"clip_epsilon=0\.2 beside ASPO\(0\.05\)"):
            FPOLoss(make_actor(), clip_epsilon=0.2, trust_region=ASPO(0.05))

    def test_a_trust_region_in_the_place_of_a_radius(self, make_actor, make_critic):
        with pytest.raises(TypeError, match=r"a radius was expected, got ASPO\(0.1\): give it as trust_region=ASPO"):
            FPOLoss(make_actor(), make_critic(), ASPO(0.1))

    @pytest.mark.parametrize("ratio", [[2], True, "per_pair", 3])
    def test_a_ratio_that_is_no_name_and_no_divisor(self, make_actor, ratio):
        with pytest.raises(ValueError, match=rf"ratio must be .*num_mc_samples=4, got {re.escape(repr(ratio))}"):
            FPOLoss(make_actor(num_mc_samples=4), ratio=ratio)

    @pytest.mark.parametrize("kwargs", [{"delay_actor": True}, {"max_importance_ratio": 100.0}])
    def test_ppo_options_that_act_on_log_probabilities(self, make_actor, kwargs):
        with pytest.raises(ValueError, match=f"does not support {next(iter(kwargs))}"):
            FPOLoss(make_actor(), **kwargs)

    def test_a_gaussian_actor(self, make_critic):
        net = TensorDictModule(
            nn.Sequential(nn.Linear(3, 4), NormalParamExtractor()), in_keys=["observation"], out_keys=["loc", "scale"]
        )
        gaussian = ProbabilisticActor(net, in_keys=["loc", "scale"], distribution_class=TanhNormal)
        with pytest.raises(TypeError, match=r"needs a FlowActor.*got ProbabilisticActor.*ClipPPOLoss"):
            FPOLoss(gaussian, make_critic())

    @pytest.mark.parametrize("clip_epsilon", [0.0, -0.1, (0.1, 0.0), 1.0])
    def test_a_clip_radius_out_of_range(self, make_actor, clip_epsilon):
        with pytest.raises(ValueError, match="0 < low < 1 and high > 0"):
            FPOLoss(make_actor(), clip_epsilon=clip_epsilon)
