"""Fixtures: an own cache folder, tiny behaviour policies, small D4RL-format files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from offlinerlkit_damo.tasks import snapshots as behaviour

WriteFile = Callable[..., Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder in use."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(folder))
    return folder


def _write_snapshots(path: Path, seed: int = 0) -> None:
    """Three random snapshots of a Hopper actor with 8 hidden units; medium is the second, expert the third."""
    rng = np.random.default_rng(seed)
    shapes = {"w0": (11, 8), "b0": (8,), "w1": (8, 8), "b1": (8,), "w2": (8, 6), "b2": (6,)}
    weights: dict[str, Any] = {key: rng.normal(0, 0.5, (3, *shape)).astype("f2") for key, shape in shapes.items()}
    returns = np.array([10.0, 50.0, 100.0])
    np.savez(path, steps=[100, 200, 300], returns=returns, returns_deterministic=returns, medium=1, expert=2, **weights)


@pytest.fixture
def snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tiny behaviour policies for Hopper only, in use instead of the package's."""
    folder = tmp_path / "behaviour"
    folder.mkdir()
    _write_snapshots(folder / "hopper.npz")
    monkeypatch.setattr(behaviour, "FOLDER", folder)
    return folder


def _random_rows(
    rng: np.random.Generator, rows: int, obs_dim: int = 3, action_dim: int = 2, end_rate: float = 0.15
) -> dict[str, np.ndarray]:
    """Rows of consecutive episodes with random ends, each in D4RL's layout; successors agree within an episode."""
    ends = rng.random(rows) < end_rate
    terminals = ends & (rng.random(rows) < 0.5)
    observations = rng.normal(size=(rows, obs_dim)).astype("f4")
    next_observations = np.concatenate([observations[1:], rng.normal(size=(1, obs_dim))]).astype("f4")
    next_observations[ends] = rng.normal(size=(int(ends.sum()), obs_dim))
    return {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (rows, action_dim)).astype("f4"),
        "next_observations": next_observations,
        "rewards": rng.normal(size=rows).astype("f4"),
        "terminals": terminals,
        "timeouts": ends & ~terminals,
    }


@pytest.fixture
def random_rows() -> Callable[..., dict[str, np.ndarray]]:
    """`random_rows(rng, rows, end_rate=...)` makes the arrays of a D4RL file."""
    return _random_rows


@pytest.fixture
def write_file(tmp_path: Path) -> WriteFile:
    """`write_file(rows, name=...)` puts a dictionary of arrays into an HDF5 file and gives its path."""

    def write(rows: dict[str, Any], name: str = "data.hdf5") -> Path:
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for key, value in rows.items():
                file[key] = value
        return path

    return write
