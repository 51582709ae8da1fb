"""From the rows of a comparison to scores: a run's is the mean of its last ten evaluations, the kit's measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from offlinerlkit_damo.errors import UserError

ROWS = "rows.csv"  # a comparison's table, in its folder
LAST = 10
NEEDED = ("task", "label", "algo", "seed", "timestep", "episode", "return", "score", "config_hash", "dataset", "finished")


def read_rows(paths: Sequence[Path]) -> pd.DataFrame:
    """The rows of one or more comparisons. Raises UserError for files that are no such tables, empty, or cut off."""
    tables = []
    for path in paths:
        file = path / ROWS if path.is_dir() else path
        try:
            table = pd.read_csv(file)
        except FileNotFoundError:
            raise UserError(f"{str(path)!r} has no {ROWS}; give the folder of a comparison that `compare` made") from None
        except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError):
            raise UserError(f"{str(file)!r} is no table of a comparison; run `compare` again to have it gathered anew") from None
        missing = [name for name in NEEDED if name not in table]
        if missing:
            raise UserError(f"{str(file)!r} lacks the columns {', '.join(missing)}; run `compare` again to have it gathered anew")
        broken = np.flatnonzero(table[list(NEEDED)].isna().any(axis=1))
        if len(broken):
            raise UserError(f"{str(file)!r} has {len(broken)} broken rows, the first in line {broken[0] + 2}; run `compare` again")
        tables.append(table)
    rows = pd.concat(tables, ignore_index=True)
    if not len(rows):
        raise UserError("there is no evaluation yet; wait for the first runs")
    return rows


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """task, label, seed, timestep, score: the mean of every evaluation's episodes."""
    keys = ["task", "label", "seed", "timestep"]
    return pd.DataFrame(rows.groupby(keys, sort=True)["score"].mean()).reset_index()


def run_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a run: task, label, algo, seed, score, its number of evaluations and steps, whether it has finished."""
    evaluations = curves(rows)
    last = evaluations.groupby(["task", "label", "seed"]).tail(LAST)
    scores = pd.DataFrame(last.groupby(["task", "label", "seed"])["score"].mean()).reset_index()
    about = rows.groupby(["task", "label", "seed"], as_index=False).agg(
        algo=("algo", "first"), evaluations=("timestep", "nunique"), steps=("timestep", "max"), finished=("finished", "all")
    )
    return pd.DataFrame(scores.merge(about))


def score_table(scores: pd.DataFrame) -> pd.DataFrame:
    """A row a task and contestant: mean and standard deviation over seeds, and every seed's score by its number."""
    found = []
    for (task, label), group in scores.groupby(["task", "label"], sort=True):
        ordered = group.sort_values("seed")
        found.append(
            {
                "task": task,
                "label": label,
                "mean": float(ordered["score"].mean()),
                "std": float(ordered["score"].std(ddof=0)),
                "seeds": {int(seed): float(score) for seed, score in zip(ordered["seed"], ordered["score"], strict=True)},
            }
        )
    return pd.DataFrame(found)


def remarks(rows: pd.DataFrame, scores: pd.DataFrame) -> list[str]:
    """What a reader must know before comparing: seeds that are missing, runs that go on, budgets, options or data that differ."""
    found = []
    seeds = sorted(set(scores["seed"]))
    for task in sorted(set(scores["task"])):
        ours = scores[scores["task"] == task]
        for label in sorted(set(scores["label"])):
            have = set(ours[ours["label"] == label]["seed"])
            lacking = [str(seed) for seed in seeds if seed not in have]
            if not have:
                found.append(f"{label} was not run on {task}")
            elif lacking:
                found.append(f"{label} on {task} has no seed {', '.join(lacking)}")
        if ours["steps"].nunique() > 1:
            found.append(f"runs on {task} differ in their steps: {', '.join(map(str, sorted(set(ours['steps']))))}")
        _differing(rows[rows["task"] == task], "dataset", f"runs on {task} learned from different datasets", found)
    for (task, label), group in rows.groupby(["task", "label"]):
        _differing(group, "config_hash", f"{label} on {task} has runs with different options", found)
    unfinished = scores[~scores["finished"].astype(bool)]
    found += [f"{run.label} on {run.task}, seed {run.seed}, has not finished ({run.steps} steps)" for run in unfinished.itertuples()]
    few = scores[scores["finished"].astype(bool) & (scores["evaluations"] < LAST)]
    found += [f"{run.label} on {run.task}, seed {run.seed}, has only {run.evaluations} evaluations" for run in few.itertuples()]
    if len(seeds) == 1:
        found.append("one seed: differences may be chance, and there are no intervals")
    return found


def _differing(rows: pd.DataFrame, column: str, text: str, found: list[str]) -> None:
    values: Any = rows[column].unique()
    if len(values) > 1:
        found.append(f"{text} ({', '.join(map(str, values))})")
