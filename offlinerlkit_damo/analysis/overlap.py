"""How far two clouds of rows overlap, as numbers: a classifier's two-sample AUC and the maximum mean discrepancy.

Rows of one episode or rollout are much alike, so what is held out, redrawn, and compared with itself is always a whole group of rows. Both
numbers are means of a function of two rows over pairs of groups, which makes their bootstrap one product of small matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from offlinerlkit_damo.damo.classifier import RatioClassifier, classifier_loss

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
RESAMPLES = 1000
LEVEL = 0.95
HIDDEN_DIMS = (64, 64)
STEPS, LR, DECAY = 300, 3e-3, 1e-3
"""Of the two-sample classifier: full-batch Adam steps, rate and weight decay."""


@dataclass(frozen=True)
class Cloud:
    """Rows [n, k] and the group that each belongs to [n]: its episode, or its rollout."""

    rows: Floats
    groups: Indices

    def of(self, chosen: Indices) -> Cloud:
        """The rows whose group is among `chosen`."""
        inside = np.isin(self.groups, chosen)
        return Cloud(self.rows[inside], self.groups[inside])


@dataclass(frozen=True)
class Estimate:
    """A figure and the bounds of its 95% interval (percentiles of a bootstrap over groups); nan where the groups are too few."""

    value: float
    low: float
    high: float


NOTHING = Estimate(float("nan"), float("nan"), float("nan"))


def group_sums(matrix: Floats, row_groups: Indices, column_groups: Indices) -> tuple[Floats, Floats]:
    """Sums of a matrix [n, m] over pairs of groups, and how many entries each sum has: [G, H] both, groups in ascending order."""
    parts = []
    for groups in (row_groups, column_groups):
        order = np.argsort(groups, kind="stable")
        _, first, counts = np.unique(groups[order], return_index=True, return_counts=True)
        parts.append((order, first, counts))
    (rows, row_first, row_counts), (columns, column_first, column_counts) = parts
    sums = np.add.reduceat(np.add.reduceat(matrix[np.ix_(rows, columns)], row_first, 0), column_first, 1)
    return sums.astype(np.float64), np.outer(row_counts, column_counts).astype(np.float64)


def redrawn(groups: int, rng: np.random.Generator) -> Floats:
    """How often each of so many groups is drawn, [RESAMPLES + 1, groups]; the first row is the sample itself, once each.

    The others are nan where there is one group alone: redrawn it is itself, which says nothing of how sure it is.
    """
    if groups < 2:
        return np.concatenate([np.ones((1, groups)), np.full((RESAMPLES, groups), np.nan)])
    draws = rng.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    return np.concatenate([np.ones((1, groups)), draws])


def estimate(draws: Floats) -> Estimate:
    """From a statistic's values on the sample itself and on the resamples [RESAMPLES + 1] (nan where it has none)."""
    if np.isnan(draws[1:]).all():
        return Estimate(float(draws[0]), np.nan, np.nan)
    low, high = np.nanquantile(draws[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(draws[0]), float(low), float(high))


def _mean(sums: Floats, counts: Floats, left: Floats, right: Floats) -> Floats:
    """The mean entry of every resample: [R]."""
    with np.errstate(invalid="ignore"):  # 0 / 0: a resample of one group has no pairs
        means: Floats = np.einsum("rg,rg->r", left @ sums, right) / np.einsum("rg,rg->r", left @ counts, right)
    return means


def mmd(x: Cloud, y: Cloud, bandwidth: float, *, seed: int = 0) -> Estimate:
    """Squared maximum mean discrepancy (Gretton et al. 2012) with the kernel exp(-|u - v|^2 / (2 bandwidth^2)), unbiased.

    E k(x, x') + E k(y, y') - 2 E k(x, y), x and x' of different groups and so y and y'; around 0 for clouds of one distribution, and never
    above 2.
    """
    if min(len(np.unique(cloud.groups)) for cloud in (x, y)) < 2:
        return NOTHING
    rng = np.random.default_rng(seed)
    left, right = (redrawn(len(np.unique(cloud.groups)), rng) for cloud in (x, y))
    total = np.zeros(RESAMPLES + 1)
    for a, b, first, second, sign in ((x, x, left, left, 1), (y, y, right, right, 1), (x, y, left, right, -2)):
        sums, counts = group_sums(kernel(a.rows, b.rows, bandwidth), a.groups, b.groups)
        if a is b:
            np.fill_diagonal(sums, 0)
            np.fill_diagonal(counts, 0)
        total += sign * _mean(sums, counts, first, second)
    return estimate(total)


def kernel(x: Floats, y: Floats, bandwidth: float) -> Floats:
    """exp(-|x_i - y_j|^2 / (2 bandwidth^2)), [n, m]."""
    return np.asarray(np.exp(-squared_distances(x, y) / (2 * bandwidth**2)))


def squared_distances(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """|x_i - y_j|^2, [n, m], in the rows' own precision."""
    return np.asarray(np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0))


def median_distance(rows: Floats) -> float:
    """The median of all distances between two of the rows: the usual bandwidth."""
    upper = np.triu_indices(len(rows), 1)
    return float(np.sqrt(np.median(squared_distances(rows, rows)[upper])))


def auc(x: Floats, y: Floats, x_groups: Indices, y_groups: Indices, *, seed: int = 0) -> Estimate:
    """The probability that one of the scores x [n] exceeds one of the scores y [m], ties counting half."""
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    rng = np.random.default_rng(seed)
    left, right = (redrawn(len(np.unique(groups)), rng) for groups in (x_groups, y_groups))
    return estimate(_mean(*group_sums(wins, x_groups, y_groups), left, right))


def two_sample_auc(x: Cloud, y: Cloud, *, seed: int = 0) -> Estimate:
    """How well a small network, trained on half of the groups of either cloud, tells the other halves apart: 0.5 not at all, 1 always.

    Lopez-Paz & Oquab 2017, with the AUC in place of the accuracy; both clouds weigh the same in its loss, whatever their sizes. The
    rows must be on a common scale.
    """
    rng = np.random.default_rng(seed)
    halves = [halved(cloud, rng) for cloud in (x, y)]
    if any(len(half.rows) == 0 for pair in halves for half in pair):
        return NOTHING
    tensors = [[torch.as_tensor(half.rows, dtype=torch.float32) for half in pair] for pair in halves]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = RatioClassifier(x.rows.shape[1], HIDDEN_DIMS)
        optim = torch.optim.Adam(network.parameters(), lr=LR, weight_decay=DECAY)
        for _ in range(STEPS):
            loss = classifier_loss(network(tensors[0][0]), network(tensors[1][0]))
            optim.zero_grad()
            loss.backward()
            optim.step()
    with torch.no_grad():
        ours, theirs = (network(pair[1]).numpy().astype(np.float64) for pair in tensors)
    return auc(ours, theirs, halves[0][1].groups, halves[1][1].groups, seed=seed)


def halved(cloud: Cloud, rng: np.random.Generator) -> tuple[Cloud, Cloud]:
    """The cloud in two, by whole groups; the second part is empty where there is one group alone."""
    order = rng.permutation(np.unique(cloud.groups))
    middle = (len(order) + 1) // 2
    return cloud.of(order[:middle]), cloud.of(order[middle:])
