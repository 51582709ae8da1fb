"""Table 1: what the critics say of state-action pairs outside the data, beside what these are worth in the simulator."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from offlinerlkit_damo.analysis.clouds import Transitions, offline, scale_of
from offlinerlkit_damo.analysis.drawing import Drawn, keep_legible
from offlinerlkit_damo.analysis.overlap import Estimate, estimate, redrawn, squared_distances
from offlinerlkit_damo.analysis.runs import Learned, settings_of
from offlinerlkit_damo.analysis.settings import Settings
from offlinerlkit_damo.analysis.simulation import OpenSimulator
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.report.looks import COLOURS
from offlinerlkit_damo.report.tables import with_interval
from offlinerlkit_damo.tasks import OfflineDataset
from offlinerlkit_damo.training.dynamics import seed_everything

QUANTILE = 0.95
REST = 0.01  # of a constant reward's return that lies behind the horizon
CANDIDATES = 500  # visited states of every run
KNOWN = 2000  # rows of the data that say how far its own rows are from the rest
CHUNK = 50  # rows of one block of distances
MEASURED = ("critic", "real", "difference")
GROUPS = {"out": "outside the data", "in": "inside the data"}


@dataclass(frozen=True)
class Pairs:
    """State-action pairs; n rows."""

    observations: NDArray[np.float32]  # [n, d]
    actions: NDArray[np.float32]  # [n, a]
    states: NDArray[np.float64]  # [n, q + v] the simulator's own
    episodes: NDArray[np.int64]  # [n] in which the state was visited
    distances: NDArray[np.float64]  # [n] to the nearest pair of the data, see `Neighbours`

    def of(self, rows: NDArray[Any]) -> Pairs:
        """Some of the rows."""
        return Pairs(self.observations[rows], self.actions[rows], self.states[rows], self.episodes[rows], self.distances[rows])


class Neighbours:
    """Distances of pairs (s, a) to the nearest pair of a dataset, all columns in the dataset's standard deviations.

    `radius` is the QUANTILE of that distance for the dataset's own pairs, each measured against the episodes that it is not of: a pair
    farther out than that is outside the data.
    """

    def __init__(self, dataset: OfflineDataset, rng: np.random.Generator) -> None:
        self._scale, rows = scale_of(dataset), offline(dataset)
        self._data = self._rows(rows.observations, rows.actions)
        held = rows.sample(KNOWN, rng)
        nearest = self._nearest(self._rows(held.observations, held.actions), held.groups, rows.groups)
        if not np.isfinite(nearest).all():
            raise UserError(f"the dataset {dataset.name} is one single episode; what lies outside of it cannot be told")
        self.radius = float(np.quantile(nearest, QUANTILE))

    def __call__(self, observations: NDArray[Any], actions: NDArray[Any]) -> NDArray[np.float64]:
        """[n, d], [n, a] -> [n]."""
        return self._nearest(self._rows(observations, actions))

    def _rows(self, observations: NDArray[Any], actions: NDArray[Any]) -> NDArray[np.float32]:
        pairs = Transitions(observations, actions, observations, np.zeros(len(observations), np.int64))
        return self._scale.cloud(pairs, "(s, a)").rows.astype(np.float32)

    def _nearest(self, rows: NDArray[Any], own: NDArray[Any] | None = None, groups: NDArray[Any] | None = None) -> NDArray[np.float64]:
        found = []
        for i in range(0, len(rows), CHUNK):
            squares = squared_distances(rows[i : i + CHUNK], self._data)
            if own is not None and groups is not None:
                squares[own[i : i + CHUNK, None] == groups] = np.inf
            found.append(np.sqrt(squares.min(1)))
        return np.concatenate(found).astype(np.float64)


def draw_values(runs: Sequence[Learned], dataset: OfflineDataset, settings: Settings) -> Drawn:
    """Critic and Monte-Carlo value of every run, on the same pairs outside and inside the data; the mean over the pairs, by run.

    Pairs: states that the runs' policies visit in the simulator, equally many of each, once with the policy's own action and once with
    one drawn uniformly. A run's critic value is the mean of its critics; its real value the discounted return of beginning there and going
    on with its policy's samples until a terminal or for so long that `REST` of the discounted steps are left.
    """
    rng = np.random.default_rng(settings.seed)
    neighbours = Neighbours(dataset, rng)
    with closing(OpenSimulator(runs[0].task)) as simulator:
        candidates = _candidates(runs, simulator, neighbours, settings, rng)
        inside = candidates.distances <= neighbours.radius
        chosen = {name: rng.permutation(np.flatnonzero(inside == (name == "in")))[: settings.pairs] for name in GROUPS}
        tables = []
        for run in runs:
            gamma = run.config.gamma
            horizon = math.ceil(math.log(REST) / math.log(gamma))
            for name, rows in chosen.items():
                if not len(rows):
                    continue
                pairs = candidates.of(rows)
                seed_everything(settings.seed)
                real = simulator.returns_from(pairs.states, pairs.actions, run.act, gamma=gamma, horizon=horizon)
                critics = run.q(pairs.observations, pairs.actions)
                columns = {f"critic{i}": values for i, values in enumerate(critics, 1)}
                about = {"label": run.run.label, "seed": run.run.seed, "pairs": name}
                where = {"episode": pairs.episodes, "distance": pairs.distances}
                tables.append(pd.DataFrame({**about, **where, **columns, "critic": critics.mean(0), "real": real}))
    table = pd.concat(tables, ignore_index=True)
    summary = summarised(table, settings.seed)
    about = {
        "task": runs[0].task.name, "dataset": dataset.fingerprint, "runs": [settings_of(run.run) for run in runs],
        "radius": neighbours.radius, "quantile": QUANTILE, "candidates": len(inside), "candidates_outside": int((~inside).sum()),
        "episodes": settings.episodes, "seed": settings.seed,
        "intervals": "95%, bootstrap over the episodes in which the states were visited",
        "values": summary.to_dict("records"),
    }  # fmt: skip
    if not len(chosen["out"]):
        none = f"none of {len(inside)} visited states' pairs is farther from the data than its own pairs are from each other"
        print(f"{GROUPS['out']}: {none}", file=sys.stderr)
    return Drawn(_figure(summary), table, about, shown=table_of(summary))


def _candidates(
    runs: Sequence[Learned], simulator: OpenSimulator, neighbours: Neighbours, settings: Settings, rng: np.random.Generator
) -> Pairs:
    found = []
    for i, run in enumerate(runs):
        seed_everything(settings.seed)
        played = simulator.play(run.act, range(settings.seed, settings.seed + settings.episodes))
        rows = np.sort(rng.permutation(len(played.groups))[:CANDIDATES])
        uniform = rng.uniform(-1, 1, played.actions[rows].shape).astype(np.float32)
        for actions in (played.actions[rows], uniform):
            obss = played.observations[rows]
            episodes = played.groups[rows] + i * settings.episodes
            found.append(Pairs(obss, actions, played.states[rows], episodes, neighbours(obss, actions)))
    return Pairs(*(np.concatenate(x) for x in zip(*(vars(pairs).values() for pairs in found), strict=True)))


def summarised(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A row a run and kind of pairs: the mean of critic, of real and of their difference over the pairs, each with its interval."""
    found = []
    for (label, run_seed, name), group in table.groupby(["label", "seed", "pairs"], sort=False):
        values = group[["critic", "real"]].to_numpy(np.float64)
        columns = np.column_stack([values, values[:, 0] - values[:, 1]])
        _, index = np.unique(group["episode"].to_numpy(), return_inverse=True)
        sums = np.stack([np.bincount(index, weights=column) for column in columns.T])  # [3, G]
        counts = np.bincount(index)
        draws = redrawn(len(counts), np.random.default_rng(seed))
        means = [estimate(draws @ each / (draws @ counts)) for each in sums]
        row = {"label": label, "seed": run_seed, "pairs": name, "number": len(group)}
        for key, x in zip(MEASURED, means, strict=True):
            row |= {key: x.value, f"{key}_low": x.low, f"{key}_high": x.high}
        found.append(row)
    return pd.DataFrame(found)


def table_of(summary: pd.DataFrame) -> pd.DataFrame:
    """Table 1 to read: a row a contestant with mean ± standard deviation over its seeds, and a row a run with intervals over the pairs."""
    rows = []
    ordered = summary.sort_values("pairs", ascending=False, kind="stable")  # those outside the data first
    for (pairs, label), group in ordered.groupby(["pairs", "label"], sort=False):
        about = {"pairs": f"{GROUPS[str(pairs)]} ({group['number'].iloc[0]})"}
        if len(group) > 1:
            means = {key: f"{group[key].mean():.1f} ± {group[key].std(ddof=0):.1f}" for key in MEASURED}
            rows.append({**about, "run": f"{label}, {len(group)} seeds", **means})
        for _, run in group.iterrows():
            cells = {key: with_interval(run[key], run[f"{key}_low"], run[f"{key}_high"], 1) for key in MEASURED}
            rows.append({**about, "run": f"{label}, seed {run['seed']}", **cells})
    return pd.DataFrame(rows).rename(columns={"difference": "critic - real"})


def _figure(summary: pd.DataFrame) -> Figure:
    names = [name for name in GROUPS if name in set(summary["pairs"])]
    runs = list(dict.fromkeys(zip(summary["label"], summary["seed"], strict=True)))
    figure = Figure(figsize=(4.6 * len(names) + 1.2, 0.5 * len(runs) + 1.9), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False, sharex=True, sharey=True)[0]
    for panel, name in zip(panels, names, strict=True):
        group = summary[summary["pairs"] == name].set_index(["label", "seed"])
        for i, run in enumerate(runs):
            if run not in group.index:
                continue
            row = group.loc[run]
            for key, colour, marker, shift in (("critic", COLOURS[0], "o", -0.12), ("real", COLOURS[1], "D", 0.12)):
                mean = Estimate(row[key], row[f"{key}_low"], row[f"{key}_high"])
                label = {"critic": "critic", "real": "real, Monte Carlo"}[key] if i == 0 else None
                panel.plot([mean.low, mean.high], [i + shift] * 2, color=colour, linewidth=1.5)
                panel.plot(mean.value, i + shift, marker, color=colour, markersize=6, label=label, linestyle="none")
        number = int(group["number"].iloc[0])
        panel.set(title=f"{number} pairs {GROUPS[name]}", xlabel="discounted return, mean over pairs")
        panel.grid(axis="x", color="0.9")
    keep_legible(panels, "x", summary[["critic", "real"]])
    panels[0].set_yticks(range(len(runs)), [f"{label}, seed {seed}" for label, seed in runs])
    panels[0].set_ylim(len(runs) - 0.5, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure
