"""Flow policy optimization: PPO whose likelihood ratio is a difference of flow-matching losses."""

from __future__ import annotations

from typing import Any, Literal

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor

from fpo_torchrl.checks import check_kinds
from fpo_torchrl.described import Described
from fpo_torchrl.functional import fpo_log_ratio, straight_through_clamp
from fpo_torchrl.modules.actor import FlowActor
from fpo_torchrl.modules.chain import require_flow
from fpo_torchrl.objectives.entries import by_either_name, stored
from fpo_torchrl.objectives.surrogate import FlowPPOLoss, RatioTerms
from fpo_torchrl.objectives.trust_region import TrustRegion, clip_or


class Clamp(Described):
    """Bounds on a loss or a log-ratio before it is exponentiated.

    Args:
        low, high: bounds, None for no bound on that side.
        straight_through (bool): keep the gradient of the unclamped value, as FPO++'s released code does
            for the log-ratio.
    """

    def __init__(self, low: float | None = None, high: float | None = None, *, straight_through: bool = False) -> None:
        if low is None and high is None:
            raise ValueError("Clamp needs a bound: give low, high or both")
        if low is not None and high is not None and not low < high:
            raise ValueError(f"Clamp needs low < high, got low={low}, high={high}")
        self.low, self.high = low, high
        self.straight_through = straight_through

    def __call__(self, x: Tensor) -> Tensor:
        """Clamp ``x``."""
        return straight_through_clamp(x, self.low, self.high) if self.straight_through else x.clamp(self.low, self.high)


class FPOLoss(FlowPPOLoss):
    """PPO for flow policies: the likelihood ratio is ``exp(L_old - L_new)`` (FPO, arXiv 2507.21053, Eq. 5 to 8).

    ``L`` is the CFM loss of the executed action at the (noise, time) pairs stored by :class:`FlowActor`. It scores the
    action that the actor wrote: noise for exploration is the actor's ``action_noise_std``, not a module behind it.

    Keys: as :class:`~fpo_torchrl.objectives.surrogate.FlowPPOLoss`; it also returns ``"cfm_loss_old"`` and
    ``"cfm_loss_new"``, the means before any clamp, and with their coefficients ``"loss_cfm"`` and ``"loss_prior"``.

    Args:
        actor_network: the :class:`FlowActor`, or a ``TensorDictSequential`` of encoders that ends with one. Move it to
            its device and precision before: as every ``LossModule``, the loss takes its weights and buffers over.
        critic_network: module that writes ``"state_value"``.
        clip_epsilon: radius of the clip on the ratio, or ``(low, high)`` radii.
        trust_region: an object in place of the clip, with its own radius: ``SPO(0.05)``, ``ASPO(0.05)``.
        ratio: ``"per_action"`` (FPO), ``"per_sample"`` (FPO++), or a number of groups, which divides the
            actor's ``num_mc_samples``: each averages as many pairs. The objective is the mean over an action's ratios,
            where FPO++ Eq. 13 has their sum.
        cfm_loss_clamp, log_ratio_clamp: :class:`Clamp` on both losses, and on the log-ratio.
        cfm_coeff (float): weight of the CFM loss itself, at least 0 (the published algorithm); see docs/robust_fpo.md.
        prior_coeff (float): weight of :meth:`FlowActor.prior_loss`, at least 0 (the published algorithm), in place of
            an entropy bonus. A scheduler may assign to either coefficient; one that is 0 here stays out of the loss.
        actor, critic: other names of the first two, as TorchRL's losses have them.
        min_advantage, max_advantage and further keywords: as in the base class.

    Raises:
        TypeError: without a FlowActor.
        ValueError: for a setting out of range or an advantage of another shape.
        KeyError: for a batch without the flow keys.

    >>> from fpo_torchrl import FlowActor, VelocityMLP, ValueMLP
    >>> critic = TensorDictModule(ValueMLP(3), in_keys=["observation"], out_keys=["state_value"])
    >>> loss = FPOLoss(FlowActor(VelocityMLP(3, 2)), critic, clip_epsilon=0.05)
    """

    extra_diagnostics = ("cfm_loss_old", "cfm_loss_new")
    _schedulable_buffers = frozenset({"cfm_coeff", "prior_coeff"})

    def __init__(
        self,
        actor_network: FlowActor | TensorDictSequential | None = None,
        critic_network: TensorDictModule | None = None,
        clip_epsilon: float | tuple[float, float] = 0.05,
        *,
        trust_region: TrustRegion | None = None,
        ratio: Literal["per_action", "per_sample"] | int = "per_action",
        cfm_loss_clamp: Clamp | None = None,
        log_ratio_clamp: Clamp | None = None,
        cfm_coeff: float = 0.0,
        prior_coeff: float = 0.0,
        actor: FlowActor | TensorDictSequential | None = None,
        critic: TensorDictModule | None = None,
        **ppo_settings: Any,
    ) -> None:
        actor_network, critic_network = by_either_name(actor_network, critic_network, actor, critic)
        check_kinds("Clamp(high=3)", Clamp, cfm_loss_clamp=cfm_loss_clamp, log_ratio_clamp=log_ratio_clamp)
        advice = (
            "; for a Gaussian actor use torchrl.objectives.ClipPPOLoss (fpo-train: loss=ppo), for a DenoisingActor "
            "DenoisingMDPLoss (loss=dppo)"
        )
        num_pairs = require_flow(FlowActor, actor_network, loss="FPOLoss", advice=advice).num_mc_samples
        groups = {"per_action": 1, "per_sample": num_pairs}.get(ratio, ratio) if isinstance(ratio, str) else ratio
        whole = isinstance(groups, int) and not isinstance(groups, bool)
        if num_pairs and (not whole or groups < 1 or num_pairs % groups):  # the base class refuses 0
            raise ValueError(
                'ratio must be "per_action", "per_sample" or a number of groups that divides the actor\'s '
                f"num_mc_samples={num_pairs}, got {ratio!r}"
            )
        for name, coefficient in {"cfm_coeff": cfm_coeff, "prior_coeff": prior_coeff}.items():
            if not coefficient >= 0:
                raise ValueError(f"{name} must not be negative, got {coefficient}")
        super().__init__(
            actor_network,
            critic_network,
            clip_or(trust_region, clip_epsilon, default=0.05),
            **ppo_settings,
        )
        self.num_ratio_groups = groups
        self.cfm_loss_clamp = cfm_loss_clamp
        self.log_ratio_clamp = log_ratio_clamp
        device = next((weight.device for weight in self.parameters()), None)
        self.register_coeff_buffer("cfm_coeff", float(cfm_coeff), device=device)
        self.register_coeff_buffer("prior_coeff", float(prior_coeff), device=device)
        coefficients = {"loss_cfm": cfm_coeff, "loss_prior": prior_coeff}
        self.extra_losses = tuple(name for name, coefficient in coefficients.items() if coefficient)

    def ratio_terms(self, tensordict: TensorDictBase) -> RatioTerms:
        """``L_old - L_new`` per group of pairs ``[*batch, groups]``; the two pulls, and the mean of both losses."""
        actor = self.flow_actor
        new = actor.cfm_loss(tensordict)
        old = stored(tensordict, actor.cfm_loss_key, new, "the CFM loss of each (noise, time) pair")
        if self.num_ratio_groups > 1 and new.shape[-1] != actor.num_mc_samples:
            raise ValueError(
                f"the loss groups the actor's num_mc_samples={actor.num_mc_samples} pairs of an action, "
                f"the batch has {new.shape[-1]}: collect and train with the same number"
            )
        diagnostics, losses = {"cfm_loss_old": old.mean(-1), "cfm_loss_new": new.detach().mean(-1)}, {}
        if "loss_cfm" in self.extra_losses:
            losses["loss_cfm"] = self.cfm_coeff * new.mean(-1, keepdim=True)
        if "loss_prior" in self.extra_losses:
            losses["loss_prior"] = self.prior_coeff * actor.prior_loss(tensordict).unsqueeze(-1)
        if self.cfm_loss_clamp is not None:
            old, new = self.cfm_loss_clamp(old), self.cfm_loss_clamp(new)
        log_ratio = fpo_log_ratio(old, new, self.num_ratio_groups)
        if self.log_ratio_clamp is not None:
            log_ratio = self.log_ratio_clamp(log_ratio)
        return RatioTerms(log_ratio, losses, diagnostics)
