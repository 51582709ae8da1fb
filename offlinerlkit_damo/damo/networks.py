"""What a learning step asks of a policy's networks, answered by the host's modules as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from offlinerlkit_damo.damo.misfits import joint_critics
from offlinerlkit_damo.freezing import frozen


class Networks:
    """Actor and critics of a host policy behind a few calls; `engine.networks.FlatNetworks` answers the same ones faster.

    Twin critics (`critic1`, `critic2` and an optimiser each: SAC, MOPO, RAMBO) and a list of them (`critics`, one optimiser: MOBILE) are
    the same here. Shapes: B rows, E critics, d and a the sizes of observation and action.

    Attributes:
        joint: whether the critics share an optimiser; the host's loss is then their mean, else each has its own.
        td_weight: the weight of each critic's mean squared residual in what is descended.
    """

    online: Sequence[nn.Module]
    old: Sequence[nn.Module]
    critic_optims: Sequence[torch.optim.Optimizer]

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.joint = joint_critics(policy)
        if self.joint:
            self.online, self.old, self.critic_optims = policy.critics, policy.critics_old, (policy.critics_optim,)
        else:
            self.online, self.old = (policy.critic1, policy.critic2), (policy.critic1_old, policy.critic2_old)
            self.critic_optims = policy.critic1_optim, policy.critic2_optim
        self.td_weight = 1 / len(self.online) if self.joint else 1.0

    def act(self, obss: Tensor) -> tuple[Tensor, Tensor]:
        """A reparameterised sample of the policy and its log-probability: [B, d] -> [B, a], [B]."""
        actions, log_prob = self.policy.actforward(obss)
        return actions, log_prob.squeeze(-1)

    def q(self, obss: Tensor, actions: Tensor) -> Tensor:
        """Q_i(s, a) [E, B], with gradients for the critics."""
        return torch.stack([critic(obss, actions).squeeze(-1) for critic in self.online])

    def frozen_q(self, obss: Tensor, actions: Tensor) -> Tensor:
        """Q_i(s, a) [E, B], with gradients for the actions only."""
        with frozen(*self.online):
            return self.q(obss, actions)

    @torch.no_grad()
    def old_q(self, obss: Tensor, actions: Tensor) -> Tensor:
        """Q_i(s, a) [E, B] of the target critics, without gradients."""
        return torch.stack([critic(obss, actions).squeeze(-1) for critic in self.old])

    def named(self, losses: Tensor) -> dict[str, Tensor]:
        """The critics' losses [E] under the host's names."""
        return {"loss/critic": losses.mean()} if self.joint else {f"loss/critic{i}": loss for i, loss in enumerate(losses, 1)}

    def step(self, *optims: torch.optim.Optimizer) -> None:
        """One step of each of these optimisers."""
        for optim in optims:
            optim.step()

    def zero_critics(self) -> None:
        """Zero the critics' gradients, in place: the engine's are views."""
        for optim in self.critic_optims:
            optim.zero_grad(set_to_none=False)

    def zero_actor(self) -> None:
        """Zero the actor's gradients."""
        self.policy.actor_optim.zero_grad(set_to_none=False)

    def sync(self) -> None:
        """Move the target critics towards the critics by the policy's tau."""
        self.policy._sync_weight()


def attributes(policy: Any) -> list[str]:
    """What a host policy must have for a learning step: actor, critics and their optimisers, discount and temperature."""
    names = ["actor", "actor_optim", "_gamma", "_alpha", "_is_auto_alpha"]
    if joint_critics(policy):
        names += ["critics_old", "critics_optim"]
    else:
        names += ["critic1", "critic2", "critic1_old", "critic2_old", "critic1_optim", "critic2_optim"]
    if getattr(policy, "_is_auto_alpha", False):
        names += ["_target_entropy", "_log_alpha", "alpha_optim"]
    if hasattr(policy, "compute_lcb"):
        names.append("_penalty_coef")
    return names
