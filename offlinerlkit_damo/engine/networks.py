"""FlatNetworks: a policy's actor and critics on flat storage, with batched twins and few kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from offlinerlkit_damo.damo.networks import Networks
from offlinerlkit_damo.engine.adam import fused_step
from offlinerlkit_damo.engine.gaussian import TanhGaussian
from offlinerlkit_damo.engine.layers import critic_layers, tanh_gaussian_layers
from offlinerlkit_damo.engine.mlp import StackedMLP


class FlatNetworks(Networks):
    """`Networks` on StackedMLPs: one for the actor, one for the critics, one for the target critics."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        layers, self._squashing = tanh_gaussian_layers(policy.actor)
        self.actor = StackedMLP([layers])
        self.critics, self.old_critics = (StackedMLP([critic_layers(critic) for critic in critics]) for critics in (self.online, self.old))
        rebind(policy.actor_optim, self.actor.rows)
        owned = [self.critics.rows] if self.joint else [[row] for row in self.critics.rows]
        for optim, rows in zip(self.critic_optims, owned, strict=True):
            rebind(optim, rows)

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


def rebind(optim: torch.optim.Optimizer, rows: list[nn.Parameter]) -> None:
    """Let `optim` step these rows of a StackedMLP's block in place of the views it was made for."""
    groups: list[dict[str, Any]] = optim.param_groups
    if optim.state or len(groups) != 1:
        raise ValueError("an optimiser has stepped already, or has several parameter groups")
    if sum(p.numel() for p in groups[0]["params"]) != sum(row.numel() for row in rows):
        raise ValueError("an optimiser does not own exactly its network's parameters")
    groups[0]["params"] = rows
