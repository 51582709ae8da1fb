"""The learned dynamics: training (MBPO: Janner et al. 2019) and the penalised step (MOPO: Yu et al. 2020)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offlinerlkit_damo.files import save_torch

from .dynamics_model import EnsembleDynamicsModel
from .dynamics_training import DynamicsTraining
from .scaler import StandardScaler

Array = NDArray[Any]
UNCERTAINTY_MODES = ("aleatoric", "pairwise-diff", "ensemble_std")


class EnsembleDynamics(DynamicsTraining):
    """A model, its optimiser and the scaler of its inputs.

    Args:
        model: the network.
        optim: its optimiser.
        scaler: of the inputs (obs, action); fitted by `train`.
        terminal_fn: (obs, act, next_obs) -> bool [B, 1].
        penalty_coef: reward = raw reward - penalty_coef * penalty; 0 for none.
        uncertainty_mode: the penalty, see `_penalty`.
    """

    def __init__(
        self,
        model: EnsembleDynamicsModel,
        optim: torch.optim.Optimizer,
        scaler: StandardScaler,
        terminal_fn: Callable[[Array, Array, Array], Array],
        penalty_coef: float = 0.0,
        uncertainty_mode: str = "aleatoric",
    ) -> None:
        if uncertainty_mode not in UNCERTAINTY_MODES:
            raise ValueError(f"uncertainty_mode {uncertainty_mode!r} is not one of {', '.join(UNCERTAINTY_MODES)}")
        super().__init__(model, optim, scaler)
        self.terminal_fn = terminal_fn
        self._penalty_coef = penalty_coef
        self._uncertainty_mode = uncertainty_mode

    @torch.no_grad()
    def step(self, obs: Array, action: Array) -> tuple[Array, Array, Array, dict[str, Array]]:
        """One imagined step of each row, by an elite member drawn for that row.

        Args:
            obs: [B, d].
            action: [B, A].

        Returns:
            next_obs float32 [B, d], reward float32 [B, 1], terminal bool [B, 1], and an info with raw_reward and, where
            there is one, penalty, both [B, 1].
        """
        obs, action = obs.astype(np.float32, copy=False), action.astype(np.float32, copy=False)
        inputs = torch.as_tensor(self.scaler.transform(np.concatenate([obs, action], axis=-1)), dtype=torch.float32)
        inputs = inputs.to(self.model.device)
        member = torch.as_tensor(self.model.random_elite_idxs(len(obs)), device=inputs.device)
        mean, logvar = self.model(inputs)
        std, rows = torch.exp(0.5 * logvar), torch.arange(len(inputs), device=inputs.device)
        sample = (mean[member, rows] + std[member, rows] * torch.randn_like(mean[0])).cpu().numpy()
        next_obs, raw_reward = obs + sample[:, : obs.shape[1]], sample[:, -1:]
        terminal = self.terminal_fn(obs, action, next_obs)
        info = {"raw_reward": raw_reward}
        reward = raw_reward
        if self._penalty_coef:
            info["penalty"] = self._penalty(mean, std).cpu().numpy()
            reward = (raw_reward - self._penalty_coef * info["penalty"]).astype(np.float32, copy=False)
        return next_obs, reward, terminal, info

    def _penalty(self, mean: Tensor, std: Tensor) -> Tensor:
        """[E, B, outputs] -> [B, 1].

        aleatoric: the largest |std| of any member. pairwise-diff: the largest distance of a member's predicted
        observation from the ensemble's mean. ensemble_std: the deviation of those predictions.
        """
        state = mean[..., :-1]
        if self._uncertainty_mode == "aleatoric":
            penalty: Tensor = torch.linalg.vector_norm(std, dim=-1, keepdim=True).amax(0)
        elif self._uncertainty_mode == "pairwise-diff":
            penalty = torch.linalg.vector_norm(state - state.mean(0), dim=-1, keepdim=True).amax(0)
        else:
            penalty = state.var(0, correction=0).mean(-1, keepdim=True).sqrt()
        return penalty

    @torch.no_grad()
    def sample_next_obss(self, obs: Tensor, action: Tensor, num_samples: int) -> Tensor:
        """obs [B, d], action [B, A] -> `num_samples` next observations by every elite, [num_samples, elites, B, d]."""
        inputs = self.scaler.transform_tensor(torch.cat([obs, action], dim=-1))
        mean, logvar = self.model(inputs, self.model.elites.tolist())
        mean, std = mean[..., : obs.shape[-1]], torch.exp(0.5 * logvar[..., : obs.shape[-1]])
        noise = torch.randn(num_samples, *mean.shape, device=mean.device)
        samples: Tensor = obs + mean + std * noise
        return samples

    def save(self, save_path: str | os.PathLike[str]) -> None:
        """Write dynamics.pth, mu.npy and std.npy into the folder `save_path`."""
        save_torch(self.model.state_dict(), Path(save_path) / "dynamics.pth")
        self.scaler.save_scaler(save_path)

    def load(self, load_path: str | os.PathLike[str]) -> None:
        """Read what `save` wrote."""
        state = torch.load(Path(load_path) / "dynamics.pth", map_location=self.model.device, weights_only=True)
        self.model.load_state_dict(state)
        self.scaler.load_scaler(load_path)
