"""Datasets in numpy's .npz, with D4RL's keys or with NeoRL's and NeoRL-2's.

NeoRL (Qin et al. 2022): obs, action, next_obs, reward, done, and index, where each trajectory ends. NeoRL-2: truncated in place of index.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks.columns import MAX_BYTES, OPTIONAL, REQUIRED, check_layout, flags, from_columns
from offlinerlkit_damo.tasks.dataset import OfflineDataset

NEORL = {"obs": "observations", "action": "actions", "next_obs": "next_observations", "reward": "rewards", "done": "terminals"}
Arrays = Mapping[str, NDArray[np.generic]]


def load_npz(path: Path, *, name: str | None = None, time_limit: int | None = None, trajectories: int | None = None) -> OfflineDataset:
    """Read and check the .npz file at `path`; `name` is the dataset's, by default the file's.

    NeoRL's `done` does not tell a time limit from the end of the task: with `time_limit` a trajectory of so many steps ended at the limit.
    `trajectories`: of a NeoRL file only the first so many. Raises UserError for an unreadable file, one that would take more than 8 GiB
    in memory, objects in place of numbers, and for columns as `check_layout` and `from_columns` do.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())  # unpacked
        if size > MAX_BYTES:
            raise UserError(f"{path} holds {size / 2**30:.1f} GiB; at most {MAX_BYTES / 2**30:.0f} GiB are read, so give a part of it")
        wanted = {*REQUIRED, *OPTIONAL, *NEORL, "index", "truncated"}
        with np.load(path, allow_pickle=False) as file:
            has = list(file.files)
            arrays = {key: file[key] if key == "index" else _narrow(file[key]) for key in has if key in wanted}
    except UserError:
        raise
    except Exception as error:  # a damaged file makes zip, zlib and numpy fail in any way
        reason = " ".join(str(error).split())[:150]
        if "allow_pickle" in reason:
            raise UserError(f"{path} holds Python objects, which are not loaded: they could run code; store numbers (float32)") from error
        raise UserError(f"cannot read {path} as .npz ({reason}); it may be cut short or another format, get it again") from error
    if "obs" in arrays:
        arrays = _from_neorl(path, arrays, time_limit, trajectories)
    elif trajectories is not None:
        raise UserError(f"{path} is no file of NeoRL's: it has {', '.join(sorted(has)) or 'nothing'} and no obs")
    columns = {key: arrays[key] for key in (*REQUIRED, *OPTIONAL) if key in arrays}
    arrays.clear()  # so that what is converted below is not held twice
    check_layout(path, columns, has=has)
    return from_columns(path, name, {key: np.ascontiguousarray(columns.pop(key), np.float32) for key in list(columns)})


def _narrow(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """An array of floats as float32, before the next one is read; any other as it is."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
        return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


def _from_neorl(path: Path, arrays: Arrays, time_limit: int | None, trajectories: int | None) -> dict[str, NDArray[np.generic]]:
    missing = [key for key in NEORL if key not in arrays]
    if missing or not ("index" in arrays or "truncated" in arrays):
        raise UserError(f"{path} looks like NeoRL's but lacks {', '.join(missing) or 'index'}; get it again")
    found = {theirs: arrays[ours] for ours, theirs in NEORL.items()}
    check_layout(path, found, has=list(arrays))
    rows = len(found["observations"])
    done = flags(path, "done", np.asarray(found["terminals"], np.float32))
    if "index" in arrays:
        ends = _ends(path, arrays["index"], rows)
    else:
        check_layout(path, {**found, "timeouts": arrays["truncated"]}, has=list(arrays))
        ends = np.flatnonzero(done | flags(path, "truncated", np.asarray(arrays["truncated"], np.float32))) + 1
    ends = np.unique(np.append(ends, rows))  # one behind the last row of each trajectory
    if trajectories is not None:
        if trajectories > len(ends):
            raise UserError(f"{path} holds {len(ends)} trajectories, fewer than the {trajectories} asked for")
        ends = ends[:trajectories]
        rows = int(ends[-1])
        found, done = {key: array[:rows] for key, array in found.items()}, done[:rows]
    last, at_limit = np.zeros(rows, bool), np.zeros(rows, bool)
    last[ends - 1] = True
    if time_limit is not None:
        at_limit[ends[np.diff(ends, prepend=0) >= time_limit] - 1] = True
    terminals = done & ~at_limit
    return {**found, "terminals": terminals, "timeouts": last & ~terminals}


def _ends(path: Path, index: NDArray[np.generic], rows: int) -> NDArray[np.int64]:
    """One behind the last row of each trajectory, from NeoRL's index of ends, or of beginnings with the first left out."""
    if index.dtype.kind not in "fiu" or index.shape not in ((index.size,), (index.size, 1)):
        raise UserError(f"{path}: index has type {index.dtype} and shape {index.shape}; it must hold row numbers [trajectories]")
    if index.dtype.kind == "f" and (index % 1 != 0).any():  # NeoRL stores them as floats
        raise UserError(f"{path}: index has values that are no row numbers; get it again")
    ends = np.asarray(index, np.int64).reshape(-1)
    if (ends < 0).any() or (ends > rows).any():
        raise UserError(f"{path}: index has row numbers beyond the file's {rows} rows; get it again")
    return ends[ends > 0]
