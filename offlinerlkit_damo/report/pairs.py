"""Differences between a contestant and its plain algorithm, run by run: of the same task, seed, dataset and dynamics model."""

from __future__ import annotations

import numpy as np
import pandas as pd

from offlinerlkit_damo.report import statistics
from offlinerlkit_damo.report.tables import NONE

ALL = "all tasks"
CAPTION = (
    "Difference to the plain algorithm in normalised points, paired by seed, dataset and dynamics model; 95% intervals, bootstrap over "
    "the pairs."
)


def paired_differences(rows: pd.DataFrame, scores: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A row a task and contestant that has options of its own while its plain algorithm, called by its name, was run too.

    Columns: contestant, beside (the plain algorithm), task, difference ("mean [low, high]" over seeds, in normalised points: redrawn are
    pairs, within each task) and seeds (every pair's difference). Of several tasks with the same seeds there is a row "all tasks" too. Seeds
    that only one of the two has, and runs on another dataset or model, are no pairs; the second result names the latter.
    """
    known = rows.assign(dynamics=rows.get("dynamics"))  # an unfinished run has not said which model is its own
    origin = known.groupby(["task", "label", "seed"], as_index=False)[["dataset", "dynamics"]].first()
    table = scores.merge(origin)
    found: list[dict[str, str]] = []
    told: list[str] = []
    algos = table.groupby("label", sort=False)["algo"].first()
    for label, algo in algos.items():
        if label == algo or algo not in algos.index:
            continue
        per_task = {}
        for task, group in table.groupby("task", sort=True):
            both = group[group["label"] == label].merge(group[group["label"] == algo], on="seed", suffixes=("", "_plain"))
            unlike = both["dataset"] != both["dataset_plain"]
            unlike |= (both["dynamics"] != both["dynamics_plain"]) & both["dynamics"].notna() & both["dynamics_plain"].notna()
            told += [f"{label} and {algo} on {task}, seed {seed}: another dataset or model, no pair" for seed in both[unlike]["seed"]]
            both = both[~unlike].sort_values("seed")
            if len(both):
                per_task[str(task)] = both["seed"].tolist(), (both["score"] - both["score_plain"]).to_numpy(np.float64)
        names = {"contestant": str(label), "beside": str(algo)}
        for task, (_, differences) in per_task.items():
            found.append({**names, "task": task, **_cells(differences[:, None]), "seeds": ", ".join(f"{x:+.1f}" for x in differences)})
        if len(per_task) > 1 and len({tuple(seeds) for seeds, _ in per_task.values()}) == 1:
            matrix = np.stack([differences for _, differences in per_task.values()], 1)
            found.append({**names, "task": ALL, **_cells(matrix), "seeds": NONE})
    return pd.DataFrame(found), told


def _cells(matrix: statistics.Scores) -> dict[str, str]:
    mean = statistics.interval(statistics.mean, matrix)
    return {"difference": f"{mean.value:+.1f}" + ("" if np.isnan(mean.low) else f" [{mean.low:+.1f}, {mean.high:+.1f}]")}
