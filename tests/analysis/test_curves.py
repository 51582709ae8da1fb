"""Which runs the sweep is made of, and what the curves show of seeds that have not come equally far."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from offlinerlkit_damo.analysis.curves import draw_alpha, draw_curves
from offlinerlkit_damo.analysis.runs import Run, find_runs
from offlinerlkit_damo.errors import UserError


def run_of(
    folder: Path, score: float, *, steps: int = 12, finished: bool = True, value: bool = True, robot: str | None = None, **config: Any
) -> Run:
    """A run folder with evaluations score + 1, ..., score + steps."""
    options = {"algo_name": "damo", "task": "t", "seed": 1, "damo_alpha": 1.0, "actor_alpha": 1.0, "epoch": 12, "step_per_epoch": 10}
    facts = {"config": {**options, **config}, "dataset": {"fingerprint": "f", "mean_score": None}, "commit": None, "task": {"robot": robot}}
    (folder / "record").mkdir(parents=True)
    (folder / "result").mkdir()
    (folder / "run.json").write_text(json.dumps(facts))
    if finished:
        (folder / "result" / "results.json").write_text("{}")
    columns = {"timestep": range(10, 10 * steps + 1, 10), "eval/normalized_episode_reward": [score + i for i in range(1, steps + 1)]}
    table = pd.DataFrame({**columns, "eval/normalized_episode_reward_std": 0.0} | ({"eval/q_data": 5.0} if value else {}))
    table.to_csv(folder / "record" / "policy_training_progress.csv", index=False)
    (run,) = find_runs([f"{folder.name}={folder}"])
    return run


def test_the_sweep_has_only_what_differs_in_alpha(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path / "one", 10),
        run_of(tmp_path / "two", 20, damo_alpha=2.0),
        run_of(tmp_path / "two-again", 24, damo_alpha=2.0, seed=2),
        run_of(tmp_path / "two-free", 30, damo_alpha=2.0, actor_alpha=None),
        run_of(tmp_path / "going", 90, damo_alpha=3.0, finished=False),
        run_of(tmp_path / "other", 90, divergence="chi2"),
        run_of(tmp_path / "inconsistent", 90, behavior_alignment=False),
        run_of(tmp_path / "mopo", 90, algo_name="mopo"),
    ]
    drawn = draw_alpha(runs)
    assert drawn.table[["actor_alpha", "alpha", "score"]].to_records(index=False).tolist() == [
        ("fixed to 1", 1.0, 17.5), ("fixed to 1", 2.0, 27.5), ("fixed to 1", 2.0, 31.5), ("not fixed", 1.0, 17.5), ("not fixed", 2.0, 37.5),
    ]  # fmt: skip
    assert drawn.about["left_out"] == ["going, seed 1", "other, seed 1", "inconsistent, seed 1", "mopo, seed 1"]
    axes = drawn.figure.axes[0]
    means = {line.get_label(): list(line.get_ydata()) for line in axes.lines if not str(line.get_label()).startswith("_")}
    assert means == {"actor's alpha fixed to 1": [17.5, 29.5], "actor's alpha not fixed": [17.5, 37.5]}
    free = "actor's alpha not fixed"
    assert drawn.about["missing_seeds"] == ["alpha 1, actor's alpha fixed to 1: 2", f"alpha 1, {free}: 2", f"alpha 2, {free}: 2"]
    assert drawn.about["fewer_evaluations"] == []


def test_every_value_of_the_actors_alpha_is_a_line(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path / "one", 10),
        run_of(tmp_path / "two", 20, damo_alpha=2.0, steps=4),
        run_of(tmp_path / "three", 80, damo_alpha=2.0, actor_alpha=3.0),
    ]
    drawn = draw_alpha(runs)
    lines = {str(line.get_label()): list(line.get_ydata()) for line in drawn.figure.axes[0].lines}
    assert lines["actor's alpha fixed to 1"] == [17.5, 22.5] and lines["actor's alpha fixed to 3"] == [87.5]
    assert drawn.about["fewer_evaluations"] == ["two, seed 1"]


def test_means_end_where_the_first_seed_does(tmp_path: Path) -> None:
    runs = [Run(x.folder, "damo", x.facts) for x in (run_of(tmp_path / "a", 0), run_of(tmp_path / "b", 10, steps=5, seed=2))]
    drawn = draw_curves(runs)
    lines = [list(line.get_ydata()) for line in drawn.figure.axes[0].lines]
    assert [len(line) for line in lines] == [12, 5, 5] and lines[2] == [6, 7, 8, 9, 10]
    assert len(drawn.table) == 17


def test_unequal_seeds_are_said_and_a_run_that_has_just_begun_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        *(Run(x.folder, "damo", x.facts) for x in (run_of(tmp_path / "a", 0), run_of(tmp_path / "b", 10, steps=5, seed=2))),
        run_of(tmp_path / "mopo", 3),
        run_of(tmp_path / "begun", 3),
        run_of(tmp_path / "model", 3),
    ]
    (tmp_path / "begun" / "record" / "policy_training_progress.csv").unlink()
    (tmp_path / "model" / "record" / "policy_training_progress.csv").write_text("")
    drawn = draw_curves(runs)
    labels = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    assert labels == ["damo, 2 seeds,\nmean to 50 steps", "mopo"]
    assert drawn.about["reached"] == {"damo, seed 1": 120, "damo, seed 2": 50, "mopo, seed 1": 120}
    assert drawn.about["missing_seeds"] == ["mopo: 2"] and drawn.about["left_out"] == ["begun, seed 1", "model, seed 1"]
    said = capsys.readouterr().err
    assert "curves: without begun, seed 1: " in said and "curves: without model, seed 1: " in said
    with pytest.raises(UserError, match="none of these runs has logged"):
        draw_curves(runs[3:])


def test_one_runaway_value_does_not_flatten_the_others(tmp_path: Path) -> None:
    wild = run_of(tmp_path / "wild", 0, seed=2)
    path = wild.folder / "record" / "policy_training_progress.csv"
    pd.read_csv(path).assign(**{"eval/q_data": [5.0] * 11 + [9e5]}).to_csv(path, index=False)
    drawn = draw_curves([run_of(tmp_path / "tame", 0), wild])
    assert [panel.get_yscale() for panel in drawn.figure.axes] == ["linear", "symlog", "symlog"]


@pytest.mark.parametrize(("robot", "unit"), [("hopper", "normalised score"), (None, "return")])
def test_a_score_without_references_is_called_return(robot: str | None, unit: str, tmp_path: Path) -> None:
    panels = draw_curves([run_of(tmp_path / "run", 0, robot=robot)]).figure.axes
    assert (panels[0].get_ylabel(), panels[2].get_xlabel()) == (unit, unit)


def test_a_run_without_values_has_its_score_drawn(tmp_path: Path) -> None:
    early = run_of(tmp_path / "early", 0, seed=3)
    (early.folder / "record" / "policy_training_progress.csv").write_text("loss/actor,timestep\n1,10\n")
    drawn = draw_curves([run_of(tmp_path / "damo", 0), run_of(tmp_path / "odice", 9, value=False, algo_name="odice"), early])
    score, value, both = ([line for line in panel.lines if len(line.get_xdata()) > 1] for panel in drawn.figure.axes)
    assert [line.get_label() for line in score] == ["damo", "odice"] and list(score[1].get_ydata()) == [9 + i for i in range(1, 13)]
    assert [line.get_label() for line in value] == [line.get_label() for line in both] == ["damo"]
    assert drawn.about["left_out"] == ["early, seed 3"] and [run["label"] for run in drawn.about["runs"]] == ["damo", "odice"]
    assert {panel.get_yscale() for panel in drawn.figure.axes} == {"linear"}
    assert drawn.table[drawn.table["label"] == "odice"]["value"].isna().all()
    with pytest.raises(UserError, match="none of these runs has logged eval/normalized_episode_reward yet"):
        draw_curves([early])
