"""What is left of a comparison, from the pace of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from offlinerlkit_damo.compare import runner
from offlinerlkit_damo.compare.command import _summary
from offlinerlkit_damo.compare.pace import seconds_left
from offlinerlkit_damo.compare.plan import jobs, make_plan
from offlinerlkit_damo.compare.runner import Status

OPTIONS: dict[str, Any] = {"epoch": 10, "step_per_epoch": 10}


def statuses(algos: list[str], seeds: int, tmp_path: Path) -> dict[tuple[str, int], Status]:
    plan = make_plan(["hopper-random"], algos, seeds, OPTIONS)
    return {(job.label, job.config.seed): Status(job) for job in jobs(plan, tmp_path)}


def test_every_contestant_goes_on_at_its_own_pace(tmp_path: Path) -> None:
    every = statuses(["odice", "algaedice"], 2, tmp_path)
    assert seconds_left(list(every.values())) == (None, ["odice", "algaedice"])
    for seed in (1, 2):
        every["odice", seed].state, every["odice", seed].step, every["odice", seed].pace = "running", 50, 2.0
    assert seconds_left(list(every.values())) == (100.0, ["algaedice"])
    assert _summary(list(every.values())) == "2 running, 2 waiting; 2 min to go, and algaedice, whose pace is not known yet"
    every["algaedice", 1].state, every["algaedice", 1].step, every["algaedice", 1].pace = "running", 20, 10.0
    every["odice", 1].state = "finished"
    # 100 s of odice, 800 s of the one and behind odice 1000 s of the other
    assert seconds_left(list(every.values())) == (1100.0, [])
    assert _summary(list(every.values())) == "1 finished, 2 running, 1 waiting; 18 min to go"


def test_models_that_nobody_trains_yet_take_their_time(tmp_path: Path) -> None:
    every = statuses(["mopo", "damo"], 2, tmp_path)
    for label, pace in (("mopo", 1.0), ("damo", 3.0)):
        status = every[label, 1]
        status.state, status.step, status.pace = "running", 90, pace
    every["mopo", 1].model_seconds, every["damo", 1].model_seconds = 500.0, 490.0
    # of the second seed one run waits for the model, which it trains, and the other for it
    assert seconds_left(list(every.values())) == (10.0 + 500.0 + 100.0, [])


def test_the_pace_is_that_since_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = statuses(["mopo"], 1, tmp_path)["mopo", 1]
    now = [1000.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
    status.folder = tmp_path
    status.begin()
    now[0] = 1300.0
    status.look()
    assert status.ready is None and status.pace is None
    (tmp_path / "checkpoint" / "dynamics").mkdir(parents=True)
    status.look()
    assert (status.ready, status.model_seconds) == (1300.0, 300.0)
    (tmp_path / "record").mkdir()
    now[0] = 1340.0
    (tmp_path / "record" / "evaluation_episodes.csv").write_text("timestep,episode,return,score,length\n20,0,1.0,1.0,5\n")
    status.look()
    assert status.step == 20 and status.pace == pytest.approx(2.0)
