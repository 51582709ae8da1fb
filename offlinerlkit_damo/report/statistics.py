"""Aggregates over tasks and seeds with stratified bootstrap intervals (Agarwal et al. 2021, rliable's definitions).

A contestant's scores are one array [..., n] of normalised points for every task; leading dimensions, the bootstrap's redraws, stay. Where
tasks have unequally many runs, all tasks weigh the same, but for the interquartile mean, which takes its runs as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from scipy import stats
except ImportError as error:
    raise ImportError("comparisons need scipy, which is missing; run: pip install scipy") from error

Floats = NDArray[np.float64]
Scores = Sequence[Floats]
RESAMPLES = 2000
LEVEL = 0.95
EXPERT = 100.0
FEWEST = 4  # scores of an interquartile mean


@dataclass(frozen=True)
class Interval:
    """A figure [...] and the bounds of its interval; both nan where the one seed of a task gives none."""

    value: Any
    low: Any
    high: Any


def iqm(scores: Scores) -> Floats:
    """Interquartile mean [...]: of the middle half of all runs of all tasks; nan for fewer than four runs."""
    runs = np.concatenate(scores, -1)
    if runs.shape[-1] < FEWEST:
        return np.full(runs.shape[:-1], np.nan)
    return np.asarray(stats.trim_mean(runs, proportiontocut=0.25, axis=-1))


def mean(scores: Scores) -> Floats:
    """Of all tasks' means [...]."""
    return np.asarray(np.mean([runs.mean(-1) for runs in scores], 0))


def optimality_gap(scores: Scores) -> Floats:
    """How far runs stay below an expert's 100 points [...]; what exceeds it does not make up for it."""
    return np.asarray(EXPERT - mean([np.minimum(runs, EXPERT) for runs in scores]))


def improvement(ours: Scores, theirs: Scores) -> Floats:
    """The probability that a run of `ours` beats one of `theirs` on a task drawn at random [...]; ties count half."""
    tasks = [(a[..., :, None], b[..., None, :]) for a, b in zip(ours, theirs, strict=True)]
    return np.asarray(np.mean([((a > b) + 0.5 * (a == b)).mean((-2, -1)) for a, b in tasks], 0))


def profile(scores: Scores, levels: Floats) -> Floats:
    """The share of runs above each of the levels [n]: [n, ...]."""
    return np.stack([mean([runs > level for runs in scores]) for level in levels])


def coverage(runs: int, tasks: int = 1) -> float:
    """How often an `interval` of the mean of `tasks` times `runs` normal scores holds the true one, approximately; less than LEVEL.

    A percentile bootstrap has the runs' deviation divided by their number and the normal quantile, where Student's interval divides by one
    less and has its own. Of two runs the bootstrap is their range, which holds the median in half of all cases.
    """
    if (runs, tasks) == (2, 1):
        return 0.5
    width = stats.norm.ppf((1 + LEVEL) / 2) * math.sqrt((runs - 1) / runs)
    return float(2 * stats.t.cdf(width, tasks * (runs - 1)) - 1)


def interval(statistic: Callable[..., Floats], *groups: Scores, seed: int = 0) -> Interval:
    """`statistic` of one or two contestants' scores with its bootstrap's percentile interval; seeds are redrawn within tasks."""
    value = statistic(*groups)
    if min(len(runs) for group in groups for runs in group) < 2:
        return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    ends = np.cumsum([len(group) for group in groups])

    def of_columns(*columns: Floats, axis: int) -> Floats:
        # a sample of its own for every task of every contestant is what stratifies: none is mixed with another
        return statistic(*(columns[end - len(group) : end] for group, end in zip(groups, ends, strict=True)))

    found = stats.bootstrap(
        [runs for group in groups for runs in group], of_columns, n_resamples=RESAMPLES, confidence_level=LEVEL,
        method="percentile", vectorized=True, axis=-1, rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Interval(value, found.low, found.high)
