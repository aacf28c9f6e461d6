from __future__ import annotations

import pytest
import torch

from fpo_torchrl.modules.likelihood import StoredActionLikelihood

SCORE = torch.tensor([-2.0, -0.25])


def test_log_prob_is_the_score_of_the_stored_action():
    assert StoredActionLikelihood(SCORE, action_dim=3).log_prob(torch.zeros(2, 3)).tolist() == [-2.0, -0.25]


def test_an_action_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3\), got a tensor of shape \(2, 1\)"):
        StoredActionLikelihood(SCORE, action_dim=3).log_prob(torch.zeros(2, 1))


def test_sampling_and_entropy_are_refused_with_the_way_out():
    likelihood = StoredActionLikelihood(SCORE, action_dim=3)
    with pytest.raises(NotImplementedError, match="entropy_bonus=False, and draw actions by calling the actor"):
        likelihood.sample()
    with pytest.raises(NotImplementedError):
        likelihood.entropy()
    assert not likelihood.has_rsample
