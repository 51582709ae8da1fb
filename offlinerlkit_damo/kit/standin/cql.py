"""CQL (Kumar et al. 2020): soft actor-critic whose critics are pushed down wherever they are large and up on the data."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from .policy import Batch, SACPolicy, descend

MAX_MULTIPLIER = 1e6  # bound of the learned multiplier


class CQLPolicy(SACPolicy):
    """SAC with the conservative term CQL(H), estimated with actions of the policy and uniform ones.

    Args:
        actor, critic1, critic2, actor_optim, critic1_optim, critic2_optim, tau, gamma, alpha: as for `SACPolicy`.
        action_space: a box; its `low` and `high`, [A] each, bound the uniform actions.
        cql_weight: the weight of the conservative term.
        temperature: of its soft maximum; smaller is harder.
        max_q_backup: value a next state by the best of num_repeart_actions actions.
        deterministic_backup: leave the entropy out of the target.
        with_lagrange: learn a multiplier that holds the conservative term at lagrange_threshold.
        cql_alpha_lr: the multiplier's learning rate.
        num_repeart_actions: n, the actions per state of each of the three kinds.
        legacy_logsumexp: the kit's term, the mean of n soft maxima over one action of each kind; False takes one over all 3n.
    """

    _max_alpha = math.inf  # the kit's CQL has no bound

    def __init__(
        self,
        actor: nn.Module,
        critic1: nn.Module,
        critic2: nn.Module,
        actor_optim: Optimizer,
        critic1_optim: Optimizer,
        critic2_optim: Optimizer,
        action_space: Any,
        tau: float = 0.005,
        gamma: float = 0.99,
        alpha: float | tuple[float, Tensor, Optimizer] = 0.2,
        cql_weight: float = 1.0,
        temperature: float = 1.0,
        max_q_backup: bool = False,
        deterministic_backup: bool = True,
        with_lagrange: bool = True,
        lagrange_threshold: float = 10.0,
        cql_alpha_lr: float = 1e-4,
        num_repeart_actions: int = 10,
        *,
        legacy_logsumexp: bool = False,
    ) -> None:
        super().__init__(actor, critic1, critic2, actor_optim, critic1_optim, critic2_optim, tau, gamma, alpha)
        self.action_space = action_space
        self._cql_weight = cql_weight
        self._temperature = temperature
        self._max_q_backup = max_q_backup
        self._deterministic_backup = deterministic_backup
        self._with_lagrange = with_lagrange
        self._lagrange_threshold = lagrange_threshold
        self._num_repeat_actions = num_repeart_actions
        self._legacy_logsumexp = legacy_logsumexp
        device = next(critic1.parameters()).device
        self.cql_log_alpha = torch.zeros(1, requires_grad=True, device=device)
        self.cql_alpha_optim = Adam([self.cql_log_alpha], lr=cql_alpha_lr)

    def learn(self, batch: Batch) -> dict[str, float]:
        """One step of the actor, the temperature, the critics, the multiplier and the copies.

        R_i           = w mean_s [t log sum_a exp(Q_i(s, a) / t) / p(a) - Q_i(s, a_data)],  w = cql_weight, t = temperature
        loss/critic_i = mean (Q_i(s, a) - y)^2 + R_i;  with_lagrange: + cql_alpha (R_i - lagrange_threshold) instead
        loss/cql_alpha = -cql_alpha mean_i (R_i - lagrange_threshold)
        y and the others as in `SACPolicy.learn`, the sum as in `_conservative`.
        """
        return self._learn_conservatively(batch, batch, len(batch["rewards"]))

    def _learn_conservatively(self, batch: Batch, pushed: Batch, recorded: int) -> dict[str, float]:
        """`learn`, the critics pushed down at the states of `pushed` and up on the first `recorded` rows of `batch`."""
        obss, actions = batch["observations"], batch["actions"]
        actor_loss, temperature = self._learn_actor(obss)
        target = self._target(batch)
        values = [critic(obss, actions) for critic in (self.critic1, self.critic2)]
        softmax = self._soft_maxima(pushed)
        losses = [F.mse_loss(q, target) for q in values]
        gaps = [self._cql_weight * (high - q[:recorded].mean()) for high, q in zip(softmax, values, strict=True)]
        multiplier: dict[str, Tensor] = {}
        if self._with_lagrange:
            multiplier = self._learn_multiplier(gaps)
            gaps = [multiplier["cql_alpha"] * (gap - self._lagrange_threshold) for gap in gaps]
        critic_losses = {
            f"loss/critic{i}": descend(loss + gap, optim)
            for i, loss, gap, optim in zip((1, 2), losses, gaps, (self.critic1_optim, self.critic2_optim), strict=True)
        }
        self._sync_weight()
        logged = {"loss/actor": actor_loss, **critic_losses, **temperature, **multiplier}
        return {name: float(value) for name, value in logged.items()}

    def _target(self, batch: Batch) -> Tensor:
        """The regression target of both critics, [B, 1]."""
        best_of = self._num_repeat_actions if self._max_q_backup else 1
        value = self._next_value(batch["next_observations"], entropy=not self._deterministic_backup, best_of=best_of)
        target: Tensor = batch["rewards"] + self._gamma * (1 - batch["terminals"]) * value
        return target

    def _soft_maxima(self, batch: Batch) -> list[Tensor]:
        """mean_s t log sum_a exp((Q_i(s, a) - log p(a)) / t) of both critics, two scalars (CQL, appendix F).

        The sum is over n uniform actions, n of pi(s) and n of pi(s'), each with its own density p.
        """
        obss, next_obss = batch["observations"], batch["next_observations"]
        repeated, actions, log_p = self._candidates(obss, next_obss)
        n, t = self._num_repeat_actions, self._temperature
        maxima = []
        for critic in (self.critic1, self.critic2):
            corrected = (critic(repeated, actions) - log_p).view(3, len(obss), n) / t
            # legacy: [B, n] soft maxima over 3 values; else [B] over 3n
            maxima.append(t * torch.logsumexp(corrected, dim=0 if self._legacy_logsumexp else (0, 2)).mean())
        return maxima

    @torch.no_grad()
    def _candidates(self, obss: Tensor, next_obss: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """n actions of each kind (uniform, pi(s), pi(s')) for every state s: s [3Bn, d], actions [3Bn, A], log densities [3Bn, 1]."""
        n = self._num_repeat_actions
        space = self.action_space
        low, high = (torch.as_tensor(bound, device=obss.device, dtype=obss.dtype) for bound in (space.low, space.high))
        uniform = low + (high - low) * torch.rand(len(obss) * n, low.numel(), device=obss.device)
        density = (-(high - low).log().sum()).expand(len(uniform), 1)
        here, following = (x.repeat_interleave(n, 0) for x in (obss, next_obss))
        (now, log_now), (then, log_then) = self.actforward(here), self.actforward(following)
        return here.repeat(3, 1), torch.cat([uniform, now, then]), torch.cat([density, log_now, log_then])

    def _learn_multiplier(self, gaps: list[Tensor]) -> dict[str, Tensor]:
        """One step of the multiplier up where the gaps exceed the threshold; what to log, its value before the step included."""
        excess = torch.stack([gap.detach() for gap in gaps]).mean() - self._lagrange_threshold
        multiplier = self.cql_log_alpha.exp().clamp(max=MAX_MULTIPLIER)
        return {"loss/cql_alpha": descend(-(multiplier * excess).sum(), self.cql_alpha_optim), "cql_alpha": multiplier.detach()}
