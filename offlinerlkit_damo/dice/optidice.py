"""OptiDICEPolicy: offline policy optimisation by stationary distribution correction (Lee et al. 2021, arXiv 2106.10783)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from offlinerlkit_damo.damo import objective
from offlinerlkit_damo.damo.divergences import get_divergence
from offlinerlkit_damo.dice import losses
from offlinerlkit_damo.dice.config import OptiDICEConfig
from offlinerlkit_damo.dice.policy import DICEPolicy, Rows, Temperature, descend, numbers, stack
from offlinerlkit_damo.freezing import frozen


class OptiDICEPolicy(DICEPolicy):
    """max_d E_d[r] - alpha D_f(d || d_D) over occupancies d, solved for the ratio w = d / d_D; the actor is extracted from w.

    nu minimises (1 - gamma) E[nu(s0)] + alpha E_D[f*((e - mu) / alpha)] + mu with e = r + gamma m nu(s') - nu(s); an advantage network
    learns E[e | s, a], because w must not depend on the next state that was drawn; the actor clones with w, or projects on it.

    Args:
        nu: obs -> nu [B, 1] (the kit's Critic without actions).
        advantage: (obs, actions) -> e [B, 1] (the kit's Critic).
        nu_optim, advantage_optim: their optimisers; the multiplier mu has its own.
        alpha: the entropy temperature of the actor's loss, fixed or learned; `config.optidice_alpha` is the paper's alpha.
        behavior_actor: an actor that clones the data, needed by the information projection alone.
        behavior_actor_optim: its optimiser.
        config: the method's options; the other arguments are DICEPolicy's.

    Raises:
        ValueError: the information projection without a behaviour actor and its optimiser (or they without it), gamma outside (0, 1),
            a reward scale or shift that is not finite.
    """

    def __init__(
        self,
        actor: nn.Module,
        nu: nn.Module,
        advantage: nn.Module,
        actor_optim: Optimizer,
        nu_optim: Optimizer,
        advantage_optim: Optimizer,
        gamma: float = 0.99,
        alpha: Temperature = 0.2,
        *,
        behavior_actor: nn.Module | None = None,
        behavior_actor_optim: Optimizer | None = None,
        config: OptiDICEConfig | None = None,
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
    ) -> None:
        super().__init__(actor, actor_optim, gamma, alpha, reward_scale=reward_scale, reward_shift=reward_shift)
        self.config = config if config is not None else OptiDICEConfig()
        projects = self.config.optidice_extraction == "projection"
        if projects != (behavior_actor is not None) or projects != (behavior_actor_optim is not None):
            raise ValueError(
                "optidice_extraction 'projection' needs behavior_actor and behavior_actor_optim, 'cloning' takes neither; "
                f"it is {self.config.optidice_extraction!r}"
            )
        self.divergence = get_divergence(self.config.optidice_divergence)
        self.nu, self.advantage, self.behavior_actor = nu, advantage, behavior_actor
        self.nu_optim, self.advantage_optim, self.behavior_actor_optim = nu_optim, advantage_optim, behavior_actor_optim
        first = next(nu.parameters())
        self.multiplier = nn.Parameter(first.new_zeros(()), requires_grad=self.config.optidice_normalize)
        self.multiplier_optim = Adam([self.multiplier], lr=self.config.optidice_multiplier_lr)

    def learn(self, batch: dict[str, Any]) -> dict[str, float]:
        """One step of nu, multiplier, advantage and behaviour actor and, past the warm-up, of actor and temperature (docs/dice.md).

        Args:
            batch: {"real": rows, "init": initial observations [B0, d]} or a host batch; "fake" rows are not used.

        Raises:
            ValueError: a batch that lacks a column or has a wrong shape.
        """
        rows = self._read(batch)
        figures: dict[str, Tensor] = {}
        residuals = self._learn_nu(rows, figures)
        weights = self._learn_advantage(rows, residuals, figures)
        if self.behavior_actor is not None and self.behavior_actor_optim is not None:
            loss = losses.cloning_loss(self._cloned_log_prob(self.behavior_actor, rows))
            descend(loss, self.behavior_actor_optim)
            figures["loss/behavior_actor"] = loss
        if self._count() > self.config.optidice_warmup_steps:
            log_prob = self._learn_actor(rows, weights, figures)
            self._learn_temperature(log_prob, figures)
        return numbers(figures)

    def _learn_nu(self, rows: Rows, figures: dict[str, Tensor]) -> Tensor:
        """Minimise the dual in nu and the multiplier; returns e [B], detached."""
        sizes = [len(rows.obss), len(rows.next_obss), len(rows.init_obss)]
        nu, next_nu, init_nu = stack((self.nu,), torch.cat([rows.obss, rows.next_obss, rows.init_obss]))[0].split(sizes)
        residuals = objective.bellman_residual(rows.rewards, rows.discounts, next_nu, nu)
        alpha, init_coef = self.config.optidice_alpha, 1 - self._gamma
        loss = losses.nu_loss(self.divergence.conjugate, residuals, init_nu, self.multiplier, alpha=alpha, init_coef=init_coef)
        figures["optidice/multiplier"] = self.multiplier.detach().clone()
        optims = (self.nu_optim, self.multiplier_optim) if self.config.optidice_normalize else (self.nu_optim,)
        descend(loss, *optims)
        figures["loss/nu"], figures["optidice/nu_batch"], figures["optidice/nu_init"] = loss, nu, init_nu
        figures["optidice/residual"] = residuals
        return residuals.detach()

    def _learn_advantage(self, rows: Rows, residuals: Tensor, figures: dict[str, Tensor]) -> Tensor:
        """Regress e on (s, a); returns the ratio w(s, a) [B] of the data's pairs, detached."""
        advantages = self.advantage(rows.obss, rows.actions).squeeze(-1)
        loss = objective.td_loss(residuals - advantages)
        descend(loss, self.advantage_optim)
        weights = self.divergence.weight(self._preactivation(advantages.detach()))
        figures["loss/advantage"], figures["optidice/weight"] = loss, weights
        figures["optidice/effective_sample_size"] = objective.effective_sample_size(weights)
        return weights

    def _learn_actor(self, rows: Rows, weights: Tensor, figures: dict[str, Tensor]) -> Tensor:
        """Extract the policy from the ratio; returns log pi(a|s) [B] of its own actions."""
        dist = self.actor(rows.obss)
        actions, raw = dist.rsample()
        log_prob: Tensor = dist.log_prob(actions, raw).squeeze(-1)
        if self.behavior_actor is None:
            loss = losses.cloning_loss(self._cloned_log_prob(self.actor, rows), weights)
        else:
            with frozen(self.advantage, self.behavior_actor):
                advantages = self.advantage(rows.obss, actions).squeeze(-1)
                behavior_log_prob = self.behavior_actor(rows.obss).log_prob(actions, raw).squeeze(-1)
            log_weights = losses.log_weight(self.divergence, self._preactivation(advantages))
            loss = losses.projection_loss(log_prob, behavior_log_prob, log_weights)
            figures["optidice/behavior_kl"] = log_prob - behavior_log_prob
        loss = loss + self.alpha * log_prob.mean()
        descend(loss, self.actor_optim)
        figures["loss/actor"] = loss
        return log_prob

    def _preactivation(self, advantages: Tensor) -> Tensor:
        """(e - mu) / alpha, what f*' takes."""
        return (advantages - self.multiplier.detach()) / self.config.optidice_alpha
