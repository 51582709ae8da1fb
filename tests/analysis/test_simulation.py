"""The opened simulator against the one that evaluates, and returns from set states against going on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from offlinerlkit_damo.analysis.simulation import OpenSimulator
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import file_task, get_task, make_env

WEIGHTS = np.random.default_rng(0).normal(size=(11, 3)) * 0.3


def act(obss: np.ndarray) -> np.ndarray:
    """Whatever the batch is, the same action for the same row."""
    return np.tanh(np.stack([row @ WEIGHTS for row in np.asarray(obss, np.float64)])).astype(np.float32)


@pytest.fixture(scope="module")
def simulator() -> Iterator[OpenSimulator]:
    with closing(OpenSimulator(get_task("hopper-medium"))) as opened:
        yield opened


def test_played_episodes_are_those_that_are_evaluated(simulator: OpenSimulator) -> None:
    played = simulator.play(act, range(3, 8))
    with closing(make_env("hopper-medium")) as env:
        _, lengths = env.run_episodes(act, range(3, 8))
    assert np.bincount(played.groups).tolist() == lengths.tolist()
    one = played.groups == 2
    np.testing.assert_array_equal(played.observations[one][1:], played.next_observations[one][:-1])
    np.testing.assert_array_equal(played.actions, act(played.observations))
    np.testing.assert_allclose(played.states[:, 1:6], played.observations[:, :5], atol=1e-6)  # Hopper's leaves the first position out


def test_a_return_from_a_state_is_what_going_on_gives(simulator: OpenSimulator) -> None:
    """From the states of an episode with its own actions: the discounted sum of the rest of its rewards."""
    played = simulator.play(act, [5])
    rewards = []
    env: Any = simulator._simulator
    env.reset(seed=5)
    for action in played.actions:
        rewards.append(float(env.step(action)[1]))
    gamma, horizon, rows = 0.9, 6, np.array([0, 3, len(rewards) - 2])
    expected = [sum(gamma**k * r for k, r in enumerate(rewards[i : i + horizon])) for i in rows]
    found = simulator.returns_from(played.states[rows], played.actions[rows], act, gamma=gamma, horizon=horizon)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    other = simulator.returns_from(played.states[rows], -played.actions[rows], act, gamma=gamma, horizon=1)
    assert (np.abs(other - found) > 1e-3).all()


def test_many_states_are_valued_in_pieces(simulator: OpenSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    played = simulator.play(act, [5])
    states, actions = played.states[:5], played.actions[:5]
    whole = simulator.returns_from(states, actions, act, gamma=0.9, horizon=4)
    monkeypatch.setattr("offlinerlkit_damo.analysis.simulation.AT_ONCE", 2)
    np.testing.assert_allclose(simulator.returns_from(states, actions, act, gamma=0.9, horizon=4), whole, rtol=1e-6)


def test_other_simulators_are_one_sentence() -> None:
    with pytest.raises(UserError, match="Pendulum-v1 is no simulator of MuJoCo"):
        OpenSimulator(file_task("own", "Pendulum-v1"))
    with pytest.raises(UserError, match="hopper-medium has no simulator"):
        OpenSimulator(dataclasses.replace(get_task("hopper-medium"), env_id=None))
