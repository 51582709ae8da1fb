"""Overlap of two clouds against slow counts in float64, and against what is known of Gaussians."""

from __future__ import annotations

import math

import numpy as np
import pytest

from offlinerlkit_damo.analysis import overlap
from offlinerlkit_damo.analysis.overlap import Cloud, auc, group_sums, halved, median_distance, mmd, two_sample_auc


def cloud(seed: int, size: int = 24, groups: int = 6, shift: float = 0.0, spread: float = 0.0) -> Cloud:
    """Gaussian rows [size, 2]; the rows of a group share a shift of their own of deviation `spread`."""
    rng = np.random.default_rng(seed)
    index = rng.integers(groups, size=size)
    index[:groups] = range(groups)
    return Cloud(rng.normal(shift, 1, (size, 2)) + spread * rng.normal(size=(groups, 2))[index], index * 7 + seed)


def test_group_sums_are_sums_over_pairs_of_groups() -> None:
    matrix = np.arange(12.0).reshape(3, 4) ** 2
    rows, columns = np.array([5, 1, 5]), np.array([2, 2, 0, 9])
    sums, counts = group_sums(matrix, rows, columns)
    for g, one in enumerate([1, 5]):
        for h, other in enumerate([0, 2, 9]):
            block = matrix[np.ix_(rows == one, columns == other)]
            assert (sums[g, h], counts[g, h]) == (block.sum(), block.size)


def slow_mmd(x: Cloud, y: Cloud, bandwidth: float) -> float:
    """By the definition, pair by pair."""

    def mean(a: Cloud, b: Cloud, own: bool) -> float:
        values = [
            math.exp(-sum((p - q) ** 2 for p, q in zip(a.rows[i], b.rows[j], strict=True)) / (2 * bandwidth**2))
            for i in range(len(a.rows))
            for j in range(len(b.rows))
            if not (own and a.groups[i] == b.groups[j])
        ]
        return sum(values) / len(values)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def test_mmd_is_the_definition_over_pairs_of_different_groups() -> None:
    x, y = cloud(1), cloud(2, size=15, groups=4, shift=0.7)
    assert mmd(x, y, 1.3).value == pytest.approx(slow_mmd(x, y, 1.3), abs=1e-12)


def test_mmd_of_gaussians_is_the_closed_form() -> None:
    """E k = b^2 / (b^2 + 2) exp(-|shift|^2 / (2 (b^2 + 2))) for unit Gaussians in two dimensions; and 0 for the same one."""
    x, y, z = (cloud(seed, size=1000, groups=250, shift=shift) for seed, shift in ((1, 0.0), (2, 0.8), (3, 0.0)))
    b = 1.5
    peak = b**2 / (b**2 + 2)
    expected = 2 * peak * (1 - math.exp(-2 * 0.8**2 / (2 * (b**2 + 2))))
    found, null = mmd(x, y, b), mmd(x, z, b)
    assert found.value == pytest.approx(expected, rel=0.1) and found.low < expected < found.high
    assert abs(null.value) < 0.002 and null.value < found.low


def test_intervals_redraw_groups_and_not_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a bootstrap that really copies the groups, and far wider than one that takes every row for a group."""
    x, y = cloud(1, size=200, groups=8, spread=1.0), cloud(2, size=200, groups=8, spread=1.0)
    found = auc(x.rows[:, 0], y.rows[:, 0], x.groups, y.groups)
    rng = np.random.default_rng(3)

    def drawn(of: Cloud) -> np.ndarray:
        names = rng.choice(np.unique(of.groups), 8)
        return np.concatenate([of.rows[of.groups == name, 0] for name in names])

    draws = [np.mean(drawn(x)[:, None] > drawn(y)) for _ in range(600)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.05)
    rows = np.arange(200)
    naive = auc(x.rows[:, 0], y.rows[:, 0], rows, rows)
    assert naive.value == found.value and naive.high - naive.low < 0.5 * (found.high - found.low)


def test_auc_is_the_share_of_pairs_that_are_in_order() -> None:
    x, y = np.array([1.0, 2.0, 2.0, 5.0]), np.array([2.0, 0.0, 7.0])
    slow = np.mean([(a > b) + 0.5 * (a == b) for a in x for b in y])
    assert auc(x, y, np.arange(4), np.arange(3)).value == pytest.approx(slow)
    assert auc(x, x, np.arange(4), np.arange(4)).value == 0.5
    assert auc(x + 9, x, np.arange(4), np.arange(4)).value == 1.0


def test_the_two_sample_classifier_finds_a_shift_and_nothing_where_there_is_none() -> None:
    """Unit Gaussians a shift apart: the best AUC is Phi(|shift| / sqrt 2)."""
    x, y, z = (cloud(seed, size=500, groups=125, shift=shift) for seed, shift in ((1, 0.0), (2, 1.0), (3, 0.0)))
    best = 0.5 * (1 + math.erf(math.sqrt(2) / math.sqrt(2) / math.sqrt(2)))
    assert two_sample_auc(x, y).value == pytest.approx(best, abs=0.05)
    assert two_sample_auc(x, z).value == pytest.approx(0.5, abs=0.06)


def test_no_episode_is_on_both_sides_of_the_split() -> None:
    """Clouds of one distribution whose rows are alike within a group: split by rows they could be told apart, by groups they cannot."""
    x, y = cloud(1, size=600, groups=40, spread=3.0), cloud(2, size=600, groups=40, spread=3.0)
    train, test = halved(x, np.random.default_rng(0))
    assert set(train.groups).isdisjoint(test.groups) and len(train.rows) + len(test.rows) == 600
    found = two_sample_auc(x, y)
    assert found.low < 0.5 < found.high


def test_too_few_groups_give_no_number() -> None:
    one, many = cloud(1, groups=1), cloud(2)
    assert math.isnan(mmd(one, many, 1.0).value) and math.isnan(two_sample_auc(many, one).value)
    two = cloud(3, size=10, groups=2)
    assert math.isfinite(mmd(two, many, 1.0).low)  # a resample of one group has no pairs, and does not count


def test_one_group_has_no_interval() -> None:
    """Redrawn, the one episode is itself each time: a width of 0 would say that it is sure."""
    one, many = cloud(1, groups=1), cloud(2)
    for x, y in ((one, many), (many, one)):
        found = auc(x.rows[:, 0], y.rows[:, 0], x.groups, y.groups)
        assert math.isfinite(found.value) and math.isnan(found.low) and math.isnan(found.high)


def test_the_bandwidth_is_the_median_distance() -> None:
    rows = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    assert median_distance(rows) == pytest.approx(np.median([5.0, 1.0, math.sqrt(18)]))


def test_the_same_seed_is_the_same_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "STEPS", 5)
    x, y = cloud(1), cloud(2, shift=0.5)
    assert two_sample_auc(x, y) == two_sample_auc(x, y) != two_sample_auc(x, y, seed=1)
    assert mmd(x, y, 1.0) == mmd(x, y, 1.0)
