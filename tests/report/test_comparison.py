"""Scores, statistics and tables of a comparison against slow counts on one fixed table."""

from __future__ import annotations

import base64
import html
import json
import re
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from offlinerlkit_damo.__main__ import main
from offlinerlkit_damo.config import resolve
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.report import page, panels, statistics
from offlinerlkit_damo.report.aggregates import aggregate, aggregate_table, complete_scores, left_out
from offlinerlkit_damo.report.comparison import write_report
from offlinerlkit_damo.report.looks import looks
from offlinerlkit_damo.report.options import own_options
from offlinerlkit_damo.report.scores import curves, few_of, on_common_grid, read_rows, remarks, run_scores, score_table
from offlinerlkit_damo.report.tables import latex, markdown, published_tables, wide

OURS = [np.array(runs) for runs in ([10.0, 30.0, 20.0], [90.0, 120.0, 100.0], [50.0, 55.0, 55.0])]  # an array a task
THEIRS = [np.array(runs) for runs in ([15.0, 25.0], [80.0, 95.0], [55.0, 40.0])]

FEW = (
    "2 seeds: intervals of so few are too narrow; of normal scores, one of 2 holds the true mean in about 50% of cases, not in 95%, and "
    "one over all 2 tasks in 70%"
)


def rows_of(tmp_path: Path, drop: int | None = None, **changes: object) -> Path:
    """Two contestants, tasks and seeds, twelve evaluations of two episodes each; score = seed + evaluation + 10 for b."""
    found = [
        {
            "task": task, "label": label, "algo": {"a": "damo", "b": "mopo"}[label], "seed": seed, "timestep": 100 * step,
            "episode": episode,
            "return": 10.0, "score": seed + step + episode + 10 * (label == "b"), "length": 5, "dataset_mean": 3.5, "source": "generated",
            "config_hash": label, "dataset": task, "dynamics": "x", "host": "standin", "commit": "c", "seconds": 6.0 * step, "q_data": 50.0,
            "gamma": 0.9, "finished": True,
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


def page_of(rows: pd.DataFrame, place: Path) -> str:
    place.mkdir()
    rows.to_csv(place / "rows.csv", index=False)
    return write_report([place], place / "report", "svg").read_text()


def test_scores_without_references_are_called_returns_and_not_pooled(tmp_path: Path) -> None:
    """Of one task in returns everything but the gap to an expert; beside tasks in points it is in no figure over all runs."""
    rows = pd.read_csv(rows_of(tmp_path / "in") / "rows.csv")
    own = rows["task"] == "hopper-random"
    rows.loc[own, "return"] = rows.loc[own, "score"] * (1 + 1e-15)  # as a normalisation by 0 and 100 rounds
    mixed, alone, points = (page_of(rows[which], tmp_path / f"{i}") for i, which in enumerate((own | ~own, own, ~own)))
    assert "no figures over all runs have hopper-random: scores there are returns, in a unit of their own" in mixed
    assert all(("ptimality gap" in page) == there for page, there in ((mixed, True), (alone, False), (points, True)))
    assert all("All runs together" in page and "P(better than a)" in page for page in (mixed, alone, points))
    for i, what in ((0, "normalised score"), (1, "return"), (2, "normalised score")):
        assert f"<!-- {what} -->" in (tmp_path / f"{i}" / "report" / "profiles.svg").read_text()
    for kind in ("curves", "wall-clock"):
        assert "<!-- return -->" in (tmp_path / "0" / "report" / f"hopper-random_{kind}.svg").read_text()
        assert "<!-- normalised score -->" in (tmp_path / "0" / "report" / f"hopper-medium_{kind}.svg").read_text()


def test_a_runs_score_is_the_mean_of_its_last_ten_evaluations(tmp_path: Path) -> None:
    scores = run_scores(read_rows([rows_of(tmp_path)]))
    first = scores[(scores["task"] == "hopper-medium") & (scores["label"] == "a") & (scores["seed"] == 2)].iloc[0]
    assert first["score"] == pytest.approx(np.mean([2 + step + 0.5 for step in range(3, 13)]))
    assert (first["evaluations"], first["steps"], len(scores)) == (12, 1200, 8)
    table = score_table(scores)
    cell = table[(table["task"] == "hopper-medium") & (table["label"] == "b")].iloc[0]
    assert cell["seeds"] == {1: 19.0, 2: 20.0} and (cell["mean"], cell["std"]) == (19.5, 0.5)
    text = markdown(wide(table, {"hopper-medium": 3.5}))
    assert "| hopper-medium | 1,200 | 3.5 | 9.5 ± 0.5 (9.0, 10.0) | 19.5 ± 0.5 (19.0, 20.0) |" in text
    assert "| hopper-random | 1,200 | - |" in text
    alone = {"task": "t", "label": "a", "mean": -0.04, "std": 0.0, "seeds": {3: -0.04}, "steps": {3: 5}, "unfinished": []}
    assert wide(pd.DataFrame([alone]), {}).iloc[0].to_dict() == {"task": "t", "steps": "5", "dataset": "-", "a": "0.0"}
    assert wide(pd.DataFrame([{**alone, "unfinished": [3]}]), {})["a"].tolist() == ["0.0 * (at 5)"]
    two = {"task": "t", "label": "a", "mean": 3.0, "std": 1.0, "seeds": {1: 4.0, 2: 2.0}, "steps": {1: 100_000, 2: 4_000}}
    assert wide(pd.DataFrame([{**two, "unfinished": [2]}]), {})["a"].tolist() == ["3.0 ± 1.0 * (4.0, 2.0 at 4k)"]


def test_many_contestants_on_one_task_are_a_row_each() -> None:
    entry = {"task": "t", "mean": 3.0, "std": 1.0, "seeds": {1: 4.0, 2: 2.0}, "steps": {1: 5, 2: 5}, "unfinished": []}
    table = pd.DataFrame([{**entry, "label": label} for label in "abcdefg"])
    shown = wide(table, {"t": 7.25})
    assert shown.iloc[0].to_dict() == {"contestant": "(dataset)", "steps": "-", "t": "7.2"}
    assert shown.iloc[-1].to_dict() == {"contestant": "g", "steps": "5", "t": "3.0 ± 1.0 (4.0, 2.0)"} and len(shown) == 8
    assert list(wide(table.iloc[:6], {})) == ["task", "steps", "dataset", *"abcdef"]
    assert len(wide(pd.concat([table, table.assign(task="u")]), {})) == 2


def test_a_crowd_of_curves_gets_axes_each(tmp_path: Path) -> None:
    rows = pd.read_csv(rows_of(tmp_path) / "rows.csv")
    one = rows[(rows["label"] == "a") & (rows["task"] == "hopper-medium")]
    labels = "abcdefgh"
    crowd = pd.concat([one.assign(label=label, score=one["score"] + i) for i, label in enumerate(labels)])
    crowd.to_csv(tmp_path / "crowd.csv", index=False)
    evaluations = curves(read_rows([tmp_path / "crowd.csv"]))

    def drawn(count: int, mean: float | None = 3.5) -> list[Any]:
        shown = evaluations[evaluations["label"].isin(list(labels[:count]))]
        return [axes for axes in panels.learning_curves(shown, looks(labels), mean, "return").axes if axes.get_visible()]

    (together,) = drawn(6)
    assert len(together.get_lines()) == 6 * 3 + 1
    apart = drawn(8)
    assert [axes.get_title() for axes in apart] == [f"{label}, 2 seeds" for label in labels]
    for i, axes in enumerate(apart):
        *grey, _, _, own, dataset = axes.get_lines()
        assert [line.get_color() for line in grey] == ["0.8"] * 8 and set(dataset.get_ydata()) == {3.5}
        assert own.get_ydata()[0] == pytest.approx(1.5 + 1 + 0.5 + i) and own.get_color() == looks(labels)[labels[i]].colour
    assert len(drawn(8, None)[0].get_lines()) == 8 + 3
    evaluations = evaluations[(evaluations["label"] != "b") | (evaluations["seed"] == 1) | (evaluations["timestep"] <= 500)]
    assert [axes.get_title() for axes in drawn(8)][:2] == ["a, 2 seeds", "b, 2 seeds,\nmean to 500 steps"]
    page = write_report([tmp_path / "crowd.csv"], tmp_path / "report").read_text()
    assert "Grey: the means of the others." in page
    assert "Grey: the means of the others." not in write_report([rows_of(tmp_path)], tmp_path / "few").read_text()


def test_names_and_options_with_special_characters_come_through(tmp_path: Path) -> None:
    """What is a bracket, a bar, a formula or a command in one of the formats stays text."""
    table = pd.DataFrame({"contestant": ["a"], "score": ["2.0 ± 1.0 (3.0, 1.0)"], "options": ["data: d (1)/x^2~a|b{c}\\y.hdf5"]})
    assert "| data: d (1)/x^2~a\\|b{c}\\y.hdf5 |" in markdown(table)
    text = page.table(table, "t")
    assert "<td>2.0 ± 1.0<small>3.0, 1.0</small></td>" in text and "d (1)/x^2~a|b{c}\\y.hdf5</td>" in text
    shown = latex(table, "50% of a_b, x^2~{c}\\y")
    assert r"\caption{50\% of a\_b, x\textasciicircum{}2\textasciitilde{}\{c\}\textbackslash{}y}" in shown
    rows = pd.read_csv(rows_of(tmp_path) / "rows.csv")
    rows["label"] = rows["label"].map({"a": r"a$\foo$", "b": "b-" * 20 + "b"})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    assert html.escape(r"a$\foo$") in write_report([tmp_path], tmp_path / "report").read_text()


def test_long_names_stay_in_their_panels(tmp_path: Path) -> None:
    rows = pd.read_csv(rows_of(tmp_path) / "rows.csv")
    labels = [f"damo-half-the-data-and-actor-lr-{i}" for i in range(7)]
    one = rows[rows["label"] == "a"]
    pd.concat([one.assign(label=label, seed=one["seed"] + 10 * i) for label in labels for i in range(2)]).to_csv(tmp_path / "r.csv")
    rows = read_rows([tmp_path / "r.csv"])
    complete = complete_scores(run_scores(rows))
    figures = (
        panels.intervals(aggregate(complete, in_points=True), looks(labels)),
        panels.learning_curves(curves(rows[rows["task"] == "hopper-medium"]), looks(labels), None, "points"),
    )
    for figure in figures:
        figure.draw_without_rendering()
        texts = [text for axes in figure.axes if axes.get_visible() for text in (axes.title, axes.xaxis.label) if text.get_text()]
        boxes = [text.get_window_extent() for text in texts]
        assert len(boxes) >= 4 and all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
        assert not any(first.overlaps(other) for i, first in enumerate(boxes) for other in boxes[:i])


def test_many_evaluations_are_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(page: Path) -> list[int]:
        drawn = [base64.b64decode(text).decode() for text in re.findall(r"image/svg\+xml;base64,([^\"]+)", page.read_text())]
        return [svg.count("<image") for svg in drawn]

    rows = rows_of(tmp_path)
    assert not any(lines(write_report([rows], tmp_path / "few")))
    monkeypatch.setattr(panels, "MANY", 20)
    many = lines(write_report([rows], tmp_path / "many"))
    assert many[:2] == [0, 0] and all(many[2:]) and len(many) == 2 + 2 * 3


def test_single_evaluations_are_dots(tmp_path: Path) -> None:
    evaluations = curves(read_rows([rows_of(tmp_path)]))
    first = evaluations[(evaluations["timestep"] == 100) & (evaluations["task"] == "hopper-medium")]
    for figure in (panels.learning_curves(first, looks("ab"), None, "return"), panels.values(first, looks("ab"))):
        shown = [line for axes in figure.axes for line in axes.get_lines() if len(line.get_xdata())]
        assert len(shown) >= 6 and all(line.get_marker() not in ("", "None") for line in shown)


def test_published_numbers_are_no_measure_for_other_data_only(tmp_path: Path) -> None:
    rows = pd.read_csv(rows_of(tmp_path) / "rows.csv")
    rows["label"] = rows["label"].map({"a": "damo", "b": "mopo"})
    for sources, words in (
        (("d4rl", "d4rl"), "other options."),
        (("d4rl", "generated"), "That is not the data above of hopper-random: no measure for the scores there."),
        (("generated", "generated"), "That is not the data above: no measure for the scores there."),
    ):
        rows["source"] = rows["task"].map(dict(zip(("hopper-medium", "hopper-random"), sources, strict=True)))
        rows.to_csv(tmp_path / "rows.csv", index=False)
        text = write_report([tmp_path], tmp_path / "report").with_name("scores.md").read_text()
        about = next(line for line in text.splitlines() if line.startswith("**Published: DAMO's paper"))
        assert about.endswith(words)


def test_seeds_without_a_common_step_are_told(tmp_path: Path) -> None:
    rows = read_rows([rows_of(tmp_path)])
    rows.loc[(rows["label"] == "b") & (rows["seed"] == 2), "timestep"] += 50
    told_of = remarks(rows, run_scores(rows))
    assert "there is no mean curve of b on hopper-medium: its seeds were evaluated at different steps" in told_of
    assert not any("mean curve of a" in text for text in told_of)


def test_latex_is_balanced_and_escaped() -> None:
    entry = {"task": "walker2d_50%", "label": "a_b&c", "mean": 9.5, "std": 0.5, "seeds": {1: 9.0, 2: 10.0}, "unfinished": []}
    entry["steps"] = {1: 100, 2: 200}
    shown = wide(pd.DataFrame([entry]), {}).assign(about="word " * 20)
    text = latex(shown, "Scores of a_b & c, 95% of them.")
    lines = text.splitlines()
    assert lines[:2] == [r"\begin{table}", r"\caption{Scores of a\_b \& c, 95\% of them.}"] and lines[-1] == r"\end{table}"
    assert lines[2] == r"\begin{tabular}{lrrrp{0.5\textwidth}}" and lines[-2] == r"\end{tabular}"
    assert r"walker2d\_50\% & 100 to 200 & - & 9.5 $\pm$ 0.5 (9.0, 10.0) & word" in text
    assert r"task & steps & dataset & a\_b\&c & about \\" in lines and text.isascii()


def test_published_scores_are_those_of_the_algorithm_itself() -> None:
    (paper, ours), (kit, theirs) = published_tables(["hopper-medium-v2", "nothing"], {"damo": "damo", "damo+x": "damo", "mopo": "mopo"})
    assert "2502.00850" in paper and ours.to_dict("records") == [{"task": "hopper-medium-v2", "damo": "93.8 ± 8.2", "mopo": "62.8"}]
    assert "OfflineRL-Kit" in kit and theirs.to_dict("records") == [{"task": "hopper-medium-v2", "mopo": "62.8 ± 38.1"}]
    assert published_tables(["nothing"], {"damo": "damo"}) == []


def test_what_is_missing_or_unlike_is_told_and_nothing_is_cut(tmp_path: Path) -> None:
    assert remarks(*told(rows_of(tmp_path / "whole"))) == [FEW]
    lacking = rows_of(tmp_path / "lacking", drop=2)
    fewer = FEW.replace("2 seeds", "1 to 2 seeds") + "; of one there is none"
    assert remarks(*told(lacking)) == ["b has no seed 2 on hopper-random", fewer]
    rows, scores = told(lacking)
    some = rows[(rows["label"] == "a") | (rows["task"] == "hopper-random")]
    assert remarks(some, run_scores(some))[:2] == ["b has no evaluation on hopper-medium", "b has no seed 2 on hopper-random"]
    complete = complete_scores(scores)
    assert {label: [list(runs) for runs in x] for label, x in complete.items()} == {"a": [[9.0, 10.0]] * 2, "b": [[19.0, 20.0], [19.0]]}
    assert left_out(rows, complete, sorted(set(rows["task"]))) == []
    rows, scores = told(rows_of(tmp_path / "without", drop=2))
    without = scores[~((scores["label"] == "b") & (scores["task"] == "hopper-random"))]
    assert list(complete_scores(without)) == ["a"]
    tasks = sorted(set(rows["task"]))
    assert left_out(rows, {"a": []}, tasks) == ["no figures over all runs for b: not every task has a finished run of theirs"]
    other = remarks(*told(rows_of(tmp_path / "other", dataset="other")))
    assert "runs on hopper-medium learned from different datasets: hopper-medium (a); other (b)" in other
    hosts = remarks(*told(rows_of(tmp_path / "hosts", host="offlinerlkit")))
    assert "some runs used OfflineRL-Kit's classes, others the stand-in's: standin (a); offlinerlkit (b)" in hosts
    rows = read_rows([tmp_path / "whole"])
    rows.loc[(rows["label"] == "b") & (rows["seed"] == 2), "config_hash"] = "other"
    longer = rows[(rows["label"] == "b") | (rows["timestep"] <= 1100)]
    assert {
        "b on hopper-medium has runs with different options: b (seed 1); other (seed 2)",
        "finished runs on hopper-medium differ in their steps: 1,100 (a); 1,200 (b)",
    } <= set(remarks(longer, run_scores(longer)))
    going = remarks(*told(rows_of(tmp_path / "going", finished=False)))
    assert "b on hopper-medium has not finished: seed 1 (1200 steps), seed 2 (1200 steps)" in going
    rows, scores = told(tmp_path / "going")
    assert list(complete_scores(scores)) == ["a"] and "*" in wide(score_table(scores), {}).iloc[0]["b"]
    one = rows[rows["task"] == "hopper-random"]
    assert left_out(one, {"a": []}, ["hopper-random"]) == ["no figures over all runs for b: none of their runs has finished"]
    versions = remarks(*told(rows_of(tmp_path / "versions", commit="d")))
    assert "runs were made by different versions of this package: c (a); d (b)" in versions
    short = rows_of(tmp_path / "short") / "rows.csv"
    table = pd.read_csv(short)
    table[(table["label"] == "a") | (table["timestep"] <= 300)].to_csv(short, index=False)
    assert "4 of 8 runs have only 3 evaluations instead of 10 to take the mean of" in remarks(*told(short.parent))


def test_unlike_conditions_are_told(tmp_path: Path) -> None:
    """Models that are not shared, and evaluations of unlike number and size: scores of the same steps that are means of other things."""
    rows = read_rows([rows_of(tmp_path)])
    b = rows["label"] == "b"
    unshared = rows.assign(dynamics=np.where(b & (rows["seed"] == 2), "other", "model"))
    assert "contestants on hopper-medium do not share one dynamics model: seed 2" in remarks(unshared, run_scores(unshared))
    rambo = unshared.assign(algo=np.where(b, "rambo", rows["algo"]))  # which has a model of its own
    free = unshared.assign(dynamics=np.where(b, None, "model"))
    for alike in (rambo, free):
        assert not any("do not share" in text for text in remarks(alike, run_scores(alike)))
    rarely = rows[~b | (rows["timestep"] % 200 == 0)]
    told = remarks(rarely, run_scores(rarely))
    assert "scores on hopper-medium are means of evaluations since different steps: 300 (a); 200 (b)" in told
    once = rows[~b | (rows["episode"] == 0)]
    assert "evaluations on hopper-medium have different numbers of episodes: 2 (a); 1 (b)" in remarks(once, run_scores(once))


def test_contestants_keep_the_order_of_the_rows(tmp_path: Path) -> None:
    folder = rows_of(tmp_path)
    table = pd.read_csv(folder / "rows.csv")
    table.sort_values("label", ascending=False, kind="stable").to_csv(folder / "rows.csv", index=False)
    _, scores = told(folder)
    assert list(complete_scores(scores)) == ["b", "a"] and list(wide(score_table(scores), {}))[3:] == ["b", "a"]


def test_curves_have_a_common_grid_only_where_every_seed_was_evaluated(tmp_path: Path) -> None:
    every = curves(read_rows([rows_of(tmp_path)]))
    ours = every[(every["task"] == "hopper-medium") & (every["label"] == "a")]
    assert ours["minutes"].tolist() == pytest.approx([0.1 * step for step in range(1, 13)] * 2)
    assert ours["worth"].tolist() == pytest.approx([sum(2 * 0.9**i for i in range(5))] * 24)  # 10 points in 5 steps, spread evenly
    grid = on_common_grid(ours[(ours["seed"] == 1) | (ours["timestep"] <= 400)])
    assert grid["timestep"].tolist() == [100, 200, 300, 400]
    assert grid["score"].tolist() == pytest.approx([step + 2 for step in range(1, 5)])  # seeds 1 and 2, episodes 0 and 1


def told(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = read_rows([folder])
    return rows, run_scores(rows)


def test_statistics_are_rliables_formulas() -> None:
    """Interquartile mean, optimality gap and probability of improvement as rliable defines them, counted slowly."""
    every = np.concatenate(OURS)
    ordered = sorted(every)
    cut = len(ordered) // 4
    assert statistics.iqm(OURS) == pytest.approx(np.mean(ordered[cut:-cut]))
    assert np.isnan(statistics.iqm(OURS[:1]))  # three scores have no middle half
    assert statistics.optimality_gap(OURS) == pytest.approx(100 - np.mean([min(x, 100) for x in every]))
    wins = [np.mean([(x > y) + 0.5 * (x == y) for x, y in product(OURS[t], THEIRS[t])]) for t in range(3)]
    assert statistics.improvement(OURS, THEIRS) == pytest.approx(np.mean(wins))
    assert [stats.mannwhitneyu(OURS[t], THEIRS[t]).statistic / 6 for t in range(3)] == pytest.approx(wins)
    levels = np.array([0.0, 50.0, 200.0])
    np.testing.assert_allclose(statistics.profile(OURS, levels), [1.0, 5 / 9, 0.0])


def test_tasks_with_more_seeds_weigh_no_more() -> None:
    uneven = [np.array([0.0]), np.array([100.0, 110.0, 120.0])]
    assert statistics.mean(uneven) == 55.0 and statistics.optimality_gap(uneven) == 50.0
    assert statistics.improvement(uneven, [np.array([1.0]), np.array([50.0, 115.0])]) == pytest.approx((0 + 4 / 6) / 2)
    np.testing.assert_allclose(statistics.profile(uneven, np.array([-1.0, 50.0, 115.0])), [1.0, 0.5, 1 / 6])
    assert statistics.iqm(uneven) == 105.0  # of the runs as they are
    found = statistics.interval(statistics.mean, [np.array([0.0, 0.0]), np.arange(100.0, 103.0)])
    assert (found.low, found.high) == (50.0, 51.0) and np.isnan(statistics.interval(statistics.mean, uneven).low)


@pytest.mark.parametrize("name", ["iqm", "mean", "optimality_gap"])
def test_statistics_take_redraws_in_front(name: str) -> None:
    statistic = getattr(statistics, name)
    rng = np.random.default_rng(0)
    many = [rng.uniform(0, 130, (5, 3)), rng.uniform(0, 130, (5, 4))]
    each = [[runs[i] for runs in many] for i in range(5)]
    np.testing.assert_allclose(statistic(many), [statistic(one) for one in each])
    back = [runs[::-1, :2] for runs in many]
    slow = [statistics.improvement(one, [runs[i] for runs in back]) for i, one in enumerate(each)]
    np.testing.assert_allclose(statistics.improvement(many, back), slow)
    levels = np.array([40.0, 80.0])
    np.testing.assert_allclose(statistics.profile(many, levels).T, [statistics.profile(one, levels) for one in each])


def test_intervals_redraw_seeds_within_each_task() -> None:
    """With one task all redrawn means lie between the extremes; a task's scores never mix with another's."""
    found = statistics.interval(statistics.mean, [np.array([0.0, 0.0]), np.array([100.0, 200.0])])
    assert (found.value, found.low, found.high) == (75.0, 50.0, 100.0)  # the first task is 0 in every redraw, the second 100 to 200
    ours = statistics.interval(statistics.mean, OURS[:1])
    assert (ours.low, ours.high) == (10.0, 30.0)
    ten = statistics.interval(statistics.mean, [np.arange(10.0)])
    assert 2.5 < ten.low < 3.1 and 5.9 < ten.high < 6.5  # 4.5 -+ 1.96 * sqrt(8.25 / 10)
    assert np.isnan(statistics.interval(statistics.mean, [runs[:1] for runs in OURS]).low)
    apart = statistics.interval(statistics.improvement, [OURS[0] + 200, *OURS[1:]], OURS)
    assert apart.low >= 1 / 3  # on the first task every redraw wins


@pytest.mark.parametrize(("runs", "tasks"), [(2, 1), (3, 1), (5, 1), (10, 1), (3, 6)])
def test_the_worth_of_an_interval_is_that_of_simulated_ones(runs: int, tasks: int) -> None:
    """How often the bootstrap's interval of normal scores holds their mean, counted."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(400, tasks, runs))  # of mean 0
    drawn = rng.multinomial(runs, np.full(runs, 1 / runs), size=(400, tasks)) / runs
    means = np.einsum("str,btr->sbt", scores, drawn).mean(-1)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    assert statistics.coverage(runs, tasks) == pytest.approx(((low < 0) & (high > 0)).mean(), abs=0.05)


def test_intervals_of_few_runs_say_what_they_are_worth() -> None:
    assert few_of([3, 3], 1, "seed") == [
        "3 seeds: intervals of so few are too narrow; of normal scores, one of 3 holds the true mean in about 75% of cases, not in 95%"
    ]
    assert few_of([3], 12, "seed")[0].endswith("not in 95%, and one over all 12 tasks in 88%")
    assert few_of([1, 4], 1, "pair")[0].startswith("1 to 4 pairs") and few_of([1, 4], 1, "pair")[0].endswith("; of one there is none")
    assert few_of([1, 12], 1, "seed") == ["1 to 12 seeds: intervals need several; of one there is none"]
    assert few_of([10, 12], 1, "seed") == few_of([], 1, "seed") == []
    assert few_of([1, 1], 2, "seed") == ["one seed: differences may be chance, and there are no intervals"]


def test_runs_that_go_on_are_none_of_an_interval(tmp_path: Path) -> None:
    rows = read_rows([rows_of(tmp_path)])
    rows.loc[(rows["label"] == "b") & (rows["seed"] == 2), "finished"] = False
    told = remarks(rows, run_scores(rows))[-1]
    assert told.startswith("1 to 2 seeds: intervals of so few") and told.endswith("; of one there is none")


def test_aggregates_compare_with_the_first(tmp_path: Path) -> None:
    table = aggregate_table(aggregate(complete_scores(told(rows_of(tmp_path))[1])))
    assert list(table["contestant"]) == ["a", "b"] and table["P(better than a)"].tolist()[1].startswith("1.00")
    assert table["IQM"].tolist()[1].startswith("19.5 [19.0, 20.0]")


def test_the_reference_is_compared_with(tmp_path: Path) -> None:
    folder = rows_of(tmp_path / "rows")

    def chances(*arguments: str) -> pd.DataFrame:
        main(["report", str(folder), "--out", str(tmp_path / "out"), *arguments])
        lines = (tmp_path / "out" / "scores.md").read_text().splitlines()
        (start,) = (i for i, line in enumerate(lines) if "P(better than" in line)
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + 4]]
        return pd.DataFrame(cells[2:], columns=cells[0]).set_index("contestant")

    first, other = chances()["P(better than a)"], chances("--reference", "b")["P(better than b)"]
    assert list(first.index) == ["a", "b"] and list(other.index) == ["b", "a"]
    assert first["b"].startswith("1.0") and other["a"].startswith("0.0") and first["a"] == other["b"] == "-"
    with pytest.raises(UserError, match="no contestant 'c' to compare with; there are a, b"):
        chances("--reference", "c")


class Reader(HTMLParser):
    """Every attribute of a page, and what its images are."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def of(self, tag: str, name: str) -> list[str]:
        return [value for its, key, value in self.attributes if (its, key) == (tag, name)]


def test_the_page_names_nothing_outside_itself(tmp_path: Path) -> None:
    text = write_report([rows_of(tmp_path)], tmp_path / "out").read_text()
    page = Reader(text)
    pictures = page.of("img", "src")
    assert len(pictures) == 2 + 2 * 3 and len([alt for alt in page.of("img", "alt") if alt]) == len(pictures)
    assert "://" not in text and not {name for _, name, _ in page.attributes} & {"href", "srcset", "onload"}
    for picture in pictures:
        drawing = base64.b64decode(picture.removeprefix("data:image/svg+xml;base64,")).decode()
        named = set(re.findall(r"[a-z]+://[^\"' >]+", drawing))
        # names of formats, which no reader fetches
        assert named <= {"http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd", "http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert len(page.of("th", "scope")) == text.count("<th ") and text.count("<caption>") == text.count("<table>")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.html", "scores.md", "scores.csv", "run_scores.csv", "scores.tex",
    }  # fmt: skip


def test_the_tables_are_the_same_in_every_file(tmp_path: Path) -> None:
    """Own and published scores, figures over all runs and paired differences; as text, as TeX, and their numbers for programs."""
    folder = rows_of(tmp_path, algo="damo", label="damo")
    text = write_report([folder], tmp_path / "out").read_text()
    tables = {name: (tmp_path / "out" / name).read_text() for name in ("scores.md", "scores.tex", "scores.csv")}
    for title in ("Scores", "Published: DAMO's paper, arXiv 2502.00850, Tables 1 and 2", "Over all tasks", "Paired differences"):
        assert f"**{title}.**" in tables["scores.md"] and f"\\caption{{{title}. " in tables["scores.tex"]
        assert f"<h2>{html.escape(title)}</h2>" in text
    assert "| hopper-medium | 93.8 ± 8.2 |" in tables["scores.md"] and r"hopper-medium & 93.8 $\pm$ 8.2" in tables["scores.tex"]
    assert "What each contestant changes" not in text  # the rows alone do not say
    found = pd.read_csv(tmp_path / "out" / "scores.csv")
    first = found[(found["task"] == "hopper-medium") & (found["contestant"] == "damo")].iloc[0]
    assert first[["mean", "std", "runs", "seed_1", "seed_2", "published_paper", "published_paper_spread"]].tolist() == [
        19.5, 0.5, 2, 19.0, 20.0, 93.8, 8.2,
    ]  # fmt: skip
    assert found[found["contestant"] == "a"]["published_paper"].isna().all()  # a name of its own
    assert len(pd.read_csv(tmp_path / "out" / "run_scores.csv")) == 8


def test_the_page_says_where_its_numbers_come_from(tmp_path: Path) -> None:
    text = write_report([rows_of(tmp_path, machine="north")], tmp_path / "out").read_text()
    assert "<h1>Comparison of 2 contestants on 2 tasks</h1>" in text
    for told in (
        "<dt>Data</dt><dd>generated by this package, not D4RL&#x27;s", "<dd>1,200 gradient steps a run; 2 episodes an evaluation</dd>",
        "<dt>Commits</dt><dd>c</dd>", "<dt>Machines</dt><dd>north</dd>", "<dt>Runs</dt><dd>8, 8 of them finished</dd>",
        "1.2 minutes a run",
    ):  # fmt: skip
        assert told in text
    assert "do not compare" not in text
    table = pd.read_csv(tmp_path / "rows.csv")
    table["machine"] = table["seed"].map({1: "north", 2: "south"})
    table.to_csv(tmp_path / "rows.csv", index=False)
    text = write_report([tmp_path], tmp_path / "out").read_text()
    assert text.count("made on 2 machines (north, south): times of different ones do not compare") == 2


def test_contestants_say_what_they_change(tmp_path: Path) -> None:
    def run(label: str, seed: int, task: str = "hopper-medium", **given: Any) -> None:
        config = resolve({"task": task, "seed": seed, "epoch": 7, **given})
        folder = tmp_path / "runs" / label / task / config.algo_name / f"seed_{seed}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"config": config.flat()}))

    run("damo", 1, algo_name="damo")
    run("bold", 1, algo_name="damo", damo_alpha=7.0, real_ratio=0.25)
    run("bold", 1, "walker2d-random", algo_name="damo", damo_alpha=8.0, real_ratio=0.25)
    run("mopo", 1, algo_name="mopo", penalty_coef=3.0)
    (tmp_path / "runs" / "x" / "t" / "damo" / "seed_1").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "t" / "damo" / "seed_1" / "run.json").write_text("{")
    shared, table = own_options([tmp_path], ["damo", "bold", "mopo", "absent", "x"])
    assert shared == {"epoch": "7"}
    assert table.to_dict("split")["data"] == [
        ["damo", "damo", "none"], ["bold", "damo", "real_ratio: 0.25; damo_alpha: 7 or 8"], ["mopo", "mopo", "penalty_coef: 3"],
    ]  # fmt: skip
    assert own_options([tmp_path / "nowhere"], ["damo"])[1].empty


def test_a_page_of_one_run_without_figures_of_its_training(tmp_path: Path) -> None:
    folder = rows_of(tmp_path)
    table = pd.read_csv(folder / "rows.csv")
    alone = table[(table["label"] == "a") & (table["seed"] == 1) & (table["task"] == "hopper-random") & (table["timestep"] == 100)]
    alone.drop(columns=["seconds", "q_data", "gamma", "dataset_mean"]).to_csv(folder / "rows.csv", index=False)
    text = write_report([folder], tmp_path / "out").read_text()
    assert text.count("<img") == 3  # the mean and the gap, the profile, one learning curve
    assert "95%" not in text and "one seed: differences may be chance" in text and "nan" not in re.sub('"data:[^"]*"', "", text)


def test_names_that_look_like_numbers_or_gaps_stay_what_they_are(tmp_path: Path) -> None:
    folder = rows_of(tmp_path, dynamics="1234e56789012345", commit="0123456789ab")
    text = (folder / "rows.csv").read_text()
    (folder / "rows.csv").write_text(text.replace(",b,", ",None,").replace(",a,", ",007,"))
    rows = read_rows([folder])
    assert set(rows["label"]) == {"None", "007"} and set(rows["dynamics"]) == {"x", "1234e56789012345"}
    alone = rows[rows["label"] == "None"]
    alone.to_csv(folder / "rows.csv", index=False)
    assert {(row.dynamics, row.commit) for row in read_rows([folder]).itertuples()} == {("1234e56789012345", "0123456789ab")}


@pytest.mark.parametrize(("column", "value"), [("seed", 1.5), ("length", 0), ("episode", 0.5), ("seconds", "long"), ("gamma", "x")])
def test_what_no_run_can_have_is_broken(column: str, value: object, tmp_path: Path) -> None:
    folder = rows_of(tmp_path)
    table = pd.read_csv(folder / "rows.csv").astype({column: object})
    table.loc[3, column] = value
    table.to_csv(folder / "rows.csv", index=False)
    with pytest.raises(UserError, match="1 broken rows, the first in line 5"):
        read_rows([folder])


def test_packed_rows_are_the_same_rows(tmp_path: Path) -> None:
    folder = rows_of(tmp_path)
    packed = tmp_path / "kept.csv.gz"
    pd.read_csv(folder / "rows.csv").to_csv(packed, index=False)
    pd.testing.assert_frame_equal(read_rows([packed]), read_rows([folder]))
    whole = packed.read_bytes()
    for part in (whole[:-200], whole[:40] + bytes(40) + whole[80:], b"not packed"):
        packed.write_bytes(part)
        with pytest.raises(UserError, match=r"kept\.csv\.gz'"):
            read_rows([packed])


def test_figures_as_files(tmp_path: Path) -> None:
    folder = rows_of(tmp_path / "comparison")
    write_report([folder], tmp_path / "page")
    assert not list((tmp_path / "page").glob("*.pdf"))
    main(["report", str(folder / "rows.csv"), "--out", str(tmp_path / "out"), "--format", "pdf"])
    of_tasks = {f"hopper-{quality}_{what}" for quality in ("medium", "random") for what in ("curves", "wall-clock", "values")}
    files = sorted((tmp_path / "out").glob("*.pdf"))
    assert {path.stem for path in files} == {"intervals", "profiles"} | of_tasks
    assert all(path.read_bytes().startswith(b"%PDF") for path in files)
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    with pytest.raises(UserError, match="--format is for a comparison's figures"):
        main(["report", str(run), "--format", "pdf"])
    with pytest.raises(UserError, match="--reference is for a comparison"):
        main(["report", str(run), "--reference", "damo"])


def test_broken_tables_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no rows\.csv"):
        read_rows([tmp_path])
    with pytest.raises(UserError, match=r"x\.png' is the name of a file; .* name a folder with --out"):
        write_report([rows_of(tmp_path / "named")], tmp_path / "x.png")
    path = tmp_path / "rows.csv"
    path.write_text("")
    with pytest.raises(UserError, match="is no table of a comparison"):
        read_rows([tmp_path])
    path.write_text("task,label\na,b\n")
    with pytest.raises(UserError, match="lacks the columns algo, config_hash"):
        read_rows([tmp_path])
    whole = rows_of(tmp_path / "x") / "rows.csv"
    lines = whole.read_text().splitlines()
    path.write_text("\n".join([*lines[:5], "hopper-medium,a", *lines[5:]]))
    with pytest.raises(UserError, match="1 broken rows, the first in line 6"):
        read_rows([tmp_path])
    path.write_text("\n".join([*lines[:5], lines[5].replace("hopper-medium,a,damo,1", "hopper-medium,a,damo,one"), *lines[6:]]))
    with pytest.raises(UserError, match="1 broken rows, the first in line 6"):
        read_rows([tmp_path])
    path.write_text("\n".join([*lines, lines[-1]]))
    with pytest.raises(UserError, match="b on hopper-random, seed 2, has an episode twice"):
        read_rows([tmp_path])
    with pytest.raises(UserError, match="a on hopper-medium, seed 1, is in more than one"):
        read_rows([whole.parent, whole])
    path.write_text(lines[0] + "\n")
    with pytest.raises(UserError, match="no evaluation yet"):
        read_rows([tmp_path])
