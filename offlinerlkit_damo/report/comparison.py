"""A comparison's report: tables, figures and one HTML page that needs no network, from its rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import file_name, make_folder, replacing, save_text
from offlinerlkit_damo.report import page, pairs, panels, statistics
from offlinerlkit_damo.report.aggregates import GAP, aggregate, aggregate_table, complete_scores, left_out
from offlinerlkit_damo.report.figures import SUFFIXES
from offlinerlkit_damo.report.looks import Look, looks
from offlinerlkit_damo.report.options import own_options
from offlinerlkit_damo.report.origin import origin
from offlinerlkit_damo.report.planned import failures, unmeasured
from offlinerlkit_damo.report.results import POINTS, RETURN
from offlinerlkit_damo.report.scores import (
    LAST,
    contestants,
    curves,
    in_returns,
    led_by,
    read_rows,
    remarks,
    run_scores,
    score_table,
)
from offlinerlkit_damo.report.statistics import Interval, Scores
from offlinerlkit_damo.report.tables import latex, markdown, numbers, published_tables, wide

SCORES = (
    f"A run's score is the mean of its last {LAST} evaluations, in normalised points: 0 for a random and 100 for an expert policy (the "
    "return itself where no such references are known). A cell has mean ± standard deviation over seeds (of these runs: divided by their "
    "number) and, in brackets or below, every seed; dataset is the mean score of its episodes, steps are gradient steps. *: not finished, "
    "so far at the steps named; such runs are in nothing else but the curves."
)
INTERVALS = (
    f"In brackets, as bars and shaded: 95% intervals, from {statistics.RESAMPLES} redraws of the seeds within each task (stratified "
    "percentile bootstrap)."
)
IQM = "IQM: mean of the middle half of all runs."
GAP_ABOUT = "Optimality gap: how far runs stay below an expert's 100 points, less is better."
IMPROVEMENT = "P: the probability that a run beats one of {} on the same task."
SEVERAL = "Every task counts the same, however many seeds it has, but for the IQM."
VALUES = (
    "Value estimate against real return. Solid: the first critic's mean value of the data. Dotted: the discounted return of an "
    "evaluation's episode, from its return and length as if its reward were spread evenly. Thin: every seed; thick: their mean. A critic "
    "values its own algorithm's reward (MOPO's is penalised, DAMO's refined, the DICE family's scaled), so a gap alone is no error; one "
    "that widens without end is. Contestants without a critic Q(s, a) have no panel."
)
MIDDLE = np.array([50.0])
PAIRED = "Paired differences"
PUBLISHED = (
    "Not measured here, but published for the algorithms themselves on D4RL's data; above may be contestants of these names with other "
    "options"
)


@dataclass(frozen=True)
class Section:
    """A table of the report."""

    title: str
    about: str
    table: pd.DataFrame


@dataclass(frozen=True)
class Drawing:
    """A figure of the report: `name` is its file's, `alt` for those who cannot see it."""

    name: str
    figure: Figure
    caption: str
    alt: str


@rc_context({"text.parse_math": False})  # a contestant's name is no formula
def write_report(folders: Sequence[Path], out: Path, figure_format: str | None = None, reference: str | None = None) -> Path:
    """Write report.html, its tables as scores.md and scores.tex, their numbers as scores.csv and run_scores.csv; returns the page's path.

    From the rows of one or more comparisons, their folders or the files themselves; what contestants changed from their folders' runs, if
    these are there. A run's score is the mean of its last ten evaluations. `figure_format` ("png", "svg" or "pdf") also writes the
    page's figures as files of their own; `reference` is the contestant that the others are compared with, else the rows' first. Raises
    UserError as `read_rows` does, for a reference that is not there, and for a file as `out`.
    """
    if out.suffix in (*SUFFIXES, ".html", ".csv", ".md", ".tex") or out.is_file():
        raise UserError(f"{str(out)!r} is the name of a file; a comparison's report is several, so name a folder with --out")
    rows = read_rows(folders)
    if reference is not None:
        rows = led_by(rows, reference)
    make_folder(out)
    scores = run_scores(rows)
    means = {str(task): float(mean) for task, mean in rows.groupby("task")["dataset_mean"].first().dropna().items()}
    table = score_table(scores)
    returns = in_returns(rows)
    units = {task: RETURN if task in returns else POINTS for task in sorted(map(str, rows["task"].unique()))}
    # returns of different tasks have no common unit
    pooled = [task for task, unit in units.items() if unit == POINTS or len(units) == 1]
    complete = complete_scores(scores[scores["task"].isin(pooled)])
    aggregates = aggregate(complete, in_points=all(units[task] == POINTS for task in pooled))
    differences, unpaired = pairs.paired_differences(rows, scores, pooled)
    told = failures(folders) + remarks(rows, scores) + unmeasured(folders, rows) + left_out(rows, complete, pooled) + unpaired
    measured = [Section("Scores", SCORES, wide(table, means)), *_published(rows, scores), *_changed(folders, rows)]
    overall = _overall(aggregates, len(pooled))
    paired = [] if differences.empty else [Section(PAIRED, pairs.caption(differences), pairs.shown(differences))]
    sections = [*measured, *overall, *paired]

    notes = "".join(f"* {note}\n" for note in told) + ("\n" if told else "")
    save_text(notes + "\n".join(f"**{x.title}.** {x.about}\n\n{markdown(x.table)}" for x in sections), out / "scores.md")
    remarked = [f"% {note}" for note in told]
    save_text("\n".join([*remarked, *(latex(x.table, f"{x.title}. {x.about}") for x in sections)]), out / "scores.tex")
    save_text(numbers(table, means).to_csv(index=False), out / "scores.csv")
    save_text(scores.to_csv(index=False), out / "run_scores.csv")

    drawn = looks(contestants(rows))
    where = next(iter(units)) if len(units) == 1 else f"{len(units)} tasks"
    figures = _over_all_runs(aggregates, complete, drawn, units[pooled[0]]) if overall else []
    of_tasks = {
        str(task): _of_task(str(task), group, drawn, means.get(str(task)), rows, units[str(task)])
        for task, group in curves(rows).groupby("task", sort=True)
    }
    parts = [
        page.facts(origin(rows, scores)),
        page.notes(told),
        *_html(measured),
        *_html(overall),
        *map(_figure, figures),
        *_html(paired),
        *(part for task, drawings in of_tasks.items() for part in (page.heading(task), *map(_figure, drawings))),
    ]
    title = f"Comparison of {len(drawn)} {'contestant' if len(drawn) == 1 else 'contestants'} on {where}"
    save_text(page.page(title, parts), out / "report.html")
    if figure_format is not None:
        for x in (*figures, *(x for drawings in of_tasks.values() for x in drawings)):
            with replacing(out / f"{x.name}.{figure_format}") as temporary:
                x.figure.savefig(temporary, dpi=panels.DPI)
    return out / "report.html"


def _figure(x: Drawing) -> str:
    return page.figure(x.figure, x.caption, x.alt)


def _html(sections: Sequence[Section]) -> list[str]:
    return [part for x in sections for part in (page.heading(x.title), page.paragraph(x.about), page.table(x.table, x.title))]


def _published(rows: pd.DataFrame, scores: pd.DataFrame) -> list[Section]:
    algos = {str(label): str(algo) for label, algo in scores.groupby("label", sort=False)["algo"].first().items()}
    tasks = sorted(map(str, scores["task"].unique()))
    alike = set(map(str, rows[rows["source"] == "d4rl"]["task"]))

    def about(shown: Sequence[str]) -> str:
        unlike = [task for task in shown if task not in alike]
        which = f" of {', '.join(unlike)}" if len(unlike) < len(shown) else ""
        return PUBLISHED + (f". That is not the data above{which}: no measure for the scores there." if unlike else ".")

    return [Section(f"Published: {source}", about(list(table["task"])), table) for source, table in published_tables(tasks, algos)]


def _changed(folders: Sequence[Path], rows: pd.DataFrame) -> list[Section]:
    shared, table = own_options(folders, contestants(rows))
    if table.empty:
        return []
    alike = "; ".join(f"{name}: {text}" for name, text in shared.items())
    about = "Beside the presets of this version of the package." + (f" All contestants that read them changed {alike}." if alike else "")
    return [Section("What each contestant changes", about, table)]


def _overall(aggregates: Mapping[str, Mapping[str, Interval]], tasks: int) -> list[Section]:
    if not aggregates:
        return []
    told = ["Of the contestants that have finished runs on every task."]
    if tasks > 1:
        told.append(SEVERAL)
    if any(not np.isnan(x.low) for found in aggregates.values() for x in found.values()):
        told.append(INTERVALS)
    few = f"There is no IQM: of fewer than {statistics.FEWEST} runs of a contestant it has no meaning."
    told.append(IQM if "IQM" in aggregates else few)
    if GAP in aggregates:
        told.append(GAP_ABOUT)
    if len(aggregates["mean"]) > 1:
        told.append(IMPROVEMENT.format(next(iter(aggregates["mean"]))))
    return [Section("Over all tasks" if tasks > 1 else "All runs together", " ".join(told), aggregate_table(aggregates))]


def _over_all_runs(
    aggregates: Mapping[str, Mapping[str, Interval]], complete: Mapping[str, Scores], drawn: Mapping[str, Look], unit: str
) -> list[Drawing]:
    return [
        Drawing(
            "intervals",
            panels.intervals(aggregates, drawn),
            "The table's figures with their intervals.",
            "Dots with bars: the numbers of the table above.",
        ),
        Drawing(
            "profiles",
            panels.profiles(complete, drawn, unit),
            "Performance profiles: the share of runs above a score, higher is better.",
            "Performance profiles. Shares of runs above 50 points: "
            + ", ".join(f"{label} {statistics.profile(ours, MIDDLE)[0]:.2f}" for label, ours in complete.items()),
        ),
    ]


def _of_task(
    task: str, evaluations: pd.DataFrame, drawn: Mapping[str, Look], dataset_mean: float | None, rows: pd.DataFrame, unit: str
) -> list[Drawing]:
    name = file_name(task)
    last = evaluations.groupby(["label", "seed"]).tail(1).groupby("label")["score"].mean()
    apart = " Grey: the means of the others." if evaluations["label"].nunique() > panels.CROWD else ""
    ends = f"{task}. Mean scores of the last evaluation: " + ", ".join(f"{label} {last[label]:.1f}" for label in drawn if label in last)
    found = [
        Drawing(
            f"{name}_curves",
            panels.learning_curves(evaluations, drawn, dataset_mean, unit),
            f"Learning curves. Thin: every seed, unsmoothed; thick: their mean, where all seeds were evaluated.{apart}",
            f"Learning curves on {ends}",
        ),
    ]
    if evaluations["minutes"].notna().any():
        caption = (
            "Wall-clock against score, on the machines of the runs and beside whatever else they were doing; lines as above. Not counted: "
            "the training of the dynamics model, and RAMBO's behaviour cloning."
        )
        machines = [str(name) for name in rows[rows["task"] == task]["machine"].dropna().unique()]
        if len(machines) > 1:
            caption += f" These runs were made on {len(machines)} machines ({', '.join(machines)}): times of different ones do not compare."
        found.append(
            Drawing(f"{name}_wall-clock", panels.wall_clock(evaluations, drawn, unit), caption, f"Wall-clock against score on {ends}")
        )
    valued = evaluations.dropna(subset=["q_data", "worth"])
    if len(valued):
        ends = ", ".join(
            f"{label} {ours['q_data'].mean():.0f} against {ours['worth'].mean():.0f}"
            for label, ours in valued.groupby(["label", "seed"]).tail(1).groupby("label")
        )
        alt = f"Value estimate against real return on {task}, at the end: {ends}"
        found.append(Drawing(f"{name}_values", panels.values(valued, drawn), VALUES, alt))
    return found
