"""A comparison's report: tables, figures and one HTML page that needs no network, from its rows alone."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from offlinerlkit_damo.files import check_writable, replacing
from offlinerlkit_damo.report import pairs, statistics
from offlinerlkit_damo.report.scores import curves, read_rows, remarks, run_scores, score_table
from offlinerlkit_damo.report.tables import latex, markdown, published, published_rows, wide

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.3em .6em;text-align:right}"
    "td:first-child,th:first-child{text-align:left}.note{color:#a33}svg{max-width:100%;height:auto}"
)
LEVELS = np.linspace(0, 120, 121)


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write scores.md, .csv and .tex, and report.html, from the rows of one or more comparisons; returns the page's path.

    A run's score is the mean of its last ten evaluations. Raises UserError as `read_rows` does.
    """
    rows = read_rows(folders)
    check_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    scores = run_scores(rows)
    table = score_table(scores)
    means = {str(task): float(mean) for task, mean in rows.groupby("task")["dataset_mean"].first().dropna().items()}
    shown = wide(table, means)
    differences, unpaired = pairs.paired_differences(rows, scores)
    told = remarks(rows, scores) + unpaired
    algos = {str(label): str(algo) for label, algo in scores.groupby("label")["algo"].first().items()}
    theirs = published_rows([str(task) for task in shown["task"]], algos)
    aggregates = aggregate_table(scores)
    notes = "".join(f"* {text}\n" for text in told)
    source = published()[0]
    text = f"{markdown(shown)}\n{notes}" + ("" if aggregates.empty else f"\n{markdown(aggregates)}")
    if not differences.empty:
        text += f"\n{pairs.CAPTION}\n\n{markdown(pairs.shown(differences))}"
    if not theirs.empty:
        text += f"\nPublished ({source}), on other data than generated tasks have:\n\n{markdown(theirs)}"
    _write(out / "scores.md", text)
    _write(out / "scores.csv", scores.to_csv(index=False))
    _write(out / "scores.tex", latex(shown))
    parts = [
        "<h1>Comparison</h1><p>Mean of the last ten evaluations of every run, normalised points: mean ± standard deviation over seeds, and "
        "every seed. The column dataset has the mean score of its episodes.</p>",
        _html(shown),
        *(f'<p class="note">{html.escape(text)}</p>' for text in told),
        *([] if aggregates.empty else ["<h2>Over all tasks</h2><p>95% intervals, stratified bootstrap over seeds.</p>", _html(aggregates)]),
        *([] if differences.empty else [f"<h2>Beside the plain algorithm</h2><p>{pairs.CAPTION}</p>", _html(pairs.shown(differences))]),
        *([] if theirs.empty else [f"<h2>Published</h2><p>{html.escape(source)}; not the data above.</p>", _html(theirs)]),
        "<h2>Learning curves</h2><p>Every seed a line, unsmoothed; the thick line is their mean.</p>",
        *(_svg(curve_figure(rows, str(task), means.get(str(task)))) for task in shown["task"]),
        "<h2>Performance profile</h2><p>The share of runs above a score.</p>",
        _svg(profile_figure(scores)),
    ]
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Comparison</title><style>{STYLE}</style>{"".join(parts)}</html>\n'
    _write(out / "report.html", page)
    return out / "report.html"


def aggregate_table(scores: pd.DataFrame) -> pd.DataFrame:
    """IQM, mean, optimality gap and probability of improvement over the first contestant; of those with the same seeds on all tasks."""
    matrices = complete_matrices(scores)
    if not matrices:
        return pd.DataFrame()
    first = next(iter(matrices))
    found = []
    for label, matrix in matrices.items():
        row: dict[str, Any] = {"contestant": label}
        for name, statistic in (("IQM", statistics.iqm), ("mean", statistics.mean), ("optimality gap", statistics.optimality_gap)):
            row[name] = _cell(statistics.interval(statistic, matrix))
        row[f"P(better than {first})"] = "-" if label == first else _cell(
            statistics.interval(statistics.improvement, matrix, matrices[first]), digits=2
        )
        found.append(row)
    return pd.DataFrame(found)


def complete_matrices(scores: pd.DataFrame) -> dict[str, statistics.Scores]:
    """Contestant -> [seeds, tasks], for those that have every seed on every task; nothing of the others is cut or filled in."""
    tasks, seeds = sorted(set(scores["task"])), sorted(set(scores["seed"]))
    found = {}
    for label, group in scores.groupby("label", sort=True):
        table = group.pivot(index="seed", columns="task", values="score").reindex(index=seeds, columns=tasks)
        if not table.isna().any(axis=None):
            found[str(label)] = table.to_numpy(np.float64)
    return found


def curve_figure(rows: pd.DataFrame, task: str, dataset_mean: float | None) -> Figure:
    """Every run's evaluations on one task, by contestant."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    table = curves(rows[rows["task"] == task])
    for i, (label, group) in enumerate(table.groupby("label", sort=True)):
        colour = f"C{i}"
        for _, run in group.groupby("seed"):
            axes.plot(run["timestep"], run["score"], color=colour, linewidth=0.8, alpha=0.45)
        mean = group.groupby("timestep")["score"].mean()
        axes.plot(mean.index, mean.to_numpy(), color=colour, linewidth=2.2, label=str(label))
    if dataset_mean is not None:
        axes.axhline(dataset_mean, color="0.35", linestyle="--", linewidth=1, label="dataset mean")
    axes.set(xlabel="gradient steps", ylabel="normalised score", title=task)
    axes.legend(fontsize=8)
    return figure


def profile_figure(scores: pd.DataFrame) -> Figure:
    """The share of runs above every score, by contestant."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for label, group in scores.groupby("label", sort=True):
        axes.step(LEVELS, statistics.profile(group["score"].to_numpy(np.float64), LEVELS), where="post", label=str(label))
    axes.set(xlabel="normalised score", ylabel="share of runs above it", ylim=(-0.02, 1.02))
    axes.legend(fontsize=8)
    return figure


def _cell(interval: statistics.Interval, digits: int = 1) -> str:
    if np.isnan(interval.low):
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _html(table: pd.DataFrame) -> str:
    return str(table.to_html(index=False, border=0))


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg")
    text = file.getvalue()
    return text[text.index("<svg") :]


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
