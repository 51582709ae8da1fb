"""Inconsistency: MOBILE's penalty in pieces whose activations stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from offlinerlkit_damo.engine.gaussian import TanhGaussian
from offlinerlkit_damo.engine.layers import Layer, critic_layers, tanh_gaussian_layers
from offlinerlkit_damo.engine.mlp import propagate

CHUNK = 1024  # next states in a forward pass


class Inconsistency:
    """The host's `compute_lcb` (Sun et al. 2023): the members' spread of the value of the next states that they expect.

    Shapes: n samples of M elites each for B rows, E target critics. The networks stay the host's: their present weights are stacked at
    every call, a hundredth of its time. No log-probability is computed, and no graph.
    """

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self._actor, self._squashing = tanh_gaussian_layers(policy.actor)
        self._critics = [critic_layers(critic) for critic in policy.critics_old]

    @torch.no_grad()
    def __call__(self, obss: Tensor, actions: Tensor) -> Tensor:
        """obss [B, d], actions [B, a] -> U [B, 1], not negative."""
        next_obss: Tensor = self._policy.dynamics.sample_next_obss(obss, actions, self._policy._num_samples)  # [n, M, B, d]
        actor, critics = stacked([self._actor]), stacked(self._critics)
        values = []
        for rows in next_obss.flatten(0, 2).split(CHUNK):
            sample = TanhGaussian(propagate(rows.unsqueeze(0), *actor)[-1][0], *self._squashing)
            q = propagate(torch.cat([rows, sample.actions], -1).expand(len(self._critics), -1, -1), *critics)[-1]
            values.append(q.amin(0))
        penalty: Tensor = torch.cat(values).unflatten(0, next_obss.shape[:3]).mean(0).std(0)
        return penalty


def stacked(members: Sequence[Sequence[Layer]]) -> tuple[list[Tensor], list[Tensor]]:
    """Weights [M, out, in] and biases [M, 1, out] of every depth of M equal networks; the layers of one depth lie side by side."""
    weights, biases = [], []
    for layers in zip(*members, strict=True):
        weights.append(torch.stack([torch.cat([linear.weight for linear in layer]) for layer in layers]))
        biases.append(torch.stack([torch.cat([linear.bias for linear in layer]) for layer in layers]).unsqueeze(1))
    return weights, biases
