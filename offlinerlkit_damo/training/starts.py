"""Where model rollouts start: dataset states as the host draws them, or by the discounted occupancy that the objective is written in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class DiscountedStarts:
    """Draws n observations of a dataset: a share by gamma^t, t being the row's step in its episode, the rest uniformly.

    The occupancies of DAMO's objective are discounted, rho(s) = (1 - gamma) sum_t gamma^t P(s_t = s): with gamma = 0.99 a state of an
    episode's first steps weighs far more than one of its thousandth. Uniform rows ignore that, and the first twenty steps of
    episodes of hundreds are then one row in forty (docs/experiments.md has what follows for Hopper).

    Args:
        observations: [N, d].
        steps: [N], each row's step in its episode, from 0.
        gamma: discount.
        share: of the draws that are discounted, in [0, 1].
    """

    def __init__(self, observations: NDArray[np.float32], steps: NDArray[np.integer], *, gamma: float, share: float) -> None:
        self._observations = observations
        self._share = share
        # in logarithms, shifted by the earliest step: gamma^t underflows for long episodes, and only ratios count
        weights = np.exp(np.log(gamma) * (steps - steps.min()).astype(np.float64))
        self._cumulative = np.cumsum(weights / weights.sum())

    def __call__(self, n: int) -> NDArray[np.float32]:
        """[n, d], drawn with numpy's global generator."""
        discounted = round(self._share * n)
        by_weight = np.searchsorted(self._cumulative, np.random.random_sample(discounted), side="right")
        uniform = np.random.randint(len(self._observations), size=n - discounted)
        # rounding can leave the last cumulative weight just below 1
        rows = np.concatenate([by_weight.clip(max=len(self._observations) - 1), uniform])
        observations: NDArray[np.float32] = self._observations[rows]
        return observations
