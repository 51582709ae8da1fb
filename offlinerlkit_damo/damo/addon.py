"""DAMO's two terms on any of the host's model-based policies, in one line each.

    AlignedMOBILE = with_data_alignment(MOBILEPolicy)
    policy = AlignedMOBILE(dynamics, actor, critics, ..., config=DAMOConfig(damo_alpha=0.5))
"""

from __future__ import annotations

import inspect
from typing import Any

from offlinerlkit_damo.damo.aligned import DataAligned
from offlinerlkit_damo.damo.maximin import MaximinObjective
from offlinerlkit_damo.damo.terms import Terms, kept
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import BasePolicy, CQLPolicy, MOBILEPolicy, MOPOPolicy, RAMBOPolicy, SACPolicy

EXTENDED = "learn", "load_state_dict"
"""The methods of the terms that call the policy's own."""


HOST_STEPS = SACPolicy, MOPOPolicy, MOBILEPolicy, RAMBOPolicy
"""The policies whose own step the maximin objective knows how to replace."""


def with_data_alignment(policy_class: type[Any]) -> type[Any]:
    """A subclass of `policy_class` that learns from r - alpha ell (arXiv 2502.00850, Eq. 6) instead of r.

    It takes the same arguments and the keyword `config` (DAMOConfig; read are damo_alpha and the options of ratio and classifier).
    Raises UserError for a class that is not model-based (`learn`, `select_action`, `rollout`) and for one that has an argument, an
    attribute or a method of a name which the term uses. Making an object of it raises UserError where the policy has no `actor`, no
    critics or no `dynamics`.
    """
    return _mix(DataAligned, policy_class)


def with_maximin_objective(policy_class: type[Any]) -> type[Any]:
    """A subclass of `policy_class` whose critics and actor follow DAMO's objective in place of SAC's.

    Its own penalty stays in the reward (MOPO's, MOBILE's), its own way with the dynamics stays too (RAMBO's). Same arguments, and the
    keyword `config`. Raises UserError as `with_data_alignment`, for a class without `actforward` and `_sync_weight`, for one with a
    `learn` of its own, which would be lost, unless the same class has `compute_lcb`, whose penalty stays; for one that is data-aligned
    already (the other order works) and for COMBO, whose conservative term is part of the loss that would go.
    """
    return _mix(MaximinObjective, policy_class, "actforward", "_sync_weight")


def _mix(term: type[Any], policy_class: type[Any], *needed: str) -> type[Any]:
    name = getattr(policy_class, "__name__", repr(policy_class))
    if not inspect.isclass(policy_class):
        raise UserError(f"{name} is no class; give the policy's class, not one of its objects")
    if issubclass(policy_class, term):
        raise UserError(f"{name} has {term.__name__} already")
    missing = [method for method in ("learn", "select_action", "rollout", *needed) if _lacks(policy_class, method)]
    if missing:
        raise UserError(f"{name} cannot be extended: it has no {' and no '.join(missing)}, which the host's model-based policies have")
    if term is MaximinObjective:
        _check_replaceable(policy_class)
    _check_names(term, policy_class)
    return type(f"{term.__name__}{name}", (term, policy_class), {"__doc__": f"{name} with {term.__name__}.", "__module__": term.__module__})


def _lacks(policy_class: type[Any], method: str) -> bool:
    own = getattr(policy_class, method, None)
    return not callable(own) or own is getattr(BasePolicy, method, None)  # the host's base class only declares it


def _check_replaceable(policy_class: type[Any]) -> None:
    """Raise UserError where the class's own step holds something that the maximin objective would drop."""
    name = policy_class.__name__
    if issubclass(policy_class, DataAligned):
        raise UserError(
            f"{name} refines rewards before a step that the maximin objective would replace; "
            "use with_data_alignment(with_maximin_objective(...)), in this order"
        )
    if issubclass(policy_class, CQLPolicy):
        raise UserError(f"{name}'s conservative term is part of the critics' loss that the maximin objective replaces")
    for part in policy_class.__mro__:
        if part in HOST_STEPS:
            return
        if "learn" in vars(part):
            if "compute_lcb" in vars(part):
                return
            raise UserError(
                f"{name}'s own learn (of {part.__name__}) would never run, since the maximin objective takes its place; put what it does "
                "into a subclass of with_maximin_objective(...), or give its penalty of synthetic rows as compute_lcb and _penalty_coef"
            )


def _check_names(term: type[Any], policy_class: type[Any]) -> None:
    """Raise UserError where the class has a name of its own that the term uses: one of the two would be overridden unseen."""
    used = {*kept(term), *(name for part in term.__mro__ if issubclass(part, Terms) for name in vars(part))} - set(EXTENDED)
    others = [part for part in policy_class.__mro__ if not issubclass(part, Terms)]
    taken = sorted(name for name in used if not name.startswith("__") and any(name in vars(part) for part in others))
    if not issubclass(policy_class, Terms) and "config" in inspect.signature(policy_class).parameters:
        taken.append("config")
    if taken:
        raise UserError(f"{policy_class.__name__} has a name of its own that {term.__name__} uses, {taken[0]!r}; rename it in your class")
