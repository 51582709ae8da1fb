"""How long a run will take on this machine, measured on made-up data of its task's sizes."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offlinerlkit_damo.config import MODEL_BASED, Config
from offlinerlkit_damo.tasks import OfflineDataset, config_task
from offlinerlkit_damo.tasks.dataset import assemble
from offlinerlkit_damo.training.bench_stages import NOTHING, Silence, made_up
from offlinerlkit_damo.training.dynamics import build_dynamics
from offlinerlkit_damo.training.run import make_trainer, standardised
from offlinerlkit_damo.training.trainer import DAMOTrainer

MEASURED = 1.0  # seconds of steps
ROWS = 2000
UNKNOWN_SIZES = 17, 6  # of a simulator of the user's own


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds of a run: `training` of its steps and rollouts, without evaluations, and `dynamics` of its model's training."""

    training: float
    dynamics: float


def estimate(config: Config, transitions: int) -> Cost:
    """What a run of `config` on `transitions` rows will take."""
    torch.set_num_threads(config.threads)
    task = config_task(config)
    obs_dim, action_dim = task.obs_dim or UNKNOWN_SIZES[0], task.action_dim or UNKNOWN_SIZES[1]
    small = dataclasses.replace(config, rollout_batch_size=min(config.rollout_batch_size, 1000), checkpoint_every=0)
    dataset, scaler = _dataset(obs_dim, action_dim), None
    if config.algo_name == "rambo":
        dataset, scaler = standardised(dataset)
    dynamics, training, rollout, adversary = None, 0.0, 0.0, 0.0
    if config.algo_name in MODEL_BASED:
        dynamics = build_dynamics(small, obs_dim, action_dim, scaler)
        start = time.perf_counter()
        columns = {key: value.reshape(len(value), -1) for key, value in dataset.transitions().items()}
        with tempfile.TemporaryDirectory() as folder:
            silence: Any = Silence(Path(folder))
            dynamics.train(columns, silence, max_epochs=1)
        epochs = config.dynamics_max_epochs or 100  # by the host's rule it ends when it stops improving
        training = (time.perf_counter() - start) * transitions / ROWS * epochs
    trainer = make_trainer(small, dataset, NOTHING, NOTHING, dynamics, scaler, fresh=False)
    if config.algo_name == "rambo" and config.rambo.dynamics_update_freq > 0:
        adversary = _adversarial_step(trainer) * config.rambo.adv_train_steps / config.rambo.dynamics_update_freq
    if dynamics is not None:
        start = time.perf_counter()
        trainer._rollout()
        rollout = (time.perf_counter() - start) * config.rollout_batch_size / small.rollout_batch_size / config.rollout_freq
    trainer.policy.train()
    trainer.policy.learn(trainer.sample_batch())  # caches and allocator are warm then
    start, steps = time.perf_counter(), 0
    while steps < 2 or time.perf_counter() - start < MEASURED:
        trainer.policy.learn(trainer.sample_batch())
        steps += 1
    step = (time.perf_counter() - start) / steps
    return Cost((step + rollout + adversary) * config.epoch * config.step_per_epoch, training)


def _adversarial_step(trainer: DAMOTrainer) -> float:
    """Seconds of one step of RAMBO's model against its policy."""
    policy: Any = trainer.policy
    steps: int = 2 * policy._adv_rollout_length
    policy._adv_train_steps = steps
    start = time.perf_counter()
    policy.update_dynamics(trainer.real_buffer)
    return (time.perf_counter() - start) / steps


def _dataset(obs_dim: int, action_dim: int) -> OfflineDataset:
    columns = made_up(ROWS, obs_dim, action_dim)
    flat = {"rewards": columns["rewards"].reshape(-1), "terminals": columns["terminals"].reshape(-1) > 0}
    return assemble("made up", **{**columns, **flat}, timeouts=np.zeros(ROWS, bool))
