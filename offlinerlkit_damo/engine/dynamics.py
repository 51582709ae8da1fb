"""RoutedDynamics: each row of a rollout visits only the elite that it is predicted by."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from offlinerlkit_damo.kit import EnsembleDynamics


class RoutedDynamics(EnsembleDynamics):
    """The host's dynamics with `step` routed: rows are dealt at random and evenly to the elites, one forward pass each.

    The host evaluates all members on all rows and then picks one elite per row; without an uncertainty penalty the rest is thrown away.
    Every row's elite is uniform here too; only the group sizes, multinomial there, are equal. With a penalty the host's step is used.
    """

    @torch.no_grad()
    def step(self, obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """obs [B, d], action [B, a] -> next_obs f32 [B, d], reward f32 [B, 1], terminal bool [B, 1], {"raw_reward"}."""
        if self._penalty_coef:
            result: tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]] = super().step(obs, action)
            return result
        # not the elites' own device: the host's set_elites leaves them on the CPU
        device = self.model.max_logvar.device
        elites = self.model.elites.long().to(device)
        rows, count = len(obs), len(elites)
        order = np.random.permutation(rows)
        padded = np.resize(order, -(-rows // count) * count)
        inputs = self.scaler.transform(np.concatenate([obs, action], -1))[padded]
        x = torch.as_tensor(inputs, dtype=torch.float32, device=device).reshape(count, -1, inputs.shape[-1])
        mean, logvar = self._members(x, elites)
        sample = (mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)).reshape(-1, mean.shape[-1]).cpu().numpy()
        outputs = np.empty((rows, sample.shape[-1]), np.float32)
        outputs[order] = sample[:rows]
        next_obs, reward = obs + outputs[:, :-1], outputs[:, -1:]
        terminal = self.terminal_fn(obs, action, next_obs)
        return next_obs.astype(np.float32), reward, terminal, {"raw_reward": reward}

    def _members(self, x: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance [M, n, d + 1] of the given members, each on its own rows x [M, n, d + a]."""
        model: Any = self.model
        for layer in model.backbones:
            x = functional.silu(torch.baddbmm(layer.bias[members], x, layer.weight[members]), inplace=True)
        out = model.output_layer
        mean, logvar = torch.baddbmm(out.bias[members], x, out.weight[members]).chunk(2, -1)
        logvar = model.max_logvar - functional.softplus(model.max_logvar - logvar)
        return mean, model.min_logvar + functional.softplus(logvar - model.min_logvar)
