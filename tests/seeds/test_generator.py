"""An agent among others draws what it draws alone."""

from __future__ import annotations

import pytest
import torch

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.seeds.generator import AgentGenerator, DrawnByAgent

SEEDS = (3, 4, 7)
like = torch.zeros(4, 2)
DRAWS = {
    "randn": lambda x: torch.randn(4, 2, dtype=x.dtype),
    "rand": lambda x: torch.rand((4, 2)),
    "randint": lambda x: torch.randint(5, (4, 2)),
    "randint between": lambda x: torch.randint(-3, 5, (4, 2)),
    "randn_like": lambda x: torch.randn_like(x),
    "in place": lambda x: x.clone().uniform_(),
    "normal": lambda x: torch.normal(x, x + 1),
    "dropout": lambda x: torch.native_dropout(x + 1, 0.5, True)[0],
}


def generators() -> list[AgentGenerator]:
    made = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        made.append(AgentGenerator("cpu"))
    torch.manual_seed(0)
    return made


def test_it_takes_the_place_of_the_global_generator_and_gives_it_back():
    torch.manual_seed(5)
    alone = torch.randn(6)
    torch.manual_seed(5)
    own = AgentGenerator("cpu")
    torch.manual_seed(0)
    outside = torch.randn(4)
    torch.manual_seed(0)
    found = [torch.randn(2)]
    with own:
        inside = [torch.randn(3)]
    found.append(torch.randn(2))
    with own:
        inside.append(torch.randn(3))
    assert torch.cat(inside).equal(alone)
    assert torch.cat(found).equal(outside)


@pytest.mark.parametrize("name", DRAWS)
def test_under_vmap_every_agent_draws_what_it_draws_alone(name):
    own = generators()

    def draw_twice(x):
        return DRAWS[name](x), DRAWS[name](x)

    with DrawnByAgent(own):
        found = torch.vmap(draw_twice, randomness="different")(torch.zeros(3, 4, 2))
    for index, seed in enumerate(SEEDS):
        torch.manual_seed(seed)
        assert all(f[index].equal(alone) for f, alone in zip(found, draw_twice(like), strict=True))
        with own[index]:  # and goes on as it does alone
            assert torch.rand(3).equal(torch.manual_seed(seed) and (draw_twice(like), torch.rand(3))[1])


def test_what_is_not_said_to_be_of_all_agents_is_refused():
    with (
        DrawnByAgent(generators()),
        pytest.raises(ConfigError, match=r"aten.randperm.default cannot be drawn .*: give vmap=false"),
    ):
        torch.vmap(lambda x: x[torch.randperm(4)], randomness="different")(torch.zeros(3, 4))


def test_what_is_not_random_passes_through():
    with DrawnByAgent(generators()):
        assert torch.arange(3).add(1).tolist() == [1, 2, 3]
