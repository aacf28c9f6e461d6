"""The actor that FPO trains, trained by imitation from a Minari data set that is made on the spot."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import tiny
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from fpo_torchrl import FlowActor, VelocityMLP

minari = pytest.importorskip("minari", reason="needs minari and h5py")
pytest.importorskip("h5py", reason="needs h5py")

NAME, STEPS = "fpo/pendulum-v0", 50


def expert(observation: np.ndarray) -> np.ndarray:
    return 0.6 * observation[:, :1]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Four episodes of an expert, written and read by Minari."""
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    draws = np.random.default_rng(0)
    flags = {"terminations": np.zeros(STEPS, bool), "truncations": np.arange(STEPS) == STEPS - 1}
    episodes = []
    for _ in range(4):
        seen = draws.uniform(-1, 1, (STEPS + 1, 3)).astype(np.float32)
        acted = {"observations": seen, "actions": expert(seen[:-1]), "rewards": np.zeros(STEPS)}
        episodes.append(EpisodeBuffer(**acted, **flags, infos={}))
    about = {"author": "test", "author_email": "test", "code_permalink": "none", "description": "an expert"}
    env = gymnasium.make("Pendulum-v1")
    minari.create_dataset_from_buffers(NAME, episodes, env=env, eval_env=env, algorithm_name="expert", **about)
    return minari.load_dataset(NAME)


def test_it_acts_as_the_expert_of_the_data_did(data):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(data.total_steps), batch_size=64)
    for episode in data.iterate_episodes():
        seen, acted = torch.as_tensor(episode.observations[:-1]), torch.as_tensor(episode.actions)
        buffer.extend(TensorDict(observation=seen, action=acted, batch_size=STEPS))
    actor = FlowActor(VelocityMLP(3, 1, hidden_sizes=(64, 64), output_scale=1.0))
    tiny.imitate(actor, buffer, num_steps=300, lr=3e-3)
    observation = torch.rand(200, 3) * 2 - 1
    with torch.no_grad():
        action = actor(observation=observation)[0]
    error = (action - torch.as_tensor(expert(observation.numpy()))).square().mean()
    assert error < 0.02  # the expert's own variance is 0.12
