"""Paired differences against counts by hand: what is a pair, and what its interval redraws."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from offlinerlkit_damo.report.comparison import write_report
from offlinerlkit_damo.report.pairs import caption, paired_differences, shown
from offlinerlkit_damo.report.scores import run_scores

PLAIN = {("t1", 1): 10.0, ("t1", 2): 20.0, ("t1", 3): 60.0, ("t2", 1): 5.0, ("t2", 2): 5.0, ("t2", 3): 5.0}
GAIN = {("t1", 1): 1.0, ("t1", 2): 3.0, ("t1", 3): -1.0, ("t2", 1): 7.0, ("t2", 2): 8.0, ("t2", 3): 9.0}


def rows_of(**changes: object) -> pd.DataFrame:
    """mopo and mopo+er on two tasks and three seeds, one episode each of two evaluations; `changes` to mopo+er."""
    found = [
        {
            "task": task, "label": label, "algo": "mopo", "seed": seed, "timestep": step, "episode": 0,
            "return": 0.0,
            "score": PLAIN[task, seed] + GAIN[task, seed] * (label == "mopo+er"), "length": 3, "dataset_mean": 1.0, "source": "generated",
            "config_hash": label, "dataset": task, "dynamics": f"{task} {seed}", "host": "h", "commit": "c", "seconds": 1.0,
            "finished": True, **(changes if label == "mopo+er" else {}),
        }
        for task, label, seed, step in product(("t1", "t2"), ("mopo", "mopo+er"), (1, 2, 3), (10, 20))
    ]  # fmt: skip
    return pd.DataFrame(found)


def pairs_of(rows: pd.DataFrame, pooled: Sequence[str] = ("t1", "t2")) -> tuple[pd.DataFrame, list[str]]:
    return paired_differences(rows, run_scores(rows), pooled)


def test_differences_are_those_of_the_same_seed() -> None:
    table, told = pairs_of(rows_of())
    assert told == [] and list(table["task"]) == ["t1", "t2", "all tasks"] and set(table["beside"]) == {"mopo"}
    assert table["seeds"].tolist() == [{1: 1.0, 2: 3.0, 3: -1.0}, {1: 7.0, 2: 8.0, 3: 9.0}, {}]
    first, second, both = table["difference"]
    assert (first.value, second.value, both.value) == pytest.approx((1.0, 8.0, 4.5))
    # redrawn are the pairs: plain scores between 5 and 60 do not widen the interval, which stays within the differences
    assert (first.low, first.high) == (-1.0, 3.0) and (second.low, second.high) == (7.0, 9.0)
    rng = np.random.default_rng(1)
    draws = [np.mean([rng.choice([1.0, 3, -1], 3).mean(), rng.choice([7.0, 8, 9], 3).mean()]) for _ in range(4000)]
    assert (both.low, both.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.2)
    assert shown(table)["difference"].tolist()[0] == "+1.0 [-1.0, +3.0]" and shown(table)["seeds"].tolist()[1] == "+7.0, +8.0, +9.0"
    assert "95% intervals, bootstrap over the pairs. 3 pairs: intervals of so few are too narrow" in caption(table)


def test_returns_of_different_tasks_have_no_common_difference(tmp_path: Path) -> None:
    assert list(pairs_of(rows_of(), ["t1"])[0]["task"]) == ["t1", "t2"]
    rows_of().assign(**{"return": lambda rows: rows["score"]}).to_csv(tmp_path / "rows.csv", index=False)
    write_report([tmp_path], tmp_path / "out")
    table = (tmp_path / "out" / "scores.md").read_text()
    assert "| mopo+er | mopo | t2 | +8.0 [" in table and "all tasks" not in table


def test_other_models_and_data_are_no_pairs() -> None:
    other, told = pairs_of(rows_of(dynamics="another"))
    assert other.empty and len(told) == 6 and "mopo+er and mopo on t1, seed 1" in told[0]
    assert pairs_of(rows_of(dataset="another"))[0].empty
    assert pairs_of(rows_of(dynamics=None))[0].empty  # of which model is not known
    assert pairs_of(rows_of().replace({"timestep": {20: 30}}).where(lambda rows: rows["label"] == "mopo+er", rows_of()))[0].empty
    forced = rows_of()
    forced.loc[(forced["label"] == "mopo+er") & (forced["timestep"] == 10), "dataset"] = "another"
    found, told = pairs_of(forced)
    assert found.empty and len(told) == 6 and "unlike data" in told[0]
    free, told = pairs_of(rows_of().assign(dynamics=None))  # neither has one
    assert len(free) == 3 and told == []


def test_a_name_alone_makes_no_algorithm() -> None:
    """What is called mopo but runs another algorithm is not what a variant of mopo is compared with."""
    rows = rows_of()
    assert pairs_of(rows.assign(algo=np.where(rows["label"] == "mopo", "damo", "mopo")))[0].empty


def test_unfinished_runs_are_no_pairs() -> None:
    rows = rows_of()
    rows.loc[(rows["label"] == "mopo") & (rows["seed"] == 2) & (rows["task"] == "t1"), "finished"] = False
    table, told = pairs_of(rows)
    assert table["seeds"].tolist() == [{1: 1.0, 3: -1.0}, {1: 7.0, 2: 8.0, 3: 9.0}, {}]
    assert told == ["mopo+er and mopo on t1, seed 2: not both finished, no pair"]


def test_missing_seeds_leave_the_pairs_that_there_are() -> None:
    rows = rows_of()
    rows = rows[~((rows["label"] == "mopo") & (rows["task"] == "t2") & (rows["seed"] == 3))]
    table, _ = pairs_of(rows)
    assert table["seeds"].tolist() == [{1: 1.0, 2: 3.0, 3: -1.0}, {1: 7.0, 2: 8.0}, {}]
    assert table["difference"].iloc[-1].value == pytest.approx((1.0 + 7.5) / 2)  # both tasks weigh the same
    alone = rows[rows["label"] == "mopo"]
    assert pairs_of(alone)[0].empty
    single, _ = pairs_of(rows[rows["seed"] == 1])
    assert np.isnan(single["difference"].iloc[0].low) and shown(single)["difference"].iloc[0] == "+1.0"
    assert "95%" not in caption(single) and caption(single).endswith("One pair: differences may be chance, and there are no intervals.")


def test_the_report_has_the_table(tmp_path: Path) -> None:
    rows_of().to_csv(tmp_path / "rows.csv", index=False)
    page = write_report([tmp_path], tmp_path / "out").read_text()
    assert "Paired differences" in page and "+8.0 [+7.0, +9.0]" in page
    assert "| mopo+er | mopo | all tasks | +4.5 [" in (tmp_path / "out" / "scores.md").read_text()
