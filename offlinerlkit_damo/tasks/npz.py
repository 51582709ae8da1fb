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
from offlinerlkit_damo.tasks.columns import MAX_BYTES, OPTIONAL, REQUIRED, check_layout, from_columns
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
            arrays = {key: file[key] for key in has if key in wanted}
    except UserError:
        raise
    except Exception as error:  # a damaged file makes zip, zlib and numpy fail in any way
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"cannot read {path} as .npz ({reason}); it may be cut short or another format, get it again") from error
    if "obs" in arrays:
        arrays = _from_neorl(path, arrays, time_limit, trajectories)
    elif trajectories is not None:
        raise UserError(f"{path} is no file of NeoRL's: it has {', '.join(sorted(has)) or 'nothing'} and no obs")
    columns = {key: arrays[key] for key in (*REQUIRED, *OPTIONAL) if key in arrays}
    check_layout(path, columns, has=has)
    return from_columns(path, name, {key: np.asarray(array, np.float32) for key, array in columns.items()})


def _from_neorl(path: Path, arrays: Arrays, time_limit: int | None, trajectories: int | None) -> dict[str, NDArray[np.generic]]:
    missing = [key for key in NEORL if key not in arrays]
    if missing or not ("index" in arrays or "truncated" in arrays):
        raise UserError(f"{path} looks like NeoRL's but lacks {', '.join(missing) or 'index'}; get it again")
    found = {theirs: np.asarray(arrays[ours]) for ours, theirs in NEORL.items()}
    rows = len(found["observations"])
    done = found["terminals"].reshape(-1) != 0
    if len(done) != rows:
        return found  # check_layout says so
    if "index" in arrays:
        ends = np.unique(np.append(arrays["index"].astype(np.int64).reshape(-1), rows))
        ends = ends[(ends > 0) & (ends <= rows)]  # one behind the last row of each trajectory
    else:
        ends = np.unique(np.append(np.flatnonzero(done | (np.asarray(arrays["truncated"]).reshape(-1) != 0)) + 1, rows))
    if trajectories is not None:
        if trajectories > len(ends):
            raise UserError(f"{path} holds {len(ends)} trajectories, fewer than the {trajectories} asked for")
        ends = ends[:trajectories]
        rows = int(ends[-1])
        found, done = {key: array[:rows] for key, array in found.items()}, done[:rows]
    last = np.zeros(rows, bool)
    last[ends - 1] = True
    at_limit = last & False
    if time_limit is not None:
        lengths = np.diff(ends, prepend=0)
        at_limit[ends[lengths >= time_limit] - 1] = True
    terminals = done & ~at_limit
    return {**found, "terminals": terminals, "timeouts": last & ~terminals}
