"""A run that is killed and continued ends as one that was not: weights, tables and figures, on either engine, for every algorithm."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_scripts import write_hopper_file

from offlinerlkit_damo import load_policy
from offlinerlkit_damo.compare.plan import plain
from offlinerlkit_damo.compare.rows import config_hash
from offlinerlkit_damo.config import resolve
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.training import checkpoint as storage
from offlinerlkit_damo.training.checkpoint import Checkpoints
from offlinerlkit_damo.training.logs import rewind
from offlinerlkit_damo.training.resume import changed_options
from offlinerlkit_damo.training.run_folder import is_finished, read_facts

ROOT = Path(__file__).parents[2]
SCORE = "eval/normalized_episode_reward"
SMALL = shlex.split(
    "--task hopper-medium-expert --hidden-dims 16 --batch-size 40 --epoch 6 --step-per-epoch 5 --eval-episodes 1 --eval-every 2 "
    "--checkpoint-every 1"
)
MODEL = shlex.split(
    "--dynamics-max-epochs 1 --dynamics-hidden-dims 16 16 --dynamics-weight-decay 1e-5 1e-5 1e-5 --dynamics-seed 7 "
    "--rollout-batch-size 50 --rollout-length 2 --rollout-freq 3"
)
ALGORITHMS = {
    "damo": MODEL,
    "damo reference": [*MODEL, "--engine", "reference"],
    "damo averaged, centred, absorbing": [*MODEL, *shlex.split("--actor-average 7 --ratio-centering true --absorbing true")],
    "damo paper": [*MODEL, "--preset", "paper"],
    "mopo": MODEL,
    "mopo reference": [*MODEL, "--engine", "reference"],
    "mobile": [*MODEL, "--data-alignment", "0.5"],
    "combo": [*MODEL, "--with-lagrange", "true"],
    "rambo": [*MODEL, *shlex.split("--bc-epoch 1 --bc-batch-size 32 --dynamics-update-freq 4 --adv-train-steps 2 --adv-batch-size 16")],
    "algaedice": [],
    "optidice": ["--optidice-warmup-steps", "12"],
    "odice": [],
}


def command(folder: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "offlinerlkit_damo", "train", *flags, "--logdir", str(folder)]


def environment(cache: Path) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "OFFLINERLKIT_DAMO_CACHE": str(cache), "PYTHONPATH": path}


def run(folder: Path, cache: Path, *flags: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(folder, *flags), env=environment(cache), cwd=cache, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done


def only_run(folder: Path) -> Path:
    (found,) = folder.glob("*/*/seed_*")
    return found


def table(run_folder: Path) -> pd.DataFrame:
    progress = pd.read_csv(run_folder / "record" / "policy_training_progress.csv").drop(columns="eval/seconds")
    return progress.reindex(columns=sorted(progress.columns))


def assert_equal_runs(first: Path, second: Path) -> None:
    pd.testing.assert_frame_equal(table(first), table(second), check_exact=True)
    ours, theirs = (torch.load(folder / "model" / "policy.pth", weights_only=True) for folder in (first, second))
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    episodes = [pd.read_csv(folder / "record" / "evaluation_episodes.csv") for folder in (first, second)]
    pd.testing.assert_frame_equal(*episodes, check_exact=True)
    assert (episodes[0].groupby("timestep")["score"].mean() - table(first).dropna().set_index("timestep")[SCORE]).abs().max() < 1e-9
    scores = [json.loads((folder / "result" / "results.json").read_text())["evaluations"] for folder in (first, second)]
    assert scores[0] == scores[1]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    write_hopper_file(folder / "tiny.hdf5", 200)
    return folder


class Killed(BaseException):
    """Stands in for a process that is gone at once."""


@contextmanager
def killed_after(steps: int) -> Iterator[None]:
    """The run within has its process killed once it has trained for so many steps in all."""
    from offlinerlkit_damo.training.trainer import DAMOTrainer

    step = DAMOTrainer._step

    def dying(self: DAMOTrainer) -> None:
        if self._timestep == steps:
            raise Killed
        step(self)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
        patched.setattr(DAMOTrainer, "_step", dying)
        yield


@pytest.mark.parametrize("name", ALGORITHMS)
def test_killed_and_continued_equals_undisturbed(name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies in the middle of an epoch, some steps after a checkpoint, with rows written since and one of them torn."""
    from offlinerlkit_damo.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(cache))
    flags = [*SMALL, *ALGORITHMS[name], "--algo", name.split()[0], "--data", str(cache / "tiny.hdf5")]
    main(["train", *flags, "--logdir", "whole"])

    with killed_after(23):
        main(["train", *flags, "--checkpoint-every", "3", "--logdir", "parts"])
    cut = only_run(tmp_path / "parts")
    with (cut / "record" / "policy_training_progress.csv").open("a") as file:
        file.write("0.5,0.25")
    assert len(table(cut)) == 5  # four epochs and the torn line, of which the checkpoint has three
    main(["train", "--resume", str(cut)])
    assert_equal_runs(only_run(tmp_path / "whole"), cut)
    parts = json.loads((cut / "run.json").read_text())["parts"]
    assert [part["exit"] for part in parts] == ["Killed()", "finished"]


def scalars(record: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(record / "tb"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_checkpoint_first_and_kill_9_loses_nothing(number: int, code: int, cache: Path, tmp_path: Path) -> None:
    flags = [*SMALL, *MODEL, "--data", str(cache / "tiny.hdf5"), "--epoch", "40", "--checkpoint-every", "10"]
    run(tmp_path / "whole", cache, *flags)
    whole = only_run(tmp_path / "whole")

    process = subprocess.Popen(command(tmp_path / "parts", *flags), env=environment(cache), cwd=cache, stderr=subprocess.PIPE, text=True)
    progress = tmp_path / "parts"
    wait_for(lambda: any(path.stat().st_size for path in progress.glob("*/*/*/record/policy_training_progress.csv")))
    process.send_signal(number)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == code, messages
    assert "Traceback" not in messages and f"stopped by {signal.Signals(number).name}; --resume " in messages
    cut = only_run(tmp_path / "parts")
    assert 0 < storage.read(cut / "checkpoint" / "last.ckpt")["state"]["timestep"] < 200

    rows = len(table(cut))
    process = subprocess.Popen(command(tmp_path / "ignored", "--resume", str(cut)), env=environment(cache), cwd=cache)
    wait_for(lambda: len(table(cut)) > rows + 1)
    process.kill()
    process.wait()
    run(tmp_path / "ignored", cache, "--resume", str(cut))
    assert_equal_runs(whole, cut)
    for tag in ("loss/actor", "eval/normalized_episode_reward"):
        expected, found = scalars(whole / "record", tag), scalars(cut / "record", tag)
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-5)


def test_a_budget_of_minutes_stops_with_a_checkpoint(cache: Path, tmp_path: Path) -> None:
    flags = [*SMALL, *MODEL, "--data", str(cache / "tiny.hdf5")]
    stopped = run(tmp_path / "parts", cache, *flags, "--max-minutes", "1e-6")
    cut = only_run(tmp_path / "parts")
    assert "--max-minutes; --resume " in stopped.stderr
    run(tmp_path / "whole", cache, *flags)
    run(tmp_path / "ignored", cache, "--resume", str(cut), "--max-minutes", "none")
    assert_equal_runs(only_run(tmp_path / "whole"), cut)


@pytest.fixture
def stopped(cache: Path, tmp_path: Path) -> Path:
    """A run that was stopped after its first step."""
    run(tmp_path / "log", cache, *SMALL, *MODEL, "--data", str(cache / "tiny.hdf5"), "--max-minutes", "1e-6")
    return only_run(tmp_path / "log")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.json"}


def test_changes_are_listed_and_need_force(stopped: Path, cache: Path) -> None:
    before = contents(stopped)
    refused = run(stopped, cache, "--resume", str(stopped), "--epoch", "7", "--gamma", "0.9", "--max-minutes", "none", code=2)
    assert "epoch: 6 -> 7; gamma: 0.99 -> 0.9" in refused.stderr and "--force" in refused.stderr and "Traceback" not in refused.stderr
    other = write_hopper_file(cache / "other.hdf5", 150)
    assert "dataset: " in run(stopped, cache, "--resume", str(stopped), "--data", str(other), code=2).stderr
    assert contents(stopped) == before
    run(stopped, cache, "--resume", str(stopped), "--epoch", "7", "--max-minutes", "none", "--force")
    assert len(table(stopped)) == 7
    assert "WARNING: continued with another epoch: 6 -> 7" in (stopped / "record" / "consoleout_backup.txt").read_text()


def test_an_option_younger_than_the_run_had_its_default() -> None:
    now = plain(resolve({"algo_name": "damo", "task": "hopper-medium", "gamma": 0.9, "hidden_dims": (8,)}))
    before = {name: value for name, value in now.items() if name not in ("gamma", "tau", "hidden_dims")}
    assert changed_options(before, now) == ["gamma: 0.99 -> 0.9", "hidden_dims: [256, 256] -> [8]"]
    assert changed_options({**now, "gone": 3}, now) == ["gone: 3 -> None"]


def test_an_option_of_another_algorithm_changes_nothing() -> None:
    mopo, odice = ({**plain(resolve({"task": "hopper-medium"})), "algo_name": name} for name in ("mopo", "odice"))
    other = {"odice_actor_weight": "residual"}
    assert changed_options({**mopo, **other}, mopo) == [] and config_hash({**mopo, **other}) == config_hash(mopo)
    assert changed_options({**odice, **other}, odice) == ["odice_actor_weight: residual -> ratio"]
    assert config_hash({**odice, **other}) != config_hash(odice) != config_hash(mopo)
    assert changed_options(mopo, odice) == ["algo_name: mopo -> odice"]
    assert config_hash({**mopo, "penalty_coef": 1.0}) != config_hash(mopo)


def test_another_model_needs_force_and_is_logged(stopped: Path, cache: Path) -> None:
    file = stopped / "checkpoint" / "dynamics" / "mu.npy"
    np.save(file, np.load(file) + 0.01)
    refused = run(stopped, cache, "--resume", str(stopped), "--max-minutes", "none", code=2)
    assert "this is not the run that was interrupted (dynamics: " in refused.stderr
    run(stopped, cache, "--resume", str(stopped), "--max-minutes", "none", "--force")
    assert (stopped / "record" / "consoleout_backup.txt").read_text().count("WARNING: continued with another dynamics: ") == 1


def test_damaged_and_foreign_checkpoints_are_refused(stopped: Path, cache: Path, tmp_path: Path) -> None:
    path = stopped / "checkpoint" / "last.ckpt"
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    torch.save({"state": {}}, tmp_path / "foreign")
    for bad in (bytes(flipped), good[:-10], b"", (tmp_path / "foreign").read_bytes()):
        path.write_bytes(bad)
        message = run(stopped, cache, "--resume", str(stopped), "--max-minutes", "none", code=2).stderr
        assert "last.ckpt" in message and len(message.strip().splitlines()) == 1
    path.write_bytes(good)
    run(stopped, cache, "--resume", str(stopped), "--max-minutes", "none")


def test_a_checkpoint_executes_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    storage.write({"state": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="cannot be read"):
        storage.read(tmp_path / "evil.ckpt")
    assert not (tmp_path / "owned").exists()


def test_no_run_folder_a_wrong_script_and_a_lone_force_are_errors(stopped: Path, cache: Path) -> None:
    assert "not a run folder" in run(stopped, cache, "--resume", str(cache), code=2).stderr
    assert "--force has no effect" in run(stopped, cache, "--force", code=2).stderr
    script = [sys.executable, str(ROOT / "run_example" / "run_mopo.py"), "--resume", str(stopped)]
    done = subprocess.run(script, env=environment(cache), capture_output=True, text=True)
    assert done.returncode == 2 and "is a run of damo" in done.stderr


def test_one_process_a_run(stopped: Path, cache: Path) -> None:
    process = subprocess.Popen(
        command(stopped, "--resume", str(stopped), "--epoch", "100000", "--force", "--max-minutes", "none"),
        env=environment(cache), cwd=cache, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        progress = stopped / "record" / "policy_training_progress.csv"
        wait_for(lambda: progress.exists() and progress.stat().st_size)
        assert "another process" in run(stopped, cache, "--resume", str(stopped), code=2).stderr
    finally:
        process.kill()
        process.wait()


def test_kept_checkpoints_stay_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    checkpoints = Checkpoints(tmp_path, {}, every=1, keep_every=2)
    for epoch in range(1, 6):
        assert checkpoints.due(epoch, best=False)
        checkpoints.save({"epoch": epoch}, epoch, best=epoch in (1, 3))
    states = {path.name: storage.read(path)["state"]["epoch"] for path in (tmp_path / "checkpoint").iterdir()}
    assert states == {"last.ckpt": 5, "epoch_2.ckpt": 2, "epoch_4.ckpt": 4, "best.ckpt": 3}
    assert not Checkpoints(tmp_path, {}, every=0, keep_every=0).due(1, best=True)
    rare = Checkpoints(tmp_path, {}, every=10, keep_every=0)
    assert rare.due(3, best=True) and rare.due(10, best=False) and not rare.due(3, best=False)


def test_the_best_evaluation_is_kept_across_parts(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores 3, 9, then a stop, then 5, 9, 1: the second evaluation is the best, and its policy can be evaluated from its checkpoint."""
    from offlinerlkit_damo.__main__ import main
    from offlinerlkit_damo.training.trainer import DAMOTrainer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(cache))
    scores, policies = [3.0, 9.0, 5.0, 9.0, 1.0], []

    def scripted(self: DAMOTrainer) -> float:
        score = scores[len(self.evaluations["score"])]
        for key, value in (("timestep", self._timestep), ("score", score), ("std", 0.0)):
            self.evaluations[key].append(value)
        self.logger.logkv("eval/normalized_episode_reward", score)
        self.logger.logkv("eval/normalized_episode_reward_std", 0.0)
        policies.append({name: value.clone() for name, value in self.policy.state_dict().items()})
        return score

    monkeypatch.setattr(DAMOTrainer, "_log_scores", scripted)
    flags = [*SMALL, *MODEL, "--epoch", "5", "--eval-every", "1", "--actor-average", "7", "--checkpoint-every", "10"]
    with killed_after(13):
        main(["train", *flags, "--data", str(cache / "tiny.hdf5"), "--logdir", "log"])
    cut = only_run(tmp_path / "log")
    main(["train", "--resume", str(cut)])
    assert len(policies) == 5  # the first part ended two steps after its best evaluation, and nothing was computed twice
    best = cut / "checkpoint" / "best.ckpt"
    assert storage.read(best)["state"]["timestep"] == 10
    obs = np.random.default_rng(0).normal(size=(4, 11)).astype(np.float32)
    second = tmp_path / "second.pth"
    torch.save(policies[1], second)
    np.testing.assert_array_equal(load_policy(best).select_action(obs), load_policy(second).select_action(obs))
    task = load_policy(best).task
    assert task is not None and task.name == "hopper-medium-expert"
    assert "a checkpoint of this run has" in (cut / "record" / "consoleout_backup.txt").read_text()


def test_rewinding_drops_late_torn_and_no_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "policy_training_progress.csv"
    path.write_text("a,timestep\n1,5\n2,10\n3,15\n4,2")
    rewind(tmp_path, 10, 0, has_model=True)
    assert path.read_text() == "a,timestep\n1,5\n2,10\n"
    assert scalars(tmp_path, "a") == [(5, 1.0), (10, 2.0)]
    rewind(tmp_path, 0, 0, has_model=False)
    assert not path.exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ("is full", "--resume")),
        (MemoryError("cannot allocate"), ("out of memory", "--rollout-batch-size 50")),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), ("out of memory", "--batch-size 40")),
    ],
)
def test_running_out_names_what_to_free_and_loses_nothing(
    error: Exception, words: tuple[str, ...], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from offlinerlkit_damo.__main__ import main
    from offlinerlkit_damo.training.trainer import DAMOTrainer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(cache))
    dump, dumped = DAMOTrainer._dump, []

    def failing(self: DAMOTrainer, *row: Any) -> None:
        dumped.append(self._timestep)
        if len(dumped) == 4:
            raise error
        dump(self, *row)

    monkeypatch.setattr(DAMOTrainer, "_dump", failing)
    with pytest.raises(UserError) as caught:
        main(["train", *SMALL, *MODEL, "--data", str(cache / "tiny.hdf5"), "--logdir", "log"])
    assert all(word in str(caught.value) for word in words)
    cut = only_run(tmp_path / "log")
    assert len(table(cut)) == 3
    assert words[0] in json.loads((cut / "run.json").read_text())["parts"][0]["exit"]
    main(["train", "--resume", str(cut)])
    assert len(table(cut)) == 6


def test_a_refused_resume_changes_nothing_at_all(stopped: Path, cache: Path) -> None:
    before = {**contents(stopped), "run.json": (stopped / "run.json").read_bytes()}
    refused = run(stopped, cache, "--resume", str(stopped), "--gamma", "0.9", "--max-minutes", "none", code=2)
    assert "gamma: 0.99 -> 0.9" in refused.stderr
    assert {**contents(stopped), "run.json": (stopped / "run.json").read_bytes()} == before
    run(stopped, cache, "--resume", str(stopped), "--max-minutes", "none")  # as it was


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--algo", "mobile", "--preset", "kit"], "it is of another algorithm"),
        (["--hidden-dims", "8"], "its sizes differ, (16, 11) and not (8, 11) in actor.backbone.model.0.weight"),
    ],
)
def test_a_forced_resume_that_does_not_fit_changes_nothing_either(flags: list[str], words: str, stopped: Path, cache: Path) -> None:
    files = ("run.json", "record/hyper_param.json", "record/policy_training_progress.csv")
    before = {**contents(stopped), **{name: (stopped / name).read_bytes() for name in files}}
    refused = run(stopped, cache, "--resume", str(stopped), *flags, "--force", "--max-minutes", "none", code=2)
    assert words in refused.stderr, refused.stderr
    assert {**contents(stopped), **{name: (stopped / name).read_bytes() for name in files}} == before
    run(stopped, cache, "--resume", str(stopped), "--max-minutes", "none")  # as it was


def test_a_forced_resume_may_begin_to_average_and_shrink_its_synthetic_data(stopped: Path, cache: Path) -> None:
    changed = ["--rollout-batch-size", "7", "--actor-average", "5", "--force", "--max-minutes", "none"]
    run(stopped, cache, "--resume", str(stopped), *changed)
    assert len(table(stopped)) == 6
    state = storage.read(stopped / "checkpoint" / "last.ckpt")["state"]
    assert len(state["fake_buffer"]["rows"]) <= 7 * 2 * 5 and state["average"]["updates"] > 0


def test_rambos_model_of_another_size_changes_nothing(cache: Path, tmp_path: Path) -> None:
    """Its model is what training made of it: nothing else has that."""
    flags = [*SMALL, *ALGORITHMS["rambo"], "--algo", "rambo", "--data", str(cache / "tiny.hdf5")]
    run(tmp_path / "log", cache, *flags)
    finished = only_run(tmp_path / "log")
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    other = ["--dynamics-hidden-dims", "8", "8", "--epoch", "8", "--force"]
    refused = run(finished, cache, "--resume", str(finished), *other, code=2)
    assert "does not fit this run's algorithm or sizes" in refused.stderr
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("direction", [("standin", "offlinerlkit"), ("offlinerlkit", "standin")])
@pytest.mark.parametrize("name", ["damo", "mopo", "mobile", "combo", "rambo", "odice"])
def test_a_run_goes_on_under_the_other_host(
    name: str, direction: tuple[str, str], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("offlinerlkit") is None:
        pytest.skip("OfflineRL-Kit is not importable")
    flags = [*SMALL, *ALGORITHMS[name], "--algo", name, "--data", str(cache / "tiny.hdf5"), "--epoch", "2"]
    monkeypatch.setenv("OFFLINERLKIT_DAMO_HOST", direction[0])
    run(tmp_path / "log", cache, *flags)
    begun = only_run(tmp_path / "log")
    monkeypatch.setenv("OFFLINERLKIT_DAMO_HOST", direction[1])
    assert "host: " in run(begun, cache, "--resume", str(begun), "--epoch", "4", code=2).stderr
    own = begun / "checkpoint" / "dynamics" / "facts.json"
    model = own.read_bytes() if own.exists() else None
    run(begun, cache, "--resume", str(begun), "--epoch", "4", "--force")
    assert len(table(begun)) == 4
    assert model == (own.read_bytes() if own.exists() else None)  # the run's model is not trained anew
    load_policy(begun)


def test_forced_options_count_and_a_longer_cosine_goes_on_falling(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from offlinerlkit_damo.__main__ import main
    from offlinerlkit_damo.training.trainer import DAMOTrainer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(cache))
    main(["train", *SMALL, *MODEL, "--data", str(cache / "tiny.hdf5"), "--logdir", "log"])
    finished = only_run(tmp_path / "log")
    seen: list[tuple[float, float, float, float, int]] = []
    step = DAMOTrainer._step

    def watching(self: DAMOTrainer) -> None:
        step(self)
        policy: Any = self.policy
        rates = [optim.param_groups[0]["lr"] for optim in (policy.actor_optim, policy.critic1_optim)]
        seen.append((*rates, policy._gamma, policy._tau, policy._steps))

    monkeypatch.setattr(DAMOTrainer, "_step", watching)
    changes = ["--epoch", "12", "--gamma", "0.5", "--tau", "0.25", "--critic-lr", "0.01", "--actor-lr", "0.02"]
    main(["train", "--resume", str(finished), *changes, "--force"])
    assert len(seen) == 30 and {entry[1:4] for entry in seen} == {(0.01, 0.5, 0.25)}
    assert [entry[4] for entry in seen] == list(range(31, 61))  # the counter went on
    rates = [entry[0] for entry in seen]
    assert rates[0] == pytest.approx(0.01) and rates == sorted(rates, reverse=True) and 0 < rates[-1] < 0.001
    with pytest.raises(UserError, match="has finished; --epoch N --force"):
        main(["train", "--resume", str(finished)])


def test_a_finished_run_that_is_to_be_longer_is_unfinished_until_it_is(cache: Path, tmp_path: Path) -> None:
    run(tmp_path / "log", cache, *SMALL, *MODEL, "--data", str(cache / "tiny.hdf5"))
    folder = only_run(tmp_path / "log")
    results = (folder / "result" / "results.json").read_bytes()
    longer = run(folder, cache, "--resume", str(folder), "--epoch", "9", "--force", "--max-minutes", "1e-6", code=0)
    assert "continues it" in longer.stderr and not is_finished(folder)
    assert (folder / "result" / "results_1.json").read_bytes() == results
    run(folder, cache, "--resume", str(folder), "--max-minutes", "none")
    assert is_finished(folder) and len(table(folder)) == 9
    parts = read_facts(folder)["parts"]
    assert [part["step"] for part in parts] == [0, 30, 31]
    assert [part.get("config", {}).get("epoch") for part in parts] == [6, None, None]


def test_a_learned_temperature_may_be_fixed_and_a_schedule_begun(cache: Path, tmp_path: Path) -> None:
    run(tmp_path / "log", cache, *SMALL, *MODEL, "--data", str(cache / "tiny.hdf5"), "--lr-schedule", "constant", "--actor-lr", "0.01")
    folder = only_run(tmp_path / "log")
    changed = ["--auto-alpha", "false", "--alpha", "0.25", "--lr-schedule", "cosine", "--epoch", "9", "--force"]
    run(folder, cache, "--resume", str(folder), *changed)
    state = storage.read(folder / "checkpoint" / "last.ckpt")["state"]
    assert state["policy"]["values"]["_alpha"] == 0.25
    assert state["lr_scheduler"]["last_epoch"] == 9 and state["lr_scheduler"]["_last_lr"] == [pytest.approx(0, abs=1e-9)]
    refused = run(folder, cache, "--resume", str(folder), "--penalty-coef", "3", "--force", code=2)
    assert "--penalty-coef has no effect with --algo damo" in refused.stderr


def test_an_earlier_checkpoint_can_be_gone_back_to(cache: Path, tmp_path: Path) -> None:
    flags = [*SMALL, *MODEL, "--data", str(cache / "tiny.hdf5"), "--keep-every", "2"]
    run(tmp_path / "log", cache, *flags)
    finished = only_run(tmp_path / "log")
    run(tmp_path / "again", cache, *flags)
    run(tmp_path / "ignored", cache, "--resume", str(finished / "checkpoint" / "epoch_4.ckpt"))
    assert_equal_runs(only_run(tmp_path / "again"), finished)
    copies = {(finished / "checkpoint" / name).stat().st_ino for name in ("last.ckpt", "best.ckpt", "epoch_4.ckpt", "epoch_2.ckpt")}
    assert len(copies) == 4  # writing into one changes no other


def test_going_back_sets_aside_what_came_after(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run goes back to its second epoch and dies before its next checkpoint: it goes on from there, with its own best."""
    from offlinerlkit_damo.__main__ import main
    from offlinerlkit_damo.training import trainer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(cache))
    scores = [5, 1, 1, 9, 1, 1, *[2, 3, 2, 2]]

    def scripted(policy: Any, env: Any, episodes: int) -> tuple[Any, Any]:
        value = env.ref_min_score + (env.ref_max_score - env.ref_min_score) * scores.pop(0) / 100
        return np.full(episodes, value), np.full(episodes, 7)

    monkeypatch.setattr(trainer, "run_episodes", scripted)
    flags = [*SMALL, *MODEL, "--data", str(cache / "tiny.hdf5"), "--eval-every", "1", "--keep-every", "1", "--checkpoint-every", "10"]
    main(["train", *flags, "--logdir", "log"])
    folder = only_run(tmp_path / "log")
    kept = folder / "checkpoint"
    with killed_after(13):
        main(["train", "--resume", str(kept / "epoch_2.ckpt")])

    def timestep(path: Path) -> int:
        return int(storage.read(path)["state"]["timestep"])

    assert not is_finished(folder) and timestep(kept / "last.ckpt") == 10
    assert {path.name for path in kept.glob("*.ckpt")} == {"last.ckpt", "epoch_1.ckpt", "epoch_2.ckpt"}
    after = {path.name: timestep(path) for path in (kept / "after_1").iterdir()}
    assert after == {"best.ckpt": 20, "epoch_3.ckpt": 15, "epoch_4.ckpt": 20, "epoch_5.ckpt": 25, "epoch_6.ckpt": 30, "last.ckpt": 30}
    text = (folder / "record" / "consoleout_backup.txt").read_text()
    assert "went back to epoch_2.ckpt; later checkpoints, best.ckpt, epoch_3.ckpt" in text
    main(["train", "--resume", str(folder)])
    assert list(table(folder)["timestep"]) == [5, 10, 15, 20, 25, 30]
    assert table(folder)[SCORE].round(6).tolist() == [5, 1, 2, 3, 2, 2]
    assert json.loads((folder / "result" / "results.json").read_text())["evaluations"]["timestep"] == [5, 10, 15, 20, 25, 30]
    assert not (kept / "best.ckpt").exists() and is_finished(folder)  # the best, its first evaluation, was not kept


def test_the_best_is_that_of_all_evaluations_or_none(cache: Path, tmp_path: Path) -> None:
    flags = [*SMALL, *MODEL, "--data", str(cache / "tiny.hdf5"), "--checkpoint-every", "0", "--keep-every", "4", "--eval-every", "1"]
    run(tmp_path / "log", cache, *flags)
    assert {path.name for path in (only_run(tmp_path / "log") / "checkpoint").glob("*.ckpt")} == {"last.ckpt", "epoch_4.ckpt"}


def test_a_run_killed_before_its_first_checkpoint_keeps_the_table_of_its_model(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from offlinerlkit_damo.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(tmp_path))
    with killed_after(0):
        main(["train", *SMALL, *MODEL, "--data", str(cache / "tiny.hdf5"), "--logdir", "log"])
    folder = only_run(tmp_path / "log")
    path = folder / "record" / "dynamics_training_progress.csv"
    rows = path.read_text()
    main(["train", "--resume", str(folder)])
    assert path.read_text() == rows and rows.count("\n") == 2
    assert scalars(folder / "record", "loss/dynamics_holdout_loss")


def test_a_finished_run_without_checkpoints_is_left_alone(cache: Path, tmp_path: Path) -> None:
    run(tmp_path / "log", cache, *SMALL, *MODEL, "--data", str(cache / "tiny.hdf5"), "--checkpoint-every", "0")
    finished = only_run(tmp_path / "log")
    before = contents(finished)
    assert "kept no checkpoint" in run(tmp_path, cache, "--resume", str(finished), code=2).stderr
    assert "gamma: 0.99 -> 0.9" in run(tmp_path, cache, "--resume", str(finished), "--gamma", "0.9", code=2).stderr
    assert contents(finished) == before


def test_a_seed_gives_one_model_whatever_was_drawn_before(cache: Path, tmp_path: Path) -> None:
    """Two processes, two empty caches: models, weights and tables are the same, to the bit."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        run(tmp_path / name / "log", tmp_path / name, *SMALL, *MODEL, "--data", str(cache / "tiny.hdf5"))
    runs = [only_run(tmp_path / name / "log") for name in ("first", "second")]
    assert_equal_runs(*runs)
    models = [torch.load(folder / "model" / "dynamics.pth", weights_only=True) for folder in runs]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_a_run_goes_on_when_its_model_has_left_the_store(cache: Path, tmp_path: Path, stopped: Path) -> None:
    run(tmp_path / "whole", cache, *SMALL, *MODEL, "--data", str(cache / "tiny.hdf5"))
    empty = tmp_path / "empty"
    empty.mkdir()
    table_of_model = stopped / "record" / "dynamics_training_progress.csv"
    rows = table_of_model.read_text() if table_of_model.exists() else ""
    run(tmp_path / "ignored", empty, "--resume", str(stopped), "--max-minutes", "none")
    assert not (empty / "dynamics").exists()
    assert_equal_runs(only_run(tmp_path / "whole"), stopped)
    assert (table_of_model.read_text() if table_of_model.exists() else "") == rows


def test_a_signal_before_the_first_step_says_so(cache: Path, tmp_path: Path) -> None:
    flags = [*SMALL, *MODEL, "--data", str(cache / "tiny.hdf5"), "--dynamics-max-epochs", "100000", "--dynamics-patience", "100000"]
    process = subprocess.Popen(command(tmp_path / "log", *flags), env=environment(cache), cwd=cache, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any(path.stat().st_size for path in tmp_path.glob("log/*/*/*/record/dynamics_training_progress.csv")))
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped by SIGTERM before the first step; --resume " in messages and "Traceback" not in messages
    assert "before the first step" in json.loads((only_run(tmp_path / "log") / "run.json").read_text())["parts"][0]["exit"]


def test_what_a_killed_writer_left_is_swept(stopped: Path, cache: Path) -> None:
    left = stopped / "checkpoint" / f".last.{'0' * 32}.ckpt"
    left.write_bytes(b"half")
    mine = stopped / ".notes"
    mine.write_text("kept")
    run(stopped, cache, "--resume", str(stopped), "--max-minutes", "none")
    assert not left.exists() and mine.exists()


@pytest.mark.parametrize("garbage", ["0.5,\0\0\0\0\n", "0.5,abc\n", "\0" * 50])
def test_garbage_at_the_end_of_a_table_is_torn(garbage: str, tmp_path: Path) -> None:
    path = tmp_path / "policy_training_progress.csv"
    path.write_text("a,timestep\n1,5\n2,10\n" + garbage)
    rewind(tmp_path, 10, 0, has_model=True)
    assert path.read_text() == "a,timestep\n1,5\n2,10\n"
