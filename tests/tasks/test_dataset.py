"""The loader against a slow row-by-row reference, and the dataset's own arithmetic."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from offlinerlkit_damo.tasks import OfflineDataset, load_dataset

RandomRows = Callable[..., dict[str, np.ndarray]]
WriteFile = Callable[..., Path]


def reference(rows: dict[str, np.ndarray], with_next: bool, with_timeouts: bool) -> dict[str, list[Any]]:
    """What the loader must give, one row at a time."""
    count = len(rows["rewards"])
    out: dict[str, list[Any]] = {key: [] for key in ("kept", "next", "starts", "returns", "lengths")}
    total, length, fresh = 0.0, 0, True
    for i in range(count):
        if fresh:
            out["starts"].append(rows["observations"][i])
            total, length = 0.0, 0
        total, length = total + float(rows["rewards"][i]), length + 1
        if with_timeouts:
            timeout = bool(rows["timeouts"][i])
        else:
            timeout = i + 1 < count and not np.allclose(rows["next_observations"][i], rows["observations"][i + 1])
        fresh = bool(rows["terminals"][i]) or timeout
        if fresh:
            out["returns"].append(total)
            out["lengths"].append(length)
        if with_next:
            out["kept"].append(i)
            out["next"].append(rows["next_observations"][i])
        elif rows["terminals"][i]:
            out["kept"].append(i)
            out["next"].append(rows["observations"][i])
        elif not fresh and i + 1 < count:
            out["kept"].append(i)
            out["next"].append(rows["observations"][i + 1])
    return out


@pytest.mark.parametrize(("with_next", "with_timeouts"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("seed", range(8))
def test_loader_agrees_with_the_slow_reference(
    random_rows: RandomRows, write_file: WriteFile, seed: int, with_next: bool, with_timeouts: bool
) -> None:
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, int(rng.integers(4, 60)), end_rate=float(rng.choice([0.0, 0.1, 0.5])))
    if seed % 2:
        rows["terminals"][-1] = True  # else the last episode is unfinished, mostly
    rows["timeouts"] &= ~rows["terminals"]
    left_out = {key for key, there in (("next_observations", with_next), ("timeouts", with_timeouts)) if not there}
    expected = reference(rows, with_next, with_timeouts)
    data = load_dataset(write_file({key: value for key, value in rows.items() if key not in left_out}))
    kept = expected["kept"]
    for key in ("observations", "actions", "rewards", "terminals"):
        np.testing.assert_array_equal(getattr(data, key), rows[key][kept], err_msg=key)
    np.testing.assert_array_equal(data.next_observations, np.array(expected["next"]))
    np.testing.assert_array_equal(data.episode_starts, np.array(expected["starts"]))
    np.testing.assert_allclose(data.episode_returns, expected["returns"], rtol=1e-9, atol=1e-9)
    assert data.episode_lengths.tolist() == expected["lengths"]
    assert data.report.rows_in == len(rows["rewards"])
    assert data.report.rows_kept == len(kept) == len(data)
    assert data.report.substituted == (0 if with_next else rows["terminals"].sum())
    assert (~data.has_successor).sum() == data.report.substituted and not (~data.has_successor & ~data.terminals).any()
    assert sum(data.report.dropped.values()) == data.report.rows_in - data.report.rows_kept


def test_dropped_rows_are_counted_by_reason(random_rows: RandomRows, write_file: WriteFile) -> None:
    rows = random_rows(np.random.default_rng(0), 10, end_rate=0)
    rows["terminals"][3] = rows["timeouts"][6] = True
    del rows["next_observations"]
    data = load_dataset(write_file(rows))
    report = data.report
    assert data.terminals.sum() == report.substituted == 1
    assert report.dropped == {
        "timeout, next observation not recorded": 1,
        "end of the unfinished last episode": 1,
    }


def test_other_number_types_load_as_the_documented_ones(random_rows: RandomRows, write_file: WriteFile) -> None:
    rows = random_rows(np.random.default_rng(1), 20)
    wide = {key: value.astype("f8" if value.dtype.kind == "f" else "i8") for key, value in rows.items()}
    data = load_dataset(write_file(wide))
    for array in (data.observations, data.next_observations, data.actions, data.rewards, data.episode_starts):
        assert array.dtype == np.float32
    assert data.terminals.dtype == np.bool_
    assert data.episode_returns.dtype == np.float64
    assert data.fingerprint == load_dataset(write_file(rows, "narrow.hdf5")).fingerprint


def test_terminals_mark_ends_of_the_task_and_never_time_limits(random_rows: RandomRows, write_file: WriteFile) -> None:
    rows = random_rows(np.random.default_rng(2), 40)
    data = load_dataset(write_file(rows))
    assert rows["timeouts"].any()
    assert not data.terminals[rows["timeouts"]].any()


def test_transitions_use_the_kits_keys_and_share_memory(random_rows: RandomRows, write_file: WriteFile) -> None:
    data = load_dataset(write_file(random_rows(np.random.default_rng(3), 12)))
    transitions = data.transitions()
    assert set(transitions) == {"observations", "actions", "next_observations", "rewards", "terminals"}
    assert all(np.shares_memory(value, getattr(data, key)) for key, value in transitions.items())
    assert (data.obs_dim, data.action_dim) == (3, 2)
    assert data.mean_return == pytest.approx(np.mean(data.episode_returns))


def test_mean_return_without_a_completed_episode_is_nan(random_rows: RandomRows, write_file: WriteFile) -> None:
    data = load_dataset(write_file(random_rows(np.random.default_rng(4), 5, end_rate=0)))
    assert len(data.episode_returns) == 0 and len(data.episode_starts) == 1
    assert np.isnan(data.mean_return)


def test_fingerprint_depends_on_contents_and_shapes_not_on_the_name(random_rows: RandomRows, write_file: WriteFile) -> None:
    data = load_dataset(write_file(random_rows(np.random.default_rng(5), 12)))
    again = load_dataset(write_file(random_rows(np.random.default_rng(5), 12), "other.hdf5"))
    assert again.name == "other" and data.name == "data"
    assert again.fingerprint == data.fingerprint and len(data.fingerprint) == 64

    def changed(**arrays: Any) -> OfflineDataset:
        return replace(data, **arrays)

    rewards = data.rewards.copy()
    rewards[7] += 1e-3
    assert changed(rewards=rewards).fingerprint != data.fingerprint
    assert changed(terminals=~data.terminals).fingerprint != data.fingerprint
    assert changed(observations=data.observations.reshape(6, 6)).fingerprint != data.fingerprint
    assert changed(name="x").fingerprint == data.fingerprint


def test_large_files_load_quickly(tmp_path: Any) -> None:
    rows, rng = 300_000, np.random.default_rng(0)
    observations = rng.normal(size=(rows + 1, 17)).astype("f4")
    path = tmp_path / "large.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"], file["next_observations"] = observations[:-1], observations[1:]
        file["actions"] = np.zeros((rows, 6), "f4")
        file["rewards"] = np.ones(rows, "f4")
        file["terminals"] = np.arange(rows) % 100 == 99
        file["timeouts"] = np.arange(rows) % 1000 == 500
    began = time.perf_counter()
    data = load_dataset(path)
    assert time.perf_counter() - began < 5  # a loop over rows takes longer
    assert len(data) == rows and data.episode_returns.sum() == rows


@pytest.mark.parametrize("left_out", [None, "next_observations", "timeouts"])
def test_loading_takes_little_more_room_than_the_data(left_out: str | None, tmp_path: Path) -> None:
    """The peak while a file is read and checked, in sizes of what is kept: under one and a half."""
    rows, rng = 100_000, np.random.default_rng(0)
    path = tmp_path / "large.hdf5"
    with h5py.File(path, "w") as file:
        observations = rng.uniform(-1, 1, (rows + 1, 17)).astype("f4")
        file["observations"], file["next_observations"] = observations[:-1], observations[1:]
        file["next_observations"][999::1000] = 2.0
        file["actions"], file["rewards"] = rng.uniform(-1, 1, (rows, 6)).astype("f4"), rng.normal(size=rows).astype("f4")
        file["terminals"], file["timeouts"] = np.zeros(rows, bool), np.arange(rows) % 1000 == 999
        if left_out:
            del file[left_out]
    tracemalloc.start()
    try:
        data = load_dataset(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    own = sum(array.nbytes for array in data.transitions().values())
    assert peak < 1.5 * own
