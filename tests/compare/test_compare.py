"""`compare` from start to end with a tiny budget: run, interrupted, continued, failed, gathered, reported."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from offlinerlkit_damo import cores
from offlinerlkit_damo.__main__ import main
from offlinerlkit_damo.compare import forecast, runner
from offlinerlkit_damo.compare.command import Display, _line
from offlinerlkit_damo.compare.estimate import Cost, Data, estimate
from offlinerlkit_damo.compare.local import LocalProcesses, TrainingProcess
from offlinerlkit_damo.compare.plan import jobs, make_plan
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.report.comparison import write_report
from offlinerlkit_damo.tasks import make_dataset
from offlinerlkit_damo.training.checkpoint import read, write

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


def of_another_commit(run: Path) -> None:
    """Make the checkpoint of a stopped run one of older code."""
    path = run / "checkpoint" / "last.ckpt"
    checkpoint = read(path)
    checkpoint["about"]["commit"] = "older"
    write(checkpoint, path)


def silent(every: object) -> None:
    pass


def test_runs_are_made_gathered_and_never_repeated(place: Path) -> None:
    plan = make_plan(["hopper-random"], ["damo", "odice"], 2, OPTIONS)
    every = runner.run_plan(plan, place / "out", LocalProcesses(2), show=silent)
    assert [status.state for status in every] == ["finished"] * 4
    rows = pd.read_csv(place / "out" / "rows.csv")
    assert len(rows) == 2 * 2 * 3 * 2 and set(rows["label"]) == {"damo", "odice"} and rows["finished"].all()
    damo = rows[rows["label"] == "damo"]
    assert damo.groupby("seed")["dynamics"].nunique().eq(1).all() and damo["dynamics"].nunique() == 2
    assert damo["config_hash"].nunique() == 1  # the seed is no part of it
    assert damo.groupby(["seed", "timestep"])["seconds"].nunique().eq(1).all() and damo.groupby("seed")["seconds"].nunique().eq(3).all()
    assert damo["q_data"].notna().all() and rows[rows["label"] == "odice"]["q_data"].isna().all() and set(rows["gamma"]) == {0.99}
    (folder,) = (place / "out").glob("runs/damo/hopper-random/damo/seed_1*")
    last = json.loads((folder / "result" / "results.json").read_text())["evaluations"]["score"][-1]
    ours = damo[(damo["seed"] == 1) & (damo["timestep"] == 60)]
    assert ours["score"].mean() == pytest.approx(last)

    started = time.time()
    runner.run_plan(plan, place / "out", LocalProcesses(2), show=silent)
    assert not [path for path in (place / "out").glob("runs/**/results.json") if path.stat().st_mtime > started]
    other = make_plan(["hopper-random"], ["damo"], 1, {**OPTIONS, "gamma": 0.9})
    with pytest.raises(UserError, match=r"made with other options \(gamma: 0\.99 -> 0\.9\)"):
        runner.run_plan(other, place / "out", LocalProcesses(1), show=silent)

    page = write_report([place / "out"], place / "report").read_text()
    assert page.count("<img") == 5  # intervals, profiles, learning curves, wall-clock, values
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
    of_another_commit(run)
    with pytest.raises(SystemExit):
        main([*command, *flags])
    assert "(commit: older -> " in (place / "out" / "failures.txt").read_text()
    main([*command, *flags, "--force"])
    assert "commit: older -> " in (run / "record" / "consoleout_backup.txt").read_text()
    parts = json.loads((run / "run.json").read_text())["parts"]
    assert len(parts) == 2 and parts[1]["exit"] == "finished"
    steps = pd.read_csv(place / "out" / "rows.csv")["timestep"].unique()
    assert list(steps) == [20 * (i + 1) for i in range(150)]


def test_no_run_outlives_a_killed_comparison(place: Path) -> None:
    flags = [word for name, value in {**OPTIONS, "epoch": 5000}.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    command = shlex.split("compare --tasks hopper-random --algos odice --seeds 1 --out out")
    process = subprocess.Popen([sys.executable, "-m", "offlinerlkit_damo", *command, *flags], cwd=place)
    run = "out/runs/odice/hopper-random/odice/*"
    end = time.monotonic() + 120
    while not list(place.glob(f"{run}/record/evaluation_episodes.csv")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    (folder,) = place.glob(run)
    while (exit := json.loads((folder / "run.json").read_text())["parts"][0]["exit"]) is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "stopped by SIGTERM" in exit and (folder / "checkpoint" / "last.ckpt").exists()


def test_a_failing_run_is_tried_twice_and_shown(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = {"broken": {"algo_name": "damo", "load_dynamics_path": "nowhere"}}
    plan = {"tasks": ["hopper-random"], "algos": ["odice"], "variants": broken, "seeds": 1, "options": OPTIONS}
    (place / "plan.yaml").write_text(json.dumps(plan))
    with pytest.raises(SystemExit) as caught:
        main(["compare", "--plan", "plan.yaml", "--out", "out"])
    assert caught.value.code == 1 and "failed twice: broken hopper-random seed 1: error: " in (told := capsys.readouterr().err)
    assert "nowhere" in told and f"({Path('out', 'logs', 'broken_hopper-random_seed_1.log')})" in told
    assert (place / "out" / "logs" / "broken_hopper-random_seed_1.log").read_text().count("nowhere") >= 2
    for name in ("scores.md", "report.html"):  # which go to people who have not seen the terminal
        assert "failed twice: broken hopper-random seed 1: error: " in (place / "out" / name).read_text()


def test_a_run_that_is_killed_says_by_what(place: Path) -> None:
    """As the system kills one when memory runs out; one that the comparison itself has stopped does not say so."""
    (place / "logs").mkdir(parents=True)
    for name, stopped in (("killed", False), ("stopped", True)):
        process = TrainingProcess(["--task", "hopper-random"], threads=1, log=place / "logs" / name)
        if stopped:
            process.stop()
        os.kill(process._process.pid, signal.SIGKILL)
        assert process.wait(60) == process.poll() == "failed"
    told = (place / "logs" / "killed").read_text()
    assert told.count("ended by signal 9 (Killed); the system does that when memory runs out") == 1
    assert "signal" not in (place / "logs" / "stopped").read_text()


def test_two_comparisons_do_not_share_a_folder(place: Path) -> None:
    (place / "out").mkdir()
    with (
        runner._locked(place / "out"),
        pytest.raises(UserError, match="another comparison is running"),
    ):
        runner.run_plan(make_plan(["hopper-random"], ["odice"], 1, OPTIONS), place / "out", LocalProcesses(1), show=silent)


def test_a_dry_run_measures_and_runs_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "--tasks", "hopper-random", "--algos", "damo,rambo,odice", "--seeds", "2", "--set", "epoch=50", "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and lines[-1].startswith("6 runs, about") and "hopper-random is not here yet" in lines[-2]
    assert not (place / "comparison").exists()


def test_options_that_nobody_reads_are_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--seeds 1 --set rollout_length=3 --set epoch=1 --dry-run"
    main(shlex.split(f"compare --tasks hopper-random --algos odice {flags}"))
    assert capsys.readouterr().err.splitlines() == ["rollout_length changes nothing: no contestant of this comparison reads it"]
    main(shlex.split(f"compare --tasks hopper-random --algos odice,mopo {flags}"))
    assert capsys.readouterr().err == ""


class Deaf:
    """Attempts of which the second cannot be asked any more; the others end when they are stopped."""

    def __init__(self) -> None:
        self.attempts: list[Deaf.Attempt] = []

    class Attempt:
        began = True

        def __init__(self, broken: bool) -> None:
            self.broken, self.stopped, self.ended = broken, False, False

        def poll(self) -> runner.Outcome | None:
            if self.broken:
                raise UserError("no space left")
            self.ended = self.stopped
            return "ended" if self.stopped else None

        def stop(self) -> None:
            self.stopped = True

    def start(self, status: runner.Status, every: Sequence[runner.Status], out: Path) -> Deaf.Attempt:
        self.attempts.append(self.Attempt(len(self.attempts) == 1))
        return self.attempts[-1]


def test_one_broken_attempt_does_not_leave_the_others(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deaf = Deaf()
    with pytest.raises(UserError, match="no space left"):
        runner.run_plan(make_plan(["hopper-random"], ["odice"], 3, OPTIONS), place / "out", deaf, show=silent)
    assert [attempt.ended for attempt in deaf.attempts] == [True, False, True]
    assert "odice hopper-random seed 2: no space left" in capsys.readouterr().err and (place / "out" / "rows.csv").exists()


def test_a_dry_run_counts_what_is_left(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A hundred minutes a run, an hour a model and ten minutes before the first step; of the first seed all runs have finished, those of
    the second are at a tenth of the way; the plain model of the third is in the store."""
    monkeypatch.setattr(forecast, "estimate", lambda config, data: Cost(3600.0, 600.0, 6000.0))
    monkeypatch.setattr(forecast, "run_data", lambda config: Data(1000, 11, 3, "f"))
    monkeypatch.setattr(forecast, "_is_stored", lambda config, data: config.model_seed == 3 and len(config.dynamics_hidden_dims) == 4)
    monkeypatch.setattr(forecast, "is_finished", lambda folder: folder.name == "1")

    def look(status: runner.Status) -> None:
        if status.job.config.seed < 3:
            status.folder = place / str(status.job.config.seed)
            status.step = status.steps // 10

    monkeypatch.setattr(runner.Status, "look", look)
    (place / "2" / "checkpoint" / "dynamics").mkdir(parents=True)
    plan = {"tasks": ["hopper-random"], "algos": ["mopo"], "seeds": [1, 2, 3, 4], "options": {"epoch": 100}}
    plan["variants"] = {"deeper": {"algo_name": "mopo", "dynamics_hidden_dims": [9] * 5, "dynamics_weight_decay": [0] * 6}}
    (place / "plan.yaml").write_text(json.dumps(plan))
    main(["compare", "--plan", "plan.yaml", "--dry-run", "--jobs", "2"])
    lines = [line.split("seed ")[-1].split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines[:-1] == [
        ["1", "finished"], ["2", "1:30 h"], ["3", "1:50 h"], ["4", "2:50 h"],
        ["1", "finished"], ["2", "1:30 h"], ["3", "2:50 h"], ["4", "2:50 h"],
    ]  # fmt: skip
    # 90 and 110 minutes, then 170 to 260, 90 to 200, 170 to 370, 170 to 430
    assert " ".join(lines[-1]) == "8 runs, about 7:10 h with 2 at once"


def test_as_many_runs_as_cores_that_may_be_used(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(forecast, "estimate", lambda config, data: Cost(0.0, 0.0, 60.0))
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    command = shlex.split("compare --tasks hopper-random --algos odice --seeds 8 --dry-run --set data_size=60")
    for more, at_once in (([], 6), (["--set", "threads=2"], 3), (["--set", "threads=9"], 1), (["--jobs", "5"], 5)):
        main([*command, *more])
        assert f"with {at_once} at once" in capsys.readouterr().out
    main([*command, "--executor", "fleet"])
    assert "what a fleet needs is not known" in capsys.readouterr().out


def test_a_dry_run_says_whose_data_it_assumes(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(forecast, "estimate", lambda config, data: Cost(0.0, 0.0, data.rows * 3600.0))
    command = ["compare", "--tasks", "hopper-random", "--algos", "odice", "--seeds", "1", "--set", "data_size=60", "--dry-run"]
    main(command)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "hopper-random is not here yet: counted as 60 transitions", "1 runs, about 2 d 12 h with 1 at once",
    ]  # fmt: skip
    make_dataset("hopper-random", size=60, progress=False)
    main(command)
    assert "not here" not in capsys.readouterr().out


def cost(algo: str, place: Path, data: Data, **options: Any) -> Cost:
    (job,) = jobs(make_plan(["hopper-random"], [algo], 1, {**OPTIONS, **options}), place)
    return estimate(job.config, data)


def test_an_estimate_grows_with_the_work(place: Path) -> None:
    data = Data(300, 11, 3)
    short, long = cost("odice", place, data, epoch=10), cost("odice", place, data, epoch=1000)
    assert 0 < short.training * 20 < long.training and short.dynamics == short.before == 0
    assert cost("odice", place, data, eval_every=10).training < cost("odice", place, data, eval_episodes=50).training


def test_an_estimate_counts_what_rambo_takes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its measured seconds for a pass of cloning and an adversarial step, as often as they are due."""
    measured = cost("rambo", place, Data(300, 11, 3), bc_epoch=1, dynamics_update_freq=1, adv_train_steps=1)
    assert measured.before > 0 and measured.training > 0
    # set from here on: other work on the machine must not decide
    monkeypatch.setattr("offlinerlkit_damo.compare.estimate._cloning_epoch", lambda trainer, config: 2.0)
    monkeypatch.setattr("offlinerlkit_damo.compare.estimate._adversarial_step", lambda trainer: 100.0)
    few, many = (cost("rambo", place, Data(300, 11, 3), bc_epoch=n, dynamics_update_freq=1, adv_train_steps=n) for n in (1, 500))
    assert 0 < few.training * 20 < many.training and 0 < few.before * 100 < many.before
    assert cost("rambo", place, Data(300_000, 11, 3), bc_epoch=1).before > 100 * few.before > 0


def test_without_ray_its_executor_is_one_sentence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "offlinerlkit_damo.compare.cluster", raising=False)
    with pytest.raises(ImportError, match=r'need Ray, which is missing; run: pip install "offlinerlkit-damo\[tune\]"'):
        main(["compare", "--tasks", "hopper-random", "--executor", "ray"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "name the tasks"),
        ("--tasks hopper-random --set epoch", "--set epoch has no value"),
        ("--tasks hopper-random --set 'hidden_dims=[8'", r"hidden_dims=\[8 has a value that is no YAML"),
        ("--tasks hopper-random --jobs -1", "--jobs -1 is not positive"),
        ("--tasks hopper-random --jobs 0", "--jobs 0 is not positive"),
        ("--tasks hopper-random --seeds 1,2", r"'1,2' is no number of seeds; chosen ones stand in `compare --plan`, as seeds: \[3, 5\]"),
        ("--tasks 'hopper-random, hoper-medium'", "unknown task 'hoper-medium'"),
        ("--plan p.yaml --tasks hopper-random", "--plan is a whole comparison"),
        ("--tasks hopper-random --algos damo,optidice --set epoch=1", "optidice on hopper-random: optidice_warmup_steps"),
        ("--tasks hopper-random --ray-address auto", "--ray-address has no effect without --executor ray"),
        ("--tasks hopper-random --set device=cuda:9", "device 'cuda:9' asked for, but torch sees"),
        ("--tasks hopper-random --set device=cuda:9 --dry-run", "device 'cuda:9' asked for, but torch sees"),
        ("--tasks hopper-random --out file --dry-run", "cannot write to 'file'"),
        ("--tasks hopper-random --gpu-share 0.5", "--gpu-share has no effect without --executor ray"),
        ("--tasks hopper-random --ray-address auto --dry-run", "--ray-address has no effect without --executor ray"),
        ("--tasks hopper-random --executor ray --gpu-share 0 --dry-run", "--gpu-share is 0; a run's share of a GPU is above 0"),
        ("--plan broken.yaml", "the plan 'broken.yaml' is not valid YAML"),
    ],
)
def test_wrong_flags_are_one_sentence(flags: str, words: str, place: Path) -> None:
    (place / "file").touch()
    (place / "broken.yaml").write_text("tasks: [")
    with pytest.raises(UserError, match=words):
        main(["compare", *shlex.split(flags)])


def test_the_table_on_a_terminal_fits_it(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Longer or higher than the terminal it could not be written over."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "8")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    plan = make_plan(["hopper-random"], ["odice"], 10, OPTIONS)
    every = [runner.Status(job, state="finished", step=60, score=12.0) for job in jobs(plan, place)]
    every[9].state, every[9].step = "running", 30
    show = Display()
    show(every)
    every[9].state = "failed"
    show(every)
    first, second = capsys.readouterr().out.split("\033[7F\033[J")
    for shown, state in ((first, "running"), (second, "failed")):
        lines = shown.splitlines()
        assert len(lines) == 7 and max(map(len, lines)) < 60 and lines[0].split() == ["run", "state"]
        assert "seed 10" in lines[1] and state in lines[1] and "9 finished" in lines[-1]


def test_the_table_says_what_a_run_without_a_score_does(place: Path) -> None:
    (job,) = jobs(make_plan(["hopper-random"], ["mopo"], 1, OPTIONS), place)
    status = runner.Status(job, state="running", folder=place)
    assert _line(status).endswith("  0% dynamics model")
    (place / "checkpoint" / "dynamics").mkdir(parents=True)
    assert _line(status).rstrip().endswith("  0%")
    status.step, status.score = 30, 12.0
    assert _line(status).endswith(" 50%            12.0")
