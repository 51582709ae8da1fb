"""run_example/tune_damo.py with a tiny budget: a sweep, its table, and the plan in which the best trial is to prove itself."""

from __future__ import annotations

import re
import runpy
import shlex
import tempfile
from pathlib import Path

import pytest
from test_scripts import SCRIPTS, run_script

from offlinerlkit_damo.compare.plan import jobs, read_plan
from offlinerlkit_damo.errors import UserError

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
