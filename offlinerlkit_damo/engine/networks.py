"""FlatNetworks: a policy's actor and critics on flat storage, with batched twins and few kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from offlinerlkit_damo.damo.aligned import DataAligned
from offlinerlkit_damo.damo.maximin import MaximinObjective
from offlinerlkit_damo.damo.networks import Networks
from offlinerlkit_damo.damo.terms import Terms
from offlinerlkit_damo.engine.mlp import Layer, StackedMLP
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
        if isinstance(policy, DataAligned):
            alignment = policy.data_alignment
            classifier = StackedMLP([classifier_layers(alignment.classifier)])
            rebind(alignment.optim, classifier)
            alignment.logits = lambda inputs: classifier(inputs)[0].squeeze(-1)
    except (ValueError, AttributeError) as error:
        raise UserError(f"the fast engine cannot run this policy: {error}; use --engine reference") from None
    if isinstance(policy, Terms):
        policy.diagnose_every = diagnose_every


class FlatNetworks(Networks):
    """`Networks` on StackedMLPs: one for the actor, one for the twin critics, one for the target twins."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        self.bounds = action_bounds(policy.actor)
        self.actor = StackedMLP([actor_layers(policy.actor)])
        self.critics = StackedMLP([critic_layers(critic) for critic in (policy.critic1, policy.critic2)])
        self.old_critics = StackedMLP([critic_layers(critic) for critic in (policy.critic1_old, policy.critic2_old)])
        rebind(policy.actor_optim, self.actor)
        rebind(policy.critic1_optim, self.critics, 0)
        rebind(policy.critic2_optim, self.critics, 1)

    def act(self, obss: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_sigma = self.actor(obss)[0].chunk(2, -1)
        return squashed_gaussian(mean, log_sigma, torch.randn_like(mean), self.bounds)

    def q(self, obss: Tensor, actions: Tensor) -> Tensor:
        return self.critics(torch.cat([obss, actions], -1)).squeeze(-1)

    def frozen_q(self, obss: Tensor, actions: Tensor) -> Tensor:
        return self.critics(torch.cat([obss, actions], -1), frozen=True).squeeze(-1)

    @torch.no_grad()
    def old_q(self, obss: Tensor, actions: Tensor) -> Tensor:
        return self.old_critics(torch.cat([obss, actions], -1)).squeeze(-1)

    def zero_critics(self) -> None:
        self.critics.grads.zero_()

    def zero_actor(self) -> None:
        self.actor.grads.zero_()

    @torch.no_grad()
    def sync(self) -> None:
        self.old_critics.block.lerp_(self.critics.block, self.policy._tau)


@dataclass(frozen=True)
class Bounds:
    """Of a tanh-Gaussian: the largest action, and the range of the logarithm of its deviation."""

    action: float
    log_sigma: tuple[float, float]


def action_bounds(actor: Any) -> Bounds:
    """Of the kit's actor. Raises ValueError unless its mean is free and its deviation depends on the observation."""
    dist = actor.dist_net
    if not (dist._unbounded and dist._c_sigma):
        raise ValueError("its actor's mean is bounded, or its deviation does not depend on the observation")
    return Bounds(float(dist._max), (dist._sigma_min, dist._sigma_max))


def squashed_gaussian(mean: Tensor, log_sigma: Tensor, noise: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """The action that standard normal `noise` gives, and its log-probability: [..., a] each -> [..., a], [...]."""
    log_sigma = log_sigma.clamp(*bounds.log_sigma)
    squashed = torch.tanh(mean + log_sigma.exp() * noise)
    # the noise is what the density sees: its gradient through mean and sample is zero, so it is not asked for
    density = -0.5 * noise.square() - 0.5 * math.log(2 * math.pi)
    log_prob = density - log_sigma - torch.log(bounds.action * (1 - squashed.square()) + 1e-6)
    return bounds.action * squashed, log_prob.sum(-1)


def actor_layers(actor: Any) -> list[Layer]:
    """Of the kit's actor, mean and deviation side by side at the end."""
    return [*([layer] for layer in _linears(actor.backbone)), [actor.dist_net.mu, actor.dist_net.sigma]]


def critic_layers(critic: Any) -> list[Layer]:
    """Of the kit's critic."""
    return [[layer] for layer in (*_linears(critic.backbone), critic.last)]


def classifier_layers(classifier: Any) -> list[Layer]:
    """Of the classifier."""
    return [[layer] for layer in _linears(classifier.network, head=True)]


def _linears(module: nn.Module, *, head: bool = False) -> list[nn.Linear]:
    """The linear layers of an MLP, each followed by ReLU; with `head` the last one is bare."""
    linears: list[nn.Linear] = []
    leaves = [leaf for leaf in module.modules() if not list(leaf.children())]
    for leaf, following in pairwise([*leaves, None]):
        if isinstance(leaf, nn.Linear):
            if not (following is None if head and leaf is leaves[-1] else isinstance(following, nn.ReLU)):
                raise ValueError("a linear layer is not followed by ReLU")
            linears.append(leaf)
        elif not isinstance(leaf, nn.ReLU):
            raise ValueError(f"a layer is neither linear nor ReLU: {leaf}")
    return linears


def rebind(optim: torch.optim.Optimizer, network: StackedMLP, member: int = 0) -> None:
    """Let `optim` step the member's row of the block in place of the views it was made for."""
    groups: list[dict[str, Any]] = optim.param_groups
    if optim.state or len(groups) != 1:
        raise ValueError("an optimiser has stepped already, or has several parameter groups")
    row = network.rows[member]
    if sum(p.numel() for p in groups[0]["params"]) != row.numel():
        raise ValueError("an optimiser does not own exactly its network's parameters")
    groups[0]["params"] = [row]
