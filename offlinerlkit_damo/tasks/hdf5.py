"""Datasets in D4RL's HDF5 layout, read from a path.

Keys: observations [N, d], actions [N, a], rewards [N], terminals [N]; optionally next_observations [N, d] and
timeouts [N]. Anything else (infos, metadata) is left unread. `terminals` marks the end of the task, `timeouts` an
episode cut off by a time limit.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks.dataset import Bools, Floats, OfflineDataset, assemble, check_actions, check_finite

MAX_ROWS = 20_000_000
MAX_BYTES = 8 * 2**30  # of the arrays in memory, float32
SAME_STATE = 1e-5  # relative difference below which a successor and the following observation are the same state
REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("next_observations", "timeouts")
SUFFIXES = (".hdf5", ".h5")


def load_dataset(path: str | Path, *, name: str | None = None) -> OfflineDataset:
    """Read and check the D4RL-format HDF5 file at `path`; `name` is the dataset's, by default the file's.

    With next_observations in the file every row is kept, those at a time limit too: the recorded successor is right
    there. Without them a terminal row stands for its own successor, and the last row of any other episode has none and
    is dropped (both counted in `report`). Without
    `timeouts` an episode that did not end in a terminal ends where a row's successor is not the following
    observation. Raises UserError for a missing or unreadable file, missing keys, wrong types, shapes or values, and
    files too large.
    """
    try:
        path = Path(path).expanduser()
        _check_file(path)
    except (OSError, RuntimeError) as error:  # an unknown ~user, an overlong name, a folder that may not be read
        raise UserError(f"cannot reach the dataset {str(path)!r} ({error}); give a path that you may read") from None
    try:
        with h5py.File(path, "r") as file:
            columns = _check_layout(path, file)
            arrays = {key: _read(path, key, dataset) for key, dataset in columns.items()}
    except UserError:
        raise
    except Exception as error:  # a damaged file makes the HDF5 library fail in any way
        raise UserError(f"cannot read {path} as HDF5: {error}; it may be cut short or another format, get it again") from error
    terminals = _flags(path, "terminals", arrays["terminals"])
    check_actions(str(path), arrays["actions"])
    next_observations = arrays.get("next_observations")
    if "timeouts" in arrays:
        timeouts = _flags(path, "timeouts", arrays["timeouts"])
    else:
        assert next_observations is not None  # _check_layout
        timeouts = _breaks(arrays["observations"], next_observations) & ~terminals
    dataset = assemble(
        name or path.stem,
        observations=arrays["observations"],
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        terminals=terminals,
        timeouts=timeouts,
        next_observations=next_observations,
    )
    if not len(dataset):
        reasons = ", ".join(f"{count} {reason}" for reason, count in dataset.report.dropped.items())
        raise UserError(f"{path} holds no usable transition ({reasons}); add next_observations or longer episodes")
    return dataset


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a dataset; give the path of one .hdf5 file")
    if not path.exists():
        folder = path.parent
        names = sorted(p.name for p in folder.iterdir() if p.suffix in SUFFIXES) if folder.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
        if near:
            remedy = f"did you mean {' or '.join(near)}?"
        elif names:
            remedy = f"{folder} has {', '.join(names[:5])}"
        else:
            remedy = f"{folder} has no .hdf5 file" if folder.is_dir() else f"there is no folder {folder} either"
        raise UserError(f"no dataset at {path}; {remedy}")


def _check_layout(path: Path, file: h5py.File) -> dict[str, h5py.Dataset]:
    """The datasets of the known keys, with types and shapes checked before anything large is read."""
    missing = [key for key in REQUIRED if not isinstance(file.get(key), h5py.Dataset)]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)} (it has {', '.join(sorted(map(str, file))) or 'nothing'}); "
            f"a D4RL-format file needs the datasets {', '.join(REQUIRED)}"
        )
    columns = {key: file[key] for key in (*REQUIRED, *OPTIONAL) if isinstance(file.get(key), h5py.Dataset)}
    if not any(key in columns for key in OPTIONAL):
        raise UserError(
            f"{path} has neither timeouts nor next_observations, so where a time limit cut an episode cannot be told; add one of the two"
        )
    for key, dataset in columns.items():
        if dataset.dtype.kind not in "fiub":
            raise UserError(f"{path}: {key} has type {dataset.dtype}; store numbers (float32) or booleans")
        wide = key in ("observations", "actions", "next_observations")
        shape = dataset.shape or ()
        if len(shape) != (2 if wide else 1) and (wide or shape[1:] != (1,)):
            raise UserError(f"{path}: {key} has shape {dataset.shape}; it must be {'[rows, width]' if wide else '[rows]'}")
    rows = {key: int(dataset.shape[0]) for key, dataset in columns.items()}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{key} {count}" for key, count in rows.items())
        raise UserError(f"{path}: the rows differ in number ({counts}); all keys must have the same")
    if 0 in rows.values():
        raise UserError(f"{path} holds no rows; give a file with at least one transition")
    width = columns["observations"].shape[1]
    if width < 1 or columns["actions"].shape[1] < 1:
        raise UserError(f"{path}: observations and actions must be at least 1 wide")
    if "next_observations" in columns and columns["next_observations"].shape[1] != width:
        raise UserError(
            f"{path}: next_observations are {columns['next_observations'].shape[1]} wide but observations {width}; they must match"
        )
    count = rows["observations"]
    size = 4 * count * (2 * width + int(columns["actions"].shape[1]) + 3)
    if count > MAX_ROWS or size > MAX_BYTES:
        raise UserError(
            f"{path} holds {count:,} rows, {size / 2**30:.1f} GiB in memory; "
            f"at most {MAX_ROWS:,} rows and {MAX_BYTES / 2**30:.0f} GiB are read, so give a part of it"
        )
    return columns


def _read(path: Path, key: str, dataset: h5py.Dataset) -> Floats:
    """The whole dataset as float32, refused if any value is NaN or infinite."""
    array = np.empty(dataset.shape, np.float32)
    if dataset.dtype.kind == "b":
        array[...] = dataset[()]
    else:
        dataset.read_direct(array)
    check_finite(str(path), key, array)
    return array if key.endswith(("observations", "actions")) else array.reshape(-1)  # [rows, 1] is [rows]


def _flags(path: Path, key: str, values: Floats) -> Bools:
    flags: Bools = values != 0
    if (values[flags] != 1).any():
        raise UserError(f"{path}: {key} must be 0 or 1 but row {int(np.argmax((values != 0) & (values != 1)))} is not")
    return flags


def _breaks(observations: Floats, next_observations: Floats) -> Any:
    """Rows [N] whose successor is not the following observation; the last row is not one, its episode is unfinished."""
    breaks = np.zeros(len(observations), bool)
    following = observations[1:]
    tolerance = SAME_STATE * (1 + np.abs(following))
    breaks[:-1] = (np.abs(next_observations[:-1] - following) > tolerance).any(1)
    return breaks
