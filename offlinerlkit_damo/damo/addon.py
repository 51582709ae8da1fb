"""DAMO's two terms on any of the host's model-based policies, in one line each.

    AlignedMOBILE = with_data_alignment(MOBILEPolicy)
    policy = AlignedMOBILE(dynamics, actor, critics, ..., config=DAMOConfig(damo_alpha=0.5))
"""

from __future__ import annotations

import inspect
from typing import Any

from offlinerlkit_damo.damo.aligned import DataAligned
from offlinerlkit_damo.damo.maximin import MaximinObjective
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import CQLPolicy


def with_data_alignment(policy_class: type[Any]) -> type[Any]:
    """A subclass of `policy_class` that learns from r - alpha ell (arXiv 2502.00850, Eq. 6) instead of r.

    It takes the same arguments and the keyword `config` (DAMOConfig; read are damo_alpha and the options of ratio and classifier).
    Raises UserError for a class without `learn(batch)` and `select_action`; a policy without `dynamics`, whose scaler standardises the
    classifier's inputs, is refused at its first step.
    """
    return _mix(DataAligned, policy_class)


def with_maximin_objective(policy_class: type[Any]) -> type[Any]:
    """A subclass of `policy_class` whose critics and actor follow DAMO's objective in place of SAC's.

    Its own penalty stays in the reward (MOPO's, MOBILE's), its own way with the dynamics stays too (RAMBO's). Same arguments, and the
    keyword `config`. Raises UserError as `with_data_alignment`, for a class without `actforward`, for one that is data-aligned already
    (the other order works) and for COMBO, whose conservative term is part of the loss that would go.
    """
    return _mix(MaximinObjective, policy_class, "actforward", "_sync_weight")


def _mix(term: type[Any], policy_class: type[Any], *needed: str) -> type[Any]:
    name = getattr(policy_class, "__name__", repr(policy_class))
    if not inspect.isclass(policy_class):
        raise UserError(f"{name} is no class; give the policy's class, not one of its objects")
    if issubclass(policy_class, term):
        raise UserError(f"{name} has {term.__name__} already")
    if term is MaximinObjective and issubclass(policy_class, DataAligned):
        raise UserError(
            f"{name} refines rewards before a step that the maximin objective would replace; "
            "use with_data_alignment(with_maximin_objective(...)), in this order"
        )
    if term is MaximinObjective and issubclass(policy_class, CQLPolicy):
        raise UserError(f"{name}'s conservative term is part of the critics' loss that the maximin objective replaces")
    missing = [method for method in ("learn", "select_action", *needed) if not callable(getattr(policy_class, method, None))]
    if missing:
        raise UserError(f"{name} cannot be extended: it has no {' and no '.join(missing)}, which the host's model-based policies have")
    return type(f"{term.__name__}{name}", (term, policy_class), {"__doc__": f"{name} with {term.__name__}.", "__module__": term.__module__})
