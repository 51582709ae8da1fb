"""A comparison's report: tables, figures and one HTML page that needs no network, from its rows alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from offlinerlkit_damo.files import check_writable, save_text
from offlinerlkit_damo.report import page, pairs, panels, statistics
from offlinerlkit_damo.report.looks import Look, looks
from offlinerlkit_damo.report.scores import LAST, contestants, curves, read_rows, remarks, run_scores, score_table
from offlinerlkit_damo.report.statistics import Floats, Interval, Scores
from offlinerlkit_damo.report.tables import NONE, latex, markdown, published_tables, wide

SCORES = (
    f"A run's score is the mean of its last {LAST} evaluations, in normalised points: 0 for a random and 100 for an expert policy. A cell "
    "has mean ± standard deviation over seeds (of these runs: divided by their number) and, below, every seed; dataset is the mean score "
    "of its episodes, steps are gradient steps. *: not finished, so far at the steps named; such runs are in nothing else but the curves."
)
INTERVALS = (
    f"In brackets, as bars and shaded: 95% intervals, from {statistics.RESAMPLES} redraws of the seeds within each task (stratified "
    "percentile bootstrap). "
)
OVER_ALL = (
    "Every task counts the same, however many seeds it has, but for the IQM: the mean of the middle half of all runs. Optimality gap: how "
    "far runs stay below an expert's 100 points, less is better. P: the probability that a run beats one of the first contestant on the "
    "same task."
)
VALUES = (
    "Value estimate against real return. Solid: the first critic's mean value of the data. Dotted: the discounted return of an "
    "evaluation's episode, from its return and length as if its reward were spread evenly. Thin: every seed; thick: their mean. A critic "
    "values its own algorithm's reward (MOPO's is penalised, DAMO's refined, the DICE family's scaled), so a gap alone is no error; one "
    "that widens without end is. Contestants without a critic Q(s, a) have no panel."
)
MIDDLE = np.array([50.0])
UNLIKE = ", which is not the data above: no measure for those scores."


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write scores.md, .csv and .tex, and report.html, from the rows of one or more comparisons; returns the page's path.

    A run's score is the mean of its last ten evaluations. Raises UserError as `read_rows` does.
    """
    rows = read_rows(folders)
    check_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    scores = run_scores(rows)
    means = {str(task): float(mean) for task, mean in rows.groupby("task")["dataset_mean"].first().dropna().items()}
    shown = wide(score_table(scores), means)
    complete = complete_scores(scores)
    differences, unpaired = pairs.paired_differences(rows, scores)
    told = remarks(rows, scores) + left_out(rows, complete) + unpaired
    algos = {str(label): str(algo) for label, algo in scores.groupby("label", sort=False)["algo"].first().items()}
    theirs = published_tables([str(task) for task in shown["task"]], algos)
    about = "Published, not measured here, on D4RL's data" + ("." if rows["source"].eq("d4rl").all() else UNLIKE)
    aggregates = aggregate(complete)
    summary = aggregate_table(aggregates)

    text = markdown(shown) + "".join(f"\n* {note}" for note in told) + ("\n" if told else "")
    text += "" if summary.empty else f"\n{markdown(summary)}"
    text += "" if differences.empty else f"\n{pairs.caption(differences)}\n\n{markdown(pairs.shown(differences))}"
    save_text(text + "".join(f"\n{about} {source}:\n\n{markdown(table)}" for source, table in theirs), out / "scores.md")
    save_text(scores.to_csv(index=False), out / "scores.csv")
    save_text(latex(shown) + ("" if summary.empty else f"\n{latex(summary)}"), out / "scores.tex")

    drawn = looks(contestants(rows))
    parts = [
        page.paragraph(f"Contestants: {', '.join(drawn)}. Tasks: {len(shown)}. Runs: {len(scores)}."),
        page.notes(told),
        page.heading("Scores"),
        page.paragraph(SCORES),
        page.table(shown, "Scores measured here"),
        *([page.paragraph(about)] if theirs else []),
        *(page.table(table, source) for source, table in theirs),
        *_over_all_tasks(aggregates, summary, complete, drawn),
        *([] if differences.empty else _beside_the_plain(differences)),
    ]
    for task, group in curves(rows).groupby("task", sort=True):
        parts += _of_task(str(task), group, drawn, means.get(str(task)))
    save_text(page.page("Comparison", parts), out / "report.html")
    return out / "report.html"


def _beside_the_plain(differences: pd.DataFrame) -> list[str]:
    return [
        page.heading("Beside the plain algorithm"),
        page.paragraph(pairs.caption(differences)),
        page.table(pairs.shown(differences), "Paired differences"),
    ]


def _over_all_tasks(
    aggregates: Mapping[str, Mapping[str, Interval]],
    summary: pd.DataFrame,
    complete: Mapping[str, Scores],
    drawn: Mapping[str, Look],
) -> list[str]:
    if not complete:
        return []
    figures = [
        page.figure(
            panels.intervals(aggregates, drawn),
            "The table's figures with their intervals.",
            "Dots with bars: the numbers of the table above.",
        ),
        page.figure(
            panels.profiles(complete, drawn),
            "Performance profiles: the share of runs above a score, higher is better.",
            "Performance profiles. Shares of runs above 50 points: "
            + ", ".join(f"{label} {statistics.profile(ours, MIDDLE)[0]:.2f}" for label, ours in complete.items()),
        ),
    ]
    known = INTERVALS if any(not np.isnan(x.low) for found in aggregates.values() for x in found.values()) else ""
    about = f"Over all runs of all tasks, of the contestants that have finished runs on every task. {known}{OVER_ALL}"
    return [page.heading("Over all tasks"), page.paragraph(about), page.table(summary, "Over all tasks"), *figures]


def _of_task(task: str, evaluations: pd.DataFrame, drawn: Mapping[str, Look], dataset_mean: float | None) -> list[str]:
    last = evaluations.groupby(["label", "seed"]).tail(1).groupby("label")["score"].mean()
    ends = f"{task}. Mean scores of the last evaluation: " + ", ".join(f"{label} {last[label]:.1f}" for label in drawn if label in last)
    found = [
        page.heading(task),
        page.figure(
            panels.learning_curves(evaluations, drawn, dataset_mean),
            "Learning curves. Thin: every seed, unsmoothed; thick: their mean, where all seeds were evaluated.",
            f"Learning curves on {ends}",
        ),
    ]
    if evaluations["minutes"].notna().any():
        caption = "Wall-clock against score, on the machines of the runs and beside whatever else they were doing; lines as above."
        found.append(page.figure(panels.wall_clock(evaluations, drawn), caption, f"Wall-clock against score on {ends}"))
    valued = evaluations.dropna(subset=["q_data", "worth"])
    if len(valued):
        ends = ", ".join(
            f"{label} {ours['q_data'].mean():.0f} against {ours['worth'].mean():.0f}"
            for label, ours in valued.groupby(["label", "seed"]).tail(1).groupby("label")
        )
        found.append(page.figure(panels.values(valued, drawn), VALUES, f"Value estimate against real return on {task}, at the end: {ends}"))
    return found


STATISTICS: dict[str, Callable[[Scores], Floats]] = {
    "IQM": statistics.iqm,
    "mean": statistics.mean,
    "optimality gap": statistics.optimality_gap,
}


def aggregate(complete: Mapping[str, Scores]) -> dict[str, dict[str, Interval]]:
    """Statistic -> contestant -> its figure: of all STATISTICS, and of the probability of improvement over the first contestant."""
    if not complete:
        return {}
    found = {
        name: {
            label: statistics.interval(statistic, ours)
            for label, ours in complete.items()
            if name != "IQM" or sum(map(len, ours)) >= statistics.FEWEST
        }
        for name, statistic in STATISTICS.items()
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
                    name: _cell(found[label], digits=2 if name.startswith("P(") else 1) if label in found else NONE
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


def left_out(rows: pd.DataFrame, complete: Mapping[str, Scores]) -> list[str]:
    """What the figures over all tasks lack, in a sentence, if they do."""
    absent = [label for label in contestants(rows) if label not in complete]
    if not absent:
        return []
    reason = "none of their runs has finished" if rows["task"].nunique() == 1 else "not every task has a finished run of theirs"
    return [f"no figures over all runs for {', '.join(absent)}: {reason}"]


def _cell(interval: Interval, digits: int) -> str:
    if np.isnan(interval.low):
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
