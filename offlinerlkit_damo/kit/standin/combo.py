"""COMBO (Yu et al. 2021): CQL on recorded and imagined transitions, pushed down on the imagined ones and up on the recorded ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from .cql import CQLPolicy
from .dynamics import EnsembleDynamics
from .mopo import imagine, joined
from .policy import Array, Batch

RHO_S = ("mix", "model")


class COMBOPolicy(CQLPolicy):
    """CQL on a mixture of recorded and imagined transitions.

    Args:
        dynamics: makes the imagined transitions; the others as for `CQLPolicy`.
        uniform_rollout: imagine with uniform actions instead of the policy's.
        rho_s: the states at which the critics are pushed down, "mix" for all of a batch or "model" for the imagined ones.

    Raises:
        ValueError: unknown rho_s.
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
        uniform_rollout: bool = False,
        rho_s: str = "mix",
        *,
        legacy_logsumexp: bool = False,
    ) -> None:
        if rho_s not in RHO_S:
            raise ValueError(f"rho_s {rho_s!r} is not one of {', '.join(RHO_S)}")
        super().__init__(
            actor,
            critic1,
            critic2,
            actor_optim,
            critic1_optim,
            critic2_optim,
            action_space,
            tau,
            gamma,
            alpha,
            cql_weight,
            temperature,
            max_q_backup,
            deterministic_backup,
            with_lagrange,
            lagrange_threshold,
            cql_alpha_lr,
            num_repeart_actions,
            legacy_logsumexp=legacy_logsumexp,
        )
        self.dynamics = dynamics
        self._uniform_rollout = uniform_rollout
        self._rho_s = rho_s

    def rollout(self, init_obss: Array, rollout_length: int) -> tuple[dict[str, Array], dict[str, float]]:
        """`imagine` with actions of the policy, or uniform ones (numpy's global generator)."""
        act = self._uniform_actions if self._uniform_rollout else self.select_action
        return imagine(self.dynamics, act, init_obss, rollout_length)

    def _uniform_actions(self, obss: Array) -> Array:
        low, high = self.action_space.low, self.action_space.high
        return np.random.uniform(low, high, size=(len(obss), low.size)).astype(np.float32)

    def learn(self, batch: dict[str, Batch]) -> dict[str, float]:  # type: ignore[override]
        """`CQLPolicy.learn` on {"real": batch, "fake": batch} (COMBO, eq. 2).

        The squared error is over both; in R_i, s is of the states of rho_s, and (s, a_data) of the recorded rows.
        """
        mix = joined(batch)
        pushed = mix if self._rho_s == "mix" else batch["fake"]
        return self._learn_conservatively(mix, pushed, len(batch["real"]["rewards"]))
