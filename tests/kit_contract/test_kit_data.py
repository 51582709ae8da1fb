"""Buffer, scaler, loader and termination functions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from offlinerlkit_damo.tasks import load_dataset

OBS, ACT = 3, 2


def rows(first: int, count: int) -> dict[str, np.ndarray]:
    """Transitions whose every entry is their number."""
    number = np.arange(first, first + count, dtype=np.float64)[:, None]
    return {
        "obss": np.repeat(number, OBS, 1),
        "next_obss": np.repeat(number + 0.5, OBS, 1),
        "actions": np.repeat(number, ACT, 1),
        "rewards": number,
        "terminals": number % 2 == 0,
    }


def test_buffer_is_a_ring(build: Any) -> None:
    buffer = build.buffer(5)
    buffer.add_batch(**rows(0, 3))
    buffer.add_batch(**rows(3, 4))
    data = buffer.sample_all()
    assert data["rewards"].ravel().tolist() == [5, 6, 2, 3, 4]
    np.testing.assert_array_equal(data["observations"][:, 0], [5, 6, 2, 3, 4])
    np.testing.assert_array_equal(data["next_observations"][:, 0], [5.5, 6.5, 2.5, 3.5, 4.5])
    np.testing.assert_array_equal(data["terminals"].ravel(), [0, 1, 1, 0, 1])


def test_a_batch_longer_than_the_ring_leaves_its_end(build: Any) -> None:
    buffer = build.buffer(5)
    buffer.add_batch(**rows(0, 12))
    assert sorted(buffer.sample_all()["rewards"].ravel().tolist()) == [7, 8, 9, 10, 11]


def test_add_one(build: Any) -> None:
    buffer = build.buffer(5)
    buffer.add(np.ones(OBS), np.zeros(OBS), np.ones(ACT), 2.0, True)
    data = buffer.sample_all()
    assert {key: value.shape for key, value in data.items()} == {
        "observations": (1, OBS),
        "next_observations": (1, OBS),
        "actions": (1, ACT),
        "rewards": (1, 1),
        "terminals": (1, 1),
    }
    assert data["rewards"].item() == 2 and data["terminals"].item() == 1


def test_sample_keeps_rows_together(build: Any) -> None:
    buffer = build.buffer(50)
    buffer.add_batch(**rows(0, 20))
    batch = buffer.sample(200)
    assert list(batch) == ["observations", "actions", "next_observations", "terminals", "rewards"]
    assert all(value.dtype == torch.float32 for value in batch.values())
    assert batch["rewards"].shape == batch["terminals"].shape == (200, 1)
    number = batch["rewards"]
    assert set(number.flatten().tolist()) == set(range(20))
    assert torch.equal(batch["observations"], number.expand(-1, OBS))
    assert torch.equal(batch["next_observations"], number.expand(-1, OBS) + 0.5)
    assert torch.equal(batch["actions"], number.expand(-1, ACT))
    assert torch.equal(batch["terminals"], (number % 2 == 0).float())


def test_sample_of_nothing_is_an_error(build: Any) -> None:
    with pytest.raises(ValueError):
        build.buffer(5).sample(2)


def test_sample_all_is_a_copy(build: Any) -> None:
    buffer = build.buffer(5)
    buffer.add_batch(**rows(0, 3))
    buffer.sample_all()["rewards"][:] = -1
    assert buffer.sample_all()["rewards"].min() == 0


@pytest.mark.parametrize("capacity", [5, 10, 30])
def test_load_dataset(build: Any, make_dataset: Any, capacity: int) -> None:
    data = make_dataset(10)
    buffer = build.buffer(capacity)
    buffer.load_dataset(data)
    loaded = buffer.sample_all()
    for key, value in loaded.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, data[key].reshape(10, -1))
    data["observations"][:] = 99
    assert buffer.sample_all()["observations"].max() < 99


def test_normalize_obs(build: Any, make_dataset: Any) -> None:
    data = make_dataset(40)
    buffer = build.buffer(40, rows=40)
    mean, std = buffer.normalize_obs()
    np.testing.assert_allclose(mean, data["observations"].mean(0, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(std, data["observations"].std(0, keepdims=True) + 1e-3, rtol=1e-5)
    np.testing.assert_allclose(buffer.sample_all()["next_observations"], (data["next_observations"] - mean) / std, 1e-4)


def test_scaler(host: Any) -> None:
    scaler = host.StandardScaler()
    data = np.random.randn(50, 3).astype(np.float32) * [1, 5, 0] + [0, 1, 7]
    scaler.fit(data.astype(np.float32))
    scaled = scaler.transform(data)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(0), [1, 1, 0], atol=1e-5)
    np.testing.assert_allclose(scaler.inverse_transform(scaled), data, atol=1e-5)
    tensor = scaler.transform_tensor(torch.from_numpy(data).float())
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor, scaled, atol=1e-5)
    os.mkdir("saved")
    scaler.save_scaler("saved")
    assert sorted(os.listdir("saved")) == ["mu.npy", "std.npy"]
    other = host.StandardScaler()
    other.load_scaler("saved")
    np.testing.assert_array_equal(other.std, scaler.std)
    assert other.mu.shape == (1, 3)


class Env:
    _max_episode_steps = 4

    def __init__(self, **extra: Any) -> None:
        n = 10
        self.data = {
            "observations": np.arange(n, dtype=np.float32)[:, None],
            "actions": np.zeros((n, 1), np.float32),
            "rewards": np.arange(n, dtype=np.float32),
            "terminals": np.arange(n) == 2,
            **extra,
        }

    def get_dataset(self, **kwargs: Any) -> dict[str, np.ndarray]:
        assert kwargs == {"h5path": "x"}
        return self.data


TIMEOUTS = {"timeouts": np.arange(10) == 5}
FOLLOWING = {"next_observations": 100 + np.arange(10, dtype=np.float32)[:, None]}


@pytest.mark.parametrize("terminate_on_end", [False, True])
def test_loader_with_next_observations(host: Any, terminate_on_end: bool) -> None:
    loaded = host.qlearning_dataset(Env(**TIMEOUTS, **FOLLOWING), terminate_on_end=terminate_on_end, h5path="x")
    kept = [0, 1, 2, 3, 4, *([5] if terminate_on_end else []), 6, 7, 8]
    assert loaded["rewards"].tolist() == kept
    assert loaded["observations"].ravel().tolist() == kept
    assert loaded["next_observations"].ravel().tolist() == [100 + i for i in kept]
    assert loaded["terminals"].tolist() == [i == 2 for i in kept]
    assert {key: value.dtype.name for key, value in loaded.items()} == {
        "observations": "float32",
        "actions": "float32",
        "next_observations": "float32",
        "rewards": "float32",
        "terminals": "bool",
    }


def test_loader_without_next_observations(host: Any) -> None:
    env = Env(**TIMEOUTS, terminals=np.zeros(10, bool))
    loaded = host.qlearning_dataset(env, env.data)
    assert loaded["observations"].ravel().tolist() == [0, 1, 2, 3, 4, 6, 7, 8]
    assert loaded["next_observations"].ravel().tolist() == [1, 2, 3, 4, 5, 7, 8, 9]


@pytest.mark.parametrize("with_next", [True, False])
def test_this_packages_loader_gives_the_hosts_rows_and_those_that_it_loses(host: Any, with_next: bool, tmp_path: Path) -> None:
    rng, count = np.random.default_rng(0), 390
    obs = rng.normal(size=(count + 1, 3)).astype("f4")
    ends, terminals = np.arange(count) % 20 == 19, np.arange(count) % 60 == 39
    timeouts = ends & ~terminals
    actions, rewards = rng.uniform(-1, 1, (count, 2)).astype("f4"), rng.normal(size=count).astype("f4")
    data = {"observations": obs[:-1], "actions": actions, "rewards": rewards, "terminals": terminals, "timeouts": timeouts}
    if with_next:
        data["next_observations"] = np.where(ends[:, None], rng.normal(size=(count, 3)), obs[1:]).astype("f4")
    with h5py.File(tmp_path / "data.hdf5", "w") as file:
        for key, column in data.items():
            file[key] = column
    ours = load_dataset(tmp_path / "data.hdf5")
    theirs = host.qlearning_dataset(Env(), {key: value.copy() for key, value in data.items()})
    if with_next:  # they drop the last row and those at a time limit, whose successors are recorded
        shared, of_host = ~timeouts & (np.arange(count) < count - 1), np.ones(len(theirs["rewards"]), bool)
        assert len(ours) == count
    else:  # the kit drops terminal rows as well, and nothing tells then that the state before one was the end
        shared, of_host = ~ours.terminals, ~theirs["terminals"]
        assert ours.terminals.sum() == terminals.sum()
        assert len(ours) == count - timeouts.sum() - 1
    assert shared.sum() == of_host.sum() > 300
    for key, column in ours.transitions().items():
        np.testing.assert_array_equal(column[shared], theirs[key][of_host], err_msg=key)
    assert len(ours.episode_starts) == 20


def test_loader_without_timeouts_counts_steps(host: Any) -> None:
    env = Env(terminals=np.zeros(10, bool))
    kept = host.qlearning_dataset(env, env.data)["rewards"].tolist()
    assert 3 not in kept and kept[:3] == [0, 1, 2]


# task, observation size, a state that lives, {column: (values that live, values that end)}
RULES: list[tuple[str, int, dict[int, float], dict[int, tuple[list[float], list[float]]]]] = [
    ("hopper-medium-v2", 11, {0: 1.2}, {0: ([0.71, 9], [0.7, 0.2]), 1: ([-0.19, 0.19], [0.2, -0.2]), 5: ([99], [100])}),
    (
        "walker2d-random-v2",
        17,
        {0: 1.2},
        {0: ([0.81, 1.99], [0.8, 2.0]), 1: ([-0.99, 0.99], [1.0, -1.0]), 9: ([-99, 99], [-100, 100])},
    ),
    ("halfcheetah-medium-v2", 17, {}, {0: ([-99, 99], [100, -100, np.nan]), 16: ([99], [np.inf])}),
    ("ant-medium-v2", 27, {0: 0.5}, {0: ([0.2, 1.0], [0.19, 1.01]), 20: ([-1e6], [np.inf, np.nan])}),
    ("humanoid-medium", 45, {0: 1.5}, {0: ([1.0, 2.0], [0.99, 2.01])}),
    ("pen-human-v1", 45, {26: 1.0}, {26: ([0.075, 5], [0.07, -1])}),
    ("door-human-v1", 39, {}, {0: ([1e6], [])}),
    ("halfcheetahveljump", 17, {}, {0: ([1e6], [])}),
    ("pendulum", 3, {}, {0: ([1e6], [])}),
    ("point2denv", 2, {}, {0: ([1e6], [])}),
]


@pytest.mark.parametrize(("task", "size", "alive", "rules"), RULES, ids=[rule[0] for rule in RULES])
def test_termination(host: Any, task: str, size: int, alive: dict[int, float], rules: dict[int, Any]) -> None:
    function = host.get_termination_fn(task)
    cases = [(column, value, end) for column, pair in rules.items() for end in (0, 1) for value in pair[end]]
    states = np.zeros((len(cases), size))
    for column, value in alive.items():
        states[:, column] = value
    for row, (column, value, _) in enumerate(cases):
        states[row, column] = value
    done = function(np.zeros_like(states), np.zeros((len(cases), 2)), states)
    assert done.shape == (len(cases), 1)
    assert done.ravel().tolist() == [bool(end) for _, _, end in cases]


@pytest.mark.parametrize("task", ["hoper-medium-v2", "kitchen", ""])
def test_unknown_task(host: Any, task: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        host.get_termination_fn(task)
