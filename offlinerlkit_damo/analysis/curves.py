"""Fig. 4 and 5: return and value estimate over training, and the score against alpha; both from the logs alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from offlinerlkit_damo.analysis.drawing import Drawn, keep_legible
from offlinerlkit_damo.analysis.runs import Run, settings_of
from offlinerlkit_damo.compare.rows import config_hash
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.report.looks import looks
from offlinerlkit_damo.report.results import SCORE, read_progress, score_unit
from offlinerlkit_damo.report.scores import LAST, counted, on_common_grid
from offlinerlkit_damo.training.run_folder import is_finished

VALUE = "eval/q_data"
NOT_FIXED = "not fixed"


def draw_curves(runs: Sequence[Run]) -> Drawn:
    """Score and critic's value of the data over training, and one against the other; every run a line, unsmoothed.

    Thick is the mean over seeds, as far as all of them have come, which the legend says where some have come further. A run that logs no
    value, because it has no Q(s, a), is in the first panel alone. Raises UserError if no run has a score.
    """
    tables, left_out = [], []
    for run in runs:
        try:
            progress = read_progress(run.folder).reindex(columns=["timestep", SCORE, VALUE])
        except UserError as error:  # it has just begun, perhaps
            print(f"curves: without {run.name}: {error}", file=sys.stderr)
            left_out.append(run.name)
            continue
        rows = progress.dropna(subset=[SCORE]).rename(columns={SCORE: "score", VALUE: "value"})
        if rows.empty:
            left_out.append(run.name)
        else:
            tables.append(rows.assign(label=run.label, seed=run.seed))
    if not tables:
        raise UserError(f"none of these runs has logged {SCORE} yet; wait for their first evaluation")
    table = pd.concat(tables, ignore_index=True)[["label", "seed", "timestep", "score", "value"]]
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    figure.suptitle(runs[0].facts["config"]["task"])
    panels = figure.subplots(1, 3)
    for name, look in looks(list(dict.fromkeys(table["label"]))).items():
        how: dict[str, Any] = {"color": look.colour, "linestyle": look.dashes}
        every = table[table["label"] == name]
        for panel, (x, y) in zip(panels, (("timestep", "score"), ("timestep", "value"), ("score", "value")), strict=True):
            ours = every if y == "score" else every.dropna(subset=["value"])
            several = ours["seed"].nunique() > 1
            for i, (_, run_rows) in enumerate(ours.groupby("seed")):
                label = None if i or several else name
                panel.plot(run_rows[x], run_rows[y], linewidth=0.8 if several else 1.6, alpha=0.5 if several else 1, label=label, **how)
                if x == "score":
                    panel.plot(run_rows[x].iloc[-1], run_rows[y].iloc[-1], "o", color=how["color"], markersize=5)
            if several:
                mean = on_common_grid(ours, ("score", "value"))
                panel.plot(mean[x], mean[y], linewidth=2.2, label=counted(name, ours), **how)
    keep_legible(panels[1:], "y", table["value"])
    unit = score_unit(runs[0].facts["task"])
    panels[0].set(xlabel="gradient steps", ylabel=unit, title="return")
    panels[1].set(xlabel="gradient steps", ylabel="mean Q on the data", title="value estimate")
    panels[2].set(xlabel=unit, ylabel="mean Q on the data", title="one against the other (dot: the end)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))
    shown = [settings_of(run) for run in runs if run.name not in left_out]
    reached = table.groupby(["label", "seed"], sort=False, as_index=False)["timestep"].max().to_numpy()
    about = {
        "task": runs[0].facts["config"]["task"],
        "runs": shown,
        "reached": {f"{label}, seed {seed}": int(step) for label, seed, step in reached},
        "missing_seeds": _lacking(table, "label"),
        "left_out": left_out,
    }
    return Drawn(figure, table, about)


def draw_alpha(runs: Sequence[Run]) -> Drawn:
    """Mean of the last ten evaluations against alpha, with the actor's own alpha fixed and not; every run a dot, a line their means.

    Only finished runs that differ in nothing but these two options and seeds are on it: of all DAMO runs given the family with the most
    alphas. The others are named in the JSON, and so are seeds that a point lacks and runs of fewer evaluations.
    """
    families: dict[str, list[Run]] = {}
    for run in runs:
        config = run.facts["config"]
        if config["algo_name"] == "damo" and config.get("behavior_alignment", True) and is_finished(run.folder):
            families.setdefault(config_hash({**config, "damo_alpha": None, "actor_alpha": None}), []).append(run)
    chosen = max(families.values(), key=_alphas, default=[])
    if _alphas(chosen) < 2:
        raise UserError("there are no two finished runs of damo that differ in damo_alpha alone; `ablate alpha` makes a sweep")
    rows = []
    for run in chosen:
        fixed, alpha = run.facts["config"].get("actor_alpha"), float(run.facts["config"]["damo_alpha"])
        # where both are equal a run stands for either
        kinds = ([] if fixed is None else [f"fixed to {fixed:g}"]) + ([NOT_FIXED] if fixed in (None, alpha) else [])
        rows += [{"alpha": alpha, "actor_alpha": kind, "seed": run.seed, "label": run.label, "score": run.score} for kind in kinds]
    table = pd.DataFrame(rows).sort_values(["actor_alpha", "alpha", "seed"], ignore_index=True)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for kind, look in looks(list(dict.fromkeys(table["actor_alpha"]))).items():
        ours, how = table[table["actor_alpha"] == kind], dict[str, Any](color=look.colour, marker=look.marker)
        axes.plot(ours["alpha"], ours["score"], alpha=0.6, markersize=5, linestyle="none", **how)
        mean, name = ours.groupby("alpha")["score"].mean(), f"actor's alpha {kind}"
        axes.plot(mean.index, mean.to_numpy(), linestyle=look.dashes, linewidth=1.8, markersize=7, label=name, **how)
    mean_score: Any = chosen[0].facts["dataset"].get("mean_score")
    if mean_score is not None and np.isfinite(mean_score):
        axes.axhline(mean_score, color="0.35", linestyle=":", linewidth=1, label="dataset mean")
    axes.set(xlabel="alpha", ylabel=f"score, mean of the last {LAST} evaluations", title=chosen[0].facts["config"]["task"])
    axes.legend(fontsize=9)
    points = table.assign(point=[f"alpha {alpha:g}, actor's alpha {kind}" for alpha, kind in table[["alpha", "actor_alpha"]].to_numpy()])
    about = {
        "task": chosen[0].facts["config"]["task"],
        "runs": [settings_of(run) for run in chosen],
        "left_out": [run.name for run in runs if run not in chosen],
        "missing_seeds": _lacking(points, "point"),
        "fewer_evaluations": [run.name for run in chosen if len(run.evaluations) < LAST],
    }
    return Drawn(figure, table, about)


def _lacking(table: pd.DataFrame, by: str) -> list[str]:
    """The seeds that others of the table have, for each value of the column `by` that lacks some."""
    every = set(table["seed"])
    lacking = {str(name): sorted(every - set(group["seed"])) for name, group in table.groupby(by, sort=False)}
    return [f"{name}: {', '.join(map(str, seeds))}" for name, seeds in lacking.items() if seeds]


def _alphas(runs: Sequence[Run]) -> int:
    return len({run.facts["config"]["damo_alpha"] for run in runs})
