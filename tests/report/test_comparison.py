"""Scores, statistics and tables of a comparison against slow counts on one fixed table."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.report import statistics
from offlinerlkit_damo.report.comparison import aggregate_table, complete_matrices, write_report
from offlinerlkit_damo.report.scores import read_rows, remarks, run_scores, score_table
from offlinerlkit_damo.report.tables import latex, markdown, published_rows, wide

OURS = np.array([[10.0, 90.0, 50.0], [30.0, 120.0, 55.0], [20.0, 100.0, 55.0]])  # [seeds, tasks]
THEIRS = np.array([[15.0, 80.0, 55.0], [25.0, 95.0, 40.0]])


def rows_of(tmp_path: Path, drop: int | None = None, **changes: object) -> Path:
    """Two contestants, tasks and seeds, twelve evaluations of two episodes each; score = seed + evaluation + 10 for b."""
    found = [
        {
            "task": task, "label": label, "algo": {"a": "damo", "b": "mopo"}[label], "seed": seed, "timestep": 100 * step,
            "episode": episode,
            "return": 1.0, "score": seed + step + episode + 10 * (label == "b"), "length": 5, "dataset_mean": 3.5, "source": "generated",
            "config_hash": label, "dataset": task, "dynamics": "x", "host": "standin", "commit": "c", "seconds": 1.0, "finished": True,
        }
        for task, label, seed, step, episode in product(("hopper-medium", "hopper-random"), "ab", (1, 2), range(1, 13), range(2))
    ]  # fmt: skip
    table = pd.DataFrame(found)
    for name, value in changes.items():
        table.loc[table["label"] == "b", name] = value
    if drop is not None:
        table = table[~((table["label"] == "b") & (table["seed"] == drop) & (table["task"] == "hopper-random"))]
    tmp_path.mkdir(exist_ok=True)
    table.to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path


def test_a_runs_score_is_the_mean_of_its_last_ten_evaluations(tmp_path: Path) -> None:
    scores = run_scores(read_rows([rows_of(tmp_path)]))
    first = scores[(scores["task"] == "hopper-medium") & (scores["label"] == "a") & (scores["seed"] == 2)].iloc[0]
    assert first["score"] == pytest.approx(np.mean([2 + step + 0.5 for step in range(3, 13)]))
    assert (first["evaluations"], first["steps"], len(scores)) == (12, 1200, 8)
    table = score_table(scores)
    cell = table[(table["task"] == "hopper-medium") & (table["label"] == "b")].iloc[0]
    assert cell["seeds"] == {1: 19.0, 2: 20.0} and (cell["mean"], cell["std"]) == (19.5, 0.5)
    text = markdown(wide(table, {"hopper-medium": 3.5}))
    assert "| hopper-medium | 3.5 | 9.5 ± 0.5 (9.0, 10.0) | 19.5 ± 0.5 (19.0, 20.0) |" in text
    assert "| hopper-random | - |" in text
    assert r"9.5 $\pm$ 0.5 (9.0, 10.0)" in latex(wide(table, {}))


def test_published_scores_are_those_of_the_algorithm_itself() -> None:
    table = published_rows(["hopper-medium-v2", "nothing"], {"damo": "damo", "damo+x": "damo", "odice": "odice"})
    assert table.to_dict("records") == [{"task": "hopper-medium-v2", "damo": "93.8", "damo+x": "-", "odice": "86.1"}]


def test_what_is_missing_or_unlike_is_told_and_nothing_is_cut(tmp_path: Path) -> None:
    assert remarks(*told(rows_of(tmp_path / "whole"))) == []
    lacking = rows_of(tmp_path / "lacking", drop=2)
    assert remarks(*told(lacking)) == ["b on hopper-random has no seed 2"]
    assert list(complete_matrices(told(lacking)[1])) == ["a"]
    other = remarks(*told(rows_of(tmp_path / "other", dataset="other")))
    assert "runs on hopper-medium learned from different datasets (hopper-medium, other)" in other
    going = remarks(*told(rows_of(tmp_path / "going", finished=False)))
    assert "b on hopper-medium, seed 1, has not finished (1200 steps)" in going


def told(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = read_rows([folder])
    return rows, run_scores(rows)


def test_statistics_are_rliables_formulas() -> None:
    """Interquartile mean, optimality gap and probability of improvement as rliable defines them, counted slowly."""
    ordered = sorted(OURS.ravel())
    cut = len(ordered) // 4
    assert statistics.iqm(OURS) == pytest.approx(np.mean(ordered[cut:-cut]))
    assert statistics.optimality_gap(OURS) == pytest.approx(100 - np.mean([min(x, 100) for x in OURS.ravel()]))
    wins = [np.mean([(x > y) + 0.5 * (x == y) for x, y in product(OURS[:, t], THEIRS[:, t])]) for t in range(3)]
    assert statistics.improvement(OURS, THEIRS) == pytest.approx(np.mean(wins))
    levels = np.array([0.0, 50.0, 200.0])
    np.testing.assert_allclose(statistics.profile(OURS, levels), [1.0, 5 / 9, 0.0])


def test_intervals_redraw_seeds_within_each_task() -> None:
    """With one task all redrawn means lie between the extremes; a task's scores never mix with another's."""
    found = statistics.interval(statistics.mean, np.array([[0.0, 100.0], [0.0, 200.0]]))
    assert (found.value, found.low, found.high) == (75.0, 50.0, 100.0)
    # of three seeds all three draws are the worst one in 1 of 27 cases, more often than in 2.5%
    ours = statistics.interval(statistics.mean, OURS[:, :1])
    assert (ours.low, ours.high) == (10.0, 30.0)
    ten = statistics.interval(statistics.mean, np.arange(10.0)[:, None])
    assert 2.5 < ten.low < 3.1 and 5.9 < ten.high < 6.5  # 4.5 -+ 1.96 * sqrt(8.25 / 10)
    assert np.isnan(statistics.interval(statistics.mean, OURS[:1]).low)


def test_aggregates_compare_with_the_first(tmp_path: Path) -> None:
    table = aggregate_table(told(rows_of(tmp_path))[1])
    assert list(table["contestant"]) == ["a", "b"] and table["P(better than a)"].tolist()[1].startswith("1.00")
    assert table["IQM"].tolist()[1].startswith("19.5 [19.0, 20.0]")


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    page = write_report([rows_of(tmp_path)], tmp_path / "out").read_text()
    assert page.count("<svg") == 3 and "<script" not in page and "<link" not in page and "<img" not in page
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", "scores.md", "scores.csv", "scores.tex"}


def test_broken_tables_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no rows\.csv"):
        read_rows([tmp_path])
    path = tmp_path / "rows.csv"
    path.write_text("")
    with pytest.raises(UserError, match="is no table of a comparison"):
        read_rows([tmp_path])
    path.write_text("task,label\na,b\n")
    with pytest.raises(UserError, match="lacks the columns algo, seed"):
        read_rows([tmp_path])
    whole = rows_of(tmp_path / "x") / "rows.csv"
    lines = whole.read_text().splitlines()
    path.write_text("\n".join([*lines[:5], "hopper-medium,a", *lines[5:]]))
    with pytest.raises(UserError, match="1 broken rows, the first in line 6"):
        read_rows([tmp_path])
    path.write_text(lines[0] + "\n")
    with pytest.raises(UserError, match="no evaluation yet"):
        read_rows([tmp_path])
