"""Datasets in .npz: D4RL's keys, NeoRL's and NeoRL-2's."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import columns, file_task, get_task, load_dataset, resolve_dataset
from offlinerlkit_damo.tasks.npz import load_npz

LENGTHS = (4, 6, 5)


def neorl_rows(obs_dim: int = 3, action_dim: int = 2, lengths: tuple[int, ...] = LENGTHS) -> dict[str, Any]:
    """Trajectories of these lengths, the second of which ends the task; the layout of NeoRL's files, where index is each one's end."""
    rng = np.random.default_rng(0)
    rows = sum(lengths)
    obs = rng.normal(size=(rows + 1, obs_dim)).astype("f4")
    done = np.zeros((rows, 1), "f4")
    done[lengths[0] + lengths[1] - 1] = 1
    return {
        "obs": obs[:-1],
        "next_obs": obs[1:],
        "action": rng.uniform(-1, 1, (rows, action_dim)).astype("f4"),
        "reward": rng.normal(size=(rows, 1)).astype("f4"),
        "done": done,
        "index": np.cumsum(lengths),
    }


def write(path: Path, **arrays: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def test_d4rls_keys_give_what_the_hdf5_file_gives(tmp_path: Path) -> None:
    rows = neorl_rows()
    same = {
        "observations": rows["obs"], "next_observations": rows["next_obs"], "actions": rows["action"], "rewards": rows["reward"][:, 0],
        "terminals": rows["done"][:, 0] > 0, "timeouts": np.isin(np.arange(15), [3, 14]),
    }  # fmt: skip
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for key, array in same.items():
            file[key] = array
    ours, theirs = load_dataset(write(tmp_path / "a.npz", **same)), load_dataset(tmp_path / "a.hdf5")
    assert ours.fingerprint == theirs.fingerprint and ours.name == "a"


def test_neorls_trajectories_end_where_its_index_says(tmp_path: Path) -> None:
    rows = neorl_rows()
    data = load_dataset(write(tmp_path / "Hopper-v3-low-3-train.npz", **rows))
    assert list(data.episode_lengths) == list(LENGTHS)
    assert list(np.flatnonzero(data.terminals)) == [9]
    np.testing.assert_array_equal(data.episode_starts, rows["obs"][[0, 4, 10]])
    np.testing.assert_allclose(data.episode_returns[0], rows["reward"][:4].sum(), rtol=1e-6)
    # an index of the trajectories' beginnings, the first left out, says the same
    again = load_dataset(write(tmp_path / "starts.npz", **{**rows, "index": np.array([4, 10])}))
    assert again.fingerprint == data.fingerprint
    two = load_npz(tmp_path / "Hopper-v3-low-3-train.npz", trajectories=2)
    assert len(two) == 10 and list(two.episode_lengths) == [4, 6]


@pytest.mark.parametrize("index", [np.array([4, 10, 15], "f4"), np.array([[4.0], [10.0], [15.0]]), np.array([0, 4, 10], "f8")])
def test_neorls_index_is_stored_as_floats(index: np.ndarray, tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "a.npz", **{**neorl_rows(), "index": index}))
    assert list(data.episode_lengths) == list(LENGTHS)


def test_order_and_width_in_the_file_do_not_matter(tmp_path: Path) -> None:
    rows = neorl_rows()
    other = {key: np.asfortranarray(value.astype(">f8")) for key, value in rows.items()}
    data = load_dataset(write(tmp_path / "b.npz", **other))
    assert data.fingerprint == load_dataset(write(tmp_path / "a.npz", **rows)).fingerprint
    assert data.observations.flags.c_contiguous and data.observations.dtype.str == "<f4"


def test_done_at_the_time_limit_is_no_end_of_the_task(tmp_path: Path) -> None:
    rows = neorl_rows()
    rows["done"][rows["index"] - 1] = 1
    path = write(tmp_path / "a.npz", **rows)
    assert list(np.flatnonzero(load_npz(path, time_limit=6).terminals)) == [3, 14]
    assert list(np.flatnonzero(load_npz(path).terminals)) == [3, 9, 14]


def test_neorl2_tells_a_truncation_from_the_end(tmp_path: Path) -> None:
    rows = neorl_rows()
    del rows["index"]
    truncated = np.zeros((15, 1), bool)
    truncated[[3, 14]] = True
    data = load_dataset(write(tmp_path / "Pipeline-train.npz", **rows, truncated=truncated))
    assert list(data.episode_lengths) == list(LENGTHS) and list(np.flatnonzero(data.terminals)) == [9]


def test_the_limit_is_that_of_the_simulator_that_judges(tmp_path: Path) -> None:
    """Pendulum stops after 200 steps; of a simulator without a limit nothing is known."""
    rows = neorl_rows(obs_dim=3, action_dim=1, lengths=(150, 200, 50))
    path = write(tmp_path / "swings.npz", **rows)
    assert load_dataset(path).terminals.sum() == 1
    assert resolve_dataset(file_task("swings", "Pendulum-v1"), path).terminals.sum() == 0
    assert resolve_dataset(file_task("swings", None), path).terminals.sum() == 1


def test_a_task_of_neorls_takes_the_smallest_file_with_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEORL_DATASET_DIR", str(tmp_path))
    task = get_task("neorl:Hopper-v3-low-2")
    with pytest.raises(UserError, match=r"Hopper-v3-low-2-train\.npz.*NEORL_DATASET_DIR"):
        resolve_dataset(task)
    write(tmp_path / "Hopper-v3-low-1-train.npz", **neorl_rows(12, 3, (5,) * 9))
    write(tmp_path / "Hopper-v3-low-3-train.npz", **neorl_rows(12, 3))
    write(tmp_path / "Hopper-v3-low-9-train.npz", **neorl_rows(12, 3, (2,) * 9))
    write(tmp_path / "Hopper-v3-low-2-val.npz", **neorl_rows(12, 3, (3, 3)))
    data = resolve_dataset(task)
    assert (data.name, len(data), data.obs_dim) == ("neorl:Hopper-v3-low-2", 10, 12)
    write(tmp_path / "Walker2d-v3-low-2-train.npz", **neorl_rows(17, 6))
    with pytest.raises(UserError, match=r"dimensions \(17, 6\) but walker2d has \(18, 6\)"):
        resolve_dataset(get_task("neorl:Walker2d-v3-low-2"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"done": np.array([["0"]] * 15)}, "terminals has type <U1"),
        ({"done": np.full((15, 1), 0.5)}, "done must be 0 or 1 but row 0 is not"),
        ({"done": np.full((15, 1), np.nan)}, "done must be 0 or 1"),
        ({"obs": np.float32(1)}, r"observations has shape \(\)"),
        ({"reward": np.float32(1)}, r"rewards has shape \(\)"),
        ({"index": np.array(["a"])}, "index has type <U1"),
        ({"index": np.array([4.5, 10])}, "index has values that are no row numbers"),
        ({"index": np.array([np.nan, 10])}, "index has values that are no row numbers"),
        ({"index": np.array([[4, 10]])}, r"index has type int64 and shape \(1, 2\)"),
        ({"index": np.array([4, 99])}, "beyond the file's 15 rows"),
        ({"index": None, "truncated": np.zeros(7)}, "rows differ in number"),
        ({"index": None, "truncated": np.full(15, 3)}, "truncated must be 0 or 1"),
    ],
)
def test_malformed_columns_of_neorls_are_one_sentence(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    rows = {name: value for name, value in {**neorl_rows(), **changes}.items() if value is not None}
    with pytest.raises(UserError, match=words):
        load_npz(write(tmp_path / "a.npz", **rows), trajectories=2)


def test_a_path_is_read_as_the_task_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit is the simulator's, whether the file is found by name or given."""
    monkeypatch.setenv("NEORL_DATASET_DIR", str(tmp_path))
    rows = neorl_rows(12, 3, (1000, 20))
    rows["done"][[999, 1019]] = 1
    path = write(tmp_path / "Hopper-v3-low-2-train.npz", **rows)
    task = get_task("neorl:Hopper-v3-low-2")
    assert resolve_dataset(task).fingerprint == resolve_dataset(task, path).fingerprint
    assert list(np.flatnonzero(resolve_dataset(task, path).terminals)) == [1019]


@pytest.mark.parametrize("missing", ["action", "done", "index"])
def test_a_part_of_neorls_keys_is_refused(missing: str, tmp_path: Path) -> None:
    rows = neorl_rows()
    del rows[missing]
    with pytest.raises(UserError, match=f"looks like NeoRL's but lacks {missing}"):
        load_dataset(write(tmp_path / "a.npz", **rows))


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_broken_archives_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = write(tmp_path / "good.npz", **neorl_rows()).read_bytes()
    path = tmp_path / "bad.npz"
    for content in (b"", b"no archive", good[: len(good) // 2], good[:200] + bytes([good[200] ^ 255]) + good[201:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.npz"):
            load_dataset(path)
    np.savez(path, obs=np.array([Trap(tmp_path / "sprung")], dtype=object), action=np.zeros((1, 1)))
    with pytest.raises(UserError, match=r"bad\.npz holds Python objects, which are not loaded"):
        load_dataset(path)
    assert not (tmp_path / "sprung").exists()
    two = np.zeros(2)
    write(path, observations=np.zeros((2, 1)), actions=np.zeros((2, 1)), rewards=np.array(["a", "b"]), terminals=two, timeouts=two)
    with pytest.raises(UserError, match="rewards has type <U1"):
        load_dataset(path)
    write(path, x=np.zeros(3))
    with pytest.raises(UserError, match=r"lacks observations.*it has x"):
        load_dataset(path)
    # zeros pack well: 20 MB in 20 kB
    write(path, observations=np.zeros((5_000_000, 1), "f4"))
    assert path.stat().st_size < 100_000 and sum(x.file_size for x in zipfile.ZipFile(path).infolist()) > 2e7
    monkeypatch.setattr("offlinerlkit_damo.tasks.npz.MAX_BYTES", 10**7)
    with pytest.raises(UserError, match="at most 0 GiB are read"):
        load_dataset(path)
    assert columns.MAX_BYTES > 10**9
