"""Runs that train as a fleet: each as alone, in a folder of its own, which any other command takes for a run's."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from test_resume import SCORE, assert_equal_runs, environment, run, table
from test_scripts import FILES, write_hopper_file

from offlinerlkit_damo import load_policy
from offlinerlkit_damo.errors import Stopped, UserError
from offlinerlkit_damo.training import checkpoint, fleet_run
from offlinerlkit_damo.training.evaluation import _play
from offlinerlkit_damo.training.fleet import FleetRun
from offlinerlkit_damo.training.fleet_file import read_fleet
from offlinerlkit_damo.training.fleet_run import resumed_fleet, train_fleet
from offlinerlkit_damo.training.resume import resumed_config
from offlinerlkit_damo.training.run import train
from offlinerlkit_damo.training.stopping import StopRequest
from offlinerlkit_damo.training.trainer import DAMOTrainer

OPTIONS: dict[str, Any] = {
    "task": "hopper-medium-expert", "hidden_dims": [16], "classifier_hidden_dims": [16], "batch_size": 40, "epoch": 6, "step_per_epoch": 5,
    "eval_episodes": 1, "eval_every": 2, "checkpoint_every": 1, "dynamics_max_epochs": 1, "dynamics_hidden_dims": [16, 16],
    "dynamics_weight_decay": [1e-5, 1e-5, 1e-5], "dynamics_seed": 7, "rollout_batch_size": 50, "rollout_freq": 3, "actor_average": 7,
    "real_ratio": 0.5,
}  # fmt: skip
RUNS: list[dict[str, Any]] = [
    {"seed": 1, "rollout_length": 2},
    {"seed": 2, "name": "bold", "damo_alpha": 2.0, "rollout_length": 3, "actor_lr": 1e-3, "init_states": "episode_start"},
    {"seed": 3, "name": "other data", "data": "other.hdf5", "preset": "ompo", "discounted_starts": 0.0, "classifier_gradient_penalty": 0.0},
]  # fmt: skip


class Inline:
    """Evaluators that play in this process, but tell of it a few calls later."""

    patience = 3

    def __init__(self, workers: int) -> None:
        assert workers >= 1

    def submit(self, actor: Any, *rest: Any) -> Future[Any]:
        weights, patience = {name: value.detach().numpy().copy() for name, value in actor.items()}, self.patience

        class Late(Future):  # type: ignore[type-arg]
            asked = 0

            def done(self) -> bool:
                self.asked += 1
                return self.asked > patience

            def result(self, timeout: float | None = None) -> Any:
                return _play(weights, *rest)

        return Late()

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *error: Any) -> None:
        pass


class Steps(StopRequest):
    """Asks for a stop after so many steps."""

    left = 10**9

    def __call__(self) -> Stopped | None:
        Steps.left -= 1
        return Stopped("stopped by the test", code=0) if Steps.left == 0 else None


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the datasets lie and the dynamics model is kept, for all tests."""
    folder = tmp_path_factory.mktemp("cache")
    write_hopper_file(folder / "data.hdf5")
    write_hopper_file(folder / "other.hdf5", rows=300)
    return folder


@pytest.fixture
def fleet(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Reads a fleet of `RUNS` with other options, to log in a folder."""
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(cache / "store"))
    monkeypatch.setattr(fleet_run, "Evaluators", Inline)
    monkeypatch.setattr(fleet_run, "StopRequest", Steps)
    monkeypatch.chdir(cache)

    def read(logdir: Path, runs: Any = RUNS, **options: Any) -> dict[str, Any]:
        logdir.mkdir(exist_ok=True)
        file = logdir / "fleet.yaml"
        file.write_text(yaml.safe_dump({"options": {**OPTIONS, "data": "data.hdf5", "logdir": str(logdir), **options}, "runs": runs}))
        return read_fleet(file, {})

    return read


def folder_of(logdir: Path, seed: int) -> Path:
    (found,) = logdir.glob(f"*/*/seed_{seed}&*")
    return found


def stopped(configs: dict[str, Any], after: int, **resumed: Any) -> Path:
    """Train until a stop after so many steps; the fleet's record."""
    Steps.left = after
    with pytest.raises(Stopped, match=r"stopped by the test; --resume '?.*fleet_.*\.json'? continues it"):
        train_fleet(configs, **resumed)
    Steps.left = 10**9
    (record,) = Path(next(iter(configs.values())).logdir).glob("fleet_*.json")
    return record


def test_a_fleet_in_pieces_is_the_fleet_in_one(tmp_path: Path, fleet: Any) -> None:
    whole = train_fleet(fleet(tmp_path / "whole"))
    assert list(whole) == ["hopper-medium-expert seed 1", "bold", "other data"]
    record = stopped(fleet(tmp_path / "parts"), after=7)  # neither an epoch's end nor a rollout
    for seed in (1, 2, 3):
        assert list(table(folder_of(tmp_path / "parts", seed))["timestep"]) == [5]
    stopped(resumed_fleet(record, {})[0], after=13, record=record, folders=resumed_fleet(record, {})[1])  # an epoch's end, evaluated
    configs, folders = resumed_fleet(record, {})
    parts = train_fleet(configs, record=record, folders=folders)
    for name, seed in zip(whole, (1, 2, 3), strict=True):
        one, other = folder_of(tmp_path / "whole", seed), folder_of(tmp_path / "parts", seed)
        assert_equal_runs(one, other)
        assert whole[name]["last_10_performance"] == parts[name]["last_10_performance"]
        assert list(table(one)["timestep"]) == [5, 10, 15, 20, 25, 30] and list(table(one)[SCORE].notna()) == [False, True] * 3
        facts = json.loads((other / "run.json").read_text())
        assert len(facts["parts"]) == 3 and facts["parts"][-1]["exit"] == "finished" and "stopped" in facts["parts"][0]["exit"]
        assert facts["config"]["engine"] == "fast"
    with pytest.raises(UserError, match="has finished"):
        train_fleet(configs, record=record, folders=folders)


def test_the_averaged_actor_is_evaluated_and_saved(tmp_path: Path, fleet: Any) -> None:
    configs = fleet(tmp_path / "fleet", actor_lr=1e-2)
    train_fleet(configs)
    train(dataclasses.replace(configs["bold"], logdir=str(tmp_path / "alone")))
    for folder in (*(folder_of(tmp_path / "fleet", seed) for seed in (1, 2, 3)), folder_of(tmp_path / "alone", 2)):
        state = checkpoint.read(folder / "checkpoint" / "last.ckpt")["state"]
        last = {name: value for name, value in state["policy"]["weights"].items() if name.startswith("actor.")}
        for file in ("model/policy.pth", "checkpoint/policy.pth"):
            kept = torch.load(folder / file, weights_only=True)
            assert all(torch.equal(kept[name], mean) for name, mean in zip(last, state["average"]["mean"], strict=True))
            assert not any(torch.equal(kept[name], value) for name, value in last.items())


def test_a_run_does_not_depend_on_who_trains_beside_it(tmp_path: Path, fleet: Any) -> None:
    train_fleet(fleet(tmp_path / "a"))
    train_fleet(fleet(tmp_path / "b", runs=[RUNS[2], {**RUNS[0], "seed": 9}, RUNS[1]]))
    for seed in (2, 3):
        one, other = (folder_of(tmp_path / name, seed) for name in ("a", "b"))
        pd.testing.assert_frame_equal(table(one), table(other), rtol=1e-4, atol=1e-5)
        ours, theirs = (torch.load(folder / "model" / "policy.pth", weights_only=True) for folder in (one, other))
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-5, msg=name)
    first, second = (table(folder_of(tmp_path / "a", seed)) for seed in (1, 2))
    assert not np.allclose(first["loss/critic1"], second["loss/critic1"], rtol=1e-2)


def test_a_run_of_a_fleet_goes_on_alone(tmp_path: Path, fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(fleet(tmp_path), after=20)
    folder = folder_of(tmp_path, 2)
    policy = load_policy(folder)
    assert policy.task is not None and policy.select_action(np.zeros((4, 11))).shape == (4, 3)
    best = load_policy(folder / "checkpoint" / "best.ckpt")
    assert np.isfinite(best.select_action(np.zeros(11))).all()
    seen, step = set(), DAMOTrainer._step

    def watched(self: DAMOTrainer) -> None:
        seen.add(self.policy.diagnose_every)
        step(self)

    monkeypatch.setattr(DAMOTrainer, "_step", watched)
    results = train(resumed_config(folder, {}), resume=folder)
    assert seen == {5}  # as a run that was alone from the start
    assert list(table(folder)["timestep"]) == [5, 10, 15, 20, 25, 30] and len(results["evaluations"]["score"]) == 3
    again = train(resumed_config(folder, {"epoch": 7}), resume=folder / "checkpoint" / "best.ckpt", force=True)
    assert table(folder)["timestep"].iloc[-1] == 35 and table(folder)["loss/critic1"].notna().all() and again["folder"] == str(folder)


def test_the_graph_engine_is_a_fleet_of_one(tmp_path: Path, fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = fleet(tmp_path / "fleet")
    train_fleet(configs)
    config = dataclasses.replace(configs["bold"], engine="graph", logdir=str(tmp_path / "alone"))
    Steps.left = 8
    with pytest.raises(Stopped, match=r"stopped by the test; --resume '.*seed_2&timestamp_.*' continues it"):
        train(config)
    folder = folder_of(tmp_path / "alone", 2)
    train(resumed_config(folder, {}), resume=folder)
    other = folder_of(tmp_path / "fleet", 2)
    for name in ("model/policy.pth", "checkpoint/policy.pth", "checkpoint/last.ckpt", "checkpoint/best.ckpt"):
        sizes = [(path / name).stat().st_size for path in (folder, other)]
        assert abs(sizes[0] - sizes[1]) < 5000, name  # nothing of the other runs
    pd.testing.assert_frame_equal(table(folder), table(other), rtol=1e-4, atol=1e-5)
    assert (folder / "result" / "results.json").exists() and not list((tmp_path / "alone").glob("fleet_*.json"))
    with pytest.raises(UserError, match="has algo_name mopo, which a fleet does not have"):
        train(dataclasses.replace(config, algo_name="mopo"))


def test_a_run_that_fails_leaves_the_others_alone(
    tmp_path: Path, fleet: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_fleet(fleet(tmp_path / "well"))
    close = FleetRun._close_epoch

    def spoil(self: FleetRun) -> Any:
        if self.timestep == 15 and "seed_2" in self.logger.record_dir:
            with torch.no_grad():
                self.policy.critic1.last.weight.fill_(np.nan)
        return close(self)

    monkeypatch.setattr(FleetRun, "_close_epoch", spoil)
    with pytest.raises(UserError, match=r"1 of 3 runs failed \(bold\), the others are finished"):
        train_fleet(fleet(tmp_path / "ill"))
    assert "bold has failed and is out of the fleet: weight critic1" in capsys.readouterr().err
    for seed in (1, 3):
        assert_equal_runs(folder_of(tmp_path / "well", seed), folder_of(tmp_path / "ill", seed))
    failed = folder_of(tmp_path / "ill", 2)
    assert "non-finite at step 15" in json.loads((failed / "run.json").read_text())["parts"][0]["exit"]
    assert not (failed / "result" / "results.json").exists() and (failed / "checkpoint" / "last.ckpt").exists()
    (record,) = (tmp_path / "ill").glob("fleet_*.json")
    assert "bold" in json.loads(record.read_text())["failed"]
    assert set(resumed_fleet(record, {})[1]) == {"hopper-medium-expert seed 1", "other data"}


def test_who_fails_leaves_the_others_rates_and_its_own_evaluations_alone(
    tmp_path: Path, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two runs with one schedule fails while what its last two epochs reached is still being played."""

    class Slow(Inline):
        patience = 10**9

    monkeypatch.setattr(fleet_run, "Evaluators", Slow)
    options = {"runs": [{"seed": 1}, {"seed": 2}], "eval_every": 1, "checkpoint_every": 100}
    train_fleet(fleet(tmp_path / "well", **options))
    close = FleetRun._close_epoch

    def spoil(self: FleetRun) -> Any:
        if self.timestep == 15 and "seed_1" in self.logger.record_dir:
            with torch.no_grad():
                self.policy.actor.dist_net.mu.bias.fill_(np.nan)
        return close(self)

    monkeypatch.setattr(FleetRun, "_close_epoch", spoil)
    with pytest.raises(UserError, match=r"1 of 2 runs failed"):
        train_fleet(fleet(tmp_path / "ill", **options))
    assert_equal_runs(folder_of(tmp_path / "well", 2), folder_of(tmp_path / "ill", 2))
    failed, well = (table(folder_of(tmp_path / name, 1)) for name in ("ill", "well"))
    assert list(failed["timestep"]) == [5, 10, 15]
    pd.testing.assert_series_equal(failed[SCORE][:2], well[SCORE][:2])
    assert checkpoint.read(folder_of(tmp_path / "ill", 1) / "checkpoint" / "best.ckpt")["state"]["timestep"] in (5, 10)


def test_runs_at_different_steps_are_not_continued_together(tmp_path: Path, fleet: Any) -> None:
    record = stopped(fleet(tmp_path), after=4)
    folder = folder_of(tmp_path, 1)
    train(resumed_config(folder, {"max_minutes": None}), resume=folder)
    (folder / "result" / "results.json").unlink()
    configs, folders = resumed_fleet(record, {})
    with pytest.raises(UserError, match=r"the runs stand at different steps \(hopper-medium-expert seed 1: 30, bold: 4, other data: 4\)"):
        train_fleet(configs, record=record, folders=folders)


def test_the_command_with_its_workers(tmp_path: Path, cache: Path) -> None:
    content = {"options": {**OPTIONS, "data": "data.hdf5"}, "runs": RUNS[:2]}
    (tmp_path / "fleet.yaml").write_text(yaml.safe_dump(content))
    flags = ["--fleet", str(tmp_path / "fleet.yaml"), *shlex.split("--epoch 2 --step-per-epoch 3")]
    done = run(tmp_path / "log", cache, *flags)
    assert "epoch 2: hopper-medium-expert seed 1 " in done.stdout and "lr_scheduler" not in done.stderr
    assert done.stdout.count("normalised points; run folder: ") == 2
    for seed in (1, 2):
        folder = folder_of(tmp_path / "log", seed)
        assert all((folder / name).is_file() for name in FILES if "dynamics_training" not in name)
        # the worker plays what `evaluate` would
        episodes = pd.read_csv(folder / "record" / "evaluation_episodes.csv")
        assert len(episodes) == 1 and np.isfinite(episodes["score"]).all()
    assert environment(cache)["OFFLINERLKIT_DAMO_CACHE"] == str(cache)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"run": []}, "unknown part of a fleet 'run'; did you mean runs"),
        ({"options": {}}, "needs `runs`"),
        ({"runs": [{}], "seeds": 3}, "needs `runs`"),
        ({"runs": {"a": {}}}, "`runs` of the fleet .* is no list"),
        ({"tasks": "hopper-medium"}, "`tasks` of the fleet .* is no list of names"),
        ({"tasks": ["hopper-medium"], "seeds": "few"}, "seeds is 'few'; it must be a whole number"),
        ({"options": [], "tasks": ["hopper-medium"]}, "`options` of the fleet .* is no mapping"),
        ({"tasks": ["hopper-medium"], "seeds": 1}, "a fleet needs at least two runs"),
        ({"runs": [{"seed": 1}, {"seed": 1}]}, "two runs of the fleet .* are called 'hopper-medium-expert seed 1'"),
        ({"runs": [{"sed": 1}, {"seed": 2}]}, "unknown option 'sed'; did you mean seed"),
        ({"runs": [{"seed": 1}, {"seed": 2, "hidden_dims": [8]}]}, r"hidden_dims is \(256, 256\) in the run .* and \(8,\) in .*same"),
        ({"runs": [{"seed": 1}, {"seed": 2, "divergence": "chi2"}]}, "divergence is power in the run .* chi2"),
        ({"tasks": ["hopper-medium", "halfcheetah-medium"], "options": {"epoch": 1}}, "real_ratio is 0.5 in the run"),
        ({"seeds": 2, "tasks": ["hopper-medium"], "options": {"algo_name": "mopo"}}, "has algo_name mopo, which a fleet does not have"),
        ({"seeds": 2, "tasks": ["hopper-medium"], "options": {"absorbing": True}}, "has absorbing true, which a fleet does not have"),
        ({"seeds": 2, "tasks": ["hopper-medium"], "options": {"engine": "reference"}}, "has engine reference, which"),
        ({"seeds": 2, "tasks": ["hopper-medium"], "options": {"on_warning": "stop"}}, "has on_warning stop, which"),
    ],
)
def test_what_is_no_fleet_is_said_in_a_sentence(tmp_path: Path, content: Any, complaint: str) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=complaint):
        read_fleet(file, {})


def test_tasks_times_seeds_and_flags_over_all(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(yaml.safe_dump({"tasks": ["hopper-random", "hopper-medium"], "seeds": [4, 5], "options": {"epoch": 7}}))
    configs = read_fleet(file, {"epoch": "9"})
    assert list(configs) == [f"{task} seed {seed}" for task in ("hopper-random", "hopper-medium") for seed in (4, 5)]
    assert {config.epoch for config in configs.values()} == {9} and [config.seed for config in configs.values()] == [4, 5, 4, 5]


def test_sizes_that_differ_are_refused_before_anything_is_written(tmp_path: Path, fleet: Any, cache: Path) -> None:
    rng = np.random.default_rng(0)
    obss = rng.normal(size=(60, 17)).astype("f4")
    rows = {"actions": rng.uniform(-1, 1, (60, 6)).astype("f4"), "rewards": np.ones(60, "f4"), "terminals": np.zeros(60, bool)}
    rows["timeouts"] = np.arange(60) % 20 == 19
    np.savez(cache / "wide.npz", observations=obss, next_observations=obss, **rows)
    configs = fleet(tmp_path, runs=[RUNS[0], {"seed": 2, "task": "walker2d-medium-expert", "data": "wide.npz"}])
    with pytest.raises(UserError, match=r"sizes \(11, 3\), that of 'walker2d-medium-expert seed 2' \(17, 6\); .* must have the same"):
        train_fleet(configs)
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.yaml"]


def test_a_record_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    for name, complaint in (("x.json", "is not the record of a fleet"), ("y.json", "cannot read the fleet's record")):
        with pytest.raises(UserError, match=complaint):
            resumed_fleet(tmp_path / name, {})
