"""The learning curve of one or more runs, with random, dataset mean and expert as reference lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.report.figures import check_figure
from offlinerlkit_damo.report.results import read_evaluations
from offlinerlkit_damo.training.run_folder import read_facts


def draw_learning_curve(folders: Sequence[Path], path: Path) -> None:
    """Score against gradient steps, every run its own line, unsmoothed; written to `path` (PNG, SVG or PDF by its suffix).

    Raises UserError for another suffix, for folders that are no runs, and for runs of different tasks or datasets.
    """
    check_figure(path)
    runs = [read_facts(folder) for folder in folders]
    task, dataset = runs[0]["task"], runs[0]["dataset"]
    for folder, run in zip(folders, runs, strict=True):
        if (run["task"]["name"], run["dataset"]["fingerprint"]) != (task["name"], dataset["fingerprint"]):
            raise UserError(f"{str(folder)!r} is on {run['dataset']['name']}, another dataset than {str(folders[0])!r}; draw them apart")
    # not pyplot: importing this must not choose the user's backend
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for folder, run in zip(folders, runs, strict=True):
        table = read_evaluations(folder)
        config = run["config"]
        (line,) = axes.plot(table["timestep"], table["score"], marker=".", label=f"{config['algo_name']}, seed {config['seed']}")
        low, high = table["score"] - table["std"], table["score"] + table["std"]
        axes.fill_between(table["timestep"], low, high, alpha=0.15, color=line.get_color(), linewidth=0)
    # a simulator without known references is scored by the return itself
    lines = [(0.0, "random", ":"), (100.0, "expert", "-.")] if task["robot"] else []
    if dataset["mean_score"] is not None:
        lines.append((dataset["mean_score"], "dataset mean", "--"))
    for value, name, style in lines:
        axes.axhline(value, color="0.35", linestyle=style, linewidth=1)
        # beside the axes, where no curve passes
        axes.annotate(
            f"{name} {value:.0f}", (1, value), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=8, color="0.35",
        )  # fmt: skip
    kind = {"d4rl": "D4RL", "file": "own data", "minari": "Minari", "neorl": "NeoRL"}.get(dataset["source"], dataset["source"])
    what = "normalised score" if task["robot"] else "return"
    axes.set(xlabel="gradient steps", ylabel=f"{what} (band: std over episodes)", title=f"{task['name']} ({kind})")
    if task["robot"]:
        axes.set_ylim(top=max(112, axes.get_ylim()[1]))
    axes.legend(loc="upper left", fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
