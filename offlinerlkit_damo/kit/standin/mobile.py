"""MOBILE (Sun et al. 2023, "Model-Bellman Inconsistency"): a penalty where the models' Bellman targets disagree."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .dynamics import EnsembleDynamics
from .mopo import imagine, joined
from .policy import Array, Batch, SoftPolicy, descend

BACKUP_ACTIONS = 10  # a' drawn per next state by max_q_backup


class MOBILEPolicy(SoftPolicy):
    """Soft actor-critic on a mixture of recorded and imagined transitions, these penalised by `compute_lcb`.

    Args:
        dynamics: makes the imagined transitions and, by `sample_next_obss`, the next states that every elite member expects.
        actor: obs -> a distribution (see `TanhDiagGaussian`).
        critics: K critics, (obs, actions) -> Q [B, 1]; slowly moving copies are kept as critics_old.
        actor_optim, critics_optim: their optimisers.
        tau, gamma, alpha: as for `SACPolicy`.
        penalty_coef: beta, the weight of the penalty.
        num_samples: next states drawn from each elite member for the penalty.
        deterministic_backup: leave the entropy out of the target.
        max_q_backup: value a next state by the best of ten actions.
        target_floor: no target falls below it; None for no floor. 0.0 is the kit's, right only where no reward is negative.
    """

    def __init__(
        self,
        dynamics: EnsembleDynamics,
        actor: nn.Module,
        critics: nn.ModuleList,
        actor_optim: Optimizer,
        critics_optim: Optimizer,
        tau: float = 0.005,
        gamma: float = 0.99,
        alpha: float | tuple[float, Tensor, Optimizer] = 0.2,
        penalty_coef: float = 1.0,
        num_samples: int = 10,
        deterministic_backup: bool = False,
        max_q_backup: bool = False,
        *,
        target_floor: float | None = None,
    ) -> None:
        super().__init__(actor, actor_optim, tau, gamma, alpha)
        self.dynamics = dynamics
        self.critics, self.critics_old = critics, deepcopy(critics)
        self.critics_old.eval()
        self.critics_optim = critics_optim
        self._penalty_coef = penalty_coef
        self._num_samples = num_samples
        self._deterministic_backup = deterministic_backup
        self._max_q_backup = max_q_backup
        self._target_floor = target_floor

    def _networks(self) -> tuple[list[nn.Module], list[nn.Module]]:
        return list(self.critics), list(self.critics_old)

    def rollout(self, init_obss: Array, rollout_length: int) -> tuple[dict[str, Array], dict[str, float]]:
        """`imagine` with actions of the policy."""
        return imagine(self.dynamics, self.select_action, init_obss, rollout_length)

    @torch.no_grad()
    def compute_lcb(self, obss: Tensor, actions: Tensor) -> Tensor:
        """The Model-Bellman inconsistency of obss [B, d], actions [B, A]: U [B, 1], not negative.

        U(s, a) = std_i mean_{s'~T_i(s, a)} min_k Q_old_k(s', a'),  a' ~ pi(s')

        over the elite members i (with Bessel's correction) and `num_samples` draws of s'. It is the spread of the members'
        Bellman targets but for their common reward and a factor gamma, which penalty_coef absorbs.
        """
        samples = self.dynamics.sample_next_obss(obss, actions, self._num_samples)  # [samples, elites, B, d]
        value = self._next_value(samples.flatten(0, 2), entropy=False)
        return value.view(*samples.shape[:3], 1).mean(0).std(0)

    def learn(self, batch: dict[str, Batch]) -> dict[str, float]:
        """One step of the critics, the actor, the temperature and the copies on {"real": batch, "fake": batch}.

        y           = r - penalty_coef U(s, a) + gamma (1 - terminal) V(s'), not below target_floor; U = 0 on recorded rows
        loss/critic = mean over critics and rows of (Q_k(s, a) - y)^2
        and loss/actor, loss/alpha and alpha as in `SACPolicy.learn`, with the smallest of all K critics.
        """
        mix = joined(batch)
        target = self._target(mix, len(batch["real"]["rewards"]))
        q = torch.stack([critic(mix["observations"], mix["actions"]) for critic in self.critics])
        critic_loss = descend((q - target).square().mean(), self.critics_optim)
        actor_loss, temperature = self._learn_actor(mix["observations"])
        self._sync_weight()
        losses = {"loss/actor": actor_loss, "loss/critic": critic_loss, **temperature}
        return {name: float(value) for name, value in losses.items()}

    @torch.no_grad()
    def _target(self, mix: Batch, recorded: int) -> Tensor:
        """The regression target of all critics, [B, 1]; the first `recorded` rows carry no penalty."""
        penalty = self.compute_lcb(mix["observations"], mix["actions"])
        penalty[:recorded] = 0
        best_of = BACKUP_ACTIONS if self._max_q_backup else 1
        value = self._next_value(mix["next_observations"], entropy=not self._deterministic_backup, best_of=best_of)
        target: Tensor = mix["rewards"] - self._penalty_coef * penalty + self._gamma * (1 - mix["terminals"]) * value
        return target if self._target_floor is None else target.clamp(min=self._target_floor)
