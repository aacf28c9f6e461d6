"""What every policy-gradient loss of a flow policy shares: ratios inside a trust region, and a critic."""

from __future__ import annotations

import contextlib
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from inspect import signature
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential, dispatch
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives import PPOLoss, ValueEstimators

from fpo_torchrl.checks import check_arguments, check_kinds
from fpo_torchrl.functional import explained_variance
from fpo_torchrl.modules.chain import acting_module, check_encoders, encode
from fpo_torchrl.modules.sampler import FlowSampler
from fpo_torchrl.objectives.diagnostics import counted, ratio_diagnostics
from fpo_torchrl.objectives.entries import check_advantage, of_each_action
from fpo_torchrl.objectives.trust_region import Clip, TrustRegion


class RatioTerms(NamedTuple):
    """What a loss of a flow policy makes of a batch under the current weights."""

    log_ratio: Tensor
    """Logarithms of the ratios, ``[*batch, ratios]``."""
    losses: Mapping[str, Tensor] = {}
    """Further losses by name, each ``[*batch, 1]``."""
    diagnostics: Mapping[str, Tensor] = {}
    """Numbers of each action by name, ``[*batch]``, whose means are reported."""


class FlowPPOLoss(PPOLoss):
    """PPO with one or several ratios per action inside a trust region; a subclass says what the ratio is.

    The critic loss, value estimators, keys and advantage normalisation are those of TorchRL's ``PPOLoss``.

    Keys: reads the inputs of actor and critic, the actor's ``flow_keys``, ``"advantage"`` ``[*batch, 1]``, which for
    actions ``[*batch, agents, act]`` is ``[*batch, agents, 1]`` or the team's ``[*batch, 1]``, and ``"value_target"``;
    without an advantage the value estimator computes both. Returns ``"loss_objective"`` and ``"loss_critic"``, and
    without gradient ``"mean_ratio"``, ``"min_ratio"``, ``"max_ratio"``, ``"ESS"`` (share of the batch),
    ``"clip_fraction"`` and its split ``"clip_fraction_positive"`` and ``"clip_fraction_negative"`` by the sign of the
    advantage, the subclass's own diagnostics and ``"explained_variance"``.

    Args:
        actor_network: the flow policy, or a ``TensorDictSequential`` that ends with one; the encoders before it are
            trained too.
        critic_network: module that writes ``"state_value"``.
        trust_region: what happens to ratios far from 1.
        min_advantage, max_advantage (float, optional): bounds on an advantage, below and above 0, in standard
            deviations if advantages are normalised, else in units of the return. The lower one keeps a few failing
            environments from dominating an update. The mean advantage is then not exactly 0.
        critic_coeff, loss_critic_type, normalize_advantage and further keywords: as in ``PPOLoss``, but by
            default the authors' 0.25, ``"l2"`` and True.

    Raises:
        ValueError: for a setting out of range, a second actor before the flow, or an advantage of another shape.
        KeyError: for a batch without the actor's flow keys.
    """

    actor_network: FlowSampler | TensorDictSequential
    extra_losses: tuple[str, ...] = ()
    """Names of the further losses in :meth:`ratio_terms`."""
    extra_diagnostics: tuple[str, ...] = ()
    """Names of the diagnostics there."""

    def __init__(
        self,
        actor_network: FlowSampler | TensorDictSequential,
        critic_network: TensorDictModule | None,
        trust_region: TrustRegion,
        *,
        critic_coeff: float | None = 0.25,
        loss_critic_type: str = "l2",
        normalize_advantage: bool = True,
        min_advantage: float | None = None,
        max_advantage: float | None = None,
        entropy_bonus: bool = False,
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        check_kinds("SPO(0.05)", TrustRegion, trust_region=trust_region)
        check_encoders(actor_network)
        if not acting_module(actor_network).flow_keys:
            raise ValueError(
                f"{name} needs an actor that stores what an update reads: not one with num_mc_samples=0, nor what "
                "for_inference() returns"
            )
        if min_advantage is not None and not min_advantage < 0:
            raise ValueError(f"min_advantage must be negative or None, got {min_advantage}")
        if max_advantage is not None and not max_advantage > 0:
            raise ValueError(f"max_advantage must be positive or None, got {max_advantage}")
        if entropy_coeff := kwargs.pop("entropy_coeff", None):
            warnings.warn(
                f"entropy_coeff={entropy_coeff} has no effect on {name}: a flow has no entropy in closed form. FPOLoss "
                "has prior_coeff as a pull toward randomness",
                stacklevel=3,
            )
        if entropy_bonus:
            raise ValueError(f"a flow policy has no entropy in closed form: {name} needs entropy_bonus=False")
        # TorchRL's loss takes any name and forgets it.
        theirs, own = (signature(it).parameters.values() for it in (PPOLoss.__init__, type(self)))
        known = {parameter.name for parameter in theirs if parameter.kind is parameter.KEYWORD_ONLY}
        named = {parameter.name for parameter in own if parameter.kind is not parameter.VAR_KEYWORD}
        check_arguments(name, kwargs.keys() - known, known | named)
        if critic_network is not None and not hasattr(critic_network, "in_keys"):
            raise TypeError(
                f"critic_network must be a TensorDict module, got a plain {type(critic_network).__name__}: wrap it in "
                "TensorDictModule(critic, in_keys=['observation'], out_keys=['state_value'])"
            )
        unsupported = {"delay_actor", "max_importance_ratio"} & {key for key, value in kwargs.items() if value}
        if unsupported:
            raise ValueError(
                f"{name} does not support {', '.join(sorted(unsupported))}, which act on log-probabilities"
            )
        super().__init__(
            actor_network,
            critic_network,
            entropy_bonus=False,
            critic_coeff=critic_coeff if critic_network is not None else None,
            loss_critic_type=loss_critic_type,
            normalize_advantage=normalize_advantage,
            **kwargs,
        )
        self.trust_region = trust_region
        self.min_advantage, self.max_advantage = min_advantage, max_advantage

    @abstractmethod
    def ratio_terms(self, tensordict: TensorDictBase) -> RatioTerms:
        """What the loss makes of a batch, which holds the outputs of the modules before the flow, as they are now."""

    def make_value_estimator(self, value_type: Any = None, **hyperparams: Any) -> Any:
        """As in TorchRL's ``PPOLoss``; ``ValueError`` for V-trace, which needs a likelihood of the actor's inputs."""
        chosen = value_type if isinstance(value_type, (str, type)) else getattr(value_type, "name", type(value_type))
        if getattr(chosen, "__name__", chosen).lower() == ValueEstimators.VTrace.name.lower():
            raise ValueError(
                f"{type(self).__name__} has no likelihood for V-trace's importance weights: choose GAE, MAGAE, TD0, "
                "TD1 or TDLambda"
            )
        return super().make_value_estimator(value_type, **hyperparams)

    @property
    def flow_actor(self) -> Any:
        """The flow policy, which is ``actor_network`` or comes last in it."""
        return acting_module(self.actor_network)

    @property
    def clip_epsilon(self) -> float | tuple[float, float]:
        """Radius of the trust region, or its ``(low, high)`` radii. Assigning it moves the clip, for a schedule.

        It is not in the loss's state: a schedule that goes on assigns it again.
        """
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
        """What the loss reads, flow keys included, but for advantage and value target.

        Called by keyword, as ``dispatch`` allows, it therefore estimates both itself.
        """
        if self._in_keys is None:
            self._set_in_keys()
        unread = [self.tensor_keys.action, self.tensor_keys.sample_log_prob]
        inherited = [key for key in self._in_keys if key not in unread]
        return inherited + [key for key in self.flow_actor.flow_keys if key not in inherited]

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
            keys += ["mean_ratio", "min_ratio", "max_ratio", "ESS"]
            keys += ["clip_fraction", "clip_fraction_positive", "clip_fraction_negative"]
            keys += [*self.extra_diagnostics, *self.extra_losses]
            if self._has_critic and self.log_explained_variance:
                keys.append("explained_variance")
            if self.clip_value:
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
                name = type(self).__name__
                raise RuntimeError(f"the batch holds no advantage and {name} has no critic to compute it with")
            self.value_estimator(
                tensordict,
                params=self._cached_critic_network_params_detached,
                target_params=self.target_critic_network_params,
            )
            advantage = tensordict.get(self.tensor_keys.advantage)
        with self._weights("actor_network"):
            tensordict = encode(self.actor_network, tensordict)
            log_ratio, extra_losses, extra_diagnostics = self.ratio_terms(tensordict)
        batch, valid = log_ratio.shape[:-1], self._valid(tensordict, log_ratio[..., :1])
        if valid is not None:  # before exp, whose gradient would be 0 times infinity for garbage
            log_ratio = log_ratio.where(valid, 0.0)
        check_advantage(advantage, batch)
        advantage = of_each_action(self._scaled(advantage, tensordict, update_norm=estimate), batch)
        objective = self.trust_region(log_ratio.exp(), advantage)
        if objective.shape != log_ratio.shape:
            raise ValueError(
                f"{self.trust_region} should return an objective for each ratio, shape {tuple(log_ratio.shape)}, got "
                f"{tuple(objective.shape)}"
            )
        losses = {"loss_objective": -objective.mean(-1, keepdim=True), **extra_losses}
        diagnostics = ratio_diagnostics(log_ratio, advantage, self.trust_region, extra_diagnostics, valid)
        if self._has_critic:
            loss_critic, value_clip_fraction, explained = self.loss_critic(tensordict)
            losses["loss_critic"] = loss_critic
            if value_clip_fraction is not None:
                diagnostics["value_clip_fraction"] = value_clip_fraction
            if explained is not None:
                if valid is not None:
                    explained = self._explained_variance(tensordict, valid)
                diagnostics["explained_variance"] = explained.mean()
        losses = {key: self._reduce_loss(value, tensordict) for key, value in losses.items()}
        # In vmap a scalar has no last dimension to squeeze.
        losses = {key: value.squeeze(-1) if value.ndim else value for key, value in losses.items()}
        return TensorDict({**losses, **diagnostics})

    def _weights(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """Inside, the network of that name has the loss's weights, which a functional loss keeps apart from it."""
        if not self.functional:
            return contextlib.nullcontext()
        return getattr(self, f"{name}_params").to_module(getattr(self, name))

    @torch.no_grad()
    def _explained_variance(self, tensordict: TensorDictBase, valid: Tensor) -> Tensor:
        """As PPOLoss reports it, but over what is not padding."""
        with self._weights("critic_network"):
            value = self.critic_network(tensordict.copy()).get(self.tensor_keys.value)
        target = tensordict.get(self.tensor_keys.value_target)
        return explained_variance(value, target, weight=counted(valid).expand_as(value).to(value))

    def _valid(self, tensordict: TensorDictBase, like: Tensor) -> Tensor | None:
        """Which entries are not padding, of the shape of ``like``; None if nothing marks any."""
        masks = [tensordict.get(key, None) for key in self._loss_mask_keys()]
        found = [self._expand_loss_mask(mask, like).expand_as(like) for mask in masks if mask is not None]
        return torch.stack(found).all(0) if found else None

    def _scaled(self, advantage: Tensor, tensordict: TensorDictBase, *, update_norm: bool) -> Tensor:
        """The advantage, normalised over what is not padding, within its bounds."""
        if (valid := self._valid(tensordict, advantage)) is not None:
            advantage = advantage.where(valid, 0.0)
            tensordict.set("shifted_valid", valid)  # the only mark that TorchRL's normalisation looks at
        advantage = self._maybe_normalize_advantage(advantage, tensordict, update_norm=update_norm)
        if self.min_advantage is None and self.max_advantage is None:
            return advantage
        return advantage.clamp(self.min_advantage, self.max_advantage)
