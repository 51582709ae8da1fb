"""Score tables as Markdown, CSV and LaTeX, with published numbers beside our own and marked as such."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from offlinerlkit_damo.config import read_yaml

NONE = "-"  # nothing was run, or published


def published() -> tuple[str, dict[str, dict[str, float]]]:
    """Where they are from, and task -> algorithm -> score on D4RL's data."""
    content: dict[str, Any] = read_yaml(Path(str(resources.files("offlinerlkit_damo") / "configs" / "published.yaml")))
    return str(content["source"]), content["scores"]


def wide(table: pd.DataFrame, means: dict[str, float]) -> pd.DataFrame:
    """A row a task, a column a contestant: "mean ± std (seed, seed, ...)"; `means` are the datasets' mean scores."""
    labels = list(dict.fromkeys(table["label"]))
    found = []
    for task, group in table.groupby("task", sort=True):
        row = {"task": str(task), "dataset": f"{means[str(task)]:.1f}" if str(task) in means else NONE}
        cells = {str(entry["label"]): _cell(entry) for _, entry in group.iterrows()}
        found.append({**row, **{label: cells.get(label, NONE) for label in labels}})
    return pd.DataFrame(found)


def _cell(entry: Any) -> str:
    seeds = ", ".join(f"{score:.1f}" for score in entry["seeds"].values())
    return f"{entry['mean']:.1f} ± {entry['std']:.1f} ({seeds})"


def published_rows(tasks: list[str], algos: dict[str, str]) -> pd.DataFrame:
    """The published scores of the contestants (label -> algorithm) on tasks of D4RL's names; empty where there are none."""
    _, scores = published()
    found = []
    for task in tasks:
        known = scores.get(task.removesuffix("-v2"))
        if known:
            cells = {label: f"{known[algo]:.1f}" if label == algo and algo in known else NONE for label, algo in algos.items()}
            found.append({"task": task, **cells})
    return pd.DataFrame(found)


def markdown(table: pd.DataFrame) -> str:
    """A pipe table."""
    head = "| " + " | ".join(map(str, table.columns)) + " |\n|" + "---|" * len(table.columns)
    return head + "".join("\n| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)) + "\n"


def latex(table: pd.DataFrame) -> str:
    """A booktabs tabular."""
    return table.replace("±", r"$\\pm$", regex=True).to_latex(index=False, escape=False).replace("_", r"\_")
