"""Whether the parts of a trainer fit each other, and the sizes of its batches."""

from __future__ import annotations

from typing import Any

from fpo_torchrl.checks import check_choice
from fpo_torchrl.modules.chain import recurrent_modules
from fpo_torchrl.modules.sampler import FlowSampler


def check_windows(
    num_envs: int, frames_per_batch: int, minibatch_size: int, unroll_length: int | None, advantage_every: str
) -> int:
    """The length of a trainer's windows, by default all steps of a batch; ``ValueError`` for sizes that do not fit."""
    if frames_per_batch % num_envs:
        raise ValueError(
            f"frames_per_batch must be a multiple of num_envs={num_envs}, got {frames_per_batch}; "
            f"for example {max(1, round(frames_per_batch / num_envs)) * num_envs}"
        )
    steps = frames_per_batch // num_envs
    unroll_length = unroll_length if unroll_length is not None else steps
    if steps % unroll_length:
        raise ValueError(f"unroll_length must divide the {steps} steps per batch, got {unroll_length}")
    check_choice("advantage_every", advantage_every, ("batch", "epoch", "minibatch"))
    if advantage_every == "minibatch" and minibatch_size % unroll_length:
        raise ValueError(
            f"minibatch_size must be a multiple of unroll_length={unroll_length} when the advantage is "
            f"recomputed every minibatch, got {minibatch_size}"
        )
    return unroll_length


def check_memory(actor: Any, loss: Any, advantage: Any, advantage_every: str) -> None:
    """``ValueError`` for recurrent modules that would be trained, or would estimate values, without their memory."""
    recurrent = recurrent_modules(actor) + recurrent_modules(loss)
    if recurrent and advantage_every != "minibatch":
        raise ValueError(
            f"{type(recurrent[0]).__name__} needs sequences, and minibatches are single transitions: choose "
            'advantage_every="minibatch", whose minibatches are windows of unroll_length steps'
        )
    critic = getattr(advantage, "critic", None)
    if critic is not None and (alone := set(recurrent_modules(critic)) - set(recurrent_modules(actor))):
        raise ValueError(
            f"the critic has a {type(alone.pop()).__name__} of its own, whose state nothing carries on at "
            "collection: share the policy's, TensorDictSequential(encoder, critic)"
        )


def check_parts(env: Any, actor: Any, loss: Any, advantage: Any, optimizer: Any, normalizer: Any = None) -> None:
    """Refuse what a trainer cannot train with.

    Raises:
        ValueError: for environments without one batch dimension, or whose entries have other names, a loss that is not
            reduced, or one that looks for advantages elsewhere, or parts that do not share their weights.
        TypeError: for an optimiser that is not an ``AgentOptimizer``.
    """
    if len(env.action_keys) != 1:
        raise ValueError(f"the trainer trains one action, and the environment takes {env.action_keys}")
    names = {"reward": env.reward_keys, "done": env.done_keys, "terminated": env.done_keys}
    names |= {"observation": env.observation_keys} if normalizer is not None else {}
    for name, there in names.items():
        if name not in there:
            who = "the normalizer" if name == "observation" else "the trainer"
            raise ValueError(
                f"{who} reads {name!r}, and the environment writes {', '.join(map(repr, there))}: rename the entry "
                "with torchrl.envs.RenameTransform"
            )
    written = getattr(getattr(loss, "actor_network", None), "out_keys", ())
    known = {*env.observation_keys, *env.done_keys, *env.state_spec.keys(True, True)}
    known |= {key[1:] if len(key) > 2 else key[1] for key in written if key[0] == "next"}
    critic = getattr(advantage, "critic", None)
    if unknown := [key for key in getattr(critic, "in_keys", ()) if key not in known]:
        raise ValueError(
            f"the critic reads {', '.join(map(repr, unknown))}, which is in no next observation "
            f"({', '.join(map(repr, env.observation_keys))}), and advantages need its values there. Put what computes "
            "it before the critic: TensorDictSequential(encoder, critic)"
        )
    for name in ("advantage", "value_target", "value"):
        wanted = getattr(loss.tensor_keys, name)
        written = getattr(advantage, f"{name}_key", wanted)
        if written != wanted:
            raise ValueError(
                f"the loss looks for the {name} under {wanted!r}, and {type(advantage).__name__} writes it under "
                f"{written!r}: call its set_keys({name}={wanted!r})"
            )
    if critic is not None and loss.tensor_keys.value not in critic.out_keys:
        raise ValueError(
            f"the loss looks for the value under {loss.tensor_keys.value!r}, and the critic writes {critic.out_keys}: "
            f"give it out_keys=[{loss.tensor_keys.value!r}]"
        )
    if len(env.batch_size) != 1:
        raise ValueError(
            f"the environment must have the batch size [num_envs], got {list(env.batch_size)}: wrap a single one in "
            "torchrl.envs.SerialEnv(1, ...), or give it a batch of one dimension"
        )
    if getattr(loss, "reduction", "mean") == "none":
        raise ValueError('the loss has reduction="none" and would be summed over the minibatch: give it "mean"')
    if not hasattr(optimizer, "limited_step"):
        raise TypeError(
            "optimizer must be a fpo_torchrl.optim.AgentOptimizer(actor.parameters(), critic.parameters(), lr=...), "
            f"which limits the norms of the two gradients apart; got {type(optimizer).__name__}"
        )
    _check_weights(actor, loss, advantage, optimizer)
    check_action(env, actor)


def _check_weights(actor: Any, loss: Any, advantage: Any, optimizer: Any) -> None:
    """Refuse parts of a trainer that hold copies of each other's weights, of which one would stay as it is."""

    def trainable(part: Any) -> set[int]:
        return {id(weight) for weight in part.parameters() if weight.requires_grad}

    critic = getattr(advantage, "critic", None) if getattr(loss, "critic_network", None) is not None else None
    trained = [{id(weight) for weight in group["params"]} for group in optimizer.param_groups]
    of_loss, of_actor = ({id(weight) for weight in part.parameters()} for part in (loss, actor))
    advice = (
        "build the loss, the advantage and the optimizer from the same actor and critic, not from copies of them; what "
        "is not to be trained is told by requires_grad_(False)"
    )
    if alone := trainable(actor) - of_loss:
        raise ValueError(f"{len(alone)} weights of the actor that collects are not the loss's: {advice}")
    if critic is not None and (alone := trainable(critic) - of_loss):
        raise ValueError(f"{len(alone)} weights of the advantage's critic are not the loss's: {advice}")
    if alone := set().union(*trained) - of_loss:
        raise ValueError(f"{len(alone)} weights of the optimizer are not the loss's: {advice}")
    if alone := trainable(loss) - set().union(*trained):
        raise ValueError(f"{len(alone)} trainable weights of the loss are not the optimizer's: {advice}")
    if trained[0] and not trained[0] & of_actor:
        raise ValueError(
            "the optimizer's first parameters are not the actor's: "
            "AgentOptimizer(actor.parameters(), critic.parameters())"
        )


def check_action(env: Any, actor: Any) -> None:
    """Refuse a flow whose actions are of another size than the environment takes, or go beyond its bounds."""
    flows = [part for part in actor.modules() if isinstance(part, FlowSampler)]
    spec = env.full_action_spec[env.action_key]
    if not flows or spec.ndim < 2:
        return
    flow, space = flows[-1], getattr(spec, "space", None)
    if flow.action_dim != spec.shape[-1]:
        raise ValueError(f"the actor's actions have {flow.action_dim} entries, the environment takes {spec.shape[-1]}")
    if flow.squash == "none" or space is None or not hasattr(space, "low"):
        return
    low, high = space.low.flatten(0, -2).amax(0), space.high.flatten(0, -2).amin(0)  # that all copies and agents take
    rounding = (1e-4 * (high - low)).nan_to_num(0, 0, 0)
    if (flow.action_low.to(low) < low - rounding).any() or (flow.action_high.to(high) > high + rounding).any():
        raise ValueError(
            f"the actor's actions reach from {flow.action_low.tolist()} to {flow.action_high.tolist()}, and the "
            f"environment takes {low.tolist()} to {high.tolist()}: build the actor with action_low= and action_high="
        )
