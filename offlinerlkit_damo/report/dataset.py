"""A dataset in one figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.report.figures import check_figure
from offlinerlkit_damo.tasks import OfflineDataset, Task
from offlinerlkit_damo.tasks.dataset import Floats

BINS = 40
MANY_COLUMNS = 120
MANY_ACTIONS = 12


def draw_dataset(dataset: OfflineDataset, path: Path, task: Task | None = None) -> None:
    """Write histograms of returns (scores, where references are known), lengths and rewards, and the ranges of all columns.

    Raises UserError as `check_figure`.
    """
    check_figure(path)
    figure = Figure(figsize=(12, 7), layout="constrained")
    ((returns, lengths, rewards), (observations, actions, starts)) = figure.subplots(2, 3)
    figure.suptitle(f"{dataset.name}: {len(dataset)} transitions, {len(dataset.episode_starts)} episodes")
    values, label = dataset.episode_returns, "return of an episode"
    if task is not None and task.robot is not None:
        values = task.points(values)
        label = "score of an episode, normalised points"
    _histogram(returns, values)
    returns.set(xlabel=label, ylabel="episodes")
    _histogram(lengths, dataset.episode_lengths)
    lengths.set(xlabel="steps of an episode", ylabel="episodes")
    _histogram(rewards, dataset.rewards)
    rewards.set(xlabel="reward", ylabel="transitions", yscale="log")
    # percentiles of a sample: a box of a million points is none the better
    sample = np.random.default_rng(0).permutation(len(dataset))[:20_000]
    _ranges(observations, dataset.observations[sample])
    observations.set_xlabel("column of the observations")
    several = dataset.action_dim > MANY_ACTIONS  # then one histogram of all
    shown = dataset.actions[sample].ravel() if several else dataset.actions[sample]
    actions.hist(shown, bins=BINS, histtype="step", label=None if several else [str(i) for i in range(dataset.action_dim)])
    if not several:
        actions.legend(title="column", ncols=2, fontsize="small")
    actions.set(xlabel="action, all columns" if several else "action", ylabel="transitions of a sample")
    _ranges(starts, dataset.episode_starts)
    starts.set_xlabel("column of the episodes' first observations")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _histogram(axes: Axes, values: NDArray[Any]) -> None:
    """Also of equal values, however large: numpy has no bins for those."""
    values = np.asarray(values, np.float64)
    low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    size = max(abs(low), abs(high))
    room = max(0.5, 0.05 * size) if high - low <= 1e-6 * size else 0.0
    axes.hist(values, bins=BINS, range=(low - room, high + room))


def _ranges(axes: Axes, rows: Floats) -> None:
    """Least, quartiles and greatest value of every column: boxes, or bands where boxes would be thinner than a line."""
    columns = rows.shape[1]
    places = np.arange(columns)
    if columns <= MANY_COLUMNS:
        axes.boxplot(rows, positions=places, whis=(0, 100), showfliers=False, manage_ticks=False)
    else:
        least, lower, median, upper, greatest = np.percentile(rows, (0, 25, 50, 75, 100), axis=0)
        axes.fill_between(places, least, greatest, alpha=0.3, step="mid")
        axes.fill_between(places, lower, upper, alpha=0.6, step="mid")
        axes.step(places, median, where="mid", color="C1", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("least, quartiles, greatest")
