"""MOPO (Yu et al. 2020): soft actor-critic on recorded and on imagined, penalised transitions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .dynamics import EnsembleDynamics
from .policy import Array, Batch, SACPolicy


class MOPOPolicy(SACPolicy):
    """SAC on a mixture of recorded transitions and of imagined ones whose reward the dynamics penalises.

    Args:
        dynamics: makes the imagined transitions, see `EnsembleDynamics.step`; the others as for `SACPolicy`.
    """

    def __init__(
        self,
        dynamics: EnsembleDynamics,
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
        super().__init__(actor, critic1, critic2, actor_optim, critic1_optim, critic2_optim, tau, gamma, alpha)
        self.dynamics = dynamics

    def rollout(self, init_obss: Array, rollout_length: int) -> tuple[dict[str, Array], dict[str, float]]:
        """`imagine` with actions of the policy."""
        return imagine(self.dynamics, self.select_action, init_obss, rollout_length)

    def learn(self, batch: dict[str, Batch]) -> dict[str, float]:  # type: ignore[override]
        """`SACPolicy.learn` on {"real": batch, "fake": batch}, concatenated."""
        return super().learn(joined(batch))


def imagine(
    dynamics: EnsembleDynamics, act: Callable[[Array], Array], init_obss: Array, rollout_length: int
) -> tuple[dict[str, Array], dict[str, float]]:
    """Imagine up to `rollout_length` steps from init_obss [B, d] with actions act(obs); only the rows still alive go on.

    Returns:
        obss, next_obss, actions, rewards [n, 1] and terminals [n, 1] of all steps in turn, and an info with
        num_transitions (n) and reward_mean.
    """
    steps: list[tuple[Array, Array, Array, Array, Array]] = []
    obss = init_obss
    for _ in range(rollout_length):
        actions = act(obss)
        next_obss, rewards, terminals, _ = dynamics.step(obss, actions)
        steps.append((obss, next_obss, actions, rewards, terminals))
        obss = next_obss[~terminals.reshape(-1)]
        if len(obss) == 0:
            break
    names = ("obss", "next_obss", "actions", "rewards", "terminals")
    columns = zip(*steps, strict=True)
    transitions = {name: np.concatenate(column) for name, column in zip(names, columns, strict=True)}
    rewards = transitions["rewards"]
    return transitions, {"num_transitions": len(rewards), "reward_mean": float(rewards.mean(dtype=np.float64))}


def joined(batch: dict[str, Batch]) -> Batch:
    """{"real": batch, "fake": batch} -> one batch, the recorded rows first."""
    real, fake = batch["real"], batch["fake"]
    return {key: torch.cat([real[key], fake[key]]) for key in real}
