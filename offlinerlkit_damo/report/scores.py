"""From the rows of a comparison to scores: a run's is the mean of its last ten evaluations, the kit's measure."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.report.statistics import coverage

ROWS = "rows.csv"  # a comparison's table, in its folder
LAST = 10
ENOUGH = 0.9
"""What an interval that says 95% must reach to be shown without a word; ten runs of normal scores do."""
NUMBERS = ("seed", "timestep", "episode", "return", "score", "length")
WHOLE = ("seed", "timestep", "episode", "length")
NEEDED = ("task", "label", "algo", "config_hash", "dataset", "finished", *NUMBERS)
OPTIONAL = ("dataset_mean", "source", "dynamics", "host", "commit", "machine", "seconds", "q_data", "gamma")
TEXTS = ("task", "label", "algo", "config_hash", "dataset", "source", "dynamics", "host", "commit", "machine")
"""Columns that are no numbers, though one of digits alone may look like one, and none is missing because it says "None"."""
RUN = ["task", "label", "seed"]


def read_rows(paths: Sequence[Path]) -> pd.DataFrame:
    """The rows of one or more comparisons: folders, or tables themselves, also packed as .csv.gz.

    Raises UserError for files that are no such tables, empty, damaged, or that share a run.
    """
    tables: list[pd.DataFrame] = []
    for path in paths:
        file = path / ROWS if path.is_dir() else path
        try:
            table = pd.read_csv(file, dtype=dict.fromkeys(TEXTS, str), keep_default_na=False, na_values=[""])
        except FileNotFoundError:
            raise UserError(f"{str(path)!r} has no {ROWS}; give the folder of a comparison that `compare` made") from None
        except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, EOFError, zlib.error):
            raise UserError(f"{str(file)!r} is no table of a comparison; run `compare` again to have it gathered anew") from None
        except OSError as error:
            raise UserError(f"cannot read {str(file)!r} ({error.strerror or error})") from None
        missing = [name for name in NEEDED if name not in table]
        if missing:
            raise UserError(f"{str(file)!r} lacks the columns {', '.join(missing)}; run `compare` again to have it gathered anew")
        figures = [name for name in OPTIONAL if name in table and name not in TEXTS]
        given = table[figures].notna()
        for name in (*NUMBERS, *figures):
            table[name] = pd.to_numeric(table[name], errors="coerce")
        # seconds and the like may be missing, but not be words; there is no half a seed
        odd = (given & table[figures].isna()).any(axis=1) | (table[list(WHOLE)] % 1 != 0).any(axis=1) | (table["length"] < 1)
        known = table["finished"].astype(str).isin(("True", "False"))
        needed = table[list(NEEDED)]
        broken = np.flatnonzero(needed.isin((np.inf, -np.inf)).any(axis=1) | needed.isna().any(axis=1) | ~known | odd)
        if len(broken):
            raise UserError(
                f"{str(file)!r} has {len(broken)} broken rows, the first in line {broken[0] + 2}; run `compare` again to have them anew"
            )
        table["finished"] = table["finished"].astype(str) == "True"
        for name in OPTIONAL:
            if name not in table:
                table[name] = np.nan
        for other in tables:
            twice = table[RUN].drop_duplicates().merge(other[RUN].drop_duplicates())
            if len(twice):
                task, label, seed = twice.iloc[0]
                raise UserError(
                    f"{label} on {task}, seed {seed}, is in more than one of these comparisons; leave one of them out, or give its "
                    "contestants names of their own in the plan"
                )
        tables.append(table)
    rows = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
    if not len(rows):
        raise UserError("there is no evaluation yet; wait for the first runs")
    again = rows[rows.duplicated([*RUN, "timestep", "episode"])]
    if len(again):
        task, label, seed = again[RUN].iloc[0]
        raise UserError(f"{label} on {task}, seed {seed}, has an episode twice; run `compare` again to have its rows gathered anew")
    return rows


def contestants(rows: pd.DataFrame) -> list[str]:
    """In the order of the rows, which is the plan's; the first is the one that others are compared with."""
    return [str(label) for label in rows["label"].unique()]


def in_returns(rows: pd.DataFrame) -> list[str]:
    """The tasks whose scores are the returns themselves, because no reference scores are known."""
    alike = pd.Series(np.isclose(rows["score"], rows["return"], rtol=1e-9)).groupby(rows["task"].to_numpy()).all()
    return [str(task) for task in alike.index[alike]]


def led_by(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The rows with those of the contestant `reference` first, all else in their order; raises UserError if there is none of that name."""
    there = contestants(rows)
    if reference not in there:
        raise UserError(f"there is no contestant {reference!r} to compare with; there are {', '.join(there)}")
    return rows.sort_values("label", key=lambda labels: labels != reference, kind="stable", ignore_index=True)


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """task, label, seed, timestep, and of every evaluation: the mean score of its episodes, the minutes of training until it, the critic's
    mean value of the data (q_data), and what an episode was worth; nan where one is not known.

    The worth is the discounted return of an episode of the same return R and length L whose reward is spread evenly:
    R / L (1 - gamma^L) / (1 - gamma).
    """
    share = (1 - rows["gamma"] ** rows["length"]) / (1 - rows["gamma"])
    keyed = rows.assign(worth=rows["return"] / rows["length"] * share)
    means = pd.DataFrame(keyed.groupby([*RUN, "timestep"], sort=True)[["score", "seconds", "q_data", "worth"]].mean()).reset_index()
    return means.assign(minutes=means["seconds"] / 60).drop(columns="seconds")


def on_common_grid(evaluations: pd.DataFrame, columns: Sequence[str] = ("score", "minutes", "q_data", "worth")) -> pd.DataFrame:
    """The mean over seeds of one contestant's evaluations on one task, at the steps at which every seed was evaluated."""
    there = evaluations[evaluations["timestep"].isin(_common_steps(evaluations))]
    return pd.DataFrame(there.groupby("timestep")[list(columns)].mean()).reset_index()


def counted(label: str, evaluations: pd.DataFrame) -> str:
    """The name of a contestant's mean over seeds on one task: of how many, and to which step where a seed has come further."""
    seeds, common = evaluations["seed"].nunique(), _common_steps(evaluations)
    last = common.max() if len(common) else 0
    until = "" if last == evaluations["timestep"].max() else f",\nmean to {last:,} steps"
    return f"{label}, {seeds} seed{'s' * (seeds > 1)}{until}"


def _common_steps(rows: pd.DataFrame) -> pd.Index:
    """The steps at which every seed of one contestant on one task was evaluated."""
    every = rows.groupby("timestep")["seed"].nunique()
    return every[every == rows["seed"].nunique()].index


def run_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a run: task, label, algo, seed, score, its number of evaluations and steps, whether it has finished.

    And `since`, the step of the first evaluation that counts for its score, and `episodes`, how many of an evaluation.
    """
    each = rows.groupby([*RUN, "timestep"], sort=True)["score"].agg(["mean", "size"]).reset_index()
    last = each.groupby(RUN).tail(LAST)
    scores = last.groupby(RUN, as_index=False).agg(score=("mean", "mean"), since=("timestep", "min"), episodes=("size", "min"))
    about = rows.groupby(RUN, as_index=False).agg(
        algo=("algo", "first"), evaluations=("timestep", "nunique"), steps=("timestep", "max"), finished=("finished", "all")
    )
    order = {label: i for i, label in enumerate(contestants(rows))}
    return pd.DataFrame(scores.merge(about)).sort_values("label", key=lambda labels: labels.map(order), kind="stable", ignore_index=True)


def score_table(scores: pd.DataFrame) -> pd.DataFrame:
    """A row a task and contestant: mean and standard deviation over seeds, and by its number every seed's score and the steps of its run.

    The deviation is that of these runs: its square is their mean square, divided by their number. `unfinished` has the seeds still going.
    """
    found = []
    for (task, label), group in scores.groupby(["task", "label"], sort=False):
        ordered = group.sort_values("seed")
        found.append(
            {
                "task": task,
                "label": label,
                "algo": str(ordered["algo"].iloc[0]),
                "mean": float(ordered["score"].mean()),
                "std": float(ordered["score"].std(ddof=0)),
                "seeds": {int(seed): float(score) for seed, score in zip(ordered["seed"], ordered["score"], strict=True)},
                "steps": dict(zip(map(int, ordered["seed"]), map(int, ordered["steps"]), strict=True)),
                "unfinished": [int(seed) for seed in ordered[~ordered["finished"]]["seed"]],
            }
        )
    return pd.DataFrame(found)


def remarks(rows: pd.DataFrame, scores: pd.DataFrame) -> list[str]:
    """What a reader must know before comparing: missing seeds, runs that go on, budgets, options or data that differ."""
    found = _missing(scores)
    for task in sorted(set(scores["task"])):
        ours = scores[scores["task"] == task]
        ended = ours[ours["finished"]].sort_values("steps", kind="stable")
        found += _differing(ended, "steps", f"finished runs on {task} differ in their steps")
        if ended["steps"].nunique() == 1:
            found += _differing(ended, "since", f"scores on {task} are means of evaluations since different steps")
        found += _differing(ended, "episodes", f"evaluations on {task} have different numbers of episodes")
        found += _unshared(rows[rows["task"] == task], task)
        found += _differing(rows[rows["task"] == task], "dataset", f"runs on {task} learned from different datasets")
    for (task, label), group in rows.groupby(["task", "label"]):
        if _common_steps(group).empty:
            found.append(f"there is no mean curve of {label} on {task}: its seeds were evaluated at different steps")
        found += _differing(group, "config_hash", f"{label} on {task} has runs with different options", by="seed")
    found += _differing(rows, "host", "some runs used OfflineRL-Kit's classes, others the stand-in's")
    found += _differing(rows, "commit", "runs were made by different versions of this package")
    finished = scores["finished"]
    for (task, label), group in scores[~finished].groupby(["task", "label"], sort=False):
        going = ", ".join(f"seed {run.seed} ({run.steps} steps)" for run in group.itertuples())
        found.append(f"{label} on {task} has not finished: {going}")
    few = scores[scores["evaluations"] < LAST]
    if len(few):
        numbers = " to ".join(str(number) for number in sorted({few["evaluations"].min(), few["evaluations"].max()}))
        runs = f"{len(few)} of {len(scores)} runs {'has' if len(few) == 1 else 'have'}"
        what = "evaluation" if numbers == "1" else "evaluations"
        found.append(f"{runs} only {numbers} {what} instead of {LAST} to take the mean of")
    return found + few_of(list(scores[finished].groupby(["task", "label"]).size()), scores["task"].nunique(), "seed")


def _missing(scores: pd.DataFrame) -> list[str]:
    """A sentence a contestant and what it lacks: tasks, or seeds that others have on them."""
    seeds, tasks = (sorted(set(scores[name])) for name in ("seed", "task"))
    found = []
    for label in scores["label"].unique():
        ours = scores[scores["label"] == label]
        without: dict[str, list[str]] = {}  # what is missing -> where
        for task in tasks:
            have = set(ours[ours["task"] == task]["seed"])
            lacking = [str(seed) for seed in seeds if seed not in have]
            if lacking:
                without.setdefault(f"seed {', '.join(lacking)}" if have else "evaluation", []).append(task)
        found += [f"{label} has no {what} on {', '.join(where)}" for what, where in without.items()]
    return found


def _unshared(rows: pd.DataFrame, task: str) -> list[str]:
    """A sentence on seeds whose contestants learned from different dynamics models; RAMBO's, of standardised observations, is its own."""
    models = rows[rows["dynamics"].notna() & (rows["algo"] != "rambo")].groupby("seed")["dynamics"].nunique()
    seeds = [str(seed) for seed in models[models > 1].index]
    return [f"contestants on {task} do not share one dynamics model: seed {', '.join(seeds)}"] if seeds else []


def few_of(sizes: Sequence[int], tasks: int, what: str) -> list[str]:
    """A sentence on intervals of so many `what` a task and contestant, each one of `sizes`, or none where they are many."""
    if not sizes:
        return []
    smallest, largest = min(sizes), max(sizes)
    if largest == 1:
        return [f"one {what}: differences may be chance, and there are no intervals"]
    number = str(smallest) if smallest == largest else f"{smallest} to {largest}"
    fewest = min(size for size in sizes if size > 1)
    alone = "; of one there is none" if smallest == 1 else ""
    share = coverage(fewest)
    if share >= ENOUGH:
        return [f"{number} {what}s: intervals need several{alone}"] if alone else []
    over_all = f", and one over all {tasks} tasks in {coverage(fewest, tasks):.0%}" if tasks > 1 else ""
    return [
        f"{number} {what}s: intervals of so few are too narrow; of normal scores, one of {fewest} holds the true mean in about {share:.0%} "
        f"of cases, not in 95%{over_all}{alone}"
    ]


def _differing(rows: pd.DataFrame, column: str, text: str, by: str = "label") -> list[str]:
    """`text` with each of the column's values and the contestants, or seeds, that have it; nothing where all have the same."""
    values = list(rows[column].unique())
    if len(values) < 2:
        return []
    having = {value: rows[rows[column].isna() if pd.isna(value) else rows[column] == value][by].unique() for value in values}
    known = (f"{_named(value)} ({'' if by == 'label' else f'{by} '}{', '.join(map(str, names))})" for value, names in having.items())
    return [f"{text}: {'; '.join(known)}"]


def _named(value: Any) -> str:
    if pd.isna(value):
        return "unknown"
    return str(value) if isinstance(value, str) else f"{value:,}"
