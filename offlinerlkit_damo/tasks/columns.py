"""The columns of a dataset file, of whatever format: checked, and put together as a dataset.

Keys are D4RL's: observations [N, d], actions [N, a], rewards [N], terminals [N]; optionally next_observations [N, d] and
timeouts [N]. `terminals` marks the end of the task, `timeouts` an episode cut off by a time limit.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks.dataset import CHUNK, Bools, Floats, OfflineDataset, assemble, check_actions, check_finite

MAX_ROWS = 20_000_000
MAX_BYTES = 8 * 2**30  # of the arrays in memory, float32
SAME_STATE = 1e-5  # relative difference below which a successor and the following observation are the same state
REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("next_observations", "timeouts")
WIDE = ("observations", "actions", "next_observations")


class Column(Protocol):
    """An array, or a file's description of one."""

    @property
    def shape(self) -> Any:
        """Its lengths."""

    @property
    def dtype(self) -> Any:
        """Its numpy type."""


def check_path(path: Path, suffixes: tuple[str, ...]) -> None:
    """Raise UserError unless there is a file at `path`, naming the nearest of those with such suffixes."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a dataset; give the path of one {' or '.join(suffixes)} file")
    if not path.exists():
        folder = path.parent
        names = sorted(p.name for p in folder.iterdir() if p.suffix in suffixes) if folder.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
        if near:
            remedy = f"did you mean {' or '.join(near)}?"
        elif names:
            remedy = f"{folder} has {', '.join(names[:5])}"
        else:
            remedy = f"{folder} has no {suffixes[0]} file" if folder.is_dir() else f"there is no folder {folder} either"
        raise UserError(f"no dataset at {path}; {remedy}")


def check_layout(path: Path, columns: Mapping[str, Column], *, has: list[str]) -> None:
    """Raise UserError for columns that are missing or whose types, shapes or sizes cannot be; `has` names all that is in the file."""
    missing = [key for key in REQUIRED if key not in columns]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)} (it has {', '.join(sorted(has)) or 'nothing'}); "
            f"a D4RL-format file needs the datasets {', '.join(REQUIRED)}"
        )
    if not any(key in columns for key in OPTIONAL):
        raise UserError(
            f"{path} has neither timeouts nor next_observations, so where a time limit cut an episode cannot be told; add one of the two"
        )
    for key, column in columns.items():
        if column.dtype.kind not in "fiub":
            raise UserError(f"{path}: {key} has type {column.dtype}; store numbers (float32) or booleans")
        wide, shape = key in WIDE, column.shape or ()
        if len(shape) != (2 if wide else 1) and (wide or shape[1:] != (1,)):
            raise UserError(f"{path}: {key} has shape {column.shape}; it must be {'[rows, width]' if wide else '[rows]'}")
    rows = {key: int(column.shape[0]) for key, column in columns.items()}
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


def from_columns(path: Path, name: str | None, arrays: Mapping[str, Floats]) -> OfflineDataset:
    """The dataset of checked columns, float32 all of them.

    With next_observations every row is kept, those at a time limit too: the recorded successor is right there. Without them a terminal row
    stands for its own successor, and the last row of any other episode has none and is dropped (both counted in `report`). Without
    `timeouts` an episode that did not end in a terminal ends where a row's successor is not the following observation. Raises UserError
    for values that are not finite, actions outside [-1, 1], flags that are neither 0 nor 1, and where no row is left.
    """
    for key, array in arrays.items():
        check_finite(str(path), key, array)
    terminals = flags(path, "terminals", arrays["terminals"])
    check_actions(str(path), arrays["actions"])
    next_observations = arrays.get("next_observations")
    inferred = 0
    if "timeouts" in arrays:
        timeouts = flags(path, "timeouts", arrays["timeouts"])
    else:
        assert next_observations is not None  # check_layout
        timeouts = np.append(gaps(arrays["observations"], next_observations), False) & ~terminals  # the last episode is unfinished
        inferred = int(timeouts.sum())
    dataset = assemble(
        name or path.stem,
        observations=arrays["observations"],
        actions=arrays["actions"],
        rewards=arrays["rewards"].reshape(-1),
        terminals=terminals,
        timeouts=timeouts,
        next_observations=next_observations,
    )
    dataset = dataclasses.replace(dataset, report=dataclasses.replace(dataset.report, inferred=inferred))
    if not len(dataset):
        reasons = ", ".join(f"{count} {reason}" for reason, count in dataset.report.dropped.items())
        raise UserError(f"{path} holds no usable transition ({reasons}); add next_observations or longer episodes")
    return dataset


def flags(path: Path, key: str, values: Floats) -> Bools:
    """A column of 0 and 1 as booleans [rows]; any other value is a UserError."""
    values = values.reshape(-1)  # [rows, 1] is [rows]
    flags: Bools = values != 0
    if (values[flags] != 1).any():
        raise UserError(f"{path}: {key} must be 0 or 1 but row {int(np.argmax((values != 0) & (values != 1)))} is not")
    return flags


def gaps(observations: Floats, next_observations: Floats) -> Bools:
    """Whether a row's successor is another state than the following row's observation, [N - 1]; in little more room than that."""
    found = np.zeros(len(observations) - 1, bool)
    for start in range(0, len(found), CHUNK):
        rows = slice(start, min(start + CHUNK, len(found)))
        following = observations[1:][rows]
        found[rows] = (np.abs(next_observations[rows] - following) > SAME_STATE * (1 + np.abs(following))).any(1)
    return found
