"""Datasets in D4RL's HDF5 layout. Anything beside its columns (infos, metadata) is left unread."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks.columns import OPTIONAL, REQUIRED, check_layout, from_columns
from offlinerlkit_damo.tasks.dataset import Floats, OfflineDataset


def load_hdf5(path: Path, *, name: str | None = None) -> OfflineDataset:
    """Read and check the D4RL-format file at `path`; `name` is the dataset's, by default the file's.

    Raises UserError for an unreadable file and for columns as `check_layout` and `from_columns` do.
    """
    try:
        with h5py.File(path, "r") as file:
            columns = {key: file[key] for key in (*REQUIRED, *OPTIONAL) if isinstance(file.get(key), h5py.Dataset)}
            has = [f"{key} that is no dataset" if key in REQUIRED and key not in columns else str(key) for key in file]
            check_layout(path, columns, has=has)
            for key, dataset in columns.items():
                _check_sources(path, key, dataset)
            arrays = {key: _read(dataset) for key, dataset in columns.items()}
    except UserError:
        raise
    except Exception as error:  # a damaged file makes the HDF5 library fail in any way
        raise UserError(f"cannot read {path} as HDF5: {error}; it may be cut short or another format, get it again") from error
    return from_columns(path, name, arrays)


def _check_sources(path: Path, key: str, dataset: h5py.Dataset) -> None:
    """Raise UserError for a virtual dataset of files that are not there: HDF5 would read zeros in their place."""
    if not dataset.is_virtual:
        return
    for source in dataset.virtual_sources():
        try:
            with h5py.File(path if source.file_name == "." else path.parent / source.file_name, "r") as file:
                whole = isinstance(file.get(source.dset_name), h5py.Dataset)
        except OSError:
            whole = False
        if not whole:
            raise UserError(f"{path}: {key} is put together from {source.file_name}, which lacks it or is not there; put it beside it")


def _read(dataset: h5py.Dataset) -> Floats:
    """The whole dataset as float32."""
    array = np.empty(dataset.shape, np.float32)
    if dataset.dtype.kind == "b":
        array[...] = dataset[()]
    else:
        dataset.read_direct(array)
    return array
