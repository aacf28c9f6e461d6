"""The DPPO baseline: PPO on every step of the denoising path."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential

from fpo_torchrl.modules.chain import require_flow
from fpo_torchrl.modules.denoising import DenoisingActor
from fpo_torchrl.objectives.entries import by_either_name, stored
from fpo_torchrl.objectives.surrogate import FlowPPOLoss, RatioTerms
from fpo_torchrl.objectives.trust_region import TrustRegion, clip_or


class DenoisingMDPLoss(FlowPPOLoss):
    """PPO for a flow policy whose denoising steps are actions of their own (DPPO, arXiv 2409.00588).

    Each Gaussian step of the stored path has a likelihood ratio; the advantage of the action counts for all of
    them, and the trust region holds for each. The objective is the mean over the steps. FPO compares itself with
    this (its section 3.5 and Table 1); which steps are trained is a setting of the actor.

    Keys: reads the inputs of actor and critic, ``"denoising_path"``, ``"denoising_log_prob"``, ``"advantage"``
    ``[*batch, 1]`` and ``"value_target"``; returns those of :class:`FlowPPOLoss`.

    Args:
        actor_network: the :class:`DenoisingActor`, or a ``TensorDictSequential`` that ends with one.
        critic_network: module that writes ``"state_value"``.
        clip_epsilon: radius of the clip on each step's ratio, or ``(low, high)`` radii; 0.2 is what the FPO
            paper found best for DPPO.
        trust_region: an object in place of the clip.
        actor, critic: other names of the first two, as TorchRL's losses have them.
        critic_coeff, loss_critic_type, normalize_advantage and further keywords: as in :class:`FlowPPOLoss`.

    Raises:
        TypeError: without an actor that stores denoising paths.
        ValueError, KeyError: as :class:`FlowPPOLoss`.

    >>> from fpo_torchrl import ValueMLP, VelocityMLP
    >>> critic = TensorDictModule(ValueMLP(3), in_keys=["observation"], out_keys=["state_value"])
    >>> loss = DenoisingMDPLoss(DenoisingActor(VelocityMLP(3, 2)), critic, clip_epsilon=0.2)
    """

    def __init__(
        self,
        actor_network: DenoisingActor | TensorDictSequential | None = None,
        critic_network: TensorDictModule | None = None,
        clip_epsilon: float | tuple[float, float] = 0.2,
        *,
        trust_region: TrustRegion | None = None,
        actor: DenoisingActor | TensorDictSequential | None = None,
        critic: TensorDictModule | None = None,
        **ppo_settings: Any,
    ) -> None:
        actor_network, critic_network = by_either_name(actor_network, critic_network, actor, critic)
        require_flow(DenoisingActor, actor_network, loss="DenoisingMDPLoss", advice="; for a FlowActor use FPOLoss")
        super().__init__(
            actor_network,
            critic_network,
            clip_or(trust_region, clip_epsilon, default=0.2),
            **ppo_settings,
        )

    def ratio_terms(self, tensordict: TensorDictBase) -> RatioTerms:
        """Log-likelihood of each step under the current weights minus that at collection, ``[*batch, steps]``."""
        new = self.flow_actor.step_log_prob(tensordict)
        key = self.flow_actor.denoising_log_prob_key
        return RatioTerms(new - stored(tensordict, key, new, "the log-likelihood of each denoising step"))
