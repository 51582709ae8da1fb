"""Bringing the logs of an interrupted run back to its checkpoint: no row twice, none torn."""

from __future__ import annotations

import csv
import shutil
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard.writer import SummaryWriter

from offlinerlkit_damo.files import replacing

Floats = NDArray[np.float64]

OUTPUTS = {
    "consoleout_backup": "stdout",
    "policy_training_progress": "csv",
    "dynamics_training_progress": "csv",
    "tb": "tensorboard",
}
"""A run's outputs, in the host logger's terms and with the host's names."""
TEXT, POLICY, DYNAMICS, EVENTS = "consoleout_backup.txt", "policy_training_progress.csv", "dynamics_training_progress.csv", "tb"
EPISODES = "evaluation_episodes.csv"
"""Every episode of every evaluation, a row each: beside the host's tables, which have their means."""


def text_size(record: Path) -> int:
    """Bytes of the console's copy so far."""
    path = record / TEXT
    return path.stat().st_size if path.exists() else 0


def append_episodes(record: Path, timestep: int, returns: Floats, scores: Floats, lengths: NDArray[np.int64]) -> None:
    """Add an evaluation's episodes [n] to their table: undiscounted returns, normalised points, steps."""
    rows = [
        f"{timestep},{i},{float(value)!r},{float(score)!r},{int(length)}\n"
        for i, (value, score, length) in enumerate(zip(returns, scores, lengths, strict=True))
    ]
    with (record / EPISODES).open("a", encoding="utf-8") as file:
        file.write(("" if file.tell() else "timestep,episode,return,score,length\n") + "".join(rows))


def rewind(record: Path, timestep: int, size: int, *, has_model: bool) -> None:
    """Cut the logs back to a checkpoint: rows of the policy's table up to `timestep`, `size` bytes of the console's copy.

    Both are 0 where there is no checkpoint. The table of the model's training stays where the run has its model. TensorBoard's files,
    whose last record may be torn, are written again from the tables.
    """
    for name in (POLICY, EPISODES):
        _cut(record / name, timestep)
    if not has_model:
        _cut(record / DYNAMICS, 0)
    text = record / TEXT
    if text.exists():
        with text.open("r+b") as file:
            file.truncate(min(size, text.stat().st_size))
    shutil.rmtree(record / EVENTS, ignore_errors=True)
    writer: Any = SummaryWriter(str(record / EVENTS))
    for name in (DYNAMICS, POLICY):
        for row in read_table(record / name):
            for key, value in row.items():
                if key != "timestep" and value:
                    writer.add_scalar(key, float(value), int(float(row["timestep"])))
    writer.close()


def read_table(path: Path) -> list[dict[str, str]]:
    """The complete rows of a table, up to the first torn one: without an end, with too few cells, or with no numbers."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    text = text.split("\0", 1)[0]  # zeros are what a power cut leaves
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    return list(takewhile(_is_whole, rows))


def _is_whole(row: dict[str, str]) -> bool:
    if None in row or None in row.values():
        return False
    try:
        for value in filter(None, row.values()):
            float(value)
    except ValueError:
        return False
    return True


def _cut(path: Path, timestep: int) -> None:
    rows = read_table(path)
    if not path.exists():
        return
    kept = [row for row in rows if float(row["timestep"]) <= timestep]
    if not kept:
        path.unlink()
        return
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
