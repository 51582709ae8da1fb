"""The learning curve of one or more runs, with random, dataset mean and expert as reference lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.report.results import read_evaluations, read_run


def draw_learning_curve(folders: Sequence[Path], path: Path) -> None:
    """Score against gradient steps, every run its own line, unsmoothed; written to `path` (PNG or SVG by its suffix)."""
    runs = [read_run(folder) for folder in folders]
    task, dataset = runs[0]["task"], runs[0]["dataset"]
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for folder, run in zip(folders, runs, strict=True):
        table = read_evaluations(folder)
        config = run["config"]
        (line,) = axes.plot(table["timestep"], table["score"], marker=".", label=f"{config['algo_name']}, seed {config['seed']}")
        low, high = table["score"] - table["std"], table["score"] + table["std"]
        axes.fill_between(table["timestep"], low, high, alpha=0.15, color=line.get_color(), linewidth=0)
    span = task["ref_max_score"] - task["ref_min_score"]
    mean = 100 * (dataset["mean_return"] - task["ref_min_score"]) / span
    for value, name, style in ((0.0, "random", ":"), (mean, "dataset mean", "--"), (100.0, "expert", "-.")):
        axes.axhline(value, color="0.35", linestyle=style, linewidth=1)
        axes.annotate(f"{name} {value:.0f}", (1, value), xycoords=("axes fraction", "data"), xytext=(-3, 2), textcoords="offset points",
                      ha="right", va="bottom", fontsize=8, color="0.35")
    kind = "generated" if dataset["generated"] else "own data"
    axes.set(xlabel="gradient steps", ylabel="normalised score (band: std over episodes)", title=f"{task['name']} ({kind})")
    axes.set_ylim(top=112)
    axes.legend(loc="lower right", fontsize=8, bbox_to_anchor=(1, 0.02))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)
