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


def test_actions_are_scaled_from_the_bounds_that_they_were_recorded_in(write: Any) -> None:
    """As the adapter scales a policy's, so that the data and the simulator agree on what an action does."""
    space = gymnasium.spaces.Box(np.array([-0.4, 0, -1], "f4"), np.array([0.4, 10, 1], "f4"))
    recorded = {**episode(4, terminal=True), "actions": np.array([[-0.4, 0, -1], [0.4, 10, 1], [0, 5, 0], [0.2, 7.5, 0.5]], "f4")}
    observation_space = gymnasium.spaces.Box(-9, 9, (11,), np.float64)
    write([recorded], "toy/scaled-v0", env=None, eval_env=None, observation_space=observation_space, action_space=space)
    found = load_minari("minari:toy/scaled-v0").actions
    np.testing.assert_allclose(found, [[-1, -1, -1], [1, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5]], atol=1e-6)


def test_what_cannot_be_learned_from_is_one_sentence(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"minari:mujoco/hopper/absent-v0.*"):
        load_minari("minari:mujoco/hopper/absent-v0")
    spaces = {"env": None, "eval_env": None, "observation_space": gymnasium.spaces.Box(-9, 9, (11,), np.float64)}
    unbounded = gymnasium.spaces.Box(-np.inf, np.inf, (3,))
    write([{**episode(5, terminal=True), "actions": np.full((5, 3), 2.0, np.float32)}], action_space=unbounded, **spaces)
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
    with pytest.raises(UserError, match=r"actions that are no vectors of numbers \(Discrete\(2\)\)"):
        load_minari("minari:toy/discrete-v0")
    parts = gymnasium.spaces.Dict(a=gymnasium.spaces.Box(-9, 9, (4,)), b=gymnasium.spaces.Box(-9, 9, (2,)))
    several = {**episode(5, terminal=True), "observations": {"a": np.zeros((6, 4), "f4"), "b": np.zeros((6, 2), "f4")}}
    write([several], "toy/dict-v0", env=None, eval_env=None, observation_space=parts, action_space=gymnasium.spaces.Box(-1, 1, (3,)))
    with pytest.raises(UserError, match="observations that are no vectors"):
        load_minari("minari:toy/dict-v0")
    pixels = {**episode(5, terminal=True), "observations": np.zeros((6, 8, 8, 3), "u1")}
    images = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    write([pixels], "toy/image-v0", env=None, eval_env=None, observation_space=images, action_space=gymnasium.spaces.Box(-1, 1, (3,)))
    with pytest.raises(UserError, match="observations that are no vectors"):
        load_minari("minari:toy/image-v0")
    with pytest.raises(UserError, match="did you mean minari:mujoco/hopper/good-v0"):
        load_minari("minari:mujoco/hoper/good-v0")
    (file,) = (tmp_path / "minari" / "mujoco" / "hopper" / "good-v0").rglob("*.hdf5")
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"Minari cannot read minari:mujoco/hopper/good-v0 \(.*truncated file"):
        load_minari("minari:mujoco/hopper/good-v0")
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UserError, match=r'pip install "minari'):
        load_minari(f"minari:{NAME}")
