"""Differences between a contestant and the one of its algorithm's name, run by run: of the same task, seed, dataset, model and steps."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from offlinerlkit_damo.report import statistics
from offlinerlkit_damo.report.scores import RUN, few_of
from offlinerlkit_damo.report.tables import NONE, with_interval

ALL = "all tasks"
CAPTION = (
    "Difference to the contestant that is called by the algorithm's own name, in points of the score, paired by seed, dataset, dynamics "
    "model and steps. What either changes of its algorithm's preset is said above, where it is known."
)
INTERVALS = " In brackets: 95% intervals, bootstrap over the pairs."


def paired_differences(rows: pd.DataFrame, scores: pd.DataFrame, pooled: Collection[str]) -> tuple[pd.DataFrame, list[str]]:
    """A row a task and contestant with a name of its own while its algorithm, called by its own name, was run too.

    Columns: contestant, beside (the latter), task, difference (an Interval of the mean over seeds, in points of the score: redrawn
    are pairs, within each task) and seeds, seed -> difference. Of several tasks, all of them `pooled`, there is a row "all tasks" too.
    Seeds that only one of the two has, runs that have not finished, and runs on another dataset, model or budget are no pairs; the second
    result names the latter two.
    """
    origin = rows.groupby(RUN, as_index=False).agg(
        dataset=("dataset", "last"), dynamics=("dynamics", "last"), datasets=("dataset", "nunique")
    )
    table = scores.merge(origin)
    found: list[dict[str, Any]] = []
    told: list[str] = []
    algos = table.groupby("label", sort=False)["algo"].first()
    for label, algo in algos.items():
        if label == algo or algos.get(algo) != algo:
            continue
        per_task = {}
        for task, group in table.groupby("task", sort=True):
            pairs = group[group["label"] == label].merge(group[group["label"] == algo], on="seed", suffixes=("", "_plain"))
            going = ~(pairs["finished"] & pairs["finished_plain"])
            told += [f"{label} and {algo} on {task}, seed {seed}: not both finished, no pair" for seed in pairs[going]["seed"]]
            pairs = pairs[~going]
            alike = [pairs[name].fillna("") == pairs[f"{name}_plain"].fillna("") for name in ("dataset", "dynamics", "steps")]
            # model-free runs have no model, neither of them; a run that was forced on to other data has learned from two
            unlike = ~np.logical_and.reduce([*alike, pairs["datasets"] <= 1, pairs["datasets_plain"] <= 1])
            told += [f"{label} and {algo} on {task}, seed {seed}: unlike data, model or steps, no pair" for seed in pairs[unlike]["seed"]]
            pairs = pairs[~unlike].sort_values("seed")
            if len(pairs):
                difference = (pairs["score"] - pairs["score_plain"]).to_numpy(np.float64)
                per_task[str(task)] = dict(zip(map(int, pairs["seed"]), map(float, difference), strict=True))
        values = {task: np.array(list(seeds.values())) for task, seeds in per_task.items()}
        found += [_row(str(label), str(algo), task, [values[task]], seeds) for task, seeds in per_task.items()]
        if len(per_task) > 1 and set(per_task) <= set(pooled):
            found.append(_row(str(label), str(algo), ALL, list(values.values()), {}))
    return pd.DataFrame(found), told


def _row(label: str, algo: str, task: str, differences: statistics.Scores, seeds: dict[int, float]) -> dict[str, Any]:
    difference = statistics.interval(statistics.mean, differences)
    return {"contestant": label, "beside": algo, "task": task, "difference": difference, "seeds": seeds}


def caption(table: pd.DataFrame) -> str:
    """What the table's figures are, and what intervals of so few pairs are worth."""
    numbers = [len(seeds) for seeds in table["seeds"] if seeds]
    tasks = table.loc[table["task"] != ALL, "task"].nunique()
    known = INTERVALS if any(not np.isnan(x.low) for x in table["difference"]) else ""
    told = "".join(f" {text[0].upper()}{text[1:]}." for text in few_of(numbers, tasks, "pair"))
    return CAPTION + known + told


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table for people: "+3.1 [+1.0, +5.2]", and every seed's difference."""
    if table.empty:
        return table
    return pd.DataFrame(
        {
            **{name: table[name] for name in ("contestant", "beside", "task")},
            "difference": [with_interval(x.value, x.low, x.high, 1, sign="+") for x in table["difference"]],
            "seeds": [", ".join(f"{value:+.1f}" for value in seeds.values()) or NONE for seeds in table["seeds"]],
        }
    )
