"""The figures of a comparison. Contestants keep their colour, dashes and marker from figure to figure; legends stand beside the axes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter

from offlinerlkit_damo.report import statistics
from offlinerlkit_damo.report.looks import Look
from offlinerlkit_damo.report.scores import counted, on_common_grid
from offlinerlkit_damo.report.statistics import Interval, Scores

LEVELS = 200  # of a performance profile
WIDTH, HEIGHT = 8.5, 4.0
CROWD = 6  # contestants that one pair of axes holds legibly; more of them get axes each, the others in grey behind
COLUMNS = 3
TITLE, NAME = 30, 20  # letters of a line above one of these, and below one of the intervals' panels
MANY = 5000  # evaluations in a figure; from more of them on its lines are an image, or a page of long runs would be too large to open
DPI = 150  # of such images, and of figures that are images altogether


def learning_curves(evaluations: pd.DataFrame, drawn: Mapping[str, Look], dataset_mean: float | None, unit: str) -> Figure:
    """Every run's score, in `unit`s, against gradient steps, and the mean over seeds at the steps at which all of them were evaluated."""
    return _curves(evaluations, drawn, "timestep", "gradient steps", dataset_mean, unit)


def wall_clock(evaluations: pd.DataFrame, drawn: Mapping[str, Look], unit: str) -> Figure:
    """Every run's score, in `unit`s, against the minutes of its training, and the mean over seeds of both.

    Without the training of the dynamics model and RAMBO's behaviour cloning, which come before the first step.
    """
    return _curves(evaluations, drawn, "minutes", "minutes, without what comes before the first gradient step", None, unit)


def values(evaluations: pd.DataFrame, drawn: Mapping[str, Look]) -> Figure:
    """A panel a contestant: the critic's value of the data (solid) and what the evaluation's episodes were worth (dotted)."""
    shown = [label for label in drawn if (evaluations["label"] == label).any()]
    figure = Figure(figsize=(WIDTH, HEIGHT * 0.8 * -(-len(shown) // 2)), layout="constrained")
    panels = figure.subplots(-(-len(shown) // 2), 2, squeeze=False, sharex=True).ravel()
    for panel, label in zip(panels, shown, strict=False):
        ours = evaluations[evaluations["label"] == label]
        for name, dashes, what in (
            ("q_data", "-", "estimate: the critic's mean value of the data"),
            ("worth", ":", "real: an evaluation's episode"),
        ):
            for _, run in ours.groupby("seed"):
                thin = {"linewidth": 0.7, "alpha": 0.5, "marker": _dot(run)}
                panel.plot(run["timestep"], run[name], color=drawn[label].colour, linestyle=dashes, **thin)
            grid = on_common_grid(ours)
            panel.plot(grid["timestep"], grid[name], color=drawn[label].colour, linestyle=dashes, linewidth=2.2, marker=_dot(grid))
            panel.plot([], [], color="0.3", linestyle=dashes, linewidth=2.2, label=what)
        panel.set_title(label)
        panel.tick_params(labelbottom=True)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    figure.supxlabel("gradient steps", fontsize="medium")
    figure.supylabel("discounted return", fontsize="medium")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return _rasterised(figure, len(evaluations))


def profiles(complete: Mapping[str, Scores], drawn: Mapping[str, Look], unit: str) -> Figure:
    """The share of runs above every score, in `unit`s, with its interval."""
    figure, axes = _axes()
    every = np.concatenate([runs for scores in complete.values() for runs in scores])
    levels = np.linspace(min(0.0, every.min() - 1), max(statistics.EXPERT, every.max() + 1), LEVELS)
    for label, ours in complete.items():
        found, look = statistics.interval(lambda scores: statistics.profile(scores, levels), ours), drawn[label]
        axes.step(levels, found.value, where="post", color=look.colour, linestyle=look.dashes, linewidth=2, label=label)
        if not np.isnan(found.low).any():
            axes.fill_between(levels, found.low, found.high, step="post", color=look.colour, alpha=0.15, linewidth=0)
    axes.set(xlabel=unit, ylabel="share of runs above it", ylim=(-0.02, 1.02))
    return _with_legend(figure)


def intervals(aggregates: Mapping[str, Mapping[str, Interval]], drawn: Mapping[str, Look]) -> Figure:
    """A panel a statistic, a line a contestant: the figure as a dot, its interval as a bar; of statistic -> contestant -> figure."""
    labels = [label for label in drawn if any(label in found for found in aggregates.values())]
    figure = Figure(figsize=(WIDTH, 1.1 + 0.35 * len(labels)), layout=ConstrainedLayoutEngine(wspace=0.06))
    panels = figure.subplots(1, len(aggregates), sharey=True, squeeze=False).ravel()
    for panel, (name, found) in zip(panels, aggregates.items(), strict=True):
        for label, interval in found.items():
            height, look = labels.index(label), drawn[label]
            panel.plot([interval.low, interval.high], [height, height], color=look.colour, linewidth=5, alpha=0.4, solid_capstyle="butt")
            panel.plot([interval.value], [height], color=look.colour, marker=look.marker, markersize=6)
        panel.set_xlabel(textwrap.fill(name, NAME))
        if name.startswith("P("):
            panel.set_xlim(-0.05, 1.05)
        panel.grid(axis="x", color="0.9")
        panel.tick_params(axis="y", length=0)
        panel.spines[["left", "top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    return figure


def _axes() -> tuple[Figure, Axes]:
    # not pyplot: importing this must not choose the user's backend
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    _bare(axes)
    return figure, axes


def _bare(axes: Axes) -> None:
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


def _curves(
    evaluations: pd.DataFrame, drawn: Mapping[str, Look], across: str, what: str, dataset_mean: float | None, unit: str
) -> Figure:
    shown = [label for label in drawn if (evaluations["label"] == label).any()]
    if len(shown) > CROWD:
        return _curves_apart(evaluations, {label: drawn[label] for label in shown}, across, what, dataset_mean, unit)
    figure, axes = _axes()
    for label in shown:
        ours = evaluations[evaluations["label"] == label]
        _curve(axes, ours, on_common_grid(ours), drawn[label], across)
    _dataset_line(axes, dataset_mean)
    axes.set(xlabel=what, ylabel=unit)
    _count_steps(axes, across)
    return _rasterised(_with_legend(figure), len(evaluations))


def _curves_apart(
    evaluations: pd.DataFrame, drawn: Mapping[str, Look], across: str, what: str, dataset_mean: float | None, unit: str
) -> Figure:
    lines = -(-len(drawn) // COLUMNS)
    figure = Figure(figsize=(WIDTH, HEIGHT * 0.55 * lines), layout="constrained")
    panels = figure.subplots(lines, COLUMNS, squeeze=False, sharex=True, sharey=True).ravel()
    means = {label: on_common_grid(evaluations[evaluations["label"] == label]) for label in drawn}
    for panel, label in zip(panels, drawn, strict=False):
        _bare(panel)
        for grid in means.values():
            panel.plot(grid[across], grid["score"], color="0.8", linewidth=0.8)
        ours = evaluations[evaluations["label"] == label]
        _curve(panel, ours, means[label], drawn[label], across)
        _dataset_line(panel, dataset_mean)
        panel.set_title("\n".join(textwrap.fill(line, TITLE) for line in counted(label, ours).splitlines()), fontsize="medium")
        panel.tick_params(labelbottom=True)
        _count_steps(panel, across)
    for panel in panels[len(drawn) :]:
        panel.set_visible(False)
    figure.supxlabel(what, fontsize="medium")
    figure.supylabel(unit, fontsize="medium")
    if dataset_mean is not None:
        figure.legend(handles=[panels[0].get_lines()[-1]], loc="outside upper center", frameon=False)
    return _rasterised(figure, len(evaluations))


def _count_steps(axes: Axes, across: str) -> None:
    if across == "timestep":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # not of minutes, whose fractions it would call milliminutes


def _curve(axes: Axes, ours: pd.DataFrame, grid: pd.DataFrame, look: Look, across: str) -> None:
    """The runs of one contestant, and their mean, `grid`."""
    for _, run in ours.groupby("seed"):
        axes.plot(run[across], run["score"], color=look.colour, linewidth=0.7, alpha=0.4, marker=_dot(run))
    axes.plot(
        grid[across], grid["score"], color=look.colour, linestyle=look.dashes, linewidth=2.2, marker=look.marker, markersize=6,
        markevery=max(1, len(grid) // 6), label=counted(ours["label"].iloc[0], ours),
    )  # fmt: skip


def _rasterised(figure: Figure, evaluations: int) -> Figure:
    if evaluations > MANY:
        for axes in figure.axes:
            for line in axes.get_lines():
                line.set_rasterized(True)
    return figure


def _dot(run: pd.DataFrame) -> str:
    return "." if len(run) == 1 else ""  # a line of one point cannot be seen


def _dataset_line(axes: Axes, dataset_mean: float | None) -> None:
    if dataset_mean is not None:
        axes.axhline(dataset_mean, color="0.35", linestyle=":", linewidth=1.2, label="mean of the dataset")


def _with_legend(figure: Figure) -> Figure:
    figure.legend(loc="outside right upper", frameon=False)
    return figure
