"""Warp has room for a number of contacts only."""

from __future__ import annotations

import mujoco
import pytest
import torch

from fpo_torchrl.envs.physics import CapacityError
from fpo_torchrl.envs.physics.warp import WarpPhysics

CORNER = """
<mujoco>
  <option timestep="0.002"/>
  <worldbody>
    <geom type="plane" size="0 0 1" condim="1"/>
    <geom type="plane" size="0 0 1" zaxis="1 0 0" condim="1"/>
    <body><freejoint/><geom size="0.1" condim="1"/></body>
  </worldbody>
</mujoco>
"""
ON_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_CUDA)])
def test_warp_refuses_more_contacts_than_it_has_room_for_and_changes_nothing(device):
    """A ball in a corner of two planes touches both: two contacts of one constraint each."""
    pytest.importorskip("mujoco_warp")
    model = mujoco.MjModel.from_xml_string(CORNER)
    settings = {"num_envs": 3, "num_substeps": 2, "device": device}
    corner = torch.tensor([[0.099, 0.0, 0.099, 1, 0, 0, 0]]).expand(3, -1)
    roomy, tight = (WarpPhysics(model, max_contacts=room, **settings) for room in (2, 1))
    roomy.restart(corner, torch.zeros(3, 6), torch.zeros(3, 0, 3))
    roomy.step(torch.zeros(3, 0))
    tight.state.load(roomy.state.tensors())
    before = {name: it.clone() for name, it in tight.state.tensors().items()}
    with pytest.raises(CapacityError, match=r"2 constraints in one copy and 6 contacts in all 3, .* more than 1$"):
        tight.step(torch.zeros(3, 0))
    assert all(torch.equal(it, before[name]) for name, it in tight.state.tensors().items())
    tight.restart(corner + torch.tensor([1.0, 0, 0, 0, 0, 0, 0]), torch.zeros(3, 6), torch.zeros(3, 0, 3))
    tight.step(torch.zeros(3, 0))  # on one plane alone
    assert tight.state.time.gt(0).all()
