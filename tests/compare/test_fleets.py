"""`compare --executor fleet`: which runs train together, how they go on, and that the files are those of single runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from test_compare import OPTIONS, of_another_commit, place, silent

from offlinerlkit_damo.compare import fleets, runner
from offlinerlkit_damo.compare.fleets import LocalFleets
from offlinerlkit_damo.compare.local import LocalProcesses
from offlinerlkit_damo.compare.plan import jobs, make_plan
from offlinerlkit_damo.compare.runner import Status
from offlinerlkit_damo.training.run_folder import read_facts

__all__ = ["place"]


class Interrupted(Exception):
    pass


def test_a_fleet_is_stopped_and_goes_on_and_the_files_are_single_runs(place: Path) -> None:
    plan = make_plan(["hopper-random"], ["damo"], 2, {**OPTIONS, "epoch": 30, "eval_episodes": 1})
    out = place / "out"

    def interrupt(every: Sequence[Status]) -> None:
        if all(status.step > 0 for status in every):
            raise Interrupted

    with pytest.raises(Interrupted):
        runner.run_plan(plan, out, LocalFleets(1), show=interrupt)
    assert sorted(path.name for path in (out / "logs").iterdir()) == ["fleet_damo_hopper-random_seed_1.log"]
    for run in out.glob("runs/damo/*/*/seed_*"):
        of_another_commit(run)
    every = runner.run_plan(plan, out, LocalFleets(1), show=silent, force=True)
    assert [status.state for status in every] == ["finished"] * 2 and not any(status.failures for status in every)
    for status in every:
        assert status.folder is not None
        parts = read_facts(status.folder)["parts"]
        assert [part["exit"].split(";")[0] for part in parts] == ["stopped by SIGTERM", "finished"]
    assert len(list((out / "runs" / "damo").glob("fleet_*.json"))) == 1  # continued together, from the same record
    rows = pd.read_csv(out / "rows.csv")
    assert rows.groupby(["label", "seed"]).size().eq(30).all() and rows["finished"].all()


def started(executor: LocalProcesses, every: list[Status], out: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What `train` is told when everything that waits is started until there is no more place, and the fleets' files in place of names."""
    commands: list[list[str]] = []

    class Process:
        began = True

        def __init__(self, flags: list[str], **_: Any) -> None:
            commands.append(flags)

        def poll(self) -> None:
            return None

    monkeypatch.setattr("offlinerlkit_damo.compare.local.TrainingProcess", Process)
    for status in every:
        if executor.start(status, every, out) is not None:
            status.begin()
    return [
        [run["name"] for run in yaml.safe_load(Path(name).read_text())["runs"]] if flag == "--fleet" else [flag, Path(name).name]
        for flag, name in commands
    ]


def test_runs_are_dealt_to_fleets_by_what_fits(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contestants = {"wide": {"algo_name": "damo", "hidden_dims": [32]}, "bold": {"algo_name": "damo", "damo_alpha": 2.0}}
    plan = make_plan(["hopper-random", "hopper-medium", "walker2d-random"], ["damo", "mopo"], 2, OPTIONS, contestants)
    (place / "logs").mkdir()
    every = [Status(job) for job in jobs(plan, place)]
    label = {name: [f"{name} {task} seed {seed}" for task in plan.tasks for seed in plan.seeds] for name in plan.contestants}
    # half of Hopper's eight, whose labels differ in alpha only, and in the last place all of Walker2d's four
    commands = started(LocalFleets(2), every, place, monkeypatch)
    assert commands == [label["damo"][:4], [*label["damo"][4:], *label["bold"][4:]]]
    every = [Status(job) for job in jobs(plan, place) if job.label in ("damo", "bold") and "hopper" in job.name]
    assert [len(names) for names in started(LocalFleets(3), every, place, monkeypatch)] == [3, 3, 2]
    every = [Status(job) for job in jobs(plan, place) if job.label in ("mopo", "wide")]
    commands = started(LocalFleets(100), every, place, monkeypatch)
    assert [flag for flag, _ in commands] == ["--config"] * len(every)  # MOPO, and as many places as runs
    every = [Status(job) for job in jobs(plan, place)]
    every[0].failures = 1
    commands = started(LocalFleets(1), every, place, monkeypatch)
    assert commands == [["--config", "damo_hopper-random_seed_1.yaml"]]
    others = make_plan(["hopper-medium-v2", "neorl:Hopper-v3-medium-1000"], ["damo"], 1, OPTIONS)
    assert not fleets._fit(*jobs(others, place))  # of 11 and of 12 columns
    assert fleets._fit(every[1].job, every[2].job) and not fleets._fit(every[1].job, every[4].job)
