"""Score tables as Markdown, CSV and LaTeX, with published numbers beside our own and marked as such."""

from __future__ import annotations

from typing import Any

import pandas as pd

from offlinerlkit_damo.config import packaged

NONE = "-"  # nothing was run, or published
UNFINISHED = " *"


def published() -> list[tuple[str, dict[str, dict[str, float]]]]:
    """Of every publication: what it is, and task -> algorithm -> score on D4RL's data."""
    return [(str(entry["source"]), entry["scores"]) for entry in packaged("published")["publications"]]


def wide(table: pd.DataFrame, means: dict[str, float]) -> pd.DataFrame:
    """A row a task, a column a contestant: "mean ± std (seed, seed, ...)", of one seed its score; `means` are the datasets' mean scores.

    A cell with runs that have not finished is marked, and says at which steps these stand: "2.0 ± 1.0 * (3.0, 1.0 at 4k)".
    """
    labels = list(dict.fromkeys(table["label"]))
    found = []
    for task, group in table.groupby("task", sort=True):
        steps = sorted({number for numbers in group["steps"] for number in numbers.values()})
        row = {
            "task": str(task),
            "steps": " to ".join(f"{number:,}" for number in sorted({steps[0], steps[-1]})),
            "dataset": _points(means[str(task)]) if str(task) in means else NONE,
        }
        cells = {str(entry["label"]): _cell(entry) for _, entry in group.iterrows()}
        found.append({**row, **{label: cells.get(label, NONE) for label in labels}})
    return pd.DataFrame(found)


def _cell(entry: Any) -> str:
    steps = {seed: f"at {_short(entry['steps'][seed])}" for seed in entry["unfinished"]}
    mark = UNFINISHED if steps else ""
    if len(entry["seeds"]) == 1:  # which has no spread
        return _points(entry["mean"]) + mark + "".join(f" ({text})" for text in steps.values())
    every = ", ".join(" ".join([_points(score), *filter(None, [steps.get(seed)])]) for seed, score in entry["seeds"].items())
    return f"{_points(entry['mean'])} ± {entry['std']:.1f}{mark} ({every})"


def _short(steps: int) -> str:
    return f"{steps // 1000:,}k" if steps % 1000 == 0 else f"{steps:,}"


def _points(score: float) -> str:
    return f"{round(score, 1) + 0.0:.1f}"  # not -0.0


def published_tables(tasks: list[str], algos: dict[str, str]) -> list[tuple[str, pd.DataFrame]]:
    """Of every publication that has some: what it is, and its scores of the contestants (label -> algorithm) on tasks of D4RL's names.

    Only of contestants that are an algorithm as it was published; on generated tasks these are scores on other data.
    """
    found = []
    for source, scores in published():
        known = {task: scores[task.removesuffix("-v2")] for task in tasks if task.removesuffix("-v2") in scores}
        own = [label for label, algo in algos.items() if label == algo and any(label in row for row in known.values())]
        if own:
            cells = {task: {label: f"{row[label]:.1f}" if label in row else NONE for label in own} for task, row in known.items()}
            found.append((source, pd.DataFrame([{"task": task, **row} for task, row in cells.items()])))
    return found


def markdown(table: pd.DataFrame) -> str:
    """A pipe table."""
    head = "| " + " | ".join(map(str, table.columns)) + " |\n|" + "---|" * len(table.columns)
    return head + "".join("\n| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)) + "\n"


def latex(table: pd.DataFrame) -> str:
    """A booktabs tabular."""
    columns = "l" + "r" * (len(table.columns) - 1)
    return table.to_latex(index=False, escape=True, column_format=columns).replace("±", r"$\pm$")
