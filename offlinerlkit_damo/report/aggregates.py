"""Figures over all runs of a comparison, with their intervals: of the contestants that have finished some on every task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from offlinerlkit_damo.report import statistics
from offlinerlkit_damo.report.scores import contestants
from offlinerlkit_damo.report.statistics import Floats, Interval, Scores
from offlinerlkit_damo.report.tables import NONE, with_interval

GAP = "optimality gap"  # to an expert: of normalised scores only
STATISTICS: dict[str, Callable[[Scores], Floats]] = {
    "IQM": statistics.iqm,
    "mean": statistics.mean,
    GAP: statistics.optimality_gap,
}


def aggregate(complete: Mapping[str, Scores], *, in_points: bool = True) -> dict[str, dict[str, Interval]]:
    """Statistic -> contestant -> its figure: of all STATISTICS, and of the probability of improvement over the first contestant.

    Scores that are not `in_points` are returns, of which there is no optimality gap.
    """
    if not complete:
        return {}
    found = {
        name: {
            label: statistics.interval(statistic, ours)
            for label, ours in complete.items()
            if name != "IQM" or sum(map(len, ours)) >= statistics.FEWEST
        }
        for name, statistic in STATISTICS.items()
        if in_points or name != GAP
    }
    found = {name: figures for name, figures in found.items() if figures}
    first, *others = complete
    if others:
        found[f"P(better than {first})"] = {
            label: statistics.interval(statistics.improvement, complete[label], complete[first]) for label in others
        }
    return found


def aggregate_table(aggregates: Mapping[str, Mapping[str, Interval]]) -> pd.DataFrame:
    """A row a contestant, a column a statistic: "figure [low, high]"."""
    labels = list(dict.fromkeys(label for found in aggregates.values() for label in found))
    return pd.DataFrame(
        [
            {
                "contestant": label,
                **{
                    name: with_interval(x.value, x.low, x.high, 2 if name.startswith("P(") else 1) if (x := found.get(label)) else NONE
                    for name, found in aggregates.items()
                },
            }
            for label in labels
        ]
    )


def complete_scores(scores: pd.DataFrame) -> dict[str, Scores]:
    """Contestant -> the scores of its finished runs, an array for every task, for those that have some on every task; none is filled in."""
    tasks, finished = sorted(set(scores["task"])), scores[scores["finished"]]
    found: dict[str, Scores] = {}
    for label, group in finished.groupby("label", sort=False):
        ours = {task: runs.to_numpy(np.float64) for task, runs in group.groupby("task")["score"]}
        if len(ours) == len(tasks):
            found[str(label)] = [ours[task] for task in tasks]
    return found


def left_out(rows: pd.DataFrame, complete: Mapping[str, Scores], pooled: Sequence[str]) -> list[str]:
    """What the figures over all tasks, which are those of the `pooled` ones, lack, in a sentence each."""
    other = sorted(set(map(str, rows["task"])) - set(pooled))
    told = [f"no figures over all runs have {', '.join(other)}: scores there are returns, in a unit of their own"] if other else []
    absent = [label for label in contestants(rows) if label not in complete]
    if absent and pooled:
        reason = "none of their runs has finished" if len(pooled) == 1 else "not every task has a finished run of theirs"
        told.append(f"no figures over all runs for {', '.join(absent)}: {reason}")
    return told
