"""The guards speak about what they should, once, and about nothing else."""

from __future__ import annotations

import pytest

from offlinerlkit_damo.training.guards import PATIENCE, Guards

WELL = {"damo/q_batch": 150.0, "damo/classifier_accuracy": 0.8, "damo/effective_sample_size": 0.4, "loss/actor": -1e9}


def names(guards: Guards, **figures: float) -> list[str]:
    return [finding.name for finding in guards.check({**WELL, **{f"damo/{key}": value for key, value in figures.items()}})]


def fresh() -> Guards:
    return Guards(largest_reward=5.0, gamma=0.9)


def test_nothing_is_wrong_with_ordinary_or_absent_figures() -> None:
    guards = Guards(largest_reward=2.0, gamma=0.99)
    assert all(not guards.check(figures) for figures in (WELL, {}) for _ in range(3 * PATIENCE))


@pytest.mark.parametrize(
    ("name", "figure", "wrong", "right"),
    [
        ("exploding-q", "q_batch", 101.0, 99.0),
        ("exploding-q", "q_batch", -101.0, -99.0),
        ("separated-classifier", "classifier_accuracy", 0.999, 0.99),
        ("blind-classifier", "classifier_accuracy", 0.5, 0.52),
        ("starved-weights", "effective_sample_size", 0.01, 0.03),
    ],
)
def test_each_guard_speaks_once_after_some_epochs_and_again_after_a_pause(name: str, figure: str, wrong: float, right: float) -> None:
    guards = fresh()
    spoken = [names(guards, **{"q_batch": 0.0, figure: wrong}) for _ in range(2 * PATIENCE)]
    assert spoken == [[]] * (PATIENCE - 1) + [[name]] + [[]] * PATIENCE
    assert names(guards, **{"q_batch": 0.0, figure: right}) == []
    again = [names(guards, **{"q_batch": 0.0, figure: wrong}) for _ in range(PATIENCE)]
    assert again[-1] == [name]


def test_state_is_continued() -> None:
    first, second = fresh(), fresh()
    for _ in range(PATIENCE - 1):
        names(first, q_batch=1e6)
    second.load_state_dict(first.state_dict())
    assert names(second, q_batch=1e6) == ["exploding-q"]
    assert "1e+06" in str(fresh()._findings({"damo/q_batch": 1e6})[0]) and "--tau" in str(fresh()._findings({"damo/q_batch": 1e6})[0])
