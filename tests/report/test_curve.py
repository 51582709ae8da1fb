"""The learning curve: drawn from what runs left on disk, or refused in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from offlinerlkit_damo.__main__ import main
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.report.curve import draw_learning_curve
from offlinerlkit_damo.report.results import read_evaluations


def make_run(folder: Path, scores: list[float | None], **dataset: Any) -> Path:
    (folder / "record").mkdir(parents=True)
    about = {"name": "hopper-medium", "fingerprint": "abc", "mean_score": 50.0, "source": "generated", **dataset}
    task = {"name": "hopper-medium", "robot": "hopper", "ref_min_score": -20.0, "ref_max_score": 3234.0}
    config = {"algo_name": "damo", "seed": 1}
    (folder / "run.json").write_text(json.dumps({"task": task, "dataset": about, "config": config}))
    columns = {"timestep": range(1, len(scores) + 1), "eval/normalized_episode_reward": scores}
    pd.DataFrame({**columns, "eval/normalized_episode_reward_std": 1.0}).to_csv(folder / "record" / "policy_training_progress.csv")
    return folder


def axes_of(monkeypatch: pytest.MonkeyPatch, folders: list[Path], path: Path) -> Any:
    """The axes as they were when the figure was saved."""
    from matplotlib.figure import Figure

    kept: list[Any] = []
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **kwargs: Any) -> None:
        kept.append(self.axes[0])
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    draw_learning_curve(folders, path)
    return kept[0]


def test_evaluations_are_the_rows_that_have_a_score(tmp_path: Path) -> None:
    table = read_evaluations(make_run(tmp_path / "a", [1.0, None, 3.0]))
    assert table["timestep"].tolist() == [1, 3] and table["score"].tolist() == [1, 3]


def test_curve_shows_every_score_unsmoothed_and_the_reference_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [make_run(tmp_path / "a", [1.0, 60.0, 130.0]), make_run(tmp_path / "b", [5.0, 6.0])]
    axes = axes_of(monkeypatch, folders, tmp_path / "c.png")
    drawn = [list(line.get_ydata()) for line in axes.lines]
    assert drawn[:2] == [[1.0, 60.0, 130.0], [5.0, 6.0]]
    assert sorted(line[0] for line in drawn[2:]) == [0.0, 50.0, 100.0]
    assert axes.get_ylim()[1] > 130  # nothing above an expert's score is cut off
    assert (tmp_path / "c.png").stat().st_size > 5000


def test_no_finished_episode_means_no_dataset_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = axes_of(monkeypatch, [make_run(tmp_path / "a", [1.0], mean_score=None)], tmp_path / "c.svg")
    assert sorted(float(line.get_ydata()[0]) for line in axes.lines[1:]) == [0.0, 100.0]


def test_runs_of_one_algorithm_and_seed_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = [tmp_path / "runs" / name / "hopper-medium" / "damo" / "seed_1&timestamp_0" for name in ("damo", "damo-square")]
    (tmp_path / "plan.yaml").touch()
    axes = axes_of(monkeypatch, [make_run(folder, [1.0]) for folder in layout], tmp_path / "c.png")
    assert [line.get_label() for line in axes.lines[:2]] == ["damo, seed 1", "damo-square, seed 1"]


def test_every_run_is_in_the_legend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose name begins with an underscore, which matplotlib would leave out, or has a formula's dollars."""
    folders = [make_run(tmp_path / name / "t" / "a" / "seed_1", [1.0, 2.0]) for name in ("_old", r"n$\ew$")]
    axes = axes_of(monkeypatch, folders, tmp_path / "c.png")
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["_old/t/a/seed_1", r"n\$\ew\$/t/a/seed_1"]


def test_refusals(tmp_path: Path) -> None:
    run, other = make_run(tmp_path / "a", [1.0]), make_run(tmp_path / "b", [1.0], fingerprint="xyz", name="walker2d-medium")
    with pytest.raises(UserError, match=r"does not end in \.png, \.svg or \.pdf"):
        draw_learning_curve([run], tmp_path / "figure.xyz")
    with pytest.raises(UserError, match="another dataset"):
        draw_learning_curve([run, other], tmp_path / "c.png")
    with pytest.raises(UserError, match=r"has no run\.json"):
        draw_learning_curve([tmp_path], tmp_path / "c.png")
    (nameless := make_run(tmp_path / "n", [1.0])).joinpath("run.json").write_text(json.dumps({"config": {"algo_name": "damo"}}))
    with pytest.raises(UserError, match="does not say which task and dataset"):
        draw_learning_curve([nameless], tmp_path / "c.png")
    table = make_run(tmp_path / "t", [1.0]) / "record" / "policy_training_progress.csv"
    pd.read_csv(table).drop(columns="eval/normalized_episode_reward_std").to_csv(table)
    with pytest.raises(UserError, match="lacks the column eval/normalized_episode_reward_std"):
        draw_learning_curve([tmp_path / "t"], tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()
    with pytest.raises(UserError, match=r"is neither a run's folder, with run\.json, nor a comparison's, with rows\.csv"):
        main(["report", str(run), str(tmp_path)])


def test_a_run_and_its_curve_need_no_extra() -> None:
    """What `pip install` of the package alone does not bring must not be imported on the way."""
    without = "import sys; sys.modules |= dict.fromkeys(('scipy', 'ray', 'rliable', 'sklearn', 'minari'))"
    code = f"{without}; import offlinerlkit_damo.flags, offlinerlkit_damo.report.curve, offlinerlkit_damo.report.plot"
    subprocess.run([sys.executable, "-c", code], check=True)
