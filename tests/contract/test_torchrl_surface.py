"""What we lean on in TorchRL: no private import, a pinned list of PPOLoss internals, and how each of them behaves."""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.objectives import ClipPPOLoss, PPOLoss
from torchrl.trainers.algorithms.ppo import PPOTrainer

import fpo_torchrl
from fpo_torchrl import ASPO, CFMLoss, DenoisingMDPLoss, FlowActor, FPOLoss, ValueMLP, VelocityMLP
from fpo_torchrl.envs import ProbeEnv
from fpo_torchrl.objectives import FlowPPOLoss

PACKAGE = Path(fpo_torchrl.__file__).parent


def test_nothing_private_is_imported_from_torchrl_or_tensordict():
    private = [
        f"{path.relative_to(PACKAGE)}: {node.module}.{alias.name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("torchrl", "tensordict")
        for alias in node.names
        if any(part.startswith("_") for part in [*node.module.split("."), alias.name])
    ]
    assert private == []


def test_the_base_of_our_losses_uses_only_these_internals_of_ppo_loss():
    tree = ast.parse(textwrap.dedent(inspect.getsource(FlowPPOLoss)))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    private = {name for name in used if name.startswith("_") and name not in vars(FlowPPOLoss)}
    assert private == {
        "_cached_critic_network_params_detached",
        "_expand_loss_mask",
        "_has_critic",
        "_in_keys",
        "_loss_mask_keys",
        "_maybe_normalize_advantage",
        "_out_keys",
        "_reduce_loss",
        "_set_in_keys",
    }


def test_the_base_of_our_losses_overrides_only_the_public_side_of_ppo_loss():
    inherited = {name for base in PPOLoss.__mro__ for name in vars(base)}
    ours = {name for name in vars(FlowPPOLoss) if name in inherited and not name.startswith("__")}
    private = {name for name in ours if name.startswith("_")}
    assert (
        private - {"_all_schedulable_buffers", "_abc_impl"} == set()
    )  # both set by TorchRL's and Python's metaclasses
    assert {"forward", "in_keys", "out_keys"} <= ours


@pytest.mark.parametrize("loss", [FPOLoss, DenoisingMDPLoss, CFMLoss])
def test_no_attribute_of_a_loss_ends_in_loss(loss):
    """TorchRL's metaclass would wrap it in a context manager, and call it a function."""
    assert [name for name in vars(loss) if name.endswith("loss") and not name.startswith("_")] == []


@pytest.fixture
def ppo(make_actor, make_critic) -> PPOLoss:
    return PPOLoss(make_actor(), make_critic(), entropy_bonus=False, normalize_advantage=True)


class TestInternalsOfPPOLoss:
    def test_reduce_loss_takes_the_mean_outside_of_the_mask(self, ppo):
        value, td = torch.tensor([[1.0], [3.0], [100.0]]), TensorDict(batch_size=3)
        assert ppo._reduce_loss(value[:2], td[:2]).item() == 2
        td["collector", "mask"] = torch.tensor([True, True, False])
        assert ppo._reduce_loss(value, td).item() == 2

    def test_maybe_normalize_advantage_gives_mean_zero_and_standard_deviation_one(self, ppo):
        advantage = 5 * torch.randn(40, 1) + 3
        normalised = ppo._maybe_normalize_advantage(advantage, TensorDict(batch_size=40), update_norm=False)
        assert normalised.mean().item() == pytest.approx(0, abs=1e-6)
        assert normalised.std().item() == pytest.approx(1)
        ppo.normalize_advantage = False
        assert ppo._maybe_normalize_advantage(advantage, TensorDict(batch_size=40), update_norm=False) is advantage

    def test_the_cached_critic_parameters_follow_the_critic_without_gradient(self, ppo):
        cached = ppo._cached_critic_network_params_detached
        parameter = next(iter(ppo.critic_network_params.parameters()))
        twin = next(value for value in cached.values(True, True) if value.data_ptr() == parameter.data_ptr())
        assert not twin.requires_grad

    def test_set_in_keys_lists_the_action_and_its_log_prob_which_fpo_leaves_out(self, ppo):
        ppo._set_in_keys()
        assert {"observation", "action", "action_log_prob", ("next", "reward")} <= set(ppo._in_keys)

    def test_has_critic_follows_the_coefficient(self, make_actor, make_critic):
        settings = {"entropy_bonus": False}
        assert PPOLoss(make_actor(), make_critic(), **settings)._has_critic
        assert not PPOLoss(make_actor(), make_critic(), critic_coeff=0.0, **settings)._has_critic
        assert not PPOLoss(make_actor(), **settings)._has_critic

    def test_padding_is_marked_under_two_keys_and_a_mask_takes_the_shape_of_what_it_masks(self, ppo):
        assert ppo._loss_mask_keys() == (("collector", "mask"), "shifted_valid")
        mask = torch.tensor([True, False, True])
        assert ppo._expand_loss_mask(mask, torch.zeros(3, 2, 1))[:, :, 0].tolist() == [[it, it] for it in mask.tolist()]
        assert torch.equal(ppo._expand_loss_mask(mask.unsqueeze(-1), torch.zeros(3)), mask)

    def test_normalisation_leaves_out_what_is_not_shifted_valid(self, ppo):
        ppo.normalize_advantage = True
        marked = TensorDict(shifted_valid=torch.tensor([[True], [True], [False]]), batch_size=3)
        advantage = torch.tensor([[1.0], [3.0], [100.0]])
        normalised = ppo._maybe_normalize_advantage(advantage, marked, update_norm=False)
        assert normalised[:2].flatten().tolist() == [-1.0, 1.0]

    def test_loss_critic_returns_loss_clip_fraction_and_explained_variance(self, ppo, make_actor, collect):
        loss_critic, clip_fraction, explained_variance = ppo.loss_critic(collect(make_actor()))
        assert loss_critic.shape == (6, 1)
        assert clip_fraction is None
        assert explained_variance.numel() == 1


def test_a_collector_keeps_what_it_goes_on_from_under_carrier():
    """Seeds that are trained together take it over, and step their environments themselves."""
    env = ProbeEnv("constant", num_envs=2)
    collector = Collector(env, frames_per_batch=4, total_frames=4, auto_register_policy_transforms=False)
    assert collector._carrier["observation"].shape == env.observation_spec["observation"].shape


class TestExplorationType:
    @pytest.fixture
    def seen(self) -> list:
        return []

    def test_it_is_none_outside_of_any_context(self):
        assert exploration_type() is None

    def test_a_collector_explores(self, seen):
        env = ProbeEnv("constant", num_envs=2)

        def policy(observation):
            seen.append(exploration_type())
            return torch.zeros(*observation.shape[:-1], *env.action_spec.shape[1:])

        module = TensorDictModule(policy, in_keys=["observation"], out_keys=["action"])
        collector = Collector(env, module, frames_per_batch=4, total_frames=4, auto_register_policy_transforms=False)
        list(collector)
        assert ExplorationType.RANDOM in seen

    def test_a_loss_runs_without_exploration(self, seen, make_actor, make_critic, collect):
        """So nothing may be sampled through the actor inside a loss."""

        class Witness(VelocityMLP):
            def forward(self, observation, x_t, time):
                seen.append(exploration_type())
                return super().forward(observation, x_t, time)

        actor = make_actor(velocity_net=Witness(3, 2))
        batch = collect(actor)
        seen.clear()
        FPOLoss(actor, make_critic())(batch)
        assert set(seen) == {ExplorationType.DETERMINISTIC}


def test_a_ppo_loss_asks_an_actor_for_get_dist_and_nothing_more(collect, make_actor):
    """What makes the unmodified ClipPPOLoss work with a FlowActor."""

    class Minimal(torch.nn.Module):
        in_keys = ("observation",)

        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.nn.Parameter(torch.zeros(()))

        def get_dist(self, tensordict):
            return torch.distributions.Independent(torch.distributions.Normal(self.shift, torch.ones(2)), 1)

    batch = collect(make_actor())
    batch["action_log_prob"] = Minimal().get_dist(batch).log_prob(batch["action"]).detach()
    assert ClipPPOLoss(Minimal(), entropy_bonus=False)(batch)["mean_ratio"] == 1


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_torchrls_own_ppo_trainer_trains_a_flow_policy():
    """Its GAE, replay buffer, set_keys call and optimiser hooks, on a probe that pays 1 - (action - 0.5)^2."""
    env = ProbeEnv("action", num_envs=64)
    actor = FlowActor(VelocityMLP(1, 1, hidden_sizes=(32, 32)))
    critic = TensorDictModule(ValueMLP(1, hidden_sizes=(16,)), in_keys=["observation"], out_keys=["state_value"])
    loss = FPOLoss(actor, critic, trust_region=ASPO(0.05))
    frames, rewards = 12 * 256, []
    trainer = PPOTrainer(
        collector=Collector(
            env, actor, frames_per_batch=256, total_frames=frames, auto_register_policy_transforms=False
        ),
        total_frames=frames,
        frame_skip=1,
        optim_steps_per_batch=4,
        loss_module=loss,
        optimizer=torch.optim.Adam(loss.parameters(), lr=3e-3),
        replay_buffer=TensorDictReplayBuffer(
            storage=LazyTensorStorage(256), sampler=SamplerWithoutReplacement(), batch_size=64
        ),
        progress_bar=False,
        enable_logging=False,
    )
    trainer.register_op("batch_process", lambda batch: rewards.append(batch["next", "reward"].mean().item()) or batch)
    trainer.train()
    assert rewards[0] < 0.45
    assert rewards[-1] > 0.6
