"""What does not fit: a policy that lacks something the terms need, or a state dict of another policy. Sentences, for the errors."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from torch import nn

from offlinerlkit_damo.errors import UserError


def require(policy: Any, *names: str) -> None:
    """Raise UserError unless `policy` has all of these attributes."""
    missing = [name for name in names if not hasattr(policy, name)]
    if missing:
        raise UserError(f"{type(policy).__name__} cannot be made: the policy that it extends has no attribute {' and no '.join(missing)}")


def joint_critics(policy: Any) -> bool:
    """Whether a policy has `critics` under one optimiser (MOBILE), and not twins with one each, which it may have a list of besides."""
    return hasattr(policy, "critics") and not hasattr(policy, "critic1")


def sizes(policy: Any) -> tuple[int, int]:
    """Sizes of observation and action, d and a.

    The policy's own `obs_dim` and `action_dim` where it has them, else those that the first linear layers of actor and critic take in.
    Raises UserError where there are neither.
    """
    own: Any = getattr(policy, "obs_dim", None), getattr(policy, "action_dim", None)
    if all(isinstance(size, Integral) for size in own):
        return int(own[0]), int(own[1])
    critic = "critics" if joint_critics(policy) else "critic1"
    require(policy, "actor", critic)
    obs_dim, both = _inputs(policy.actor), _inputs(getattr(policy, critic))
    if not 0 < obs_dim < both:
        raise UserError(
            f"{type(policy).__name__} cannot tell the sizes of observation and action from the first linear layers of actor and critic; "
            "give the policy that it extends the attributes obs_dim and action_dim"
        )
    return obs_dim, both - obs_dim


def _inputs(network: Any) -> int:
    """What the first linear layer takes in, 0 where there is none."""
    layers = network.modules() if isinstance(network, nn.Module) else ()
    return next((layer.in_features for layer in layers if isinstance(layer, nn.Linear)), 0)


def why_not_loaded(policy: str, own: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """Why the state `given` does not fit the policy called `policy`, whose state is `own`, as a sentence; None where it does."""
    shared = [key for key in own if key in given]
    other = [key for key in shared if _size(own[key]) != _size(given[key])]
    reasons = []
    if _kind(own) != _kind(given):
        reasons.append(f"it looks like the state of {_kind(given)}, and this is {_kind(own)}")
    elif len(shared) < max(len(own), len(given)):
        parts = {"lacks": own.keys() - given.keys(), "has besides": given.keys() - own.keys()}
        reasons += [f"it {verb} {_first(sorted(keys))}" for verb, keys in parts.items() if keys]
    if other:
        theirs, ours = (_size(state[other[0]]) for state in (given, own))
        reasons.append(f"its sizes differ, {theirs} and not {ours} in {_first(other)}")
    return f"{policy} cannot load this state: {'; '.join(reasons)}" if reasons else None


def _size(value: Any) -> Any:
    """A tensor's shape; of anything else, which is no weight, its kind."""
    return tuple(value.shape) if hasattr(value, "shape") else type(value).__name__


def _first(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more"


def _kind(state: Mapping[str, Any]) -> str:
    """Which algorithms' states have keys like these."""
    if "_steps" in state:
        return "the DICE family"
    aligned = any(key.startswith("data_alignment.") for key in state)
    if any(key.startswith("critics.") for key in state):
        return "MOBILE with data alignment" if aligned else "MOBILE"
    if any(key.startswith("critic1.") for key in state):
        return "DAMO (or MOPO, COMBO or RAMBO with data alignment)" if aligned else "MOPO, COMBO or RAMBO without data alignment"
    return "no policy with an actor and critics"
