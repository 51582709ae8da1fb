"""Aggregates over tasks and seeds with stratified bootstrap intervals (Agarwal et al. 2021, rliable's definitions).

Scores are arrays [..., seeds, tasks] of normalised points, one for every contestant; leading dimensions, the bootstrap's redraws, stay.
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
RESAMPLES = 2000
LEVEL = 0.95
EXPERT = 100.0
FEWEST = 4  # scores of an interquartile mean


@dataclass(frozen=True)
class Interval:
    """A figure [...] and the bounds of its interval; both nan where one seed gives none."""

    value: Any
    low: Any
    high: Any


def iqm(scores: Scores) -> Scores:
    """Interquartile mean [...]: of the middle half of all runs of all tasks; nan for fewer than four runs."""
    runs = _runs(scores)
    if runs.shape[-1] < FEWEST:
        return np.full(runs.shape[:-1], np.nan)
    return np.asarray(stats.trim_mean(runs, proportiontocut=0.25, axis=-1))


def mean(scores: Scores) -> Scores:
    """Of all runs of all tasks [...]."""
    return np.asarray(scores.mean((-2, -1)))


def optimality_gap(scores: Scores) -> Scores:
    """How far runs stay below an expert's 100 points [...]; what exceeds it does not make up for it."""
    return np.asarray(EXPERT - np.minimum(scores, EXPERT).mean((-2, -1)))


def improvement(ours: Scores, theirs: Scores) -> Scores:
    """The probability that a run of `ours` beats one of `theirs` on a task drawn at random [...]; ties count half."""
    a, b = ours[..., :, None, :], theirs[..., None, :, :]  # [..., seeds, their seeds, tasks]
    return np.asarray(((a > b) + 0.5 * (a == b)).mean((-3, -2, -1)))


def profile(scores: Scores, levels: Scores) -> Scores:
    """The share of runs above each of the levels [n]: [n, ...]."""
    runs = _runs(scores)
    return np.stack([(runs > level).mean(-1) for level in levels])


def interval(statistic: Callable[..., Scores], *groups: Scores, seed: int = 0) -> Interval:
    """`statistic` of one or two contestants [seeds, tasks] with its bootstrap's percentile interval; seeds are redrawn within tasks."""
    value = statistic(*groups)
    if min(len(group) for group in groups) < 2:
        return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    ends = np.cumsum([group.shape[1] for group in groups])

    def of_columns(*columns: Scores, axis: int) -> Scores:
        # a sample of its own for every task of every contestant is what stratifies: none is mixed with another
        return statistic(*(np.stack(columns[end - group.shape[1] : end], -1) for group, end in zip(groups, ends, strict=True)))

    found = stats.bootstrap(
        [column for group in groups for column in group.T], of_columns, n_resamples=RESAMPLES, confidence_level=LEVEL,
        method="percentile", vectorized=True, axis=-1, rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Interval(value, found.low, found.high)


def _runs(scores: Scores) -> Scores:
    return scores.reshape(*scores.shape[:-2], -1)
