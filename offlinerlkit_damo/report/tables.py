"""Score tables as Markdown, CSV and LaTeX, with published numbers beside our own and marked as such."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from offlinerlkit_damo.config import packaged

NONE = "-"  # nothing was run, or published
UNFINISHED = " *"
ACROSS = 6  # contestants that fit beside each other on a page
TEX = str.maketrans(
    {letter: rf"\{letter}" for letter in "%&_#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)
"""What these letters are called, which mean something else in LaTeX."""
SENTENCE = 60  # letters of a cell that is no figure any more


@dataclass(frozen=True)
class Publication:
    """Scores on D4RL's data, normalised points.

    Attributes:
        name: in one word, for columns.
        source: for readers.
        scores: task -> algorithm -> score, or [score, what stands behind its ±].
    """

    name: str
    source: str
    scores: dict[str, dict[str, float | list[float]]]

    def score(self, task: str, algo: str) -> tuple[float | None, float | None]:
        """Of an algorithm on a task of D4RL's name, and what stands behind its ±; None for what was not published."""
        found = self.scores.get(task.removesuffix("-v2"), {}).get(algo)
        if isinstance(found, list):
            return found[0], found[1]
        return found, None


def published() -> list[Publication]:
    """In the order of the file."""
    return [Publication(**entry) for entry in packaged("published")["publications"]]


def wide(table: pd.DataFrame, means: dict[str, float]) -> pd.DataFrame:
    """A row a task, a column a contestant: "mean ± std (seed, seed, ...)", of one seed its score; `means` are the datasets' mean scores.

    A cell with runs that have not finished is marked, and says at which steps these stand: "2.0 ± 1.0 * (3.0, 1.0 at 4k)". Of one
    task many contestants are a row each.
    """
    labels = list(dict.fromkeys(table["label"]))
    if table["task"].nunique() == 1 and len(labels) > ACROSS:
        return _long(table, means)
    found = []
    for task, group in table.groupby("task", sort=True):
        row = {"task": str(task), "steps": _steps(group), "dataset": _dataset(str(task), means)}
        cells = {str(entry["label"]): _cell(entry) for _, entry in group.iterrows()}
        found.append({**row, **{label: cells.get(label, NONE) for label in labels}})
    return pd.DataFrame(found)


def _long(table: pd.DataFrame, means: dict[str, float]) -> pd.DataFrame:
    task = str(table["task"].iloc[0])
    rows = [{"contestant": "(dataset)", "steps": NONE, task: _dataset(task, means)}]
    for label, group in table.groupby("label", sort=False):
        rows.append({"contestant": str(label), "steps": _steps(group), task: _cell(group.iloc[0])})
    return pd.DataFrame(rows)


def _dataset(task: str, means: dict[str, float]) -> str:
    return _points(means[task]) if task in means else NONE


def _steps(group: pd.DataFrame) -> str:
    steps = sorted({number for numbers in group["steps"] for number in numbers.values()})
    return " to ".join(f"{number:,}" for number in sorted({steps[0], steps[-1]}))


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

    Only of contestants that are called by an algorithm's name, whatever their options; on generated tasks these are scores on other data.
    """
    found = []
    for publication in published():
        scores = {task: {label: publication.score(task, label) for label, algo in algos.items() if label == algo} for task in tasks}
        known = {task: row for task, row in scores.items() if any(score is not None for score, _ in row.values())}
        own = [label for label in algos if any(row.get(label, (None,))[0] is not None for row in known.values())]
        if own:
            rows = [{"task": task, **{label: _published(*row[label]) for label in own}} for task, row in known.items()]
            found.append((publication.source, pd.DataFrame(rows)))
    return found


def _published(score: float | None, spread: float | None) -> str:
    if score is None:
        return NONE
    return f"{score:.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def numbers(table: pd.DataFrame, means: dict[str, float]) -> pd.DataFrame:
    """A row a task and contestant for programs: what `score_table` has in columns of its own, and published_... of D4RL's data."""
    seeds = sorted({seed for scores in table["seeds"] for seed in scores})
    found = []
    for _, entry in table.iterrows():
        row = {"task": entry["task"], "contestant": entry["label"], "algorithm": entry["algo"]}
        row |= {"mean": entry["mean"], "std": entry["std"], "runs": len(entry["seeds"]), "unfinished": len(entry["unfinished"])}
        row |= {"fewest_steps": min(entry["steps"].values()), "most_steps": max(entry["steps"].values())}
        row |= {"dataset": means.get(str(entry["task"])), **{f"seed_{seed}": entry["seeds"].get(seed) for seed in seeds}}
        for publication in published():
            own = entry["label"] == entry["algo"]
            score, spread = publication.score(str(entry["task"]), str(entry["algo"])) if own else (None, None)
            row |= {f"published_{publication.name}": score, f"published_{publication.name}_spread": spread}
        found.append(row)
    return pd.DataFrame(found).dropna(axis="columns", how="all")


def with_interval(value: float, low: float, high: float, digits: int, *, sign: str = "") -> str:
    """"1.2 [0.9, 1.5]", or the value alone where there is no interval; `sign` "+" shows that of positive figures too."""
    return f"{value:{sign}.{digits}f}" + ("" if math.isnan(low) else f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]")


def markdown(table: pd.DataFrame) -> str:
    """A pipe table."""
    cells = [list(table.columns), *table.astype(object).to_numpy().tolist()]
    head, *rows = ([str(cell).replace("|", r"\|") for cell in row] for row in cells)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines]) + "\n"


def latex(table: pd.DataFrame, caption: str) -> str:
    """A table with its caption, for the package booktabs."""
    widest = [max(len(str(cell)) for cell in table[name]) for name in table.columns[1:]]
    columns = "l" + "".join(r"p{0.5\textwidth}" if width > SENTENCE else "r" for width in widest)
    escaped = caption.translate(TEX)
    return table.to_latex(index=False, escape=True, column_format=columns, caption=escaped).replace("±", r"$\pm$")
