"""A dataset in one figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.report.figures import check_figure
from offlinerlkit_damo.tasks import OfflineDataset, Task

BINS = 40


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
    returns.hist(values, bins=BINS)
    returns.set(xlabel=label, ylabel="episodes")
    lengths.hist(dataset.episode_lengths, bins=BINS)
    lengths.set(xlabel="steps of an episode", ylabel="episodes")
    rewards.hist(dataset.rewards, bins=BINS)
    rewards.set(xlabel="reward", ylabel="transitions", yscale="log")
    # percentiles of a sample: a box of a million points is none the better
    sample = np.random.default_rng(0).permutation(len(dataset))[:20_000]
    observations.boxplot(dataset.observations[sample], whis=(0, 100), showfliers=False, tick_labels=_every_other(dataset.obs_dim))
    observations.set(xlabel="column of the observations", ylabel="least, quartiles, greatest")
    actions.hist(dataset.actions[sample], bins=BINS, histtype="step", label=[str(i) for i in range(dataset.action_dim)])
    actions.legend(title="column", ncols=2, fontsize="small")
    actions.set(xlabel="action", ylabel="transitions of a sample")
    starts.boxplot(dataset.episode_starts, whis=(0, 100), showfliers=False, tick_labels=_every_other(dataset.obs_dim))
    starts.set(xlabel="column of the episodes' first observations", ylabel="least, quartiles, greatest")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _every_other(columns: int) -> list[str]:
    step = max(1, columns // 12)
    return [str(i) if i % step == 0 else "" for i in range(columns)]
