"""TorchRL's own PPO loss tests, with FlowActor and FPOLoss in place of its actor and its loss.

They are read from a checkout of TorchRL and nothing of them is kept here::

    TORCHRL_SOURCE=path/to/rl pytest tests/contract/test_torchrl_losses.py

Not adopted, as they test what a flow policy does not have: composite distributions and their aggregated
log-probabilities (``test_ppo_composite_*``, ``test_ppo_marl_aggregate``), entropies (``test_weighted_entropy_*``),
buffers and helpers of ``ClipPPOLoss`` alone (``test_ppo_asymmetric_*``, ``test_broadcast_advantage_to_log_weight``,
``test_critic_loss_tensordict``); V-trace, which samples actions from ``get_dist``; an actor that is the tail of a
sequence of modules (``test_ppo_shared_seq``), in whose place ``test_ppo_shared`` shares layers inside the velocity
network; and ``test_ppo_notensordict``, which passes its own fixed list of keywords, without flow keys (ours is
``test_called_by_keyword_it_returns_its_out_keys_in_order``).
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.objectives import ClipPPOLoss, ValueEstimators

from fpo_torchrl import ASPO, CFMLoss, FlowActor, FPOLoss

SOURCE = os.environ.get("TORCHRL_SOURCE")
OBS_DIM, ACTION_DIM, NUM_PAIRS = 3, 4, 4


def upstream() -> ModuleType:
    """The checkout's ``test/objectives/test_ppo.py``."""
    folders = [os.path.join(SOURCE, "test", "objectives"), os.path.join(SOURCE, "test")]
    sys.path[:0] = folders
    try:
        return importlib.import_module("test_ppo")
    finally:
        for folder in folders:
            sys.path.remove(folder)


UPSTREAM = upstream() if SOURCE else None
PPO_TESTS = vars(UPSTREAM.TestPPO) if UPSTREAM else {}


class LinearVelocity(nn.Module):
    """One linear layer, as upstream counts two parameters in its actor; ``trunk`` comes before it."""

    action_dim = ACTION_DIM

    def __init__(self, trunk: nn.Linear | None = None) -> None:
        super().__init__()
        self.trunk = trunk if trunk is not None else nn.Identity()
        num_features = OBS_DIM if trunk is None else trunk.out_features
        self.head = nn.Linear(num_features + ACTION_DIM + 1, ACTION_DIM)

    def forward(self, observation, x_t, time):
        features = self.trunk(observation).expand(*x_t.shape[:-1], -1)
        return self.head(torch.cat([features, x_t, time.expand(*x_t.shape[:-1], 1)], -1))


def add_flow_keys(td: TensorDictBase, action_key: str = "action", **_) -> TensorDictBase:
    """Random flow keys in the place of upstream's random parameters of a Gaussian."""
    prefix = "" if action_key == "action" else f"{action_key}_"
    td[prefix + "flow_action"] = torch.randn(*td.shape, ACTION_DIM)
    td[prefix + "flow_noise"] = torch.randn(*td.shape, NUM_PAIRS, ACTION_DIM)
    td[prefix + "flow_time"] = torch.rand(*td.shape, NUM_PAIRS, 1)
    td[prefix + "cfm_loss"] = torch.rand(*td.shape, NUM_PAIRS)
    return td


class Mocks:
    """What upstream's tests build their actors, critics and batches with."""

    seed = 0

    def _create_mock_actor(
        self, *, device="cpu", action_key=None, observation_key="observation", sample_log_prob_key=None, **_
    ):
        keys = {"in_keys": [observation_key], "action_key": action_key or "action"}
        return FlowActor(LinearVelocity(), num_mc_samples=NUM_PAIRS, **keys).to(device)

    def _create_mock_value(self, **kwargs):
        return PPO_TESTS["_create_mock_value"](self, **kwargs)

    def _create_mock_actor_value(self, *, device="cpu", **_):
        trunk = nn.Linear(OBS_DIM, 5)
        value = nn.Sequential(trunk, nn.Linear(5, 1))
        critic = TensorDictModule(value, in_keys=["observation"], out_keys=["state_value"])
        return FlowActor(LinearVelocity(trunk), num_mc_samples=NUM_PAIRS).to(device), critic.to(device)

    def _create_mock_data_ppo(self, **kwargs):
        return add_flow_keys(PPO_TESTS["_create_mock_data_ppo"](self, **kwargs), **kwargs)

    def _create_seq_mock_data_ppo(self, **kwargs):
        return add_flow_keys(PPO_TESTS["_create_seq_mock_data_ppo"](self, **kwargs), **kwargs)


FPO_LOSSES = {
    "FPOLoss": FPOLoss,
    "per_sample": functools.partial(FPOLoss, ratio="per_sample"),
    "ASPO": functools.partial(FPOLoss, trust_region=ASPO(0.05)),
}
LOSSES = {**FPO_LOSSES, "ClipPPOLoss": functools.partial(ClipPPOLoss, entropy_bonus=False)}
NO_VTRACE = lambda value: value not in ("vtrace", ValueEstimators.VTrace)  # noqa: E731
ANY = lambda value: True  # noqa: E731

ADOPTED: dict[str, dict] = {
    "test_reset_parameters_recursive": {},
    "test_ppo": {"advantage": NO_VTRACE, "td_est": NO_VTRACE},
    "test_ppo_state_dict": {},
    "test_ppo_shared": {"advantage": NO_VTRACE},
    "test_ppo_diff": {"advantage": NO_VTRACE},
    "test_ppo_tensordict_keys": {"td_est": NO_VTRACE},
    "test_ppo_tensordict_keys_run": {"advantage": NO_VTRACE, "td_est": NO_VTRACE},
    "test_ppo_reduction": {},
    # upstream expects ClipPPOLoss alone to take a boolean, and tells it by its class
    "test_ppo_value_clipping": {"loss_class": FPO_LOSSES},
    "test_ppo_flat_advantage_raises": {},
}


def adopted(name: str, *, loss_class: dict[str, Callable] = LOSSES, **keep: Callable) -> Callable:
    """The upstream test of this name, parametrised over our losses and the values that ``keep`` lets pass."""
    if not UPSTREAM:

        def skipped(self):
            pytest.skip("needs TORCHRL_SOURCE, the path of a checkout of pytorch/rl")

        return skipped
    function = PPO_TESTS[name]

    @functools.wraps(function)
    def test(self, **kwargs):
        function(self, **kwargs)

    test.pytestmark = []
    keep = {"composite_action_dist": lambda composite: not composite, **keep}
    for mark in function.pytestmark:
        if mark.name == "parametrize":
            argument, values = mark.args
            values = [value for value in values if keep.get(argument, ANY)(value)]
            if argument == "loss_class":
                values = [pytest.param(loss, id=label) for label, loss in loss_class.items()]
            mark = pytest.mark.parametrize(argument, values).mark
        test.pytestmark.append(mark)
    return test


Base = UPSTREAM.LossModuleTestBase if UPSTREAM else object
TestPPO = type("TestPPO", (Mocks, Base), {name: adopted(name, **kwargs) for name, kwargs in ADOPTED.items()})
TestPPO.__module__ = __name__

if UPSTREAM:

    class TestCFM(Mocks, Base):
        """The parts of TorchRL's test base that concern any loss."""

        def test_reset_parameters_recursive(self):
            self.reset_parameters_recursive_test(CFMLoss(self._create_mock_actor()))

        def test_keys(self):
            self.tensordict_keys_test(CFMLoss(self._create_mock_actor()), default_keys={"action": "action"})
