"""Trainer and logger: the calls they make and the files they leave."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offlinerlkit_damo.report.plot import draw_figures, run_names
from offlinerlkit_damo.report.results import read_evaluations, read_progress, run_folders

OBS, ACT = 3, 2
RUN = Path("run")


def train(build: Any, env: Any, policy: Any = None, folder: str = "run", **options: Any) -> tuple[Any, dict[str, float]]:
    policy = build.sac(dynamics=build.dynamics(penalty_coef=1.0)) if policy is None else policy
    settings = {"epoch": 2, "step_per_epoch": 4, "batch_size": 8, "real_ratio": 0.3, "eval_episodes": 2, **options}
    buffers = (build.buffer(50, rows=50), build.buffer(100))
    trainer = build.host.MBPolicyTrainer(policy, env, *buffers, build.logger(folder), (2, 5, 3), **settings)
    return trainer, trainer.train()


def rows_of(name: str) -> list[dict[str, str]]:
    with (RUN / "record" / name).open() as file:
        return list(csv.DictReader(file))


def test_attributes_a_subclass_may_use(build: Any, fake_env: Any) -> None:
    trainer, _ = train(build, fake_env)
    expected = {
        "_rollout_freq": 2,
        "_rollout_batch_size": 5,
        "_rollout_length": 3,
        "_dynamics_update_freq": 0,
        "_epoch": 2,
        "_step_per_epoch": 4,
        "_batch_size": 8,
        "_real_ratio": 0.3,
        "_eval_episodes": 2,
        "lr_scheduler": None,
    }
    assert {key: vars(trainer)[key] for key in expected} == expected
    objects = {"policy", "eval_env", "real_buffer", "fake_buffer", "logger"}
    assert set(vars(trainer)) == objects | set(expected)


def test_files_and_columns(build: Any, fake_env: Any) -> None:
    trainer, result = train(build, fake_env)
    assert sorted(os.listdir(RUN / "model")) == ["dynamics.pth", "mu.npy", "policy.pth", "std.npy"]
    assert os.listdir(RUN / "checkpoint") == ["policy.pth"]
    rows = rows_of("policy_training_progress.csv")
    assert sorted(rows[0]) == [
        "alpha",
        "eval/episode_length",
        "eval/episode_length_std",
        "eval/normalized_episode_reward",
        "eval/normalized_episode_reward_std",
        "loss/actor",
        "loss/alpha",
        "loss/critic1",
        "loss/critic2",
        "rollout_info/num_transitions",
        "rollout_info/reward_mean",
        "timestep",
    ]
    assert [row["timestep"] for row in rows] == ["4", "8"]
    assert [float(row["rollout_info/num_transitions"]) for row in rows] == [15, 15]
    assert list(result) == ["last_10_performance"]
    state = torch.load(RUN / "model" / "policy.pth")
    assert set(state) == set(trainer.policy.state_dict())
    assert all(torch.equal(state[key], value) for key, value in trainer.policy.state_dict().items())


def test_score(build: Any, fake_env: Any) -> None:
    """Returns 3 and 7.5: scores 80 and 125, lengths 2 and 3."""
    _, result = train(build, fake_env)
    for row in rows_of("policy_training_progress.csv"):
        assert float(row["eval/normalized_episode_reward"]) == pytest.approx(102.5)
        assert float(row["eval/episode_length"]) == 2.5
        assert float(row["eval/episode_length_std"]) == 0.5
    assert result["last_10_performance"] == pytest.approx(102.5)
    assert all(action.shape == (ACT,) for action in fake_env.actions)


def test_evaluation_is_deterministic_and_returns_raw_returns(build: Any, fake_env: Any) -> None:
    trainer, _ = train(build, fake_env)
    fake_env.actions.clear()
    fake_env.episode = 0
    assert trainer._evaluate() == {"eval/episode_reward": [3.0, 7.5], "eval/episode_length": [2, 3]}
    first = fake_env.actions[0]
    expected = trainer.policy.select_action(np.zeros((1, OBS), np.float32), deterministic=True)
    np.testing.assert_array_equal(first, expected.ravel())


class Scripted:
    """A policy that only records what the trainer asks of it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.dynamics = self
        self.weight = torch.zeros(1)

    def train(self) -> None:
        self.calls.append("train")

    def eval(self) -> None:
        self.calls.append("eval")

    def rollout(self, init_obss: Any, length: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        assert isinstance(init_obss, np.ndarray) and init_obss.shape == (5, OBS)
        self.calls.append("rollout")
        n = len(init_obss) * length
        widths = {"obss": OBS, "next_obss": OBS, "actions": ACT, "rewards": 1, "terminals": 1}
        return {key: np.zeros((n, w)) for key, w in widths.items()}, {"num_transitions": n, "reward_mean": 0.5, "x": 1}

    def learn(self, batch: dict[str, dict[str, torch.Tensor]]) -> dict[str, float]:
        sizes = [len(batch[part]["rewards"]) for part in ("real", "fake")]
        learned = sum(isinstance(call, tuple) for call in self.calls)
        self.calls.append(("learn", *sizes))
        return {"loss/z": float(learned)}

    def update_dynamics(self, buffer: Any) -> dict[str, float]:
        self.calls.append("update")
        assert hasattr(buffer, "sample")
        return {"adv": 2.0}

    def select_action(self, obs: np.ndarray, deterministic: bool = False) -> np.ndarray:
        assert obs.shape == (1, OBS) and deterministic
        return np.zeros((1, ACT))

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight}

    def save(self, folder: str) -> None:
        self.calls.append(f"save {folder}")


def test_order_of_calls(build: Any, fake_env: Any) -> None:
    policy = Scripted()
    train(build, fake_env, policy, dynamics_update_freq=4)
    learn = ("learn", 2, 6)  # int(8 * 0.3) recorded rows
    epoch = ["train", "rollout", learn, learn, "rollout", learn, learn, "update", "eval"]
    assert policy.calls == [*epoch, *epoch, f"save {RUN / 'model'}"]
    rows = rows_of("policy_training_progress.csv")
    assert [float(row["loss/z"]) for row in rows] == [1.5, 5.5]  # means over the epoch
    assert [float(row["adv"]) for row in rows] == [2.0, 2.0]
    assert [float(row["rollout_info/x"]) for row in rows] == [1.0, 1.0]


def test_scheduler_is_stepped_once_per_epoch(build: Any, fake_env: Any) -> None:
    policy = build.sac(dynamics=build.dynamics())
    scheduler = torch.optim.lr_scheduler.StepLR(policy.actor_optim, 1, 0.5)
    train(build, fake_env, policy, lr_scheduler=scheduler)
    assert policy.actor_optim.param_groups[0]["lr"] == pytest.approx(1e-2 / 4)


def test_only_the_last_ten_evaluations_count(build: Any, fake_env: Any) -> None:
    fake_env.get_normalized_score = lambda value: float(fake_env.episode)
    _, result = train(build, fake_env, Scripted(), epoch=12, step_per_epoch=1, eval_episodes=1)
    assert result["last_10_performance"] == pytest.approx(100 * np.mean(range(3, 13)))


def test_a_subclass_can_replace_the_evaluation(build: Any, fake_env: Any) -> None:
    class Trainer(build.host.MBPolicyTrainer):  # type: ignore[name-defined,misc]
        def _evaluate(self) -> dict[str, list[float]]:
            return {"eval/episode_reward": [5.0], "eval/episode_length": [7]}

    options = {"epoch": 1, "step_per_epoch": 1}
    buffers = (build.buffer(50, rows=50), build.buffer(100))
    trainer = Trainer(Scripted(), fake_env, *buffers, build.logger("run"), (1, 5, 1), **options)
    assert trainer.train()["last_10_performance"] == pytest.approx(100.0)
    assert rows_of("policy_training_progress.csv")[0]["eval/episode_length"] == "7.0"


def test_log_dirs(host: Any) -> None:
    path = host.make_log_dirs("hopper-medium-v2", "damo", 3, {"a": 2.5, "b": 1}, record_params=["a", "b"])
    parent, leaf = os.path.split(path)
    assert parent == os.path.join("log", "hopper-medium-v2", "damo&a=2.5&b=1")
    assert leaf.startswith("seed_3&timestamp_")
    assert os.path.isdir(path)
    plain = host.make_log_dirs("hopper-medium-v2", "damo", 3, {"a": 2.5})
    assert os.path.split(os.path.dirname(plain))[1] == "damo"


def test_logger_folders_and_hyperparameters(build: Any) -> None:
    logger = build.logger("run")
    names = ("record", "checkpoint", "model", "result")
    assert [getattr(logger, f"{name}_dir") for name in names] == [os.path.join("run", name) for name in names]
    assert all(os.path.isdir(os.path.join("run", name)) for name in names)
    settings = {"lr": 1e-4, "name": "x", "flag": True, "none": None, "list": [1, 2], "n": 3}
    logger.log_hyperparameters(dict(settings))
    logger.close()
    assert json.loads((RUN / "record" / "hyper_param.json").read_text()) == settings
    assert any("tfevents" in name for name in os.listdir(RUN / "record" / "tb"))


def test_our_plot_reads_a_run_of_either_host(build: Any, fake_env: Any) -> None:
    """Every row and column of the folder that the host's names, logger and trainer make; a figure, and the run's name in it."""
    folder = Path(build.host.make_log_dirs("hopper-medium-v2", "mopo", 3, {"a": 2.5}, record_params=["a"]))
    _, result = train(build, fake_env, folder=str(folder), epoch=3)
    assert run_folders([Path("log")]) == [folder]
    progress, evaluations = read_progress(folder), read_evaluations(folder)
    assert list(progress["timestep"]) == list(evaluations["timestep"]) == [4, 8, 12]
    assert progress.notna().all(axis=None) and {"loss/actor", "rollout_info/reward_mean"} <= set(progress)
    assert evaluations["score"].mean() == pytest.approx(result["last_10_performance"])
    keys = ["loss/actor", "loss/alpha", "loss/critic1", "loss/critic2"]
    assert draw_figures([folder], Path("x.png"), ["loss/*"]) == keys
    assert run_names([folder]) == ["mopo&a=2.5, seed 3"]


def test_the_kits_plotter_reads_a_run_of_either_host(build: Any, fake_env: Any, run_kit_script: Any) -> None:
    """Two seeds, which it finds by the folders' names and merges; the style that it asks for is gone from Matplotlib."""
    for seed in (1, 2):
        train(build, fake_env, folder=build.host.make_log_dirs("hopper-medium-v2", "mopo", seed, {}))
    flags = ["--root-dir", "log", "--task", "hopper-medium-v2", "--algos", "mopo", "--smooth", "0", "--output-path", "x.png"]
    run_kit_script("plotter.py", *flags, before="import matplotlib.pyplot; matplotlib.pyplot.style.use = print")
    with open("log/hopper-medium-v2/mopo/eval_normalized_episode_reward.csv") as file:
        merged = [[float(value) for value in row.values()] for row in csv.DictReader(file)]
    assert merged == [[4, pytest.approx(102.5), pytest.approx(0)], [8, pytest.approx(102.5), pytest.approx(0)]]
    assert Path("x.png").stat().st_size > 0


def test_rows_means_and_new_columns(build: Any) -> None:
    logger = build.logger("run")
    logger.set_timestep(5)
    logger.logkv("eval/x", 1.5)
    for value in (1, 3, 8):
        logger.logkv_mean("loss/m", value)
    logger.dumpkvs(exclude=["dynamics_training_progress"])
    logger.set_timestep(6)
    logger.logkv("new", 7)
    logger.logkv_mean("loss/m", 10)
    logger.dumpkvs(exclude=["dynamics_training_progress"])
    logger.close()
    text = (RUN / "record" / "policy_training_progress.csv").read_text()
    assert text == "eval/x,loss/m,timestep,new\n1.5,4.0,5,\n,10.0,6,7\n"
    assert (RUN / "record" / "dynamics_training_progress.csv").read_text() == ""
    console = (RUN / "record" / "consoleout_backup.txt").read_text()
    assert "| eval/x " in console and "| 1.5 " in console


def test_lines(build: Any, capsys: Any) -> None:
    logger = build.logger("run")
    logger.log("seen")
    logger.close()
    assert (RUN / "record" / "consoleout_backup.txt").read_text() == "seen\n"
    assert capsys.readouterr().out == "seen\n"
