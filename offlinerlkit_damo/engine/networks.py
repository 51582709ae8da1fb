"""FlatNetworks: a policy's actor and critics on flat storage, with batched twins and few kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from offlinerlkit_damo.damo.aligned import DataAligned
from offlinerlkit_damo.damo.maximin import MaximinObjective
from offlinerlkit_damo.damo.networks import Networks
from offlinerlkit_damo.damo.terms import Terms
from offlinerlkit_damo.engine.adam import fused_step
from offlinerlkit_damo.engine.gaussian import TanhGaussian
from offlinerlkit_damo.engine.inconsistency import Inconsistency
from offlinerlkit_damo.engine.layers import critic_layers, linears, tanh_gaussian_layers
from offlinerlkit_damo.engine.mlp import StackedMLP
from offlinerlkit_damo.engine.ratio import FlatRatio
from offlinerlkit_damo.engine.step import FlatStep
from offlinerlkit_damo.errors import UserError


def accelerate(policy: Any, *, diagnose_every: int = 1) -> None:
    """Put what DAMO's terms compute with on flat storage, in place, before the first step: actor, twin critics, classifier, optimisers.

    The policy stays the same object with the same modules, `state_dict` and optimisers. What is the host's own step stays the host's: a
    policy without the maximin objective keeps its networks, one without data alignment has no classifier. Figures are
    computed in one of `diagnose_every` steps. Raises UserError for networks that are not the kit's MLPs with ReLU and its tanh-Gaussian
    with a free mean and a deviation that depends on the observation.
    """
    try:
        if isinstance(policy, MaximinObjective) and not hasattr(policy, "critics"):
            policy.networks = FlatNetworks(policy)
            FlatStep(policy).install()
        if hasattr(policy, "compute_lcb"):
            policy.compute_lcb = Inconsistency(policy)
        if isinstance(policy, DataAligned):
            alignment: Any = policy.data_alignment
            classifier = StackedMLP([[[layer] for layer in linears(alignment.classifier.network, head=True)]])
            rebind(alignment.optim, classifier)
            ratio = FlatRatio(alignment, classifier)
            alignment.logits, alignment.descend = ratio.logits, ratio.descend
    except (ValueError, AttributeError) as error:
        raise UserError(f"the fast engine cannot run this policy: {error}; use --engine reference") from None
    if isinstance(policy, Terms):
        policy.diagnose_every = diagnose_every


class FlatNetworks(Networks):
    """`Networks` on StackedMLPs: one for the actor, one for the twin critics, one for the target twins."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        layers, self._squashing = tanh_gaussian_layers(policy.actor)
        self.actor = StackedMLP([layers])
        self.critics = StackedMLP([critic_layers(critic) for critic in (policy.critic1, policy.critic2)])
        self.old_critics = StackedMLP([critic_layers(critic) for critic in (policy.critic1_old, policy.critic2_old)])
        rebind(policy.actor_optim, self.actor)
        rebind(policy.critic1_optim, self.critics, 0)
        rebind(policy.critic2_optim, self.critics, 1)

    def act(self, obss: Tensor) -> tuple[Tensor, Tensor]:
        sample = self.sample(self.actor(obss)[0])
        return sample.actions, sample.log_prob()

    def sample(self, outputs: Tensor) -> TanhGaussian:
        """A sample for each row of the actor's outputs [B, 2a]."""
        return TanhGaussian(outputs, *self._squashing)

    def q(self, obss: Tensor, actions: Tensor) -> Tensor:
        return self.critics(torch.cat([obss, actions], -1)).squeeze(-1)

    def frozen_q(self, obss: Tensor, actions: Tensor) -> Tensor:
        return self.critics(torch.cat([obss, actions], -1), frozen=True).squeeze(-1)

    @torch.no_grad()
    def old_q(self, obss: Tensor, actions: Tensor) -> Tensor:
        return self.old_critics(torch.cat([obss, actions], -1)).squeeze(-1)

    def step(self, *optims: torch.optim.Optimizer) -> None:
        for optim in optims:
            fused_step(optim)

    def zero_critics(self) -> None:
        self.critics.grads.zero_()

    def zero_actor(self) -> None:
        self.actor.grads.zero_()

    @torch.no_grad()
    def sync(self) -> None:
        self.old_critics.block.lerp_(self.critics.block, self.policy._tau)


def rebind(optim: torch.optim.Optimizer, network: StackedMLP, member: int = 0) -> None:
    """Let `optim` step the member's row of the block in place of the views it was made for."""
    groups: list[dict[str, Any]] = optim.param_groups
    if optim.state or len(groups) != 1:
        raise ValueError("an optimiser has stepped already, or has several parameter groups")
    row = network.rows[member]
    if sum(p.numel() for p in groups[0]["params"]) != row.numel():
        raise ValueError("an optimiser does not own exactly its network's parameters")
    groups[0]["params"] = [row]
