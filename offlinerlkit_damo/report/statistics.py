"""Aggregates over tasks and seeds with stratified bootstrap intervals (Agarwal et al. 2021, rliable's definitions).

Scores are matrices [seeds, tasks] of normalised points, one for every contestant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from scipy import stats
except ImportError as error:
    raise ImportError("comparisons need scipy, which is missing; run: pip install scipy") from error

Scores = NDArray[np.float64]
Statistic = Callable[[Scores], float]
RESAMPLES = 2000
LEVEL = 0.95
EXPERT = 100.0


@dataclass(frozen=True)
class Interval:
    """A figure and the bounds of its interval; both nan where one seed gives none."""

    value: float
    low: float
    high: float


def iqm(scores: Scores) -> float:
    """Interquartile mean: of the middle half of all runs of all tasks."""
    return float(stats.trim_mean(scores.ravel(), proportiontocut=0.25))


def mean(scores: Scores) -> float:
    """Of all runs of all tasks."""
    return float(scores.mean())


def optimality_gap(scores: Scores) -> float:
    """How far runs stay below an expert's 100 points; what exceeds it does not make up for it."""
    return float(EXPERT - np.minimum(scores, EXPERT).mean())


def improvement(ours: Scores, theirs: Scores) -> float:
    """The probability that a run of `ours` beats one of `theirs` on a task drawn at random; ties count half."""
    # not scipy's mannwhitneyu, whose p-values take most of its time: a report's bootstrap draws this thousands of times
    pairs = ours[:, None], theirs[None]  # [our seeds, their seeds, tasks]
    return float((np.greater(*pairs).mean() + np.greater_equal(*pairs).mean()) / 2)


def profile(scores: Scores, levels: Scores) -> Scores:
    """The share of runs above each of the levels [n]."""
    return np.asarray((scores.ravel()[:, None] > levels).mean(0), np.float64)


def interval(statistic: Callable[..., Any], *groups: Scores, seed: int = 0) -> Interval:
    """`statistic` of one or two contestants, with the percentile interval of its bootstrap: seeds are redrawn within each task."""
    value = float(statistic(*groups))
    if min(len(group) for group in groups) < 2:
        return Interval(value, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    draws = [statistic(*(_redrawn(group, rng) for group in groups)) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _redrawn(scores: Scores, rng: np.random.Generator) -> Scores:
    rows = rng.integers(len(scores), size=scores.shape)
    return np.take_along_axis(scores, rows, axis=0)
