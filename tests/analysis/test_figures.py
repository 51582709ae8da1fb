"""`figures` from start to end on tiny runs, and in one sentence on what it cannot use."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from offlinerlkit_damo.__main__ import main
from offlinerlkit_damo.analysis import values
from offlinerlkit_damo.analysis.distributions import Components
from offlinerlkit_damo.analysis.runs import Learned, find_runs, load_dataset, rollout_of_rows
from offlinerlkit_damo.compare.plan import jobs, read_plan
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.flags import run_command
from offlinerlkit_damo.training.run import train

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {
    "epoch": 2, "step_per_epoch": 10, "hidden_dims": [16], "eval_episodes": 1, "data_size": 400, "batch_size": 40, "dynamics_max_epochs": 1,
    "dynamics_hidden_dims": [16, 16], "dynamics_weight_decay": [0, 0, 0], "rollout_batch_size": 50, "rollout_length": 2,
    "classifier_hidden_dims": [8],
}  # fmt: skip
LABELS = {"damo-alpha-1", "damo-alpha-2-not-fixed"}
NAMES = ("values", "distributions", "calibration", "curves", "alpha")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two points of the alpha sweep: `ablate` writes the plan, and these runs of it are made where `compare` would make them."""
    folder = tmp_path_factory.mktemp("figures")
    torch.set_num_threads(1)
    flags = [word for name, value in OPTIONS.items() for word in ("--set", f"{name}={value}")]
    (folder / "out").mkdir()
    plan = folder / "out" / "plan.yaml"
    main([*shlex.split(f"ablate alpha --tasks hopper-random --seeds 1 --write {plan}"), *flags])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFLINERLKIT_DAMO_CACHE", str(folder / "cache"))
        for job in jobs(read_plan(plan), folder / "out"):
            if job.label in LABELS:
                train(job.config)
    return folder


def command(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "OFFLINERLKIT_DAMO_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    words = [sys.executable, "-m", "offlinerlkit_damo", *shlex.split(line)]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(place / "cache"))
    return place


def run_of(place: Path, label: str = "damo-alpha-1") -> Path:
    (folder,) = (place / "out" / "runs" / label).glob("*/*/*")
    return folder


def test_every_figure_comes_with_its_numbers(place: Path) -> None:
    """In a process of its own, on one run: all but the sweep, which says what it lacks."""
    done = command(place, "figures out/runs/damo-alpha-1 --out drawn --episodes 3 --points 40 --pairs 6")
    assert done.returncode == 0 and "alpha: not drawn: there are no two finished runs" in done.stderr, done.stderr
    names = [name for name in NAMES if name != "alpha"]
    files = {f"{name}.{end}" for name in names for end in ("png", "csv", "json")} | {"distributions_points.csv"}
    files |= {f"{name}.md" for name in names if name != "curves"}
    assert {path.name for path in (place / "drawn").iterdir()} == files
    tables = {name: pd.read_csv(place / "drawn" / f"{name}.csv") for name in names}
    about = {name: json.loads((place / "drawn" / f"{name}.json").read_text()) for name in names}
    assert {run["label"] for x in about.values() for run in x["runs"]} == {"damo-alpha-1"}
    assert all(x["task"] == "hopper-random" for x in about.values())
    clouds = tables["distributions"]
    assert len(clouds) == 3 * (1 + 3) and set(clouds["kind"]) == {"(s, a)", "s", "(s, a, s')"}
    points = pd.read_csv(place / "drawn" / "distributions_points.csv")
    sizes = points.groupby(["kind", "label", "cloud"]).size()
    assert len(sizes) == 3 * 3 and sizes.max() == 40 and points.groupby("kind")[["x", "y"]].mean().abs().max(axis=None) < 1e-9
    assert clouds["auc"].dropna().between(0, 1).all() and clouds["rows"].max() <= 80
    assert set(tables["curves"]["timestep"]) == {10, 20}
    assert {"predicted", "observed", "synthetic", "real"} <= set(tables["calibration"].columns)
    assert "another seed" in about["calibration"]["real_rows"]
    lines = {name: (place / "drawn" / f"{name}.md").read_text().splitlines() for name in names if name != "curves"}
    assert len(lines["values"]) == 2 + len(about["values"]["values"]) and len(lines["distributions"]) == 2 + len(clouds)
    (score,) = about["calibration"]["scores"]
    assert score["score"] == pytest.approx(tables["curves"]["score"].mean())
    assert lines["calibration"][2].startswith(f"| damo-alpha-1, seed 1 | {score['score']:.1f} | {score['calibration_error']:.3f} |")


def test_all_runs_are_asked_about_the_same_pairs(here: Path) -> None:
    main(shlex.split("figures out --only values,alpha --out both --episodes 3 --pairs 6"))
    values, sweep = (pd.read_csv(here / "both" / f"{name}.csv") for name in ("values", "alpha"))
    radius = json.loads((here / "both" / "values.json").read_text())["radius"]
    assert set(values["label"]) == LABELS and np.isfinite(values[["critic", "real", "distance"]]).all(axis=None)
    ours, theirs = (values[values["label"] == label]["distance"].tolist() for label in sorted(LABELS))
    assert ours == theirs and ((values["distance"] > radius) == (values["pairs"] == "out")).all()
    assert np.allclose(values["critic"], (values["critic1"] + values["critic2"]) / 2)
    assert sorted(sweep[["alpha", "actor_alpha"]].itertuples(index=False, name=None)) == [
        (1.0, "fixed to 1"), (1.0, "not fixed"), (2.0, "not fixed"),
    ]  # fmt: skip


def test_that_nothing_is_outside_the_data_is_told(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(values.Neighbours, "__call__", lambda self, observations, actions: np.zeros(len(observations)))
    main(["figures", str(run_of(here)), *shlex.split("--only values --out inside --episodes 3 --pairs 6")])
    assert "outside the data: none of " in capsys.readouterr().err
    assert set(pd.read_csv(here / "inside" / "values.csv")["pairs"]) == {"in"}


def test_names_and_formats_are_the_users(here: Path) -> None:
    run = run_of(here)
    other = run_of(here, "damo-alpha-2-not-fixed")
    main(["figures", f"first={run}", f"second={other}", "--only", "curves", "--format", "svg", "--out", "own"])
    assert {path.suffix for path in (here / "own").iterdir()} == {".svg", ".csv", ".json"}
    assert "first" in (here / "own" / "curves.csv").read_text()
    assert [run.label for run in find_runs(["out"])] == ["damo-alpha-1", "damo-alpha-2-not-fixed"]


def test_a_loaded_run_is_the_one_that_ended(here: Path) -> None:
    (run,) = find_runs([str(run_of(here))])
    dataset = load_dataset(run)
    learned = Learned(run, dataset)
    logged = pd.read_csv(run.folder / "record" / "policy_training_progress.csv")["eval/q_data"].iloc[-1]
    rows = np.linspace(0, len(dataset.rewards) - 1, 40).astype(int)
    assert learned.q(dataset.observations[rows], dataset.actions[rows])[0].mean() == pytest.approx(logged, rel=1e-4)
    imagined = learned.imagine()
    firsts = np.unique(imagined.groups, return_index=True)[1]
    assert len(firsts) == 2000 and (firsts == np.arange(2000)).all()
    second = np.flatnonzero(imagined.groups == imagined.groups[-1])
    np.testing.assert_array_equal(imagined.next_observations[second[0]], imagined.observations[second[1]])


def test_rows_belong_to_the_rollouts_that_go_on() -> None:
    ended = np.array([0, 1, 0, 0, 0, 1, 0, 0, 0], bool)  # four rollouts of three steps; one ends at once, one in its second step
    assert rollout_of_rows(ended, 4).tolist() == [0, 1, 2, 3, 0, 2, 3, 0, 3]
    assert rollout_of_rows(np.ones(2, bool), 2).tolist() == [0, 1]


def test_components_are_the_directions_of_most_variance() -> None:
    rows = np.random.default_rng(0).normal(size=(400, 3)) * [1, 5, 0.1] + 7
    found = Components(rows)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    slow = (rows - rows.mean(0)) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(found(rows)), np.abs(slow), atol=1e-9)
    assert found.explained == pytest.approx((values[::-1] / values.sum())[:2].tolist())


def changed(run: Path, folder: Path, **config: Any) -> Path:
    """A copy of a run whose run.json says something else."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("tb"))
    facts = json.loads((folder / "run.json").read_text())
    facts["config"] |= config
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


def test_what_cannot_be_drawn_is_one_sentence(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(here)
    other = changed(run, tmp_path / "other", task="halfcheetah-random")
    alpha = changed(run, tmp_path / "alpha", damo_alpha=7.0)
    bare = changed(run, tmp_path / "bare", seed=2)
    (bare / "model" / "policy.pth").unlink()
    broken = changed(run, tmp_path / "broken", seed=3)
    (broken / "model" / "policy.pth").write_bytes(b"garbage")
    thinner = changed(run, tmp_path / "thinner", hidden_dims=[8])
    without = changed(run, tmp_path / "without", data_alignment=False)
    modelless = changed(run, tmp_path / "modelless", seed=4)
    (modelless / "model" / "dynamics.pth").unlink()
    grown = changed(run, tmp_path / "grown", data_size=500)
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"

    def message(*words: object) -> str:
        with pytest.raises(UserError) as caught:
            main(["figures", *map(str, words), "--out", str(out)])
        return str(caught.value)

    assert "is not a run folder and holds none" in message(tmp_path / "empty")
    assert "is on halfcheetah-random" in message(run, other)
    assert "different options (damo_alpha: 1.0 -> 7.0); name them" in message(f"a={run}", f"a={alpha}")
    assert "given twice" in message(run, run)
    assert all("cannot stand in a figure" in message(f"{name}={run}") for name in ("_a", "a$x$"))
    again = changed(run, tmp_path / "again")
    assert f"are both damo-alpha-1, seed 1; leave one out, or name it, NAME={again}" in message(run, f"damo-alpha-1={again}")
    assert "the run has not finished" in message(bare, "--only", "values")
    assert "does not hold this run's policy" in message(broken, "--only", "distributions")
    assert "does not hold this run's policy" in message(thinner, "--only", "values")
    assert "holds no dynamics model: dynamics.pth missing" in message(modelless, "--only", "values")
    assert "rows have changed since" in message(grown, "--only", "values")
    assert "trained without data alignment" in message(run, without, "--only", "curves,calibration")
    assert "no two finished runs of damo that differ in damo_alpha" in message(run, "--only", "alpha")
    assert "unknown figure 'value'; did you mean values" in message(run, "--only", "value")
    assert "episodes is 1" in message(run, "--episodes", "1")
    assert "seed -1 is out of range" in message(run, "--seed", "-1")
    assert not out.exists()
    capsys.readouterr()
    # without --only the rest is drawn, and what is not says why
    main(["figures", str(bare), "--out", str(out)])
    said = capsys.readouterr()
    assert "curves.png" in said.out and said.err.count("not drawn") == 4 and "has not finished" in said.err
    shutil.rmtree(bare / "record")
    assert "none of the figures" in message(bare)


def test_the_command_line_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(main, ["figures", "nowhere"])
    assert caught.value.code == 2 and capsys.readouterr().err.startswith("error: 'nowhere' is not a run folder")
