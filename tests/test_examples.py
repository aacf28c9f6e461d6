"""The examples run, do what they say, and stay short."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import tiny
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.objectives import ClipPPOLoss

from fpo_torchrl import FlowActor, FPOLoss, ValueMLP

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.stem)
def test_an_example_has_fewer_than_sixty_lines(path):
    assert len(path.read_text().splitlines()) < 60


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_the_ppo_tutorial_trains_with_a_flow_policy(capsys):
    rewards = load("ppo_tutorial").train(total_frames=128, frames_per_batch=64, batch_size=32)
    assert len(rewards) == 2
    assert all(reward > 0 for reward in rewards)  # the task pays about 9 for each step upright


def test_with_an_lstm_before_the_flow_it_remembers():
    pays = load("recurrent").train(num_batches=11)
    assert pays[-1] > 0.85  # 0.75 is the best that a policy without memory can do


def test_pixels_are_understood():
    rewards = load("pixels").train(num_batches=12, num_envs=256)
    assert max(rewards[-3:]) > 0.78  # the middle of the picture, always, is worth 0.73


def test_nested_observations_are_learnt_from():
    rewards = load("nested_observations").train()
    assert rewards[-1] > 0.9


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_environment_of_ones_own_is_a_task_by_name():
    rewards = load("own_gym_env").train(total_frames=4800)
    assert len(rewards) == 3
    assert rewards[-1] > rewards[0]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_agents_learn_together(capsys):
    pytest.importorskip("vmas")
    agents = load("agents")
    rewards = agents.train(num_batches=2, num_envs=10, max_steps=10)
    assert len(rewards) == 2
    assert all(abs(reward) < 10 for reward in rewards)


class TestActionChunks:
    def test_the_transformer_treats_every_action_of_a_batch_on_its_own(self):
        chunks = load("action_chunks")
        net = chunks.ChunkTransformer()
        observation, x_t, time = torch.randn(3, 1, 3), torch.randn(3, 4, net.action_dim), torch.rand(3, 4, 1)
        together = net(observation, x_t=x_t, time=time)
        alone = net(observation[1, 0], x_t=x_t[1, 2], time=time[1, 2])
        torch.testing.assert_close(together[1, 2], alone, rtol=1e-4, atol=1e-5)

    def test_a_step_of_the_chunk_sees_the_other_steps(self):
        net = load("action_chunks").ChunkTransformer()
        x_t = torch.zeros(net.action_dim, requires_grad=True)
        net(torch.zeros(3), x_t=x_t, time=torch.zeros(1))[0].backward()
        assert (x_t.grad[2:].abs() > 0).all()

    def test_it_learns_by_imitation_and_by_fpo(self):
        actor, history = load("action_chunks").train(num_steps=30)
        assert sum(history[-5:]) < sum(history[:5])
        critic = TensorDictModule(ValueMLP(3, hidden_sizes=(8,)), in_keys=["observation"], out_keys=["state_value"])
        with torch.no_grad():
            batch = actor(TensorDict(observation=torch.randn(6, 3), batch_size=6))
        batch["advantage"], batch["value_target"] = torch.randn(6, 1), torch.randn(6, 1)
        losses = FPOLoss(actor, critic)(batch)
        assert losses["max_ratio"].item() == pytest.approx(1, abs=1e-4)
        losses["loss_objective"].backward()


class Encoded(nn.Module):
    """Velocity from pixels and a state, whatever leading dimensions they have."""

    action_dim = 2

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 8))
        self.head = nn.Linear(8 + 3 + self.action_dim + 1, self.action_dim)

    def forward(self, pixels, state, x_t, time):
        features = self.encoder(pixels.reshape(-1, *pixels.shape[-3:])).reshape(*pixels.shape[:-3], -1)
        batch = torch.broadcast_shapes(*(value.shape[:-1] for value in (features, state, x_t, time)))
        return self.head(torch.cat([value.expand(*batch, -1) for value in (features, state, x_t, time)], -1))


class TestComposition:
    """What users build around the two components."""

    @pytest.fixture
    def pixels(self):
        actor = FlowActor(Encoded(), num_mc_samples=4, in_keys=[("camera", "pixels"), ("robot", "state")])
        batch = TensorDict(
            {"camera": {"pixels": torch.rand(3, 5, 1, 8, 8)}, "robot": {"state": torch.randn(3, 5, 3)}}, [3, 5]
        )
        with torch.no_grad():
            actor(batch)
        batch["advantage"] = torch.randn(3, 5, 1)
        return actor, batch

    @pytest.mark.parametrize("loss_class", [FPOLoss, ClipPPOLoss])
    def test_pixels_under_nested_keys_in_a_batch_of_two_dimensions(self, pixels, loss_class):
        actor, batch = pixels
        assert batch["flow_noise"].shape == (3, 5, 4, 2)
        losses = loss_class(actor, entropy_bonus=False)(batch)
        losses["loss_objective"].backward()
        assert "loss_critic" not in losses

    def test_the_encoder_learns_from_fpo(self, pixels):
        actor, batch = pixels
        loss = FPOLoss(actor)
        loss(batch)["loss_objective"].backward()
        gradient = loss.actor_network_params["velocity_net", "encoder", "0", "weight"].grad
        assert gradient.abs().sum() > 0

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast_keeps_the_ratio_at_one_where_data_was_collected_under_it(self, make_actor, collect, dtype):
        actor = make_actor()
        with torch.autocast("cpu", dtype):
            batch = collect(actor)
            losses = FPOLoss(actor)(batch)
        assert batch["action"].dtype == torch.float32
        assert losses["max_ratio"].item() == pytest.approx(1, abs=1e-6)
        losses["loss_objective"].backward()

    def test_vmapped_parameters_score_one_batch_under_many_policies(self, make_actor, collect, move_weights):
        actor = make_actor()
        batch = collect(actor)
        variants = [TensorDict.from_module(actor).data.clone()]
        move_weights(actor)
        variants.append(TensorDict.from_module(actor).data.clone())
        stacked = torch.stack(variants)

        def score(weights):
            with weights.to_module(actor):
                return actor.cfm_loss(batch)

        losses = torch.vmap(score)(stacked)
        torch.testing.assert_close(losses[0], batch["cfm_loss"])
        torch.testing.assert_close(losses[1], actor.cfm_loss(batch))
        assert not torch.allclose(losses[0], losses[1])

    def test_agents_that_share_a_policy_normalise_their_advantages_apart(self, make_actor):
        """As TorchRL's PPO does: each agent's advantage has mean 0 by itself, whatever the others earn."""
        actor = make_actor(action_key=("agents", "action"), in_keys=[("agents", "observation")])
        td = TensorDict({"agents": TensorDict(observation=torch.randn(40, 2, 3), batch_size=[40, 2])}, [40])
        with torch.no_grad():
            actor(td)
        td["advantage"] = torch.randn(40, 2, 1) + torch.tensor([[0.0], [100.0]])
        objectives = {}
        for dims in ((), (-2,)):
            loss = FPOLoss(actor, normalize_advantage=True, normalize_advantage_exclude_dims=dims, reduction="none")
            objectives[dims] = loss(td)["loss_objective"]
        assert objectives[(-2,)].shape == (40, 2)
        torch.testing.assert_close(objectives[(-2,)].mean(0), torch.zeros(2), rtol=0, atol=1e-4)
        assert objectives[()].mean(0).abs().min() > 0.9

    def test_a_replay_buffer_feeds_imitation(self, make_actor):
        from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

        actor = make_actor()
        buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(64), batch_size=16)
        buffer.extend(TensorDict(observation=torch.randn(64, 3), action=torch.full((64, 2), 0.5), batch_size=64))
        tiny.imitate(actor, buffer, num_steps=60, lr=1e-2)
        actions = actor(observation=torch.randn(50, 3))[0]
        assert (actions.mean() - 0.5).abs() < 0.2
