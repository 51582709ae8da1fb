"""The learning curve of one or more runs, with random, dataset mean and expert as reference lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.report.figures import check_figure
from offlinerlkit_damo.report.looks import looks
from offlinerlkit_damo.report.plot import run_names
from offlinerlkit_damo.report.results import read_evaluations, score_unit
from offlinerlkit_damo.training.run_folder import FACTS, read_facts

CLOSE = 5.0  # points between two lines that are named together


def draw_learning_curve(folders: Sequence[Path], path: Path) -> None:
    """Score against gradient steps, every run its own line, unsmoothed; written to `path` (PNG, SVG or PDF by its suffix).

    Raises UserError for another suffix, for folders that are no runs, and for runs of different tasks or datasets.
    """
    check_figure(path)
    runs = [_about(folder) for folder in folders]
    task, dataset = runs[0]["task"], runs[0]["dataset"]
    for folder, run in zip(folders, runs, strict=True):
        if (run["task"]["name"], run["dataset"]["fingerprint"]) != (task["name"], dataset["fingerprint"]):
            raise UserError(f"{str(folder)!r} is on {run['dataset']['name']}, another dataset than {str(folders[0])!r}; draw them apart")
    # not pyplot: importing this must not choose the user's backend
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    names = run_names(folders)
    drawn, curves = looks(names), []
    for folder, name in zip(folders, names, strict=True):
        table, look = read_evaluations(folder), drawn[name]
        curves += axes.plot(table["timestep"], table["score"], marker=".", color=look.colour, linestyle=look.dashes, label=name)
        low, high = table["score"] - table["std"], table["score"] + table["std"]
        axes.fill_between(table["timestep"], low, high, alpha=0.15, color=look.colour, linewidth=0)
    lines = [(0.0, "random", ":"), (100.0, "expert", "-.")] if task["robot"] else []
    if dataset["mean_score"] is not None:
        lines.append((dataset["mean_score"], "dataset mean", "--"))
    told: list[tuple[float, str]] = []
    for value, name, style in sorted(lines):
        axes.axhline(value, color="0.35", linestyle=style, linewidth=1)
        name = f"{name} {round(value) + 0:d}"
        if told and value - told[-1][0] < CLOSE:  # one above the other they could not be read
            value, name = told[-1][0], f"{told.pop()[1]}, {name}"
        told.append((value, name))
    for value, name in told:
        # beside the axes, where no curve passes
        axes.annotate(
            name, (1, value), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8,
            color="0.35",
        )  # fmt: skip
    kind = {"d4rl": "D4RL", "file": "own data", "minari": "Minari", "neorl": "NeoRL"}.get(dataset["source"], dataset["source"])
    axes.set(xlabel="gradient steps", ylabel=f"{score_unit(task)} (band: std over episodes)", title=f"{task['name']} ({kind})")
    if task["robot"]:
        axes.set_ylim(top=max(112, axes.get_ylim()[1]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    # by hand: a name that begins with _ would be left out
    figure.legend(curves, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _about(folder: Path) -> dict[str, Any]:
    """What the run says of its task and dataset."""
    facts = read_facts(folder)
    try:
        task, dataset = facts["task"], facts["dataset"]
        return {
            "task": {"name": task["name"], "robot": task["robot"]},
            "dataset": {name: dataset[name] for name in ("name", "source", "fingerprint", "mean_score")},
        }
    except (KeyError, TypeError):
        raise UserError(f"{str(folder / FACTS)!r} does not say which task and dataset the run is on; leave it out") from None
