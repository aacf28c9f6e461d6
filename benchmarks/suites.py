"""What ``learning.py`` trains: tables of tasks and algorithms, each an override of ``fpo-train`` or a few."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import measures

from fpo_torchrl.envs.control import CONTROL_TASKS
from fpo_torchrl.envs.probe import PROBES
from fpo_torchrl.report.gridworld import STARTS

ALGORITHMS: dict[str, tuple[str, ...]] = {
    "fpo": (),
    "fpo_clip": ("actor=flow_released", "loss=fpo_released", "trainer.redraw_pairs=false"),
    "fpopp": ("actor=flow_fpopp", "loss=fpopp", "trainer.redraw_pairs=false"),
    "dppo": ("actor=denoising", "loss=dppo"),
    "ppo": ("actor=gaussian", "loss=ppo"),
    "ppo_paper_lr": ("actor=gaussian", "loss=ppo", "optim.lr=3e-4"),
}
"""The columns of the control table with the overrides of each."""
BOUNDED: dict[str, tuple[str, ...]] = {
    "fpo_bounded": ("loss.min_advantage=-3", "loss.max_advantage=3"),
    "fpo_bounded_below": ("loss.min_advantage=-3",),
}
"""The default preset with bounds on normalised advantages."""
ABLATIONS: dict[str, tuple[str, ...]] = {
    "fpo": (),
    "pairs_1": ("actor.num_mc_samples=1",),
    "pairs_4": ("actor.num_mc_samples=4",),
    "pairs_16": ("actor.num_mc_samples=16",),
    "pairs_independent": ("actor/pairs=independent",),
    "pairs_kept": ("trainer.redraw_pairs=false",),
    "target_velocity": ("actor/target=velocity",),
    "target_action": ("actor/target=action",),
    "ratio_per_sample": ("loss.ratio=per_sample",),
    "region_clip": ("loss/trust_region=clip",),
    "region_spo": ("loss/trust_region=spo",),
    "region_spo_prior": (
        "loss/trust_region=spo",
        "loss.prior_coeff=0.05",
        "actor/solver=heun",
        "actor.solver.num_steps=5",
    ),
    "cfm_coeff": ("loss.cfm_coeff=0.3",),
    "normalizer_as_released": ("normalizer=as_released",),
    "gae_per_minibatch": ("trainer.advantage_every=minibatch", "trainer.unroll_length=16"),
}
"""The default preset with one factor changed, or a few that belong together."""
SAMPLERS: dict[str, tuple[str, ...]] = {
    "euler": ("actor/solver=euler", "actor.solver.num_steps=10"),
    "heun": ("actor/solver=heun", "actor.solver.num_steps=5"),
    "midpoint": ("actor/solver=midpoint", "actor.solver.num_steps=5"),
    "rk4": ("actor/solver=rk4", "actor.solver.num_steps=3"),
    "sde": ("actor/solver=sde", "actor.solver.num_steps=10"),
    "sde_quarter": ("actor/solver=sde", "actor.solver.num_steps=10", "actor.solver.noise_scale=0.25"),
    "random_steps": ("actor/solver=random_steps", "actor.solver.num_steps=20"),
    "random_steps_5": ("actor/solver=random_steps", "actor.solver.num_steps=20", "actor.solver.min_steps=5"),
    "random_steps_rollout": (
        "actor/solver=random_steps_per_rollout",
        "actor.solver.num_steps=20",
        "actor.solver.min_steps=5",
    ),
}
"""What FPO samples its actions with while it trains, at about ten velocity evaluations for each."""
GRIDWORLD: dict[str, tuple[str, ...]] = {
    "fpo": ("experiment=gridworld",),
    "ppo": ("experiment=gridworld_ppo",),
    "ppo_fixed_std": ("experiment=gridworld_ppo", "actor.std=0.707"),
}
"""The flow, and Gaussians of learned and of fixed standard deviation."""
TRACKERS: dict[str, tuple[str, ...]] = {
    "fpo": ("experiment=humanoid",),
    "fpopp": ("experiment=humanoid_fpopp",),
    "ppo": ("experiment=humanoid_ppo",),
}
"""The policies of docs/humanoid.md."""


@dataclass(frozen=True)
class Suite:
    """Tasks and algorithms that make one table; a run has the overrides of its task, then those of its algorithm.

    Args:
        tasks: overrides by task. algorithms: overrides by label.
        max_return: the best possible return. min_return: the worst one, which a diverged run counts as.
        measure: what is measured on a finished run besides its return.
    """

    tasks: dict[str, tuple[str, ...]]
    algorithms: dict[str, tuple[str, ...]]
    max_return: float = 1000.0
    min_return: float = 0.0
    measure: Callable[[Path], dict[str, float]] | None = None


SUITES = {
    "control": Suite(dict.fromkeys(CONTROL_TASKS, ()), ALGORITHMS),
    "control_bounded": Suite(dict.fromkeys(CONTROL_TASKS, ()), BOUNDED),
    "control_long": Suite(dict.fromkeys(CONTROL_TASKS, ("total_frames=1_800_000",)), ALGORITHMS | BOUNDED),
    "ablation": Suite(dict.fromkeys(("CartpoleBalance", "ReacherEasy"), ()), ABLATIONS),
    "gridworld": Suite({"gridworld/two_walls": ()}, GRIDWORLD, max_return=20.0, measure=measures.gridworld),
    "gridworld_long": Suite(
        {"gridworld/two_walls": ("total_frames=3_000_000",)},
        GRIDWORLD | {"fpo": ("experiment=gridworld", "trainer.anneal_prior=0.8")},
        max_return=20.0,
        measure=measures.gridworld,
    ),
    "layouts": Suite(
        {f"gridworld/{layout}": () for layout in STARTS if layout != "two_walls"},
        GRIDWORLD,
        max_return=20.0,
        measure=measures.gridworld,
    ),
    "samplers": Suite(
        {"gridworld/two_walls": ("experiment=gridworld",)}, SAMPLERS, max_return=20.0, measure=measures.gridworld
    ),
    "samplers_control": Suite({"ReacherEasy": ()}, SAMPLERS),
    "samplers_short": Suite({"ReacherEasy": ("total_frames=300_000",)}, SAMPLERS),
    "bandit": Suite(
        {"bandit/bimodal": ()},
        {"fpo": ("experiment=bandit",), "ppo": ("experiment=bandit_ppo",)},
        max_return=1.0,
        measure=measures.bandit_shares,
    ),
    "probes": Suite(
        {f"probe/{probe}": ("total_frames=40_000",) for probe in PROBES},
        {"fpo": ("experiment=bandit",), "ppo": ("experiment=bandit_ppo",)},
        max_return=1.0,
        measure=measures.value_error,
    ),
    "gpu": Suite(
        dict.fromkeys(CONTROL_TASKS, ()),
        {"fpo_playground": ("experiment=fpo_playground",), "ppo_paper": ("experiment=ppo",)},
    ),
}


SUITES |= {
    f"humanoid_{conditioning}": Suite(
        {"humanoid/planar": ()},
        {
            f"{label}{suffix}": (*overrides, f"env.conditioning={conditioning}", *goal)
            for suffix, goal in critics.items()
            for label, overrides in TRACKERS.items()
        },
        max_return=300.0,
        min_return=-300.0,  # the price on power has no bound; this is a diverged run's
        measure=measures.tracking,
    )
    for conditioning, critics in {
        "full": {"": ()},
        "root_hands": {"": ()},
        "root": {"": (), "_masked_critic": ("env.critic_goal=masked",)},
    }.items()
}
"""One suite for each part of the goal; from the root alone also with a critic that sees no more than the policy."""
