"""AlgaeDICEPolicy: policy gradient from arbitrary experience (Nachum et al. 2019, arXiv 1912.02074)."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from offlinerlkit_damo.damo import objective
from offlinerlkit_damo.damo.divergences import get_divergence
from offlinerlkit_damo.dice import losses
from offlinerlkit_damo.dice.config import AlgaeDICEConfig
from offlinerlkit_damo.dice.policy import DICEPolicy, Rows, Temperature, check_tau, descend, follow, numbers, stack
from offlinerlkit_damo.freezing import frozen


class AlgaeDICEPolicy(DICEPolicy):
    """max_pi min_Q (1 - gamma) E[Q(s0, pi)] + alpha E_D[f*((r + gamma m (Q(s', pi) - lambda log pi) - Q(s, a)) / alpha)].

    f*(y) = |y|^1.5 / 1.5. Twin critics, each with its own loss. DAMO's objective on the dataset alone, without its data alignment.

    Args:
        critic1, critic2: (obs, actions) -> Q [B, 1]; slowly moving copies are kept as critic1_old, critic2_old.
        critic1_optim, critic2_optim: their optimisers.
        tau: share by which the copies move towards the critics at each of the actor's steps.
        config: the method's options; the other arguments are DICEPolicy's.

    Raises:
        ValueError: gamma outside (0, 1), tau outside (0, 1], a reward scale or shift that is not finite.
    """

    def __init__(
        self,
        actor: nn.Module,
        critic1: nn.Module,
        critic2: nn.Module,
        actor_optim: Optimizer,
        critic1_optim: Optimizer,
        critic2_optim: Optimizer,
        tau: float = 0.005,
        gamma: float = 0.99,
        alpha: Temperature = 0.2,
        *,
        config: AlgaeDICEConfig | None = None,
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
    ) -> None:
        super().__init__(actor, actor_optim, gamma, alpha, reward_scale=reward_scale, reward_shift=reward_shift)
        check_tau(tau)
        self.config = config if config is not None else AlgaeDICEConfig()
        self.divergence = get_divergence("power")
        self.critic1, self.critic1_old = critic1, deepcopy(critic1).requires_grad_(False).eval()
        self.critic2, self.critic2_old = critic2, deepcopy(critic2).requires_grad_(False).eval()
        self.critic1_optim, self.critic2_optim = critic1_optim, critic2_optim
        self._tau = tau

    def learn(self, batch: dict[str, Any]) -> dict[str, float]:
        """One step of the critics and, every `algae_actor_every` of them, of actor, temperature and copies (docs/dice.md: the figures).

        Args:
            batch: {"real": rows, "init": initial observations [B0, d]} or a host batch; "fake" rows are not used.

        Raises:
            ValueError: a batch that lacks a column or has a wrong shape.
        """
        rows = self._read(batch)
        figures: dict[str, Tensor] = {}
        self._learn_critics(rows, figures)
        if self._count() % self.config.algae_actor_every == 0:
            log_prob = self._learn_actor(rows, figures)
            self._learn_temperature(log_prob, figures)
            follow((self.critic1_old, self.critic2_old), (self.critic1, self.critic2), self._tau)
        return numbers(figures)

    def _learn_critics(self, rows: Rows, figures: dict[str, Tensor]) -> None:
        alpha, init_coef = self.config.algae_alpha, 1 - self._gamma
        with torch.no_grad():
            sample = self._act(rows)
        phi, q, init_q, _ = self._residuals(rows, *sample)
        loss = objective.critic_loss(self.divergence.conjugate, phi, init_q, alpha=alpha, init_coef=init_coef)
        descend(loss.sum(), self.critic1_optim, self.critic2_optim)
        weights = self.divergence.weight(phi.detach() / alpha)
        figures["loss/critic1"], figures["loss/critic2"] = loss
        figures["algaedice/q_batch"], figures["algaedice/q_init"], figures["algaedice/phi"] = q, init_q, phi
        figures["algaedice/weight"] = weights
        figures["algaedice/shift_residual"] = objective.shift_residual(
            weights, rows.discounts, next_share=self.config.algae_mix, init_coef=init_coef
        )

    def _learn_actor(self, rows: Rows, figures: dict[str, Tensor]) -> Tensor:
        """Ascend the critics' objective; returns log pi(a'|s') [B]."""
        init_actions, next_actions, log_prob = self._act(rows)
        with frozen(self.critic1, self.critic2):
            phi, _, init_q, next_q = self._residuals(rows, init_actions, next_actions, log_prob)
        weights = self.divergence.actor_weight(phi.detach() / self.config.algae_alpha)
        loss = objective.actor_loss(weights, rows.discounts, next_q, init_q, init_coef=1 - self._gamma).mean()
        descend(loss, self.actor_optim)
        figures["loss/actor"] = loss
        figures["algaedice/effective_sample_size"] = objective.effective_sample_size(weights)
        return log_prob

    def _act(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """a0 ~ pi(s0) [B0, a], a' ~ pi(s') [B, a] and log pi(a'|s') [B]."""
        num_init = len(rows.init_obss)
        actions, log_prob = self.actforward(torch.cat([rows.init_obss, rows.next_obss]))
        return actions[:num_init], actions[num_init:], log_prob[num_init:].squeeze(-1)

    def _residuals(
        self, rows: Rows, init_actions: Tensor, next_actions: Tensor, log_prob: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Phi [E, B], Q(s, a) [E, B], Q(s0, a0) [E, B0] and the next value, mixed and soft [E, B]."""
        online, targets = (self.critic1, self.critic2), (self.critic1_old, self.critic2_old)
        sizes = [len(rows.obss), len(rows.init_obss), len(rows.next_obss)]
        obss = torch.cat([rows.obss, rows.init_obss, rows.next_obss])
        q, init_q, online_q = stack(online, obss, torch.cat([rows.actions, init_actions, next_actions])).split(sizes, -1)
        target_q = stack(targets, rows.next_obss, next_actions)
        next_q = losses.mixed_next_q(online_q, target_q, share=self.config.algae_mix) - self.alpha * log_prob
        return objective.bellman_residual(rows.rewards, rows.discounts, next_q, q), q, init_q, next_q
