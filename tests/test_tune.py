"""run_example/tune_damo.py with a tiny budget: a sweep, its table, and the plan in which the best trial is to prove itself."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from test_scripts import SCRIPTS, run_script

from offlinerlkit_damo.compare.plan import jobs, plain, read_plan
from offlinerlkit_damo.config import resolve
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.flags import Parser, add_config_flags, parse_config

pytest.importorskip("ray.tune")

FLAGS = shlex.split(
    "--task hopper-random --data-size 300 --hidden-dims 16 --batch-size 40 --epoch 3 --step-per-epoch 10 --eval-episodes 1 "
    "--checkpoint-every 1 --dynamics-max-epochs 1 --dynamics-hidden-dims 16 16 --dynamics-weight-decay 0 0 0 "
    "--rollout-batch-size 50 --seed 3"
)


def test_a_sweep_ranks_its_trials_and_says_how_to_evaluate_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = tmp_path / "places"
    places.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # its sockets' paths must be short
    monkeypatch.setenv("TMPDIR", str(places))
    process = run_script("tune_damo.py", tmp_path, *FLAGS, "--trials", "2")
    assert process.returncode == 0, process.stdout + process.stderr
    line = r"^ *(-?[\d.]+) +([123]) +([\d.]+) +(?:1|3|5|10) +\d\.\d+e-\d+(  stopped early)?$"
    table = re.findall(line, process.stdout, re.MULTILINE)
    assert "3" in {epochs for _, epochs, *_ in table} and all((epochs == "3") != bool(early) for _, epochs, _, early in table)
    assert len(table) == 2 and float(table[0][0]) >= float(table[1][0])
    assert "it is no evaluation" in process.stdout and "compare --plan tune/plan.yaml" in process.stdout
    every = jobs(read_plan(tmp_path / "tune" / "plan.yaml"), tmp_path / "comparison")
    assert {(job.label, job.config.seed) for job in every} == {(label, seed) for label in ("damo", "tuned") for seed in (4, 5, 6, 7)}
    (alpha,) = {job.config.damo.damo_alpha for job in every if job.label == "tuned"}
    assert f"{alpha:.3f}" == table[0][2] and all(job.config.epoch == 3 for job in every)

    assert not list(places.glob("tune-damo-*"))  # whether a trial came to its end or not

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="has other options; name another folder"):
        runpy.run_path(str(SCRIPTS / "tune_damo.py"))["main"]([*FLAGS, "--trials", "2", "--gamma", "0.9"])


def test_a_sweep_in_the_users_own_simulator_ends_in_its_runs(tmp_path: Path) -> None:
    script = runpy.run_path(str(SCRIPTS / "tune_damo.py"))
    given = {"data": "own.npz", "env": "Pendulum-v1", "epoch": 7}
    best = {"damo_alpha": 0.25, "rollout_length": 3, "actor_lr": 1e-3}
    config = resolve({**given, "seed": 3})
    first, second = script["evaluation"](config, given, best, [4, 5], tmp_path).splitlines()
    parser = Parser()
    add_config_flags(parser, "damo")
    for line, seed in ((first, 4), (second, 5)):
        *command, train = shlex.split(line)[:4]
        assert command == ["python", "-m", "offlinerlkit_damo"] and train == "train"
        assert parse_config(parser.parse_args(shlex.split(line)[4:]), algo_name="damo") == resolve({**given, **best, "seed": seed})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--actor-lr 1e-4", "actor_lr is searched for"),
        ("--resume somewhere", "continued by the command that began it"),
        ("--trials 0", "must be positive"),
        ("--no-eval true", "compares evaluations"),
    ],
)
def test_what_a_sweep_cannot_take_is_one_sentence(flags: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        runpy.run_path(str(SCRIPTS / "tune_damo.py"))["main"](shlex.split(flags))


def test_the_help_has_no_flag_that_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPTS / "tune_damo.py"))["main"](["--help"])
    shown = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    refused = {"--damo-alpha", "--rollout-length", "--actor-lr", "--resume", "--force", "--no-eval"}
    assert {"--critic-lr", "--config", "--epoch", "--trials"} < shown and not refused & shown


def test_a_killed_trial_goes_on_from_its_last_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray kills within a report; the next call has the folder that was reported last, and reports what comes after it."""
    script = runpy.run_path(str(SCRIPTS / "tune_damo.py"))
    trial, tune = script["trial"], script["tune"]
    monkeypatch.setitem(trial.__globals__, "INTERVAL", 0.2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SCRIPTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]))
    saved, epochs = tmp_path / "saved", []

    def report(metrics: dict[str, float], checkpoint: Any) -> None:
        epochs.append(metrics["epoch"])
        if checkpoint is not None:
            first = not saved.exists()
            shutil.rmtree(saved, ignore_errors=True)
            shutil.copytree(checkpoint.path, saved)
            if first:
                raise KeyboardInterrupt

    monkeypatch.setattr(tune, "report", report)
    monkeypatch.setattr(tune, "get_checkpoint", lambda: tune.Checkpoint.from_directory(str(saved)) if saved.exists() else None)
    parser = Parser()
    add_config_flags(parser, "damo")
    shared = plain(parse_config(parser.parse_args([*FLAGS, "--epoch", "40"]), algo_name="damo"))
    drawn = {"damo_alpha": 1.5, "rollout_length": 1, "actor_lr": 1e-4}
    with pytest.raises(KeyboardInterrupt):
        trial(drawn, shared, "tune-damo-")
    assert 0 < len(epochs) < 40
    trial(drawn, shared, "tune-damo-")
    assert epochs == list(range(1, 41))
    (saved / "result").mkdir(exist_ok=True)
    (saved / "result" / "results.json").write_text("{}")
    trial(drawn, shared, "tune-damo-")
    assert len(epochs) == 40 and not list(tmp_path.glob("tune-damo-*"))
