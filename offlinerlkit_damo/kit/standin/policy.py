"""The policy interface, and soft actor-critic (Haarnoja et al. 2018)."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from offlinerlkit_damo.freezing import frozen

Batch = dict[str, Tensor]
Array = NDArray[Any]


class BasePolicy(nn.Module):
    """What the trainer needs of a policy."""

    def train(self) -> None:  # type: ignore[override]
        """Training mode; takes no argument."""
        raise NotImplementedError

    def eval(self) -> None:  # type: ignore[override]
        """Evaluation mode."""
        raise NotImplementedError

    def select_action(self, obs: Array, deterministic: bool = False) -> Array:
        """obs [B, d] -> actions [B, A]."""
        raise NotImplementedError

    def learn(self, batch: Any) -> dict[str, float]:
        """One gradient step; returns what to log."""
        raise NotImplementedError


class SoftPolicy(BasePolicy):
    """The actor's half of soft actor-critic, whatever the critics: actions, the actor's step, the temperature, the moving copies.

    A subclass registers its critics, names them in `_networks` and learns them.

    Args:
        actor: obs -> a distribution with `rsample`, `mode` and `log_prob` (see `TanhDiagGaussian`).
        actor_optim: its optimiser.
        tau: share by which the copies move towards the critics each step.
        gamma: discount.
        alpha: weight of the entropy; or (target entropy, log_alpha, its optimiser) to learn it.
    """

    _max_alpha = 1.0  # the kit's bound on the weight learned, not on the one begun with

    def __init__(
        self,
        actor: nn.Module,
        actor_optim: Optimizer,
        tau: float,
        gamma: float,
        alpha: float | tuple[float, Tensor, Optimizer],
    ) -> None:
        super().__init__()
        self.actor = actor
        self.actor_optim = actor_optim
        self._tau = tau
        self._gamma = gamma
        self._is_auto_alpha = isinstance(alpha, tuple)
        self._alpha: float | Tensor
        if isinstance(alpha, tuple):
            self._target_entropy, self._log_alpha, self.alpha_optim = alpha
            self._alpha = self._log_alpha.detach().exp()
        else:
            self._alpha = alpha

    def _networks(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The critics and their slowly moving copies, in the same order."""
        raise NotImplementedError

    def train(self) -> None:  # type: ignore[override]
        """Training mode for the actor and the critics, not for the copies."""
        for module in (self.actor, *self._networks()[0]):
            module.train()

    def eval(self) -> None:  # type: ignore[override]
        """Evaluation mode for the actor and the critics."""
        for module in (self.actor, *self._networks()[0]):
            module.eval()

    @torch.no_grad()
    def _sync_weight(self) -> None:
        """old <- (1 - tau) old + tau new, for every critic."""
        critics, copies = self._networks()
        old: list[Tensor] = [p for critic in copies for p in critic.parameters()]
        new: list[Tensor] = [p for critic in critics for p in critic.parameters()]
        torch._foreach_lerp_(old, new, self._tau)

    def actforward(self, obs: Array | Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """obs [B, d] -> squashed actions [B, A] and their log-probability [B, 1]."""
        dist = self.actor(obs)
        squashed, raw = dist.mode() if deterministic else dist.rsample()
        return squashed, dist.log_prob(squashed, raw)

    @torch.no_grad()
    def select_action(self, obs: Array, deterministic: bool = False) -> Array:
        """obs [B, d] (or [d]) -> actions float32 [B, A] (or [A])."""
        action, _ = self.actforward(obs, deterministic)
        return action.cpu().numpy()

    def _learn_actor(self, obss: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of the actor and of the temperature: loss/actor, and what the temperature logs (see `SACPolicy.learn`)."""
        critics, _ = self._networks()
        with frozen(*critics):
            action, log_prob = self.actforward(obss)
            q = torch.stack([critic(obss, action) for critic in critics]).amin(0)
            actor_loss = descend((self._alpha * log_prob - q).mean(), self.actor_optim)
        logged: dict[str, Tensor] = {}
        if self._is_auto_alpha:
            gap = log_prob.detach() + self._target_entropy
            logged["loss/alpha"] = descend(-(self._log_alpha * gap).mean(), self.alpha_optim)
            self._alpha = logged["alpha"] = self._log_alpha.detach().exp().clamp(0.0, self._max_alpha)
        return actor_loss, logged

    @torch.no_grad()
    def _next_value(self, next_obss: Tensor, *, entropy: bool = True, best_of: int = 1) -> Tensor:
        """V(s') [B, 1] = min_i Q_old_i(s', a') - alpha log pi(a'|s') with a' ~ pi(s'), the last term only with `entropy`.

        With `best_of` > 1, every copy is taken at the one of that many actions which it likes best, and entropy does not count.
        """
        obss = next_obss.repeat_interleave(best_of, 0)
        actions, log_prob = self.actforward(obss)
        q = torch.stack([critic(obss, actions).view(-1, best_of).amax(1, keepdim=True) for critic in self._networks()[1]]).amin(0)
        return q - self._alpha * log_prob if entropy and best_of == 1 else q


class SACPolicy(SoftPolicy):
    """Soft actor-critic with twin critics.

    Args:
        actor: obs -> a distribution with `rsample`, `mode` and `log_prob` (see `TanhDiagGaussian`).
        critic1, critic2: (obs, actions) -> Q [B, 1]; slowly moving copies are kept as critic1_old, critic2_old.
        actor_optim, critic1_optim, critic2_optim: their optimisers.
        tau: share by which the copies move towards the critics each step.
        gamma: discount.
        alpha: weight of the entropy; or (target entropy, log_alpha, its optimiser) to learn it.
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
        alpha: float | tuple[float, Tensor, Optimizer] = 0.2,
    ) -> None:
        super().__init__(actor, actor_optim, tau, gamma, alpha)
        self.critic1, self.critic1_old = critic1, deepcopy(critic1)
        self.critic2, self.critic2_old = critic2, deepcopy(critic2)
        self.critic1_old.eval()
        self.critic2_old.eval()
        self.critic1_optim = critic1_optim
        self.critic2_optim = critic2_optim

    def _networks(self) -> tuple[list[nn.Module], list[nn.Module]]:
        return [self.critic1, self.critic2], [self.critic1_old, self.critic2_old]

    def learn(self, batch: Batch) -> dict[str, float]:
        """One step of both critics, the actor, the temperature and the copies.

        y        = r + gamma (1 - terminal) [min_i Q_old_i(s', a') - alpha log pi(a'|s')],  a' ~ pi(s')
        loss/critic_i = mean (Q_i(s, a) - y)^2
        loss/actor    = mean [alpha log pi(a|s) - min_i Q_i(s, a)],  a ~ pi(s)
        loss/alpha    = -mean log_alpha (log pi(a|s) + target entropy)
        """
        obss, actions = batch["observations"], batch["actions"]
        target = self._target(batch)
        losses: dict[str, Tensor] = {}
        for name, critic, optim in (
            ("critic1", self.critic1, self.critic1_optim),
            ("critic2", self.critic2, self.critic2_optim),
        ):
            losses[f"loss/{name}"] = descend(F.mse_loss(critic(obss, actions), target), optim)
        actor_loss, temperature = self._learn_actor(obss)
        self._sync_weight()
        return {name: float(value) for name, value in {"loss/actor": actor_loss, **losses, **temperature}.items()}

    def _target(self, batch: Batch) -> Tensor:
        """The regression target of both critics, [B, 1]."""
        value = self._next_value(batch["next_observations"])
        target: Tensor = batch["rewards"] + self._gamma * (1 - batch["terminals"]) * value
        return target


def descend(loss: Tensor, optim: Optimizer) -> Tensor:
    """One step of `optim` down `loss`; returns the loss, detached."""
    optim.zero_grad()
    loss.backward()
    optim.step()
    return loss.detach()
