"""TanhGaussian: a sample of the host's tanh-squashed policy, its log-probability, and the gradient of both by hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS = 1e-6
"""Inside the logarithm of the squashing's slope, as the host's."""


class TanhGaussian:
    """One sample for each row of a network's output [..., B, 2a] = (mean, log sigma): actions max_action tanh(mean + sigma noise).

    `noise` [..., B, a] is standard normal, and drawn here where none is given. Autograd passes through as well.

    Attributes:
        actions: [..., B, a].
    """

    def __init__(
        self, outputs: Tensor, max_action: float, log_sigma_range: tuple[float, float], *, noise: Tensor | None = None
    ) -> None:
        mean, self._free = outputs.chunk(2, -1)
        self._log_sigma = self._free.clamp(*log_sigma_range)
        self._max_action = max_action
        self._noise = torch.randn_like(mean) if noise is None else noise
        self._shift = self._log_sigma.exp() * self._noise
        self._squashed = torch.tanh(mean + self._shift)
        self.actions = max_action * self._squashed

    def log_prob(self) -> Tensor:
        """log pi of the actions, [..., B]."""
        self._slope = 1 - self._squashed.square()
        self._scale = self._max_action * self._slope + EPS
        # the noise is what the density sees: its gradient through mean and sample is zero, so it is not asked for
        density = -0.5 * self._noise.square() - 0.5 * math.log(2 * math.pi)
        return (density - self._log_sigma - self._scale.log()).sum(-1)

    def backward(self, action_grad: Tensor, log_prob_grad: Tensor) -> Tensor:
        """The gradient for the outputs [B, 2a], given the actions' [B, a] and, after `log_prob`, the log-probability's [B]."""
        each = log_prob_grad.unsqueeze(-1)
        raw = self._max_action * (action_grad + 2 * each * self._squashed / self._scale) * self._slope
        log_sigma = (raw * self._shift - each) * (self._log_sigma == self._free)  # none where the clamp holds
        return torch.cat([raw, log_sigma], -1)
