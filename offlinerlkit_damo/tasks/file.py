"""Datasets of any file format that this package reads."""

from __future__ import annotations

from pathlib import Path

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks.columns import check_path
from offlinerlkit_damo.tasks.dataset import OfflineDataset
from offlinerlkit_damo.tasks.hdf5 import load_hdf5
from offlinerlkit_damo.tasks.npz import load_npz

SUFFIXES = (".hdf5", ".h5", ".npz")


def load_dataset(path: str | Path, *, name: str | None = None, time_limit: int | None = None) -> OfflineDataset:
    """Read and check the file at `path`: D4RL's keys in HDF5 or .npz, or NeoRL's in .npz. `name` is the dataset's, by default the file's.

    `time_limit` is the simulator's, for files that do not tell it from the end of the task (NeoRL's). What is kept, and what is made of
    rows without a successor, is `from_columns`'s. Raises UserError for a missing or unreadable file, missing keys, wrong types, shapes or
    values, and files too large.
    """
    try:
        path = Path(path).expanduser()
        check_path(path, SUFFIXES)
    except (OSError, RuntimeError) as error:  # an unknown ~user, an overlong name, a folder that may not be read
        raise UserError(f"cannot reach the dataset {str(path)!r} ({error}); give a path that you may read") from None
    return load_npz(path, name=name, time_limit=time_limit) if path.suffix == ".npz" else load_hdf5(path, name=name)
