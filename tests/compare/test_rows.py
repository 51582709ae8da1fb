"""The table of a comparison's episodes: what a run has, what is damaged in one, and what of it is said."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from offlinerlkit_damo.__main__ import main
from offlinerlkit_damo.compare import command, runner
from offlinerlkit_damo.compare.local import LocalProcesses
from offlinerlkit_damo.compare.plan import Job, jobs, keep_plan, make_plan, plain, read_plan
from offlinerlkit_damo.compare.rows import COLUMNS, run_rows, write_rows
from offlinerlkit_damo.compare.runner import Status, Table, run_plan
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.report.comparison import write_report
from offlinerlkit_damo.report.planned import failures, unmeasured
from offlinerlkit_damo.report.scores import read_rows

EPISODES = Path("record") / "evaluation_episodes.csv"
POLICY = Path("record") / "policy_training_progress.csv"
RESULTS = Path("result") / "results.json"
STEPS = (10, 20, 30)
OPTIONS = {"epoch": 3, "step_per_epoch": 10}


def made_run(job: Job, *, finished: bool = True, **config: Any) -> Path:
    """A folder as the job's run leaves it: three evaluations of two episodes, score step + episode."""
    name = f"seed_{job.config.seed}&timestamp_26-0101-000000"
    folder = Path(job.config.logdir) / job.config.task / job.config.algo_name / name
    for part in ("record", "result"):
        (folder / part).mkdir(parents=True)
    facts = {
        "config": {**plain(job.config), **config},
        "dataset": {"mean_score": 3.5, "source": "generated", "fingerprint": "f" * 64},
        "host": {"name": "standin", "version": "1", "commit": None},
        "commit": "c",
        "parts": [{"machine": "here", "started": "then", "ended": None, "exit": None}],
    }
    rows = "".join(f"{step},{episode},5.0,{step + episode}.0,7\n" for step in STEPS for episode in range(2))
    (folder / EPISODES).write_text(f"timestep,episode,return,score,length\n{rows}")
    (folder / POLICY).write_text("timestep,eval/seconds\n" + "".join(f"{step},{step / 10}\n" for step in STEPS))
    (folder / "run.json").write_text(json.dumps(facts))
    if finished:
        evaluations = {"timestep": list(STEPS), "score": [step + 0.5 for step in STEPS]}
        (folder / RESULTS).write_text(json.dumps({**facts, "dynamics": None, "evaluations": evaluations}))
    return folder


def two_runs(tmp_path: Path) -> list[Path]:
    plan = make_plan(["hopper-random"], ["odice"], 2, OPTIONS)
    return [made_run(job) for job in jobs(plan, tmp_path / "out")]


def report_of(out: Path) -> str:
    write_report([out], out)
    return (out / "scores.md").read_text()


def silent(every: object) -> None:
    pass


def test_a_name_keeps_its_algorithm_and_its_failures(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (first,) = jobs(make_plan(["hopper-random"], [], 1, OPTIONS, {"x": {"algo_name": "odice"}}), out)
    made_run(first)
    other = make_plan(["hopper-random"], [], 1, OPTIONS, {"x": {"algo_name": "algaedice"}})
    with pytest.raises(UserError, match=r"other options \(algo_name: odice -> algaedice\); name another folder"):
        run_plan(other, out, LocalProcesses(1), show=silent)
    gone = "lost its machine 5 times: x hopper-random seed 1: gone"
    lines = ["failed twice: broken hopper-random seed 1: no model", gone, "damaged, and left out: y"]
    (out / "failures.txt").write_text("".join(f"{line}\n" for line in lines))
    Table([Status(first, folder=runner.find_run(first))], out).gather()
    assert (out / "failures.txt").read_text() == f"{lines[0]}\n"

    (out / "failures.txt").unlink()
    (out / "failures.txt").mkdir()
    plan = make_plan(["hopper-random"], ["odice"], 1, {})
    for reader in (lambda: report_of(out), lambda: run_plan(plan, out, LocalProcesses(1), show=silent)):
        with pytest.raises(UserError, match=r"failures\.txt.*move it away"):
            reader()


def test_rows_say_what_made_their_part_of_the_run(tmp_path: Path) -> None:
    folder, undisturbed = two_runs(tmp_path)
    facts = json.loads((folder / "run.json").read_text())
    facts["parts"] = [
        {"machine": "first", "step": 0, "commit": "older", "dataset": "e" * 64, "config": {**facts["config"], "actor_lr": 0.5}},
        {"machine": "second", "step": 20, "commit": "given up"},
        {"machine": "third", "step": 10, "host": "offlinerlkit"},
    ]
    (folder / "run.json").write_text(json.dumps(facts))
    rows = run_rows(folder, "plain")
    origins = rows.groupby("timestep")[["machine", "commit", "dataset", "host"]].first().to_numpy().tolist()
    assert origins == [["first", "older", "e" * 16, "standin"], *[["third", "c", "f" * 16, "offlinerlkit"]] * 2]
    own = run_rows(undisturbed, "plain")
    assert set(rows["config_hash"][2:]) == set(own["config_hash"]) != set(rows["config_hash"][:2])
    write_rows([(folder, "odice"), (undisturbed, "odice")], tmp_path / "out")
    text = report_of(tmp_path / "out")
    assert "runs were made by different versions of this package: older (odice); c (odice)" in text
    assert "odice on hopper-random has runs with different options" in text and "(seed 1)" in text
    (folder / EPISODES).write_text("timestep,episode,return,score,length\n")
    (folder / RESULTS).unlink()
    assert list(run_rows(folder, "plain").columns) == list(COLUMNS) and run_rows(folder, "plain").empty


def test_a_run_has_a_row_for_every_episode(tmp_path: Path) -> None:
    rows = run_rows(two_runs(tmp_path)[0], "plain")
    assert list(rows.columns) == list(COLUMNS) and list(rows["timestep"]) == [10, 10, 20, 20, 30, 30]
    assert list(rows["score"]) == [10, 11, 20, 21, 30, 31] and list(rows["seconds"]) == [1, 1, 2, 2, 3, 3]
    assert set(rows["label"]) == {"plain"} and set(rows["algo"]) == {"odice"} and rows["finished"].all()
    assert set(rows["host"]) == {"standin"} and set(rows["machine"]) == {"here"} and rows["dynamics"].isna().all()


def cut(folder: Path, name: Path) -> None:
    text = (folder / name).read_text()
    (folder / name).write_text(text[: len(text) // 2])


def replace(name: Path, old: str, new: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "garbage": (replace(EPISODES, "20,1,", "\0\1garbage"), "evaluation_episodes.csv' is damaged: it does not have the evaluations"),
    "empty": (lambda folder: (folder / EPISODES).write_text(""), "evaluation_episodes.csv' is damaged: it does not have the eval"),
    "gone": (lambda folder: (folder / EPISODES).unlink(), "evaluation_episodes.csv' is damaged: it does not have the eval"),
    "another score": (replace(EPISODES, "21.0,7", "22.0,7"), "evaluation_episodes.csv' is damaged: it does not have the eval"),
    "half a step": (replace(EPISODES, "21.0,7", "21.0,20.5"), "line 5 of .*evaluation_episodes.csv' is damaged"),
    "no number": (replace(EPISODES, "21.0,7", "nan,7"), "line 5 of .*evaluation_episodes.csv' is damaged"),
    "no column": (replace(EPISODES, "length", "width"), "line 2 of .*evaluation_episodes.csv' is damaged"),
    "progress cut": (lambda folder: cut(folder, POLICY), "policy_training_progress.csv' is damaged: it ends before"),
    "progress without steps": (replace(POLICY, "timestep", "time"), "policy_training_progress.csv' is damaged: it has a row without"),
    "results cut": (lambda folder: cut(folder, RESULTS), "results.json' is cut off or no JSON"),
    "results without evaluations": (replace(RESULTS, "evaluations", "x"), "results.json' is not that of a run"),
    "facts cut": (lambda folder: cut(folder, Path("run.json")), "run.json' is cut off or no JSON"),
    "facts without dataset": (replace(Path("run.json"), '"dataset":', '"x":'), "run.json' does not say"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_run_is_named_and_left_out(kind: str, tmp_path: Path) -> None:
    damaged, whole = two_runs(tmp_path)
    damage, words = DAMAGES[kind]
    damage(damaged)
    with pytest.raises(UserError, match=words):
        run_rows(damaged, "odice")
    every = run_plan(make_plan(["hopper-random"], ["odice"], 2, OPTIONS), tmp_path / "out", LocalProcesses(1), show=silent)
    assert [status.state for status in every] == ["finished"] * 2
    assert every[0].damage is not None and str(damaged) in every[0].damage and every[1].damage is None
    rows = pd.read_csv(tmp_path / "out" / "rows.csv")
    assert set(rows["seed"]) == {2} and len(rows) == len(run_rows(whole, "odice"))
    (told,) = failures([tmp_path / "out"])
    assert told == f"damaged, and left out: {every[0].damage}" and f"* {told}\n" in report_of(tmp_path / "out")
    shutil.rmtree(damaged)
    jobs_of = jobs(make_plan(["hopper-random"], ["odice"], 2, OPTIONS), tmp_path / "out")
    made_run(jobs_of[0])
    run_plan(make_plan(["hopper-random"], ["odice"], 2, OPTIONS), tmp_path / "out", LocalProcesses(1), show=silent)
    assert failures([tmp_path / "out"]) == []


def test_a_comparison_says_which_run_is_damaged_and_reports_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "write_report", lambda folders, out: f"report of {set(read_rows(folders)['seed'])}")
    damaged, _ = two_runs(tmp_path)
    cut(damaged, EPISODES)
    flags = [word for name, value in OPTIONS.items() for word in ("--set", f"{name}={value}")]
    with pytest.raises(SystemExit) as caught:
        main(["compare", "--tasks", "hopper-random", "--algos", "odice", "--seeds", "2", *flags, "--out", str(tmp_path / "out")])
    shown = capsys.readouterr()
    assert caught.value.code == 1 and "report of {2}" in shown.out
    assert f"not in the tables: '{damaged}" in shown.err and "makes it anew" in shown.err


def test_a_torn_end_is_nothing_in_a_run_that_goes_on(tmp_path: Path) -> None:
    (job,) = jobs(make_plan(["hopper-random"], ["odice"], 1, OPTIONS), tmp_path / "out")
    folder = made_run(job, finished=False)
    (folder / EPISODES).write_text((folder / EPISODES).read_text()[:-4])
    rows = run_rows(folder, "odice")
    assert len(rows) == 5 and not rows["finished"].any()
    assert rows["dynamics"].isna().all()
    (folder / "checkpoint" / "dynamics").mkdir(parents=True)
    (folder / "checkpoint" / "dynamics" / "facts.json").write_text('{"id": "m1"}')
    assert set(run_rows(folder, "odice")["dynamics"]) == {"m1"}
    (folder / EPISODES).unlink()
    assert len(run_rows(folder, "odice")) == 0


def test_a_smaller_plan_takes_nothing_out_of_the_table(tmp_path: Path) -> None:
    two_runs(tmp_path)
    for name in ("26-0202-000000", "25-0101-000000"):  # of a run there may be a second folder, which nothing reads
        (job,) = jobs(make_plan(["hopper-random"], ["algaedice"], 1, OPTIONS), tmp_path / "out")
        made_run(job).rename(Path(job.config.logdir) / "hopper-random" / "algaedice" / f"seed_1&timestamp_{name}")
    run_plan(make_plan(["hopper-random"], ["odice"], [2], OPTIONS), tmp_path / "out", LocalProcesses(1), show=silent)
    rows = pd.read_csv(tmp_path / "out" / "rows.csv")
    runs = rows[["label", "seed"]].drop_duplicates()
    assert [tuple(run) for run in runs.to_numpy()] == [("odice", 2), ("algaedice", 1), ("odice", 1)] and len(rows) == 18


def test_a_folder_keeps_its_plan_and_its_remarks(tmp_path: Path) -> None:
    plan = make_plan(["hopper-random"], ["odice"], [2], OPTIONS, {"slow": {"algo_name": "mopo", "actor_lr": 1e-5}})
    keep_plan(plan, tmp_path)
    assert read_plan(tmp_path / "plan.yaml") == plan
    text = "# ours\n" + (tmp_path / "plan.yaml").read_text()
    (tmp_path / "plan.yaml").write_text(text)
    keep_plan(plan, tmp_path)
    assert (tmp_path / "plan.yaml").read_text() == text
    keep_plan(make_plan(["hopper-random"], ["odice"], 3, OPTIONS), tmp_path)
    assert read_plan(tmp_path / "plan.yaml").seeds == (1, 2, 3)


def test_the_report_says_what_was_planned_and_not_measured(tmp_path: Path) -> None:
    two_runs(tmp_path)
    out = tmp_path / "out"
    run_plan(make_plan(["hopper-random"], ["odice"], 2, OPTIONS), out, LocalProcesses(1), show=silent)
    rows = read_rows([out])
    assert unmeasured([out], rows) == []
    keep_plan(make_plan(["hopper-random"], ["odice", "mopo"], 3, OPTIONS), out)
    told = ["planned, and without an evaluation so far: odice on hopper-random (seed 3), mopo on hopper-random (seed 1, 2, 3)"]
    assert unmeasured([out], rows) == unmeasured([out / "rows.csv"], rows) == told
    (out / "plan.yaml").write_text("seeds: 3")
    assert "what was planned is not known: the plan" in unmeasured([out], rows)[0]
    (out / "plan.yaml").unlink()
    assert unmeasured([out], rows) == []


def test_the_table_follows_runs_that_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[int] = []
    monkeypatch.setattr(runner, "write_rows", lambda runs, out: gathered.append(len(list(runs))) or {})
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    every = [Status(job, folder=tmp_path) for job in jobs(make_plan(["hopper-random"], ["odice"], 2, OPTIONS), tmp_path)]
    table = Table(every, tmp_path)
    for change, seconds, times in (
        (lambda: None, 0, 1),  # at its start, for what was there before
        (lambda: None, 100, 1),
        (lambda: setattr(every[0], "seen", (1, 1)), 0, 2),
        (lambda: setattr(every[0], "seen", (1, 2)), 10, 2),
        (lambda: None, 51, 3),
        (lambda: setattr(every[1], "state", "finished"), 1, 4),
    ):
        now += seconds
        change()
        table.follow()
        assert len(gathered) == times
