"""Fig. 1 and 3: offline, real and synthetic data of every run in one shared embedding, and their overlap as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from offlinerlkit_damo.analysis.clouds import KINDS, Transitions, offline, scale_of
from offlinerlkit_damo.analysis.drawing import Drawn
from offlinerlkit_damo.analysis.overlap import Cloud, Estimate, halved, median_distance, mmd, two_sample_auc
from offlinerlkit_damo.analysis.runs import Learned, settings_of
from offlinerlkit_damo.analysis.settings import Settings
from offlinerlkit_damo.analysis.simulation import OpenSimulator
from offlinerlkit_damo.report.tables import NONE, with_interval
from offlinerlkit_damo.tasks import OfflineDataset
from offlinerlkit_damo.training.dynamics import seed_everything

SOURCES = {"offline": "#555555", "synthetic": "#56B4E9", "real": "#D55E00"}
PAIRS = (("offline", "real"), ("offline", "synthetic"), ("synthetic", "real"))
REFERENCE = "offline, other episodes"
MARGIN = 0.002  # of the points at either end of an axis that may lie outside the panels


def draw_distributions(runs: Sequence[Learned], dataset: OfflineDataset, settings: Settings) -> Drawn:
    """A column a run, a row for each of (s, a), s and (s, a, s'); every row has one embedding, fitted on the clouds of all runs together.

    Offline are rows of the dataset, synthetic those of fresh rollouts in the run's model as its training makes them, real those of
    episodes in the simulator; the policy acts by samples in both.
    """
    rng = np.random.default_rng(settings.seed)
    clouds: list[dict[str, Transitions]] = []
    data = offline(dataset)
    shared = data.sample(settings.points, rng)
    with closing(OpenSimulator(runs[0].task)) as simulator:
        for run in runs:
            seed_everything(settings.seed)
            real = simulator.play(run.act, range(settings.seed, settings.seed + settings.episodes))
            every = {"offline": shared, "synthetic": run.imagine(), "real": real}
            clouds.append({name: every[name].sample(settings.points, rng) for name in SOURCES})
    scale = scale_of(dataset)
    figure = Figure(figsize=(3.1 * len(runs) + 0.6, 3.1 * len(KINDS) + 0.6), layout="constrained")
    panels = figure.subplots(len(KINDS), len(runs), squeeze=False, sharex="row", sharey="row")
    rows, explained, points = [], {}, []
    for i, kind in enumerate(KINDS):
        ours = [{name: scale.cloud(transitions, kind) for name, transitions in sampled.items()} for sampled in clouds]
        everything = np.concatenate([cloud.rows for found in ours for cloud in found.values()])
        embedding = Components(everything)
        explained[kind] = embedding.explained
        for panel, run, found in zip(panels[i], runs, ours, strict=True):
            for name, colour in SOURCES.items():
                x, y = embedding(found[name].rows).T
                points.append(pd.DataFrame({"kind": kind, "label": run.run.label, "seed": run.run.seed, "cloud": name, "x": x, "y": y}))
                panel.scatter(x, y, s=4, alpha=0.35, color=colour, linewidths=0, label=name, rasterized=True)
            if i == 0:
                panel.set_title(run.run.name, fontsize=10)
        places = embedding(everything)
        (left, bottom), (right, top) = np.quantile(places, [MARGIN, 1 - MARGIN], axis=0) * 1.1
        panels[i][0].set(xlim=(left, right), ylim=(bottom - 0.15 * (top - bottom), top))  # below is room for the numbers
        panels[i][0].set_ylabel(f"{kind}: second component ({embedding.explained[1]:.0%})")
        for panel in panels[i]:
            panel.set_xlabel(f"first component ({embedding.explained[0]:.0%})", fontsize=9)
        overlaps = _overlaps(kind, runs, ours, scale.cloud(data.sample(2 * settings.points, rng), kind), settings.seed)
        for j, panel in enumerate(panels[i]):
            own = overlaps[1 + j * len(PAIRS) :][: len(PAIRS)]  # behind that of the dataset with itself
            text = "\n".join(f"{x['cloud']} / {x['other']}: AUC {x['auc']:.2f}, MMD² {x['mmd']:.2f}" for x in own)
            box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1}
            panel.text(0.03, 0.03, text, transform=panel.transAxes, fontsize=6.5, bbox=box)
        rows += overlaps
    handles = {str(x.get_label()): x for x in panels[0][0].collections}
    legend = figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, markerscale=4)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    about = {
        "task": runs[0].task.name, "dataset": dataset.fingerprint, "runs": [settings_of(run.run) for run in runs],
        "points": settings.points, "episodes": settings.episodes, "seed": settings.seed, "explained_variance": explained,
        "auc": "held-out two-sample AUC of a small network; 0.5: the same distribution, 1: separable",
        "mmd": "squared maximum mean discrepancy, Gaussian kernel of the offline data's median distance; about 0: the same distribution",
        "intervals": "95%, bootstrap over episodes and rollouts; one half of them where the classifier is held out",
    }  # fmt: skip
    return Drawn(figure, pd.DataFrame(rows), about, pd.concat(points, ignore_index=True), _shown(rows))


def _shown(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row a run, kind and pair of clouds, with intervals."""
    return pd.DataFrame(
        [
            {
                "of": row["kind"],
                "run": f"{row['label']}, seed {row['seed']}" if row["label"] else NONE,
                "clouds": f"{row['cloud']} / {row['other']}",
                "AUC": with_interval(row["auc"], row["auc_low"], row["auc_high"], 2),
                "squared MMD": with_interval(row["mmd"], row["mmd_low"], row["mmd_high"], 3),
            }
            for row in rows
        ]
    )


def _overlaps(
    kind: str, runs: Sequence[Learned], clouds: Sequence[dict[str, Cloud]], data: Cloud, seed: int
) -> list[dict[str, object]]:
    """The overlap of every pair of clouds of every run; and of two halves of the dataset, episodes apart: what no difference looks like."""
    bandwidth = median_distance(clouds[0]["offline"].rows)
    one, other = halved(data, np.random.default_rng(seed))
    found = [_overlap(kind, "", None, ("offline", REFERENCE), one, other, bandwidth, seed)]
    for run, ours in zip(runs, clouds, strict=True):
        for pair in PAIRS:
            found.append(_overlap(kind, run.run.label, run.run.seed, pair, ours[pair[0]], ours[pair[1]], bandwidth, seed))
    return found


def _overlap(
    kind: str, label: str, run_seed: int | None, names: tuple[str, str], x: Cloud, y: Cloud, bandwidth: float, seed: int
) -> dict[str, object]:
    figures: dict[str, Estimate] = {"auc": two_sample_auc(x, y, seed=seed), "mmd": mmd(x, y, bandwidth, seed=seed)}
    columns = {f"{name}{end}": value for name, e in figures.items() for end, value in (("", e.value), ("_low", e.low), ("_high", e.high))}
    sizes = {"rows": len(x.rows), "other_rows": len(y.rows), "groups": len(np.unique(x.groups)), "other_groups": len(np.unique(y.groups))}
    return {"kind": kind, "label": label, "seed": run_seed, "cloud": names[0], "other": names[1], **columns, **sizes}


class Components:
    """The first two principal components of rows [n, k]."""

    def __init__(self, rows: NDArray[np.float64]) -> None:
        self._mean = rows.mean(0)
        _, lengths, axes = np.linalg.svd(rows - self._mean, full_matrices=False)
        self._axes = axes[:2]
        self.explained: list[float] = (lengths[:2] ** 2 / (lengths**2).sum()).tolist()
        """The share of the rows' variance along either."""

    def __call__(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """[n, k] -> [n, 2]."""
        places: NDArray[np.float64] = (rows - self._mean) @ self._axes.T
        return places
