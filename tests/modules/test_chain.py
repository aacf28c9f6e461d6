"""A flow policy behind an encoder, in one TensorDictSequential, is trained, collected with and evaluated as a whole."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.envs import Compose, InitTracker, TransformedEnv
from torchrl.modules import LSTMModule, OneHotCategorical, ProbabilisticActor

from fpo_torchrl import (
    CFMLoss,
    DenoisingActor,
    DenoisingMDPLoss,
    Euler,
    FlowActor,
    FPOLoss,
    NoisyEuler,
    ValueMLP,
    VelocityMLP,
    ZeroNoise,
)
from fpo_torchrl.advantage import GAE
from fpo_torchrl.builders import fixed_settings
from fpo_torchrl.envs import ProbeEnv
from fpo_torchrl.evaluate import solver_of
from fpo_torchrl.evaluation import evaluate
from fpo_torchrl.modules.chain import acting_module, for_inference
from fpo_torchrl.optim import AgentOptimizer
from fpo_torchrl.trainer import Trainer

FEATURES = 5
ACTORS = {"fpo": (FlowActor, Euler(3), FPOLoss), "dppo": (DenoisingActor, NoisyEuler(3), DenoisingMDPLoss)}


class EncoderInside(nn.Module):
    """The same encoder and velocity network as one module, which a flow policy has always been able to train."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.action_dim = head.action_dim

    def forward(self, observation, x_t, time):
        return self.head(self.encoder(observation), x_t=x_t, time=time)


def chained(name: str = "fpo", obs_dim: int = 3, action_dim: int = 2):
    """A policy behind an encoder, and one on the same weights with the encoder inside its network."""
    actor_class, solver, _ = ACTORS[name]
    encoder = nn.Sequential(nn.Linear(obs_dim, FEATURES), nn.Tanh())
    head = VelocityMLP(FEATURES, action_dim, hidden_sizes=(16,), output_scale=1.0)
    first = TensorDictModule(encoder, in_keys=["observation"], out_keys=["features"])
    policy = TensorDictSequential(first, actor_class(head, solver, in_keys=["features"]))
    return policy, actor_class(EncoderInside(encoder, head), solver)


@torch.no_grad()
def collected(policy, *batch: int) -> TensorDict:
    td = policy(TensorDict(observation=torch.randn(*batch, 3), batch_size=batch))
    return td.update({"advantage": torch.randn(*batch, 1), "value_target": torch.randn(*batch, 1)})


def trainer_of(policy, env, **settings) -> Trainer:
    """A trainer of two iterations of one batch with two epochs."""
    critic = TensorDictModule(ValueMLP(1, hidden_sizes=(8,)), in_keys=["observation"], out_keys=["state_value"])
    optimizer = AgentOptimizer(policy.parameters(), critic.parameters(), lr=0.01)
    sizes = {"total_frames": 48, "frames_per_batch": 24, "num_epochs": 2, "minibatch_size": 24}
    return Trainer(env, policy, FPOLoss(policy, critic), GAE(critic), optimizer, **sizes, **settings)


def gradients(loss: torch.Tensor, module: nn.Module) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [*module.parameters()]))


class TestLoss:
    @pytest.mark.parametrize("functional", [True, False])
    @pytest.mark.parametrize("name", ACTORS)
    def test_losses_and_gradients_are_those_of_the_encoder_inside_the_network(self, name, functional, move_weights):
        policy, inside = chained(name)
        batch = collected(policy, 4, 5)
        move_weights(policy)
        ours, theirs = (ACTORS[name][2](actor, functional=functional)(batch) for actor in (policy, inside))
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value)
        assert ours["max_ratio"] > 1.001
        expected = gradients(theirs["loss_objective"], inside)
        assert all(gradient.any() for gradient in expected)
        torch.testing.assert_close(gradients(ours["loss_objective"], policy), expected)

    @pytest.mark.parametrize("coefficient", ["cfm_coeff", "prior_coeff"])
    def test_pulls_reach_the_encoder(self, coefficient):
        policy, _ = chained()
        losses = FPOLoss(policy, **{coefficient: 0.1})(collected(policy, 6))
        pull = losses[f"loss_{coefficient.removesuffix('_coeff')}"]
        assert all(gradient.any() for gradient in gradients(pull, policy))

    def test_imitation_is_that_of_the_encoder_inside_the_network(self):
        policy, inside = chained()
        data = TensorDict(observation=torch.randn(6, 3), action=torch.rand(6, 2), batch_size=6)
        losses = []
        for actor in (policy, inside):
            torch.manual_seed(1)
            losses.append(CFMLoss(actor, num_mc_samples=4)(data)["loss_cfm"])
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(gradients(losses[0], policy), gradients(losses[1], inside))
        assert set(data.keys()) == {"observation", "action"}

    def test_features_that_were_stored_count_for_nothing_and_stay_as_they_were(self, move_weights):
        policy, _ = chained()
        batch = collected(policy, 6)
        move_weights(policy)
        expected = FPOLoss(policy)(batch)["loss_objective"]
        batch["features"] = stored = torch.randn(6, FEATURES)
        torch.testing.assert_close(FPOLoss(policy)(batch)["loss_objective"], expected)
        assert batch["features"] is stored

    def test_in_keys_name_what_an_update_reads(self):
        policy, _ = chained()
        loss, batch = FPOLoss(policy), collected(policy, 6)
        selected = batch.select(*loss.in_keys, "advantage", strict=False)
        assert not {"features", "action"} & set(selected.keys())
        torch.testing.assert_close(loss(selected)["loss_objective"], loss(batch)["loss_objective"])

    def test_chains_may_be_nested_and_named(self):
        policy, inside = chained()
        encoder, actor = policy
        batch = collected(policy, 6)
        named = TensorDictSequential(OrderedDict(encoder=TensorDictSequential(encoder), actor=actor))
        for chain in (named, TensorDictSequential(encoder, TensorDictSequential(actor)), TensorDictSequential(inside)):
            torch.testing.assert_close(FPOLoss(chain)(batch)["cfm_loss_new"], FPOLoss(inside)(batch)["cfm_loss_new"])

    @pytest.mark.parametrize("loss", [FPOLoss, DenoisingMDPLoss, CFMLoss])
    def test_a_chain_that_does_not_end_with_a_flow_is_refused(self, loss):
        encoder, actor = chained()[0]
        with pytest.raises(TypeError, match=r"Actor as actor_network, alone or at the end of a TensorDictSequential"):
            loss(TensorDictSequential(actor, encoder))

    @pytest.mark.parametrize("loss", [FPOLoss, CFMLoss])
    @pytest.mark.parametrize("nested", [False, True])
    def test_a_second_actor_before_the_flow_is_refused(self, loss, nested):
        """It would draw again in every update, and its own action would go untrained."""
        arm, hand = (FlowActor(VelocityMLP(3, 2), action_key=f"{name}_action") for name in ("arm", "hand"))
        first = TensorDictSequential(arm) if nested else arm
        with pytest.raises(
            ValueError, match=r"only encoders can be trained, and there is a FlowActor.*loss of its own"
        ):
            loss(TensorDictSequential(first, hand))

    def test_a_distribution_before_the_flow_is_refused(self):
        chooses = ProbabilisticActor(
            TensorDictModule(nn.Linear(3, 2), in_keys=["observation"], out_keys=["logits"]),
            in_keys=["logits"],
            out_keys=["goal"],
            distribution_class=OneHotCategorical,
        )
        with pytest.raises(ValueError, match="there is a SafeProbabilisticModule, which draws something itself"):
            FPOLoss(TensorDictSequential(chooses, FlowActor(VelocityMLP(2, 2), in_keys=["goal"])))

    def test_it_compiles_without_a_break(self, monkeypatch, move_weights):
        monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # the checks, only there in tests, do not trace
        policy, _ = chained()
        batch = collected(policy, 6)
        move_weights(policy)
        loss = FPOLoss(policy, functional=False)
        compiled = torch.compile(loss, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(batch)["loss_objective"], loss(batch)["loss_objective"])


class TestRecurrent:
    @pytest.fixture
    def policy(self):
        lstm = LSTMModule(input_size=3, hidden_size=FEATURES, in_key="observation", out_key="features")
        head = VelocityMLP(FEATURES, 2, hidden_sizes=(16,), output_scale=1.0)
        return TensorDictSequential(lstm, FlowActor(head, Euler(2), in_keys=["features"]))

    @pytest.fixture
    def batch(self, policy):
        """Two sequences of four steps, acted on one step at a time."""
        state = {key: torch.zeros(2, 1, FEATURES) for key in ("recurrent_state_h", "recurrent_state_c")}
        steps = []
        with torch.no_grad():
            for step in range(4):
                is_init = torch.full((2, 1), step == 0)
                td = policy(TensorDict(observation=torch.randn(2, 3), is_init=is_init, **state, batch_size=2))
                state = {key: td["next", key] for key in state}
                steps.append(td)
        batch = torch.stack(steps, 1)
        return batch.set("advantage", torch.randn(2, 4, 1))

    def test_the_ratio_is_one_before_the_first_step(self, policy, batch):
        out = FPOLoss(policy)(batch)
        assert out["max_ratio"].item() == pytest.approx(1, abs=1e-6)
        assert out["min_ratio"].item() == pytest.approx(1, abs=1e-6)

    def test_the_objective_of_an_action_has_a_gradient_by_what_was_seen_before(self, policy, batch):
        batch["observation"].requires_grad_()
        out = FPOLoss(policy, normalize_advantage=False, reduction="none")(batch)["loss_objective"]
        (gradient,) = torch.autograd.grad(out[0, 2], batch["observation"])
        assert gradient[0, :3].any(-1).all()
        assert not gradient[0, 3].any()
        assert not gradient[1].any()

    @pytest.fixture
    def make_trainer(self):
        def make(**settings) -> Trainer:
            lstm = LSTMModule(input_size=1, hidden_size=FEATURES, in_key="observation", out_key="features")
            head = VelocityMLP(FEATURES, 1, hidden_sizes=(16,), output_scale=1.0)
            policy = TensorDictSequential(lstm, FlowActor(head, Euler(2), in_keys=["features"]))
            primed = Compose(InitTracker(), lstm.make_tensordict_primer())
            env = TransformedEnv(ProbeEnv("delayed", num_envs=4), primed)
            return trainer_of(policy, env, **settings)

        return make

    @pytest.mark.parametrize("shares", [False, True])
    def test_the_critic_may_remember_what_the_policy_does_and_no_more(self, shares):
        """A memory of the critic's own would stay empty at collection, and advantages would be of another critic."""

        def memory() -> LSTMModule:
            return LSTMModule(input_size=1, hidden_size=FEATURES, in_key="observation", out_key="features")

        lstm = memory()
        policy = TensorDictSequential(lstm, FlowActor(VelocityMLP(FEATURES, 1), Euler(2), in_keys=["features"]))
        value = TensorDictModule(ValueMLP(FEATURES), in_keys=["features"], out_keys=["state_value"])
        critic = TensorDictSequential(lstm if shares else memory(), value)
        env = TransformedEnv(ProbeEnv("delayed", num_envs=4), Compose(InitTracker(), lstm.make_tensordict_primer()))
        optimizer = AgentOptimizer(policy.parameters(), critic.parameters(), lr=0.01)
        sizes = {"total_frames": 24, "frames_per_batch": 24, "minibatch_size": 24, "advantage_every": "minibatch"}
        refused = pytest.raises(ValueError, match=r"the critic has a LSTMModule of its own.*share the policy's")
        with contextlib.nullcontext() if shares else refused:
            next(iter(Trainer(env, policy, FPOLoss(policy, critic), GAE(critic), optimizer, **sizes)))

    def test_a_trainer_trains_it_on_windows(self, make_trainer):
        trainer = make_trainer(advantage_every="minibatch", unroll_length=3, redraw_pairs=True)
        before = copy.deepcopy(trainer.actor)
        for metrics in trainer:
            assert metrics["first_ratio_error"] < 1e-5
        for old, new in zip(before.parameters(), trainer.actor.parameters(), strict=True):
            assert not old.equal(new)

    def test_a_trainer_refuses_to_tear_its_sequences_apart(self, make_trainer):
        with pytest.raises(ValueError, match=r'LSTMModule needs .*advantage_every="minibatch".*unroll_length'):
            make_trainer()


class TestTrainer:
    def test_the_encoder_is_trained(self):
        trainer = trainer_of(chained(obs_dim=1, action_dim=1)[0], ProbeEnv("both", num_envs=4))
        before = copy.deepcopy(trainer.actor)
        metrics = next(iter(trainer))
        assert metrics["first_ratio_error"] < 1e-5
        for old, new in zip(before.parameters(), trainer.actor.parameters(), strict=True):
            assert not old.equal(new)

    def test_redrawn_pairs_hold_the_losses_of_the_policy_that_collected(self):
        trainer = trainer_of(chained(obs_dim=1, action_dim=1)[0], ProbeEnv("both", num_envs=4), redraw_pairs=True)
        behaviour, seen = copy.deepcopy(trainer.actor), []
        trainer.loss.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
        next(iter(trainer))
        first, second = (td[td["flow_action"].flatten().argsort()] for td in seen)
        assert first["flow_action"].equal(second["flow_action"])
        assert not torch.isin(second["flow_noise"], first["flow_noise"]).any()
        for minibatch in seen:
            features = behaviour[0](minibatch.select("observation"))["features"]
            expected = behaviour[1].cfm_loss(minibatch.clone().set("features", features))
            torch.testing.assert_close(minibatch["cfm_loss"], expected.detach())


def test_evaluation_starts_the_flow_where_it_is_told_to_and_with_another_solver():
    policy, inside = chained(obs_dim=1, action_dim=1)
    env = ProbeEnv("action", num_envs=4, spread_episodes=False)
    for setting in ({"noise": "fixed"}, {"noise": "random"}, {"noise": "zero", "solver": Euler(7)}):
        assert evaluate(policy, env, **setting).returns == evaluate(inside, env, **setting).returns
    assert evaluate(policy, env, noise="fixed").returns != evaluate(policy, env, noise="zero").returns


def test_commands_and_configs_know_it_for_a_flow():
    policy, _ = chained()
    assert fixed_settings(policy)["entropy_bonus"] is False
    assert repr(solver_of(policy, "heun", None)) == f"Heun(num_steps={acting_module(policy).solver.num_steps})"


@pytest.mark.parametrize("inplace", [False, "empty"])
def test_an_encoder_that_writes_into_a_tensordict_of_its_own_trains_alike(inplace):
    policy, _ = chained()
    first, head = policy.module
    apart = TensorDictSequential(
        TensorDictModule(first.module, in_keys=["observation"], out_keys=["features"], inplace=inplace), head
    )
    batch = policy(TensorDict(observation=torch.randn(6, 3), batch_size=6)).detach()
    batch["advantage"] = torch.randn(6, 1)
    found, expected = (FPOLoss(it, functional=False)(batch)["loss_objective"] for it in (apart, policy))
    assert torch.equal(found, expected)


def test_a_compiled_flow_is_one(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    policy = FlowActor(VelocityMLP(1, 1, output_scale=1.0))
    compiled, env = torch.compile(policy, backend="eager"), ProbeEnv("action", num_envs=4, spread_episodes=False)
    for noise in ("zero", "fixed"):
        assert evaluate(compiled, env, noise=noise).returns == evaluate(policy, env, noise=noise).returns
    assert trainer_of(compiled, ProbeEnv("both", num_envs=4), redraw_pairs=True).redraws_pairs


def test_a_policy_that_tolerates_missing_entries_does_so_in_evaluation_and_updates():
    policy, _ = chained()
    reads_a_goal = TensorDictModule(nn.Linear(2, 2), in_keys=["goal"], out_keys=["plan"])
    tolerant = TensorDictSequential(reads_a_goal, *policy.module, partial_tolerant=True)
    batch = collected(tolerant, 6)
    assert FPOLoss(tolerant)(batch)["max_ratio"] == 1
    torch.testing.assert_close(
        for_inference(tolerant, start_noise=ZeroNoise())(batch.select("observation"))["action"],
        for_inference(policy, start_noise=ZeroNoise())(batch.select("observation"))["action"],
    )
