"""Is a run well? One check per sickness, each over the rows of ``metrics.csv``; a finding says what to try."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

Rows = Sequence[Mapping[str, float]]
WINDOW = 10
"""Iterations that "now" means, where one of them is too noisy."""
FULL = 100
"""Episodes that a return in the metrics averages over, once there are as many; before, it is too noisy to fall."""


@dataclass(frozen=True)
class Finding:
    """What a check found: the numbers, what they mean and what to try."""

    check: str
    seen: str
    meaning: str
    advice: str
    frames: int = 0  # where it was found

    def __str__(self) -> str:
        return f"{self.check} at frame {self.frames}: {self.seen}. {self.meaning}. Try: {self.advice}."


def series(rows: Rows, name: str) -> list[float]:
    """The finite values of a column, in order; empty if it is not there."""
    return [row[name] for row in rows if name in row and math.isfinite(row[name])]


def start_and_end(values: Sequence[float]) -> tuple[float, float]:
    """Means of the first and the last :data:`WINDOW` values; NaN, for which no comparison holds, if they overlap."""
    if len(values) < 2 * WINDOW:
        return math.nan, math.nan
    return fmean(values[:WINDOW]), fmean(values[-WINDOW:])


def non_finite(rows: Rows) -> Finding | None:
    """NaN or infinity in the newest row; a return is NaN until the first episode is over."""
    row = rows[-1]
    names = [name for name, value in row.items() if not (math.isfinite(value) or name == "return")]
    if not names:
        return None
    return Finding(
        "non-finite",
        f"{', '.join(names)} is NaN or infinite",
        "The update has left the numbers that arithmetic can hold",
        "resume from the last checkpoint with a smaller optim.lr, or bound it with optim.max_grad_norm",
    )


def first_ratio(rows: Rows) -> Finding | None:
    """A ratio of the first minibatch other than 1, when the policy is still the one that collected."""
    errors = series(rows[-1:], "first_ratio_error")
    if not errors or errors[0] <= 0.01:
        return None
    return Finding(
        "first ratio",
        f"the first ratio of the update is off 1 by {errors[0]:.2g}",
        "The update does not see the policy that collected: a network with dropout or batch statistics, a normaliser "
        "updated in between (as normalizer=as_released does), or a log-probability at the edge of its precision",
        "make the network deterministic; normalizer=running; for a Gaussian that saturates, a smaller initial spread",
    )


def cfm_growth(rows: Rows) -> Finding | None:
    """A CFM loss three times what it was at the start."""
    before, now = start_and_end(series(rows, "cfm_loss_new"))
    if not now > 3 * before:
        return None
    return Finding(
        "CFM loss",
        f"the loss is {now:.3g}, {now / before:.1f} times that of the start",
        "Samples with negative advantages push the loss up without bound, and the flow loses the actions it had",
        "loss/trust_region=aspo; loss.cfm_loss_clamp; a small loss.cfm_coeff, which pulls the flow to its own actions",
    )


def clipped_by_sign(rows: Rows) -> Finding | None:
    """More than half of the ratios outside the trust region, on either side of the advantage."""
    shares = {
        sign: fmean(values[-WINDOW:])
        for sign in ("positive", "negative")
        if len(values := series(rows, f"clip_fraction_{sign}")) >= WINDOW
    }
    if max(shares.values(), default=0.0) <= 0.5:
        return None
    return Finding(
        "clip fraction",
        " and ".join(f"{share:.0%} of the ratios under {sign} advantages" for sign, share in shares.items())
        + " are outside the trust region",
        "Most of the batch gives no gradient: the steps are larger than the region, or the ratio is mostly noise",
        "a smaller optim.lr, fewer trainer.num_epochs, or more pairs per action (actor.num_mc_samples)",
    )


def advantage_spread(rows: Rows) -> Finding | None:
    """Raw advantages that hardly differ, which normalising turns into noise."""
    spreads = series(rows, "advantage_std")[-WINDOW:]
    if len(spreads) < WINDOW or fmean(spreads) >= 1e-3:
        return None
    return Finding(
        "advantage spread",
        f"the advantages have a standard deviation of {fmean(spreads):.2g} before they are normalised",
        "All actions earn the same, so the update learns from rounding and the critic's errors",
        "a look at the reward; advantage.reward_scale; loss.normalize_advantage=false",
    )


def noise_gap(rows: Rows) -> Finding | None:
    """Zero start noise and random start noise that earn very different returns, of the same policy.

    Training episodes are of earlier policies too, so while there is no evaluation from random start noise
    (``eval_random``), the gap counts where two evaluations found it and the training return did not move between them.
    """
    other, needed = ("eval_random", 1) if "eval_random" in rows[-1] else ("return", 2)
    pairs = [(row["eval_zero"], row[other]) for row in rows if "eval_zero" in row and other in row][-needed:]
    if len(pairs) < needed or not all(math.isfinite(value) for pair in pairs for value in pair):
        return None
    zero, random = pairs[-1]
    scale = max(abs(value) for pair in pairs for value in pair)
    if (
        scale < 1e-6  # nothing was earned
        or any(abs(of_zero - of_random) <= 0.5 * scale for of_zero, of_random in pairs)
        or abs(random - pairs[0][1]) > 0.1 * scale
    ):
        return None
    meaning, advice = (
        (
            "The spread of the actions costs much of the return",
            "a longer run" + (", or a smaller loss.prior_coeff" if "loss_prior" in rows[-1] else ""),
        )
        if zero > random
        else (
            "The noise earns what no single action does: the policy has several modes, or has not learnt much yet",
            "an evaluation with noise=random",
        )
    )
    return Finding(
        "noise gap",
        f"the return is {zero:.3g} from zero start noise (of a Gaussian, its mode) and {random:.3g} from random one",
        meaning,
        advice,
    )


def training_returns(rows: Rows) -> list[float]:
    """Means of the training return over :data:`WINDOW` iterations, once enough episodes are in it."""
    returns = series([row for row in rows if row.get("episodes", FULL) >= FULL], "return")
    if len(returns) < 2 * WINDOW:
        return []
    return [fmean(returns[i : i + WINDOW]) for i in range(len(returns) - WINDOW + 1)]


def fallen(values: Sequence[float]) -> float | None:
    """The peak from which the last of ``values`` is down by more than 30 %, or by 30 % of the gain if that is more."""
    peak = max(values)
    scale = max(peak, peak - min(values[: values.index(peak) + 1]))
    return peak if scale > 0 and peak - values[-1] > 0.3 * scale else None


def drop_from_peak(rows: Rows) -> Finding | None:
    """A return, in training or from zero start noise, that is far below its peak."""
    evaluations = series(rows, "eval_zero")
    for name, values in {"return": training_returns(rows), "return from zero start noise": evaluations}.items():
        if len(values) > 2 and (peak := fallen(values)) is not None:
            seen = f"the {name} is {values[-1]:.4g}, after a peak of {peak:.4g}"
            break
    else:
        return None
    meaning, advice = (
        "The policy forgets: the updates have become too large for it",
        "trainer.anneal_lr=true, a smaller optim.lr or trust region; loss.min_advantage=-3 loss.max_advantage=3, if it "
        "began with few environments that failed; checkpoints/best.torchrl is the policy of the best evaluation",
    )
    spreads = series(rows, "eval_action_spread")
    if len(spreads) > 1 and spreads[-1] > 1.5 * spreads[0]:
        seen += f", and actions in one state have a standard deviation of {spreads[-1]:.2g}, after {spreads[0]:.2g}"
        meaning = "The policy widens, and its own noise costs what it had learnt"
        advice = "actor/target=velocity loss/trust_region=spo loss.trust_region.epsilon=0.15; loss.prior_coeff"
    return Finding("drop", seen, meaning, advice)


def saturation(rows: Rows) -> Finding | None:
    """More than half of the action's entries at their bounds, and no more reward than at the start."""
    shares, (first, last) = series(rows, "action_saturation")[-WINDOW:], start_and_end(series(rows, "reward"))
    if len(shares) < WINDOW or fmean(shares) <= 0.5 or not last - first <= 0.1 * max(abs(first), abs(last)):
        return None
    return Finding(
        "saturation",
        f"{fmean(shares):.0%} of the actions are at a bound, and the reward per step is {last:.2g}, after {first:.2g} "
        "at the start",
        "The policy points far outside of what the environment takes, where different actions are the same one",
        "a narrower first policy (actor.velocity_net.output_scale; a Gaussian's actor.init_std); loss.prior_coeff, "
        "which pulls a flow's actions back to the middle",
    )


def action_spread(rows: Rows) -> Finding | None:
    """Actions that differ a twentieth as much as at the start."""
    before, now = start_and_end(series(rows, "action_std"))
    if not now < 0.05 * before:
        return None
    return Finding(
        "action spread",
        f"the actions have a standard deviation of {now:.2g}, after {before:.2g} at the start",
        "The policy does the same everywhere and explores no more",
        "loss.prior_coeff; a smaller optim.lr",
    )


def gradient_norm(rows: Rows) -> Finding | None:
    """Gradients ten times as large as they usually were, of the actor or the critic.

    The critic's may grow as the spread of the advantages does, as when the first rewards come.
    """
    for name, excuse in {"actor": None, "critic": "advantage_std"}.items():
        norms = [norm for norm in series(rows, f"grad_norm_{name}") if norm > 0]  # 0 while the critic warms up
        if len(norms) < 2 * WINDOW:
            continue
        usual, now = median(norms[:-WINDOW]), fmean(norms[-WINDOW:])
        if now > 10 * usual * max(1.0, growth(series(rows, excuse)) if excuse is not None else 1.0):
            return Finding(
                "gradient norm",
                f"the {name}'s gradient has norm {now:.3g}, where {usual:.3g} was usual",
                "The loss has become steep, often the last sign before a collapse",
                f"optim.{'' if name == 'actor' else 'critic_'}max_grad_norm, or a smaller step size",
            )
    return None


def growth(values: Sequence[float]) -> float:
    """How many times as large as they usually were the last values are; 1 while that is not known."""
    if len(values) < 2 * WINDOW or (usual := median(values[:-WINDOW])) <= 0:
        return 1.0
    return fmean(values[-WINDOW:]) / usual


CHECKS: tuple[Callable[[Rows], Finding | None], ...] = (
    *(non_finite, first_ratio, cfm_growth, clipped_by_sign, advantage_spread, noise_gap),
    *(drop_from_peak, saturation, action_spread, gradient_norm),
)


def examine(rows: Rows) -> list[Finding]:
    """What the checks find at the last of ``rows``; nothing before the first."""
    found = [check(rows) for check in CHECKS] if rows else []
    return [replace(finding, frames=int(rows[-1]["frames"])) for finding in found if finding is not None]


class Watch:
    """Tells each finding once, at the latest a hundredth of the run after it is there.

    Looking at every row each time would take a long run's time to the square of its length.

    Args:
        rows: those of an earlier part of the run, whose findings were told.
    """

    def __init__(self, rows: Rows = ()) -> None:
        self.told = {finding.check for finding in examine(rows)}
        self._next = 0

    def new(self, rows: Rows) -> list[Finding]:
        """The findings at the last of ``rows`` that were not told yet."""
        if len(rows) < self._next:
            return []
        self._next = len(rows) + len(rows) // 100
        new = [finding for finding in examine(rows) if finding.check not in self.told]
        self.told |= {finding.check for finding in new}
        return new
