"""DAMOTrainer's loop, and DAMOPolicy under the host's own trainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from offlinerlkit_damo.config import resolve
from offlinerlkit_damo.damo.policy import DAMOPolicy
from offlinerlkit_damo.engine.buffer import DeviceReplayBuffer
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import Logger, MBPolicyTrainer, ReplayBuffer
from offlinerlkit_damo.training.dynamics import build_dynamics, seed_everything
from offlinerlkit_damo.training.guards import Guards
from offlinerlkit_damo.training.logs import OUTPUTS
from offlinerlkit_damo.training.policies import build_policy
from offlinerlkit_damo.training.trainer import DAMOTrainer, run_episodes

OBS, ACT, ROWS = 11, 3, 200


class FakeEnv:
    """A gym-style environment whose return depends on the seed and on the actions; records the seeds it was given."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def seed(self, seed: int) -> None:
        self.seeds.append(seed)
        self.rng = np.random.default_rng(seed)

    def reset(self) -> np.ndarray:
        if not hasattr(self, "rng"):
            self.seed(0)
        self.steps = 0
        return self.rng.normal(size=OBS).astype(np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        self.steps += 1
        return self.rng.normal(size=OBS).astype(np.float32), float(action.sum()), self.steps >= 3, {}

    def get_normalized_score(self, value: float) -> float:
        return (value + 20) / 100


def make(tmp_path: Path, trainer_class: type[MBPolicyTrainer], buffer_class: type[ReplayBuffer], algo: str = "damo", **extra: Any) -> Any:
    seed_everything(0)
    flags = {
        "algo_name": algo, "task": "hopper-medium-expert", "dynamics_hidden_dims": [8], "dynamics_weight_decay": [0, 0], "hidden_dims": [8],
        "step_per_epoch": 6, "engine": "fast" if algo == "damo" else "reference",
    }  # fmt: skip
    config = resolve(flags)
    dynamics = build_dynamics(config, OBS, ACT)
    policy, _ = build_policy(config, dynamics, OBS, ACT)
    rng = np.random.default_rng(0)
    real = buffer_class(ROWS, (OBS,), np.float32, ACT, np.float32, "cpu")
    data = {
        "observations": rng.normal(size=(ROWS, OBS)).astype(np.float32),
        "next_observations": rng.normal(size=(ROWS, OBS)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (ROWS, ACT)).astype(np.float32),
        "rewards": rng.normal(size=ROWS).astype(np.float32),
        "terminals": np.zeros(ROWS, np.float32),
    }
    real.load_dataset(data)
    dynamics.scaler.fit(np.concatenate([data["observations"], data["actions"]], 1))
    fake = buffer_class(100, (OBS,), np.float32, ACT, np.float32, "cpu")
    folder = tmp_path / "run"
    folder.mkdir()
    logger = Logger(str(folder), OUTPUTS)
    settings = {"rollout_setting": (4, 20, 2), "epoch": 3, "step_per_epoch": 6, "batch_size": 40, "eval_episodes": 2}
    return trainer_class(policy, FakeEnv(), real, fake, logger, **settings, **extra)


def progress(trainer: Any) -> pd.DataFrame:
    return pd.read_csv(Path(trainer.logger.record_dir) / "policy_training_progress.csv")


@pytest.mark.parametrize("trainer_class", [DAMOTrainer, MBPolicyTrainer])
@pytest.mark.parametrize("buffer_class", [DeviceReplayBuffer, ReplayBuffer])
def test_damo_trains_under_both_trainers_and_buffers(tmp_path: Path, trainer_class: Any, buffer_class: Any) -> None:
    trainer = make(tmp_path, trainer_class, buffer_class)
    before = {name: value.clone() for name, value in trainer.policy.state_dict().items()}
    result = trainer.train()
    table = progress(trainer)
    assert math.isfinite(result["last_10_performance"]) and list(table["timestep"]) == [6, 12, 18]
    assert table["damo/ell_fake"].notna().all() and table["loss/classifier"].notna().all()
    after = trainer.policy.state_dict()
    for part in ("actor", "critic1", "critic2", "critic1_old", "data_alignment.classifier.network"):
        assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith(part + ".")), part
    assert (Path(trainer.logger.model_dir) / "dynamics.pth").exists()


def test_mopo_trains_under_damo_trainer_without_damos_samples(tmp_path: Path) -> None:
    trainer = make(tmp_path, DAMOTrainer, DeviceReplayBuffer, algo="mopo")
    assert not isinstance(trainer.policy, DAMOPolicy)  # the reference engine: the host's own policy
    trainer._rollout()
    assert set(trainer.sample_batch()) == {"real", "fake"}
    trainer.train()
    assert len(progress(trainer)) == 3


def test_batches_and_classifier_schedule(tmp_path: Path) -> None:
    starts = np.full((5, OBS), 7.0, np.float32)
    trainer = make(tmp_path, DAMOTrainer, DeviceReplayBuffer, init_obss=starts, ratio_batch_size=30, init_batch_size=9)
    trainer._rollout()
    due = []
    for _ in range(6):
        batch = trainer.sample_batch()
        due.append(len(batch["classifier"]))
        assert len(batch["real"]["rewards"]) == 2 and len(batch["fake"]["rewards"]) == 38
        assert batch["init"].shape == (9, OBS) and (batch["init"] == 7).all()
        assert all(len(sample[kind]["rewards"]) == 30 for sample in batch["classifier"] for kind in ("real", "fake"))
        trainer.policy.learn(batch)
    assert due == [0, 1] * 3  # d = 0.5 updates per gradient step


def test_initial_states_default_to_dataset_states(tmp_path: Path) -> None:
    trainer = make(tmp_path, DAMOTrainer, DeviceReplayBuffer)
    trainer._rollout()
    known = {row.tobytes() for row in trainer.real_buffer.sample_all()["observations"]}
    assert all(row.numpy().tobytes() in known for row in trainer.sample_batch()["init"])


def test_evaluation_uses_the_same_seeds_each_time_and_every_nth_epoch(tmp_path: Path) -> None:
    trainer = make(tmp_path, DAMOTrainer, DeviceReplayBuffer, eval_every=2)
    trainer.train()
    table = progress(trainer)
    assert list(table["eval/normalized_episode_reward"].notna()) == [False, True, True]  # the last epoch always counts
    seeds = trainer.eval_env.seeds
    assert seeds[:2] == seeds[2:] and seeds[0] != seeds[1]


def test_scores_are_normalised_before_their_spread_is_taken(tmp_path: Path) -> None:
    trainer = make(tmp_path, DAMOTrainer, DeviceReplayBuffer)
    returns, _ = run_episodes(trainer.policy, trainer.eval_env, 2)
    trainer._log_scores()
    trainer.logger.set_timestep(1)
    trainer.logger.dumpkvs()
    row = progress(trainer).iloc[0]
    assert row["eval/normalized_episode_reward"] == pytest.approx((returns + 20).mean(), rel=1e-4)
    assert row["eval/normalized_episode_reward_std"] == pytest.approx(returns.std(), rel=1e-3)


def test_a_run_is_reproducible(tmp_path: Path) -> None:
    tables = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        trainer = make(tmp_path / name, DAMOTrainer, DeviceReplayBuffer)
        trainer.train()
        tables.append(progress(trainer).drop(columns="eval/seconds"))
    pd.testing.assert_frame_equal(*tables)


def test_nan_stops_the_run_with_figures_written_and_the_checkpoint_kept(tmp_path: Path) -> None:
    trainer = make(tmp_path, DAMOTrainer, DeviceReplayBuffer)
    learn, calls = trainer.policy.learn, 0

    def breaking(batch: Any) -> dict[str, float]:
        nonlocal calls
        calls += 1
        figures = learn(batch)
        return {**figures, "loss/critic1": math.nan} if calls == 8 else figures

    trainer.policy.learn = breaking
    with pytest.raises(UserError, match="loss/critic1 became non-finite at step 8"):
        trainer.train()
    table = progress(trainer)
    assert list(table["timestep"]) == [6, 8] and np.isnan(table["loss/critic1"].iloc[-1])
    saved = torch.load(Path(trainer.logger.checkpoint_dir) / "policy.pth", weights_only=True)
    assert all(torch.isfinite(value).all() for value in saved.values())


def test_spoilt_weights_never_reach_the_checkpoint(tmp_path: Path) -> None:
    """The last step of an epoch may spoil weights after its losses were computed."""
    trainer = make(tmp_path, DAMOTrainer, DeviceReplayBuffer)
    learn, calls = trainer.policy.learn, 0

    def spoiling(batch: Any) -> dict[str, float]:
        nonlocal calls
        calls += 1
        figures = learn(batch)
        if calls == 12:
            with torch.no_grad():
                next(trainer.policy.critic1.parameters()).fill_(math.nan)
        return figures

    trainer.policy.learn = spoiling
    with pytest.raises(UserError, match=r"weight critic1\..* non-finite at step 12; the last good checkpoint is .*policy\.pth"):
        trainer.train()
    saved = torch.load(Path(trainer.logger.checkpoint_dir) / "policy.pth", weights_only=True)
    assert all(torch.isfinite(value).all() for value in saved.values())


def test_findings_are_logged_kept_and_may_stop_the_run(tmp_path: Path) -> None:
    for name, stops in (("a", False), ("b", True)):
        (tmp_path / name).mkdir()
        trainer = make(tmp_path / name, DAMOTrainer, DeviceReplayBuffer)
        trainer.guards, trainer.stop_on_warning = Guards(largest_reward=1e-6, gamma=0.9), stops
        trainer.guards.load_state_dict({"exploding-q": 3})
        if stops:
            with pytest.raises(UserError, match="stopped at step 12: exploding-q: the mean Q"):
                trainer.train()
        else:
            trainer.train()
        assert [(warning["timestep"], warning["name"]) for warning in trainer.warnings] == [(12, "exploding-q")]
        assert "WARNING exploding-q: the mean Q" in (Path(trainer.logger.record_dir) / "consoleout_backup.txt").read_text()
        assert len(progress(trainer)) == (2 if stops else 3)


@pytest.mark.parametrize("buffer_class", [ReplayBuffer, DeviceReplayBuffer])
def test_the_value_of_the_data_is_the_critics_on_rows_all_over_it(buffer_class: type[ReplayBuffer], tmp_path: Path) -> None:
    """Whichever buffer holds them, and without drawing numbers that training would have drawn."""
    trainer = make(tmp_path, DAMOTrainer, buffer_class)
    rows = trainer.real_buffer.sample_all()
    size = len(rows["rewards"])
    index = [i * (size - 1) // 39 for i in range(40)]
    assert index[0] == 0 and index[-1] == size - 1 > 80
    with torch.no_grad():
        expected = float(trainer.policy.critic1(rows["observations"][index], rows["actions"][index]).mean())
    before = np.random.get_state()[2], torch.get_rng_state().sum()
    assert (trainer._q_of_data(), np.random.get_state()[2], torch.get_rng_state().sum())[1:] == before
    assert expected != pytest.approx(float(trainer.policy.critic1(np.zeros((1, OBS), "f4"), np.zeros((1, ACT), "f4")).detach()), rel=1e-3)
    assert trainer._q_of_data() == pytest.approx(expected, rel=1e-5)
