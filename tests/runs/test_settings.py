"""Settings of a saved run: completed, compared and changed."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.runs.settings import change, comparable, completed, differences

SOLVER = {"_target_": "fpo_torchrl.flow.solver.RandomSteps", "num_steps": 20}


class TestCompleted:
    def test_a_component_of_the_package_gets_its_defaults(self):
        assert completed({"actor": {"solver": SOLVER}}) == {"actor": {"solver": SOLVER | {"min_steps": 1}}}

    def test_what_is_passed_while_building_is_no_setting(self):
        optim = completed({"optim": {"_target_": "fpo_torchrl.optim.AgentOptimizer"}})["optim"]
        assert (optim["lr"], optim["betas"]) == (3e-4, [0.9, 0.999])
        assert "actor_parameters" not in optim

    def test_a_users_own_component_stays_as_it_is(self):
        own = {"critic": {"_target_": "somewhere.Critic", "width": 3}}
        assert completed(own) == own


def test_bookkeeping_makes_no_other_run():
    one, other = ({"seed": 3, "progress": shown} for shown in (True, False))
    assert comparable(one) == comparable(other)


def test_run_level_settings_of_a_later_version_are_as_by_default():
    assert comparable({"seed": 3}) == comparable({"seed": 3, "init_from": None})
    assert [*differences(comparable({"seed": 3}), comparable({"seed": 4}))] == [("seed", 3, 4)]


def test_discounts_by_task_are_no_difference_but_the_runs_own_is():
    """A preset that gains a task would make every finished run of the others another one."""
    before = {"task_gamma": {"PointMass": 0.9}, "advantage": {"gamma": 0.9}}
    after = {"task_gamma": {"PointMass": 0.9, "FishSwim": 0.95}, "advantage": {"gamma": 0.95}}
    assert [*differences(comparable(before), comparable(after))] == [("advantage.gamma", 0.9, 0.95)]


def test_a_setting_of_one_side_is_a_difference():
    assert [*differences({"env": {"x": 1}}, {"env": {"y": None}})] == [
        ("env.x", 1, "(absent)"),
        ("env.y", "(absent)", None),
    ]


class TestChange:
    def changed(self, key, value):
        tree = {"total_frames": 100, "logger": {"offline": True}, "task_gamma": {"PointMass": 0.9}}
        tree |= {"actor": {"_target_": "fpo_torchrl.modules.actor.FlowActor", "solver": SOLVER}}
        tree |= {"env": {"_target_": "fpo_torchrl.envs.registry.make_env", "wind": 1}}
        cfg = OmegaConf.create(tree | {"critic": {"_target_": "somewhere.Critic", "width": 3}})
        change(cfg, key, value)
        return OmegaConf.select(cfg, key)

    @pytest.mark.parametrize(
        ("key", "value", "expected"),
        [
            ("total_frames", 200, 200),
            ("task_gamma.PointMass", 1, 1.0),
            ("actor.solver.num_steps", 5, 5),
            ("logger.offline", False, False),
            ("env.wind", "strong", "strong"),
            ("critic.width", 2.5, 2.5),
        ],
    )
    def test_a_value_takes_the_settings_type(self, key, value, expected):
        found = self.changed(key, value)
        assert (found, type(found)) == (expected, type(expected))

    @pytest.mark.parametrize(
        ("key", "value"),
        [("total_frames", None), ("total_frames", 2.5), ("actor.solver.num_steps", "many"), ("logger.offline", "no?")],
    )
    def test_a_value_of_another_type_is_refused(self, key, value):
        with pytest.raises(ConfigError, match=f"^{key}={value!r}".replace("?", r"\?")):
            self.changed(key, value)
