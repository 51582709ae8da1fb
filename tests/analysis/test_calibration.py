"""Reliability against slow counts, and of a classifier that is right by construction."""

from __future__ import annotations

import numpy as np
import pytest

from offlinerlkit_damo.analysis.calibration import reliability


def test_bins_are_the_definition() -> None:
    """Slowly, with as many synthetic as real rows, where every row weighs the same."""
    rng = np.random.default_rng(0)
    fake, real = rng.normal(1, 2, 300), rng.normal(-1, 2, 300)
    found = reliability(fake, real, np.arange(300), np.arange(300))
    p = 1 / (1 + np.exp(-np.concatenate([fake, real])))
    label = np.repeat([1, 0], 300)
    error = 0.0
    for i, (_, row) in enumerate(found.bins.iterrows()):
        inside = (p >= i / 10) & (p < (i + 1) / 10)
        assert row["predicted"] == pytest.approx(p[inside].mean()) and row["observed"] == pytest.approx(label[inside].mean())
        error += inside.mean() * abs(p[inside].mean() - label[inside].mean())
    assert found.scores["calibration_error"] == pytest.approx(error)
    assert found.scores["cross_entropy"] == pytest.approx(-np.mean(np.where(label, np.log(p), np.log(1 - p))))
    assert found.scores["accuracy"] == pytest.approx(np.mean((p > 0.5) == label))
    assert found.scores["auc"] == pytest.approx(np.mean(fake[:, None] > real))


def test_either_kind_weighs_one_half() -> None:
    rng = np.random.default_rng(0)
    fake, real = rng.normal(1, 2, 200), rng.normal(-1, 2, 200)
    one = reliability(fake, real, np.arange(200), np.arange(200))
    more = reliability(np.repeat(fake, 5), real, np.repeat(np.arange(200), 5), np.arange(200))
    np.testing.assert_allclose(more.bins[["predicted", "observed"]], one.bins[["predicted", "observed"]])
    assert more.scores["calibration_error"] == pytest.approx(one.scores["calibration_error"])


def test_the_true_log_ratio_is_calibrated_and_twice_it_is_not() -> None:
    """N(1, 1) against N(-1, 1): the log-ratio is 2x."""
    rng = np.random.default_rng(0)
    fake, real = rng.normal(1, 1, 2000), rng.normal(-1, 1, 2000)
    groups = np.arange(2000) // 10
    right, sharp = reliability(2 * fake, 2 * real, groups, groups), reliability(5 * fake, 5 * real, groups, groups)
    inside = (right.bins["observed_low"] <= right.bins["predicted"]) & (right.bins["predicted"] <= right.bins["observed_high"])
    assert right.scores["calibration_error"] < 0.03 < sharp.scores["calibration_error"] and inside.sum() >= 8
    assert right.scores["auc"] == sharp.scores["auc"]


def test_a_classifier_that_is_always_sure_fills_two_bins() -> None:
    found = reliability(np.full(10, 900.0), np.full(10, -900.0), np.arange(10), np.arange(10))
    assert found.bins["observed"].tolist() == [0.0, 1.0] and found.scores["calibration_error"] == pytest.approx(0)
    assert np.isfinite(found.bins.to_numpy(float)).all() and found.scores["auc"] == 1
