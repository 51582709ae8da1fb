"""Reading what a run left on disk."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from offlinerlkit_damo.errors import UserError

PROGRESS = Path("record") / "policy_training_progress.csv"
SCORE, SCORE_STD = "eval/normalized_episode_reward", "eval/normalized_episode_reward_std"


def read_progress(folder: Path) -> pd.DataFrame:
    """The run's progress table, a row an epoch, in the host's column names. Raises UserError where there is none."""
    path = folder / PROGRESS
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{str(folder)!r} is not a run folder: it has no {PROGRESS}") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError):
        raise UserError(f"{str(path)!r} holds no readable rows; the run ended before its first epoch") from None


def read_evaluations(folder: Path) -> pd.DataFrame:
    """timestep, score and std (normalised points) of every evaluation."""
    progress = read_progress(folder)
    if SCORE not in progress:
        raise UserError(f"{str(folder)!r} has no evaluation yet")
    return progress.dropna(subset=[SCORE]).rename(columns={SCORE: "score", SCORE_STD: "std"})[["timestep", "score", "std"]]
