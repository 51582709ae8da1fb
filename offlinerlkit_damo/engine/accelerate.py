"""From a policy on the host's modules to the same policy on the engine."""

from __future__ import annotations

from typing import Any

from offlinerlkit_damo.damo.aligned import DataAligned
from offlinerlkit_damo.damo.maximin import MaximinObjective
from offlinerlkit_damo.damo.terms import Terms
from offlinerlkit_damo.engine.adversary import Adversary
from offlinerlkit_damo.engine.conservative import FlatCOMBO
from offlinerlkit_damo.engine.dynamics import RoutedDynamics
from offlinerlkit_damo.engine.inconsistency import Inconsistency
from offlinerlkit_damo.engine.layers import linears
from offlinerlkit_damo.engine.mlp import StackedMLP
from offlinerlkit_damo.engine.networks import FlatNetworks, rebind
from offlinerlkit_damo.engine.ratio import FlatRatio
from offlinerlkit_damo.engine.step import FlatStep
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import RAMBOPolicy


def accelerate(policy: Any, *, diagnose_every: int = 1) -> None:
    """Put what DAMO's terms compute with on flat storage, in place, before the first step: actor, critics, classifier, optimisers.

    The policy stays the same object with the same modules, `state_dict` and optimisers. What is the host's own step stays the host's: a
    policy without the maximin objective keeps its networks, one without data alignment has no classifier; MOBILE's penalty and the
    training of RAMBO's model are the engine's in any case. Figures are computed in one of `diagnose_every` steps. Raises UserError for
    networks that are not the kit's MLPs with ReLU and its tanh-Gaussian with a free mean and a deviation that depends on the observation.
    """
    try:
        if isinstance(policy, MaximinObjective | FlatCOMBO):
            policy.networks = FlatNetworks(policy)
            steps = FlatStep(policy)
            if isinstance(policy, FlatCOMBO):
                policy.steps = steps
            else:
                steps.install()
        if hasattr(policy, "compute_lcb"):
            policy.compute_lcb = Inconsistency(policy)
        if isinstance(policy, RAMBOPolicy) and isinstance(policy, Terms) and isinstance(policy.dynamics, RoutedDynamics):
            policy.update_dynamics = Adversary(policy)  # type: ignore[method-assign]
        if isinstance(policy, DataAligned):
            alignment: Any = policy.data_alignment
            classifier = StackedMLP([[[layer] for layer in linears(alignment.classifier.network, head=True)]])
            rebind(alignment.optim, classifier.rows)
            ratio = FlatRatio(alignment, classifier)
            alignment.logits, alignment.descend = ratio.logits, ratio.descend
    except (ValueError, AttributeError) as error:
        raise UserError(f"the fast engine cannot run this policy: {error}; use --engine reference") from None
    if isinstance(policy, Terms):
        policy.diagnose_every = diagnose_every
