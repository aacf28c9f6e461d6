"""Flow policy optimization: PPO whose likelihood ratio is a difference of flow-matching losses."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, dispatch
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives import PPOLoss

from fpo_torchrl.functional import effective_sample_size, fpo_log_ratio, straight_through_clamp
from fpo_torchrl.modules.actor import FlowActor
from fpo_torchrl.objectives.trust_region import Clip, TrustRegion


class Clamp:
    """Bounds on a loss or a log-ratio before it is exponentiated.

    Args:
        low, high: bounds, None for no bound on that side.
        straight_through (bool): keep the gradient of the unclamped value, as FPO++'s released code does
            for the log-ratio.
    """

    def __init__(self, low: float | None = None, high: float | None = None, *, straight_through: bool = False) -> None:
        if low is None and high is None:
            raise ValueError("Clamp needs a bound: give low, high or both")
        if low is not None and high is not None and low >= high:
            raise ValueError(f"Clamp needs low < high, got low={low}, high={high}")
        self.low, self.high = low, high
        self.straight_through = straight_through

    def __call__(self, x: Tensor) -> Tensor:
        """Clamp ``x``."""
        return straight_through_clamp(x, self.low, self.high) if self.straight_through else x.clamp(self.low, self.high)

    def __repr__(self) -> str:
        return f"Clamp(low={self.low}, high={self.high}, straight_through={self.straight_through})"


class FPOLoss(PPOLoss):
    """PPO for flow policies: the likelihood ratio is ``exp(L_old - L_new)`` (FPO, arXiv 2507.21053, Eq. 5 to 8).

    ``L`` is the CFM loss of the executed action at the (noise, time) pairs stored by :class:`FlowActor`.
    The critic loss, value estimators, keys and advantage normalisation are those of TorchRL's ``PPOLoss``.

    Keys: reads the actor's and critic's inputs, the actor's flow keys, and ``"advantage"`` ``[*batch, 1]``
    and ``"value_target"`` (computed by the value estimator where absent). Returns ``"loss_objective"`` and
    ``"loss_critic"``, and without gradient ``"ratio_mean"``, ``"ratio_min"``, ``"ratio_max"``, ``"ESS"`` (share
    of the batch), ``"clip_fraction"`` and its split ``"clip_fraction_positive"`` and ``"clip_fraction_negative"``
    by the sign of the advantage, ``"cfm_loss_old"`` and ``"cfm_loss_new"`` before any clamp, and
    ``"explained_variance"``.

    Args:
        actor_network: the :class:`FlowActor`; it holds CFM target and reduction, so that collection and
            update agree. critic_network: module that writes ``"state_value"``.
        clip_epsilon: radius of the clip on the ratio, or ``(low, high)`` radii.
        trust_region: an object in place of the clip, with its own radius: ``SPO(0.05)``, ``ASPO(0.05)``.
        ratio: ``"per_action"`` (FPO), ``"per_sample"`` (FPO++), or the number of groups of pairs between. The
            objective is the mean over an action's ratios, where FPO++ Eq. 13 has their sum.
        cfm_loss_clamp, log_ratio_clamp: :class:`Clamp` on both losses, and on the log-ratio.
        critic_coeff, loss_critic_type, normalize_advantage and further keywords: as in ``PPOLoss``, but by
            default the authors' 0.25, ``"l2"`` and True.

    Raises:
        TypeError: without an actor with ``get_dist`` and flow keys. ValueError: for a setting out of range
            or an advantage of another shape. KeyError: for a batch without the flow keys.

    >>> from fpo_torchrl import FlowActor, VelocityMLP, ValueMLP
    >>> critic = TensorDictModule(ValueMLP(3), in_keys=["observation"], out_keys=["state_value"])
    >>> loss = FPOLoss(FlowActor(VelocityMLP(3, 2)), critic, clip_epsilon=0.05)
    """

    actor_network: FlowActor  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        actor_network: FlowActor | None = None,
        critic_network: TensorDictModule | None = None,
        clip_epsilon: float | tuple[float, float] = 0.05,
        *,
        trust_region: TrustRegion | None = None,
        ratio: Literal["per_action", "per_sample"] | int = "per_action",
        cfm_loss_clamp: Clamp | None = None,
        log_ratio_clamp: Clamp | None = None,
        critic_coeff: float | None = 0.25,
        loss_critic_type: str = "l2",
        normalize_advantage: bool = True,
        entropy_bonus: bool = False,
        actor: FlowActor | None = None,
        critic: TensorDictModule | None = None,
        **kwargs,
    ) -> None:
        actor_network = actor if actor is not None else actor_network
        critic_network = critic if critic is not None else critic_network
        if actor_network is None or not hasattr(actor_network, "flow_keys"):
            raise TypeError(
                f"FPOLoss needs a FlowActor as actor_network, got {type(actor_network).__name__}; "
                "for a Gaussian actor use torchrl.objectives.ClipPPOLoss"
            )
        if entropy_bonus:
            raise ValueError("a flow policy has no entropy in closed form: FPOLoss needs entropy_bonus=False")
        unsupported = {"delay_actor", "max_importance_ratio"} & {key for key, value in kwargs.items() if value}
        if unsupported:
            raise ValueError(
                f"FPOLoss does not support {', '.join(sorted(unsupported))}, which act on log-probabilities"
            )
        if trust_region is not None and clip_epsilon != 0.05:
            raise ValueError(f"give the radius to the trust region: clip_epsilon={clip_epsilon} beside {trust_region}")
        num_pairs = actor_network.num_mc_samples
        groups = {"per_action": 1, "per_sample": num_pairs}.get(ratio, ratio) if isinstance(ratio, str) else ratio
        if num_pairs < 1:
            raise ValueError("FPOLoss needs an actor that stores pairs: num_mc_samples must be at least 1, got 0")
        if not isinstance(groups, int) or groups < 1 or num_pairs % groups:
            raise ValueError(
                'ratio must be "per_action", "per_sample" or a number of groups that divides the actor\'s '
                f"num_mc_samples={num_pairs}, got {ratio!r}"
            )
        if critic_network is None:
            critic_coeff = None
        super().__init__(
            actor_network,  # pyright: ignore[reportArgumentType]
            critic_network,
            entropy_bonus=False,
            critic_coeff=critic_coeff,
            loss_critic_type=loss_critic_type,
            normalize_advantage=normalize_advantage,
            **kwargs,
        )
        self.trust_region = trust_region if trust_region is not None else Clip(clip_epsilon)
        self.num_ratio_groups = groups
        self.cfm_loss_clamp = cfm_loss_clamp
        self.log_ratio_clamp = log_ratio_clamp

    @property
    def clip_epsilon(self) -> float | tuple[float, float]:
        """Radius of the trust region, or its ``(low, high)`` radii. Assigning it moves the clip, for a schedule."""
        region = self.trust_region
        return region.low if region.low == region.high else (region.low, region.high)

    @clip_epsilon.setter
    def clip_epsilon(self, epsilon: float | tuple[float, float]) -> None:
        if type(self.trust_region) is not Clip:
            raise ValueError(
                f"the trust region {self.trust_region} has its own radius: assign a new object to trust_region instead"
            )
        self.trust_region = Clip(epsilon)

    @property
    def in_keys(self) -> list[NestedKey]:
        """Every key that the loss reads, the flow keys included."""
        if self._in_keys is None:
            self._set_in_keys()
        unread = [self.tensor_keys.action, self.tensor_keys.sample_log_prob]
        inherited = [key for key in self._in_keys if key not in unread]
        return inherited + [key for key in self.actor_network.flow_keys if key not in inherited]

    @in_keys.setter
    def in_keys(self, values: list[NestedKey]) -> None:
        self._in_keys = values

    @property
    def out_keys(self) -> list[NestedKey]:
        """Every key of the result."""
        if self._out_keys is None:
            keys = ["loss_objective"]
            if self._has_critic:
                keys.append("loss_critic")
            keys += ["ratio_mean", "ratio_min", "ratio_max", "ESS"]
            keys += ["clip_fraction", "clip_fraction_positive", "clip_fraction_negative"]
            keys += ["cfm_loss_old", "cfm_loss_new"]
            if self._has_critic and self.log_explained_variance:
                keys.append("explained_variance")
            if self.clip_value is not None:
                keys.append("value_clip_fraction")
            self._out_keys = keys
        return self._out_keys

    @out_keys.setter
    def out_keys(self, values: list[NestedKey]) -> None:
        self._out_keys = values

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Losses and diagnostics of a batch, as scalars unless ``reduction="none"``."""
        tensordict = tensordict.copy()
        advantage = tensordict.get(self.tensor_keys.advantage, None)
        estimate = advantage is None
        if estimate:
            if self.critic_network is None:
                raise RuntimeError("the batch holds no advantage and FPOLoss has no critic to compute it with")
            self.value_estimator(
                tensordict,
                params=self._cached_critic_network_params_detached,
                target_params=self.target_critic_network_params,
            )
            advantage = tensordict.get(self.tensor_keys.advantage)
        cfm_loss_new = self._current_cfm_losses(tensordict)
        cfm_loss_old = tensordict.get(self.actor_network.cfm_loss_key, None)
        _check_batch(self.actor_network, advantage, cfm_loss_old, cfm_loss_new, self.num_ratio_groups)
        advantage = self._maybe_normalize_advantage(advantage, tensordict, update_norm=estimate)

        old, new = cfm_loss_old, cfm_loss_new
        if self.cfm_loss_clamp is not None:
            old, new = self.cfm_loss_clamp(old), self.cfm_loss_clamp(new)
        log_ratio = fpo_log_ratio(old, new, self.num_ratio_groups)
        if self.log_ratio_clamp is not None:
            log_ratio = self.log_ratio_clamp(log_ratio)
        objective = self.trust_region(log_ratio.exp(), advantage).mean(-1, keepdim=True)

        losses = {"loss_objective": -objective}
        diagnostics = self._diagnose(log_ratio.detach(), advantage, cfm_loss_old, cfm_loss_new.detach())
        if self._has_critic:
            loss_critic, value_clip_fraction, explained_variance = self.loss_critic(tensordict)
            losses["loss_critic"] = loss_critic
            if value_clip_fraction is not None:
                diagnostics["value_clip_fraction"] = value_clip_fraction
            if explained_variance is not None:
                diagnostics["explained_variance"] = explained_variance.mean()
        losses = {key: self._reduce_loss(value, tensordict).squeeze(-1) for key, value in losses.items()}
        return TensorDict({**losses, **diagnostics})

    def _current_cfm_losses(self, tensordict: TensorDictBase) -> Tensor:
        weights = self.actor_network_params.to_module(self.actor_network) if self.functional else None
        with weights if weights is not None else contextlib.nullcontext():
            return self.actor_network.get_dist(tensordict).cfm_loss

    @torch.no_grad()
    def _diagnose(
        self, log_ratio: Tensor, advantage: Tensor, cfm_loss_old: Tensor, cfm_loss_new: Tensor
    ) -> dict[str, Tensor]:
        ratio = log_ratio.exp()
        clipped = self.trust_region.is_outside(ratio).to(ratio.dtype)
        positive = (advantage >= 0).to(ratio.dtype).expand_as(ratio)

        def share(of: Tensor) -> Tensor:
            return (clipped * of).sum() / of.sum().clamp_min(1)

        return {
            "ratio_mean": ratio.mean(),
            "ratio_min": ratio.min(),
            "ratio_max": ratio.max(),
            "ESS": effective_sample_size(log_ratio),
            "clip_fraction": clipped.mean(),
            "clip_fraction_positive": share(positive),
            "clip_fraction_negative": share(1 - positive),
            "cfm_loss_old": cfm_loss_old.mean(),
            "cfm_loss_new": cfm_loss_new.mean(),
        }


def _check_batch(
    actor: FlowActor, advantage: Tensor, cfm_loss_old: Tensor | None, cfm_loss_new: Tensor, num_ratio_groups: int
) -> None:
    """Refuse a batch that lacks the old loss, has another number of pairs, or would broadcast silently."""
    if cfm_loss_old is None:
        raise KeyError(
            f"the batch lacks {actor.cfm_loss_key!r}, the CFM loss that FlowActor writes at collection; "
            "keep it when you select entries from the batch"
        )
    if cfm_loss_old.shape != cfm_loss_new.shape:
        raise ValueError(
            f"{actor.cfm_loss_key!r} should have one loss per (noise, time) pair, shape {tuple(cfm_loss_new.shape)}, "
            f"got {tuple(cfm_loss_old.shape)}"
        )
    if num_ratio_groups > 1 and cfm_loss_new.shape[-1] != actor.num_mc_samples:
        raise ValueError(
            f"the loss groups the actor's num_mc_samples={actor.num_mc_samples} pairs of an action, the batch has "
            f"{cfm_loss_new.shape[-1]}: collect and train with the same number"
        )
    if cfm_loss_old.requires_grad:
        raise RuntimeError(f"{actor.cfm_loss_key!r} in the batch requires grad: collect under torch.no_grad()")
    expected = (*cfm_loss_new.shape[:-1], 1)
    if advantage.shape != expected:
        raise ValueError(
            f"the advantage should have shape {expected}, one value per action, got {tuple(advantage.shape)}, which "
            "would broadcast or become an outer product; a missing last dimension (advantage.unsqueeze(-1)) is the "
            "usual cause"
        )
