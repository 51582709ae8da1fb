"""What a learning step asks of a policy's networks, answered by the host's modules as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from offlinerlkit_damo.freezing import frozen
from offlinerlkit_damo.kit import MOPOPolicy


class Networks:
    """Actor and twin critics of a host policy behind a few calls; `engine.networks.FlatNetworks` answers the same ones faster.

    Shapes: B rows, E = 2 critics, d and a the sizes of observation and action.
    """

    def __init__(self, policy: MOPOPolicy) -> None:
        self.policy = policy

    def act(self, obss: Tensor) -> tuple[Tensor, Tensor]:
        """A reparameterised sample of the policy and its log-probability: [B, d] -> [B, a], [B]."""
        actions, log_prob = self.policy.actforward(obss)
        return actions, log_prob.squeeze(-1)

    def q(self, obss: Tensor, actions: Tensor) -> Tensor:
        """Q_i(s, a) [E, B], with gradients for the critics."""
        return _stack((self.policy.critic1, self.policy.critic2), obss, actions)

    def frozen_q(self, obss: Tensor, actions: Tensor) -> Tensor:
        """Q_i(s, a) [E, B], with gradients for the actions only."""
        with frozen(self.policy.critic1, self.policy.critic2):
            return self.q(obss, actions)

    @torch.no_grad()
    def old_q(self, obss: Tensor, actions: Tensor) -> Tensor:
        """Q_i(s, a) [E, B] of the target critics, without gradients."""
        return _stack((self.policy.critic1_old, self.policy.critic2_old), obss, actions)

    def zero_critics(self) -> None:
        """Zero the critics' gradients."""
        for optim in (self.policy.critic1_optim, self.policy.critic2_optim):
            optim.zero_grad(set_to_none=False)

    def zero_actor(self) -> None:
        """Zero the actor's gradients."""
        self.policy.actor_optim.zero_grad(set_to_none=False)

    def sync(self) -> None:
        """Move the target critics towards the critics by the policy's tau."""
        self.policy._sync_weight()


def _stack(critics: tuple[nn.Module, ...], obss: Tensor, actions: Tensor) -> Tensor:
    return torch.stack([critic(obss, actions).squeeze(-1) for critic in critics])
