"""Reading what a run left on disk."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.training.logs import POLICY

PROGRESS = Path("record") / POLICY
SCORE, SCORE_STD = "eval/normalized_episode_reward", "eval/normalized_episode_reward_std"
POINTS, RETURN = "normalised score", "return"
"""What a score is: the latter for a simulator without known references."""


def score_unit(task: Mapping[str, Any]) -> str:
    """What a run's scores are, by its facts about its task."""
    return POINTS if task["robot"] else RETURN


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """The runs at `paths`, folders of runs or any that hold some, each once. Raises UserError for one without any."""
    found: dict[Path, Path] = {}
    for path in paths:
        runs = [path] if (path / PROGRESS).exists() else sorted(table.parents[1] for table in path.glob(f"**/{PROGRESS}"))
        if not runs:
            raise UserError(f"{str(path)!r} is not a run folder and holds none: there is no {PROGRESS}")
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def read_progress(folder: Path, name: str = POLICY) -> pd.DataFrame:
    """The run's progress table, a row an epoch, in the host's column names; a row that is just being written is left out.

    `name`: another table of the host's than the policy's.

    Raises UserError where there is none, no row in it, or something that is no number.
    """
    path = folder / "record" / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{str(folder)!r} is not a run folder: it has no readable record/{name} ({error.strerror or error})") from None
    try:
        table = pd.read_csv(io.BytesIO(content[: content.rfind(b"\n") + 1]))
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError):
        raise UserError(f"{str(path)!r} holds no readable rows; leave this run out, or wait for its first epoch") from None
    if "timestep" not in table:
        raise UserError(f"{str(path)!r} is no progress table: it has no column timestep; leave this run out")
    if table.empty:
        raise UserError(f"{str(path)!r} has no row yet; wait for the run's first epoch")
    numbers = pd.DataFrame(table.apply(pd.to_numeric, errors="coerce"))
    damaged = np.flatnonzero((numbers.isna() & table.notna()).any(axis=1) | numbers["timestep"].isna())
    if len(damaged):
        raise UserError(f"line {damaged[0] + 2} of {str(path)!r} is damaged; delete it, or leave this run out")
    return numbers


def read_evaluations(folder: Path) -> pd.DataFrame:
    """timestep, score and std (normalised points) of every evaluation. Raises UserError as `read_progress` does, and for none."""
    progress = read_progress(folder)
    if SCORE not in progress:
        raise UserError(f"{str(folder)!r} has no evaluation yet")
    if SCORE_STD not in progress:
        raise UserError(f"the progress table of {str(folder)!r} lacks the column {SCORE_STD}; leave this run out")
    return progress.dropna(subset=[SCORE]).rename(columns={SCORE: "score", SCORE_STD: "std"})[["timestep", "score", "std"]]
