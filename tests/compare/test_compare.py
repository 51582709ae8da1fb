"""`compare` from start to end with a tiny budget: run, interrupted, continued, failed, gathered, reported."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from offlinerlkit_damo.__main__ import main
from offlinerlkit_damo.compare import runner
from offlinerlkit_damo.compare.estimate import estimate
from offlinerlkit_damo.compare.plan import jobs, make_plan
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.report.comparison import write_report

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {
    "epoch": 3, "step_per_epoch": 20, "hidden_dims": [16], "eval_episodes": 2, "data_size": 300, "batch_size": 40, "dynamics_max_epochs": 1,
    "dynamics_hidden_dims": [16, 16], "dynamics_weight_decay": [0, 0, 0], "rollout_batch_size": 50, "rollout_length": 2,
    "checkpoint_every": 1,
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    return tmp_path


def silent(every: object) -> None:
    pass


def test_runs_are_made_gathered_and_never_repeated(place: Path) -> None:
    plan = make_plan(["hopper-random"], ["damo", "odice"], 2, OPTIONS)
    every = runner.run_plan(plan, place / "out", at_once=2, show=silent)
    assert [status.state for status in every] == ["finished"] * 4
    rows = pd.read_csv(place / "out" / "rows.csv")
    assert len(rows) == 2 * 2 * 3 * 2 and set(rows["label"]) == {"damo", "odice"} and rows["finished"].all()
    damo = rows[rows["label"] == "damo"]
    assert damo.groupby("seed")["dynamics"].nunique().eq(1).all() and damo["dynamics"].nunique() == 2
    assert damo["config_hash"].nunique() == 1  # the seed is no part of it
    (folder,) = (place / "out").glob("runs/damo/hopper-random/damo/seed_1*")
    last = json.loads((folder / "result" / "results.json").read_text())["evaluations"]["score"][-1]
    ours = damo[(damo["seed"] == 1) & (damo["timestep"] == 60)]
    assert ours["score"].mean() == pytest.approx(last)

    started = time.time()
    runner.run_plan(plan, place / "out", at_once=2, show=silent)
    assert not [path for path in (place / "out").glob("runs/**/results.json") if path.stat().st_mtime > started]
    other = make_plan(["hopper-random"], ["damo"], 1, {**OPTIONS, "gamma": 0.9})
    with pytest.raises(UserError, match=r"made with other options \(gamma: 0\.99 -> 0\.9\)"):
        runner.run_plan(other, place / "out", at_once=1, show=silent)

    page = write_report([place / "out"], place / "report").read_text()
    assert page.count("<svg") == 2 and "http://www.w3.org" in page and "src=" not in page and "href=\"http" not in page
    assert "| hopper-random |" in (place / "report" / "scores.md").read_text()


def test_an_interrupted_comparison_goes_on(place: Path) -> None:
    flags = [word for name, value in {**OPTIONS, "epoch": 150}.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    command = shlex.split("compare --tasks hopper-random --algos damo --seeds 1 --jobs 1 --out out")
    process = subprocess.Popen([sys.executable, "-m", "offlinerlkit_damo", *command, *flags], cwd=place, stderr=subprocess.PIPE, text=True)
    table = "out/runs/damo/hopper-random/damo/*/record/evaluation_episodes.csv"
    end = time.monotonic() + 60
    while not list(place.glob(table)):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on from here" in messages and "Traceback" not in messages
    (run,) = place.glob("out/runs/damo/hopper-random/damo/seed_1*")
    parts = json.loads((run / "run.json").read_text())["parts"]
    assert "stopped by SIGTERM" in parts[0]["exit"] and (run / "checkpoint" / "last.ckpt").exists()
    main([*command, *flags])
    parts = json.loads((run / "run.json").read_text())["parts"]
    assert len(parts) == 2 and parts[1]["exit"] == "finished"
    steps = pd.read_csv(place / "out" / "rows.csv")["timestep"].unique()
    assert list(steps) == [20 * (i + 1) for i in range(150)]


def test_a_failing_run_is_tried_twice_and_shown(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = {"broken": {"algo_name": "damo", "load_dynamics_path": "nowhere"}}
    (place / "plan.yaml").write_text(json.dumps({"tasks": ["hopper-random"], "variants": broken, "seeds": 1, "options": OPTIONS}))
    with pytest.raises(SystemExit) as caught:
        main(["compare", "--plan", "plan.yaml", "--out", "out"])
    assert caught.value.code == 1 and "failed twice: broken hopper-random seed 1" in capsys.readouterr().err
    (log,) = (place / "out" / "logs").iterdir()
    assert log.read_text().count("nowhere") >= 2


def test_two_comparisons_do_not_share_a_folder(place: Path) -> None:
    (place / "out").mkdir()
    with (
        runner._locked(place / "out"),
        pytest.raises(UserError, match="another comparison is running"),
    ):
        runner.run_plan(make_plan(["hopper-random"], ["odice"], 1, OPTIONS), place / "out", at_once=1, show=silent)


def test_a_dry_run_measures_and_runs_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "--tasks", "hopper-random", "--algos", "damo,rambo,odice", "--seeds", "2", "--set", "epoch=50", "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and lines[-1].startswith("6 runs, about") and not (place / "comparison").exists()


def test_an_estimate_grows_with_the_work(place: Path) -> None:
    (short, long) = (jobs(make_plan(["hopper-random"], ["odice"], 1, {**OPTIONS, "epoch": epoch}), place)[0].config for epoch in (10, 1000))
    assert 0 < estimate(short, 300).training * 20 < estimate(long, 300).training


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "name the tasks"),
        ("--tasks hopper-random --set epoch", "--set epoch has no value"),
        ("--tasks hopper-random --jobs -1", "--jobs -1 is not positive"),
        ("--tasks hopper-random --jobs 0", "--jobs 0 is not positive"),
        ("--plan p.yaml --tasks hopper-random", "--plan is a whole comparison"),
    ],
)
def test_wrong_flags_are_one_sentence(flags: str, words: str, place: Path) -> None:
    with pytest.raises(UserError, match=words):
        main(["compare", *shlex.split(flags)])
