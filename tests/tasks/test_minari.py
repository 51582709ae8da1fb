"""Minari's datasets, written with Minari's own library."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import resolve_dataset
from offlinerlkit_damo.tasks.minari import load_minari

minari = pytest.importorskip("minari")
NAME = "mujoco/hopper/tiny-v0"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))

    def create(episodes: list[dict[str, Any]], name: str = NAME, **about: Any) -> None:
        buffers = [minari.data_collector.EpisodeBuffer(**episode, infos={}) for episode in episodes]
        minari.create_dataset_from_buffers(
            dataset_id=name, buffer=buffers, algorithm_name="none", author="nobody", author_email="nobody@example.org",
            code_permalink="none", description="made up", requirements=[], **({"env": "Hopper-v5", "eval_env": "Hopper-v5"} | about),
        )  # fmt: skip

    return create


def episode(length: int, *, terminal: bool, seed: int = 0) -> dict[str, Any]:
    rng, last = np.random.default_rng(seed), np.arange(length) == length - 1
    return {
        "observations": rng.normal(size=(length + 1, 11)),
        "actions": rng.uniform(-1, 1, (length, 3)).astype(np.float32),
        "rewards": rng.normal(size=length),
        "terminations": last & terminal,
        "truncations": last & (not terminal),
    }


def test_every_step_is_kept_with_its_successor(write: Any) -> None:
    episodes = [episode(5, terminal=True), episode(4, terminal=False, seed=1), episode(6, terminal=False, seed=2)]
    write(episodes)
    data = resolve_dataset("hopper-medium", f"minari:{NAME}")
    assert len(data) == 15 and data.name == f"minari:{NAME}" and data.observations.dtype == np.float32
    np.testing.assert_array_equal(data.observations, np.concatenate([x["observations"][:-1] for x in episodes]).astype(np.float32))
    np.testing.assert_array_equal(data.next_observations, np.concatenate([x["observations"][1:] for x in episodes]).astype(np.float32))
    np.testing.assert_array_equal(np.flatnonzero(data.terminals), [4])
    assert data.episode_lengths.tolist() == [5, 4, 6] and data.steps.tolist() == [*range(5), *range(4), *range(6)]
    np.testing.assert_allclose(data.episode_returns, [x["rewards"].sum() for x in episodes], rtol=1e-5)
    np.testing.assert_array_equal(data.episode_starts, data.observations[[0, 5, 9]])


def test_what_cannot_be_learned_from_is_one_sentence(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"minari:mujoco/hopper/absent-v0.*"):
        load_minari("minari:mujoco/hopper/absent-v0")
    write([{**episode(5, terminal=True), "actions": np.full((5, 3), 2.0, np.float32)}])
    with pytest.raises(UserError, match=r"tiny-v0: 5 actions lie outside \[-1, 1\]"):
        load_minari(f"minari:{NAME}")
    with pytest.raises(UserError, match="but walker2d has"):
        write([episode(5, terminal=True)], "mujoco/hopper/good-v0")
        resolve_dataset("walker2d-medium", "minari:mujoco/hopper/good-v0")
    broken = episode(5, terminal=True)
    broken["observations"][2, 0] = np.nan
    write([broken], "mujoco/hopper/broken-v0")
    with pytest.raises(UserError, match=r"observations has 1 NaN or infinite values, the first in row 2"):
        load_minari("minari:mujoco/hopper/broken-v0")
    discrete = {**episode(5, terminal=True), "actions": np.arange(5) % 2, "observations": np.zeros((6, 4), np.float32)}
    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (4,)), gymnasium.spaces.Discrete(2)
    write([discrete], "toy/discrete-v0", env=None, eval_env=None, observation_space=observation_space, action_space=action_space)
    with pytest.raises(UserError, match="actions that are no vectors"):
        load_minari("minari:toy/discrete-v0")
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UserError, match=r'pip install "minari'):
        load_minari(f"minari:{NAME}")
