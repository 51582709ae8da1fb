"""The classifier's reliability: of transitions that it calls synthetic with probability p, is a share p synthetic?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from offlinerlkit_damo.analysis.clouds import Transitions, offline
from offlinerlkit_damo.analysis.drawing import Drawn
from offlinerlkit_damo.analysis.overlap import auc, estimate, redrawn
from offlinerlkit_damo.analysis.runs import Learned, settings_of
from offlinerlkit_damo.analysis.settings import Settings
from offlinerlkit_damo.report.looks import looks
from offlinerlkit_damo.report.tables import NONE, with_interval
from offlinerlkit_damo.tasks import OfflineDataset, can_make, resolve_dataset
from offlinerlkit_damo.training.dynamics import seed_everything

BINS = 10
HELD_OUT = 20_000  # rows of a generated task made anew
POINTS, MOST = 3, 5000  # times settings.points rows of either kind, and never more


def draw_calibration(runs: Sequence[Learned], dataset: OfflineDataset, settings: Settings) -> Drawn:
    """Reliability diagrams of the runs' classifiers on held-out real and synthetic transitions, which weigh the same.

    Real: of a generated task rows made with another seed, which no run has seen; of any other the dataset's own rows, which the classifier
    was trained on, so that it looks better than it is. Synthetic: fresh rollouts of the policy in its model.
    """
    real, fresh = held_out(runs[0], dataset)
    size = min(POINTS * settings.points, MOST)
    rng = np.random.default_rng(settings.seed)
    real = real.sample(size, rng)
    bins, scores = [], []
    for run in runs:
        seed_everything(settings.seed)
        fake = run.imagine().sample(size, rng)
        logits = [run.logits(x.observations, x.actions, x.next_observations) for x in (fake, real)]
        found = reliability(logits[0], logits[1], fake.groups, real.groups, seed=settings.seed)
        bins.append(found.bins.assign(label=run.run.label, seed=run.run.seed))
        scores.append({"label": run.run.label, "seed": run.run.seed, "score": run.run.score, **found.scores})
    table = pd.concat(bins, ignore_index=True)
    about = {
        "task": runs[0].task.name, "dataset": dataset.fingerprint, "runs": [settings_of(run.run) for run in runs],
        "real_rows": "generated anew with another seed" if fresh else "the dataset's own, which the classifiers were trained on",
        "rows": {"real": len(real.groups), "synthetic_at_most": size}, "seed": settings.seed,
        "intervals": "95%, bootstrap over episodes and rollouts", "scores": scores,
    }  # fmt: skip
    return Drawn(_figure(table, scores, fresh), table, about, shown=table_of(scores))


def table_of(scores: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row a run to read: its score, and how well its classifier is calibrated."""
    return pd.DataFrame(
        [
            {
                "run": f"{score['label']}, seed {score['seed']}",
                "score": NONE if score["score"] is None else f"{score['score']:.1f}",
                "calibration error": f"{score['calibration_error']:.3f}",
                "cross-entropy": f"{score['cross_entropy']:.3f}",
                "accuracy": f"{score['accuracy']:.3f}",
                "AUC": with_interval(score["auc"], score["auc_low"], score["auc_high"], 2),
            }
            for score in scores
        ]
    )


def held_out(run: Learned, dataset: OfflineDataset) -> tuple[Transitions, bool]:
    """Real transitions that the run has not seen, and True; the dataset's own, and False, where there are no others to be had."""
    config = run.config
    if config.data is not None or not can_make(run.task):
        return offline(dataset), False
    seed = config.data_seed + 1 if config.data_seed == 0 else config.data_seed - 1
    return offline(resolve_dataset(run.task, size=min(HELD_OUT, config.data_size), seed=seed)), True


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Of one classifier.

    Attributes:
        bins: a row a bin of predicted probability: "predicted", its mean; "observed", the share of synthetic rows, with its interval;
            "synthetic" and "real", the share of either kind's rows that lie there.
        scores: expected calibration error, cross-entropy, accuracy and AUC.
    """

    bins: pd.DataFrame
    scores: dict[str, Any]


def reliability(
    fake: NDArray[np.float64], real: NDArray[np.float64], fake_groups: NDArray[Any], real_groups: NDArray[Any], *, seed: int = 0
) -> Reliability:
    """From logits of synthetic rows [n] and of real rows [m], each kind weighing one half."""
    edges = np.linspace(0, 1, BINS + 1)[1:-1]
    rng = np.random.default_rng(seed)
    shares, sums = [], []  # of each kind: [R, BINS] the share of its rows in each bin on every resample, [BINS] their probabilities' sum
    for logits, groups in ((fake, fake_groups), (real, real_groups)):
        probabilities = 0.5 * (1 + np.tanh(logits / 2))
        _, index = np.unique(groups, return_inverse=True)
        where = np.digitize(probabilities, edges)
        counts = np.zeros((index.max() + 1, BINS))
        np.add.at(counts, (index, where), 1)
        drawn = redrawn(len(counts), rng) @ counts
        shares.append(drawn / drawn.sum(1, keepdims=True))
        sums.append(np.bincount(where, weights=probabilities, minlength=BINS) / len(logits))
    with np.errstate(invalid="ignore"):  # empty bins
        observed = shares[0] / (shares[0] + shares[1])
        predicted = (sums[0] + sums[1]) / (shares[0][0] + shares[1][0])
    rows = []
    for i in np.flatnonzero(np.isfinite(observed[0])):
        x = estimate(observed[:, i])
        about = {"predicted": predicted[i], "observed": x.value, "observed_low": x.low, "observed_high": x.high}
        rows.append({**about, "synthetic": shares[0][0, i], "real": shares[1][0, i]})
    table = pd.DataFrame(rows)
    weights = (table["synthetic"] + table["real"]) / 2
    area = auc(fake, real, fake_groups, real_groups, seed=seed)
    scores = {
        "calibration_error": float((weights * (table["predicted"] - table["observed"]).abs()).sum()),
        "cross_entropy": float((np.logaddexp(0, -fake).mean() + np.logaddexp(0, real).mean()) / 2),
        "accuracy": float(((fake > 0).mean() + (real <= 0).mean()) / 2),
        "auc": area.value,
        "auc_low": area.low,
        "auc_high": area.high,
    }
    return Reliability(table, scores)


def _figure(table: pd.DataFrame, scores: Sequence[dict[str, Any]], fresh: bool) -> Figure:
    figure = Figure(figsize=(6.4 if len(scores) < 8 else 9.6, 7.4 + 0.15 * len(scores)), layout="constrained")
    diagram, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.4))
    diagram.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="calibrated")
    names = [f"{score['label']}, seed {score['seed']}" for score in scores]
    for (name, look), score in zip(looks(names).items(), scores, strict=True):
        rows = table[(table["label"] == score["label"]) & (table["seed"] == score["seed"])]
        bars = np.array([rows["observed"] - rows["observed_low"], rows["observed_high"] - rows["observed"]]).clip(0)
        label = f"{name}: calibration error {score['calibration_error']:.3f}, AUC {score['auc']:.2f}"
        how = {"color": look.colour, "linewidth": 1.2}
        where = {"marker": look.marker, "markersize": 4, "capsize": 2, "linestyle": look.dashes}
        diagram.errorbar(rows["predicted"], rows["observed"], bars, label=label, **how, **where)
        histogram.plot(rows["predicted"], rows["synthetic"], **how)
        histogram.plot(rows["predicted"], rows["real"], linestyle=":", **how)
    kind = "held out" if fresh else "the dataset's own rows: seen in training"
    diagram.set(ylabel="observed share of synthetic transitions", title=f"real transitions: {kind}", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    figure.legend(*diagram.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=1 if len(names) < 8 else 2)
    histogram.set(xlabel="predicted probability of being synthetic", ylim=(0, None))
    histogram.set_ylabel("share of rows\n(solid: synthetic, dotted: real)")
    return figure
