"""How long a run will take on this machine, measured on made-up data of its task's sizes."""

from __future__ import annotations

import dataclasses
import heapq
import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from offlinerlkit_damo.config import MODEL_BASED, Config
from offlinerlkit_damo.tasks import OfflineDataset, Task, config_task, is_here, make_env, resolve_dataset
from offlinerlkit_damo.tasks.dataset import assemble
from offlinerlkit_damo.tasks.task import TIME_LIMIT
from offlinerlkit_damo.training.bench_stages import NOTHING, Silence, made_up
from offlinerlkit_damo.training.dynamics import build_dynamics
from offlinerlkit_damo.training.run import make_trainer, set_up_torch
from offlinerlkit_damo.training.scaling import standardised
from offlinerlkit_damo.training.trainer import DAMOTrainer, run_episodes

MEASURED = 1.0  # seconds of steps
ROWS = 2000
UNKNOWN_SIZES = 17, 6  # of a simulator of the user's own


@dataclasses.dataclass(frozen=True)
class Data:
    """What of a run's dataset decides its time: rows, sizes of observations and actions, and by its fingerprint its stored models.

    `fingerprint` is None for data that does not lie here yet, whose number of rows is the one that is asked for or an assumption.
    """

    rows: int
    obs_dim: int
    action_dim: int
    fingerprint: str | None = None


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds of a run: of its model's training, what comes `before` its first step, and its steps with rollouts and evaluations."""

    dynamics: float
    before: float
    training: float


def run_data(config: Config) -> Data:
    """The dataset of a run, read where that takes no more than reading a file."""
    task = config_task(config)
    if not is_here(task, config.data, size=config.data_size, seed=config.data_seed):
        return Data(config.data_size, task.obs_dim or UNKNOWN_SIZES[0], task.action_dim or UNKNOWN_SIZES[1])
    dataset = resolve_dataset(task, config.data, size=config.data_size, seed=config.data_seed, progress=False)
    sizes = len(dataset.rewards), dataset.obs_dim, dataset.action_dim
    return Data(*sizes, (standardised(dataset)[0] if config.algo_name == "rambo" else dataset).fingerprint)


def estimate(config: Config, data: Data) -> Cost:
    """What a run of `config` will take; an evaluation's episodes are counted to their time limit."""
    set_up_torch(config)
    task = config_task(config)
    small = dataclasses.replace(config, rollout_batch_size=min(config.rollout_batch_size, 1000), checkpoint_every=0)
    dataset, scaler = _dataset(data.obs_dim, data.action_dim), None
    if config.algo_name == "rambo":
        dataset, scaler = standardised(dataset)
    dynamics, training, before, rollout, adversary = None, 0.0, 0.0, 0.0, 0.0
    if config.algo_name in MODEL_BASED:
        dynamics = build_dynamics(small, data.obs_dim, data.action_dim, scaler)
        columns = {key: value.reshape(len(value), -1) for key, value in dataset.transitions().items()}
        with _silence() as silence:
            start = time.perf_counter()
            dynamics.train(columns, silence, max_epochs=1)
            epochs = config.dynamics_max_epochs or 100  # by the host's rule it ends when it stops improving
            training = (time.perf_counter() - start) * data.rows / ROWS * epochs
    trainer = make_trainer(small, dataset, NOTHING, NOTHING, dynamics, scaler, fresh=False)
    if config.algo_name == "rambo":
        before = _cloning_epoch(trainer, config) * data.rows / ROWS * config.rambo.bc_epoch
        if config.rambo.dynamics_update_freq > 0:
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
    evaluations = _evaluation(trainer, task, config) * config.epoch / config.eval_every
    return Cost(training, before, (step + rollout + adversary) * config.epoch * config.step_per_epoch + evaluations)


def makespan(times: Sequence[float], at_once: int) -> float:
    """Seconds until all are done, begun in their order, each where there is a place first."""
    ends = [0.0] * at_once
    for seconds in times:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def _evaluation(trainer: DAMOTrainer, task: Task, config: Config) -> float:
    """Seconds of an evaluation whose episodes are as long as they may be."""
    if task.env_id is None:
        return 0.0
    with closing(make_env(task)) as env:
        run_episodes(trainer.policy, env, config.eval_episodes)  # the simulators are made then
        start = time.perf_counter()
        _, lengths = run_episodes(trainer.policy, env, config.eval_episodes)
        seconds = time.perf_counter() - start
    longest = TIME_LIMIT if task.robot else int(lengths.max())
    return seconds / float(lengths.sum()) * longest * config.eval_episodes


def _cloning_epoch(trainer: DAMOTrainer, config: Config) -> float:
    """Seconds of a pass of RAMBO's behaviour cloning over ROWS rows."""
    if config.rambo.bc_epoch == 0:
        return 0.0
    policy: Any = trainer.policy
    with _silence() as silence:
        start = time.perf_counter()
        policy.pretrain(trainer.real_buffer.sample_all(), 1, min(config.rambo.bc_batch_size, ROWS), config.rambo.bc_lr, silence)
        return time.perf_counter() - start


@contextmanager
def _silence() -> Iterator[Any]:
    # the kit also prints of its own
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        yield Silence(Path(folder))


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
