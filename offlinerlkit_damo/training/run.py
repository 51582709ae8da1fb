"""A whole run from a configuration: task, dynamics, policy, trainer, results."""

from __future__ import annotations

import dataclasses
import math
import platform
import subprocess
import time
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offlinerlkit_damo import __version__
from offlinerlkit_damo.config import MODEL_BASED, Config
from offlinerlkit_damo.engine.buffer import DeviceReplayBuffer
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import check_writable, save_json
from offlinerlkit_damo.kit import HOST, Logger, StandardScaler
from offlinerlkit_damo.tasks import OfflineDataset, SimulatorEnv, Task, get_task, make_env, resolve_dataset
from offlinerlkit_damo.training.dynamics import check_dynamics_folder, prepare_dynamics, seed_everything
from offlinerlkit_damo.training.policies import build_policy
from offlinerlkit_damo.training.starts import DiscountedStarts
from offlinerlkit_damo.training.trainer import DAMOTrainer

MIN_ROWS = 10
OUTPUTS = {
    "consoleout_backup": "stdout",
    "policy_training_progress": "csv",
    "dynamics_training_progress": "csv",
    "tb": "tensorboard",
}


def train(config: Config) -> dict[str, Any]:
    """Run `config` to its end; returns the content of result/results.json with "folder" added. Bad input raises UserError."""
    start = time.time()
    check_device(config.device)
    torch.set_num_threads(config.threads)
    task = get_task(config.task)
    # whatever can be found wrong is found before minutes of work, and before the run has a folder
    check_writable(run_parent(config), remedy="choose another folder with --logdir")
    dataset = resolve_dataset(task, config.data, size=config.data_size, seed=config.data_seed)
    if len(dataset.rewards) < MIN_ROWS:
        raise UserError(
            f"dataset {dataset.name} has {len(dataset.rewards)} transitions; training needs at least {MIN_ROWS}, a fifth is held out"
        )
    if config.algo_name == "rambo" and config.rambo.bc_epoch > 0 and len(dataset.rewards) < config.rambo.bc_batch_size:
        raise UserError(
            f"dataset {dataset.name} has {len(dataset.rewards)} transitions, fewer than a batch of behaviour cloning; "
            f"lower --bc-batch-size ({config.rambo.bc_batch_size}) or set --bc-epoch 0"
        )
    if config.load_dynamics_path is not None:
        check_dynamics_folder(Path(config.load_dynamics_path))
    with closing(make_env(task)) as env:
        return _train(config, task, dataset, env, start)


def _train(config: Config, task: Task, dataset: OfflineDataset, env: SimulatorEnv, start: float) -> dict[str, Any]:
    folder = make_run_folder(config)
    facts = run_facts(config, task, dataset)
    save_json(facts, folder / "run.json")
    logger = Logger(str(folder), OUTPUTS)
    logger.log_hyperparameters(config.flat())
    scaler = None
    if config.algo_name == "rambo":  # its networks and its model see standardised observations, the simulator does not
        dataset, scaler = standardised(dataset)
    dynamics, dynamics_facts = None, None
    if config.algo_name in MODEL_BASED:
        dynamics, dynamics_facts = prepare_dynamics(config, dataset, logger, scaler)
    seed_everything(config.seed)
    policy, scheduler = build_policy(config, dynamics, dataset.obs_dim, dataset.action_dim, dataset=dataset, scaler=scaler)
    real_buffer = _buffer(config, len(dataset.rewards), dataset)
    real_buffer.load_dataset(dataset.transitions())
    fake_size = config.rollout_batch_size * config.rollout_length * config.model_retain_epochs
    if config.algo_name == "rambo" and config.rambo.bc_epoch > 0:
        own = config.rambo
        policy.pretrain(real_buffer.sample_all(), own.bc_epoch, own.bc_batch_size, own.bc_lr, logger)
    trainer = DAMOTrainer(
        policy,
        env,
        real_buffer,
        _buffer(config, fake_size, dataset) if dynamics is not None else None,
        logger,
        rollout_setting=(config.rollout_freq, config.rollout_batch_size, config.rollout_length),
        epoch=config.epoch,
        step_per_epoch=config.step_per_epoch,
        batch_size=config.batch_size,
        real_ratio=config.real_ratio,
        eval_episodes=config.eval_episodes,
        lr_scheduler=scheduler,
        dynamics_update_freq=config.rambo.dynamics_update_freq if config.algo_name == "rambo" else 0,
        init_obss=dataset.episode_starts if _wants_episode_starts(config) else None,
        eval_every=config.eval_every,
        actor_average=config.actor_average,
        rollout_starts=_rollout_starts(config, dataset),
    )
    performance = trainer.train()
    results = {
        **facts,
        **performance,
        "dynamics": dynamics_facts,
        "seconds": round(time.time() - start, 1),
        "evaluations": trainer.evaluations,
    }
    save_json(results, folder / "result" / "results.json")
    return {**results, "folder": str(folder)}


def check_device(name: str) -> torch.device:
    """The torch device called `name`, or a UserError if it is unknown or not there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or not 0 <= (device.index or 0) < torch.cuda.device_count()):
        raise UserError(f"device {name!r} asked for, but torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}; use cpu, cuda or cuda:N")
    return device


def standardised(dataset: OfflineDataset, eps: float = 1e-3) -> tuple[OfflineDataset, StandardScaler]:
    """The dataset with observations (x - mean) / (std + eps) of its own statistics, as the host's `normalize_obs`, and their scaler."""
    mean, std = dataset.observations.mean(0, keepdims=True), dataset.observations.std(0, keepdims=True) + eps
    columns = {name: (getattr(dataset, name) - mean) / std for name in ("observations", "next_observations", "episode_starts")}
    scaler = StandardScaler(mean, std)
    return dataclasses.replace(dataset, **columns), scaler


def _rollout_starts(config: Config, dataset: OfflineDataset) -> DiscountedStarts | None:
    if config.discounted_starts == 0:
        return None
    return DiscountedStarts(dataset.observations, dataset.steps, gamma=config.gamma, share=config.discounted_starts)


def _wants_episode_starts(config: Config) -> bool:
    # AlgaeDICE and OptiDICE take them, ODICE's practical loss takes any dataset state, for DAMO it is an option
    if config.algo_name in MODEL_BASED:
        return config.damo.init_states == "episode_start"
    return config.algo_name != "odice"


def _buffer(config: Config, size: int, dataset: OfflineDataset) -> DeviceReplayBuffer:
    return DeviceReplayBuffer(size, (dataset.obs_dim,), np.float32, dataset.action_dim, np.float32, config.device)


def run_parent(config: Config) -> Path:
    """The folder that holds the runs of one task and algorithm."""
    return Path(config.logdir) / config.task / config.algo_name


def make_run_folder(config: Config) -> Path:
    """A new folder log/<task>/<algo>/seed_S&timestamp_.../ in the host's layout; a counter keeps simultaneous starts apart."""
    parent = run_parent(config)
    name = f"seed_{config.seed}&timestamp_{time.strftime('%y-%m%d-%H%M%S')}"
    for attempt in count():
        folder = parent / (f"{name}.{attempt}" if attempt else name)
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError  # count() does not end


def run_facts(config: Config, task: Task, dataset: OfflineDataset) -> dict[str, Any]:
    """What is needed to read, or to repeat, a result: configuration, data, host, versions and commit."""
    mean_return = dataset.mean_return if math.isfinite(dataset.mean_return) else None  # no finished episode, no mean
    span = task.ref_max_score - task.ref_min_score
    return {
        "config": config.flat(),
        "task": dataclasses.asdict(task),
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "transitions": len(dataset.rewards),
            "rows_in": dataset.report.rows_in,
            "rows_dropped": dataset.report.dropped,
            "mean_return": mean_return,
            "mean_score": None if mean_return is None else 100 * (mean_return - task.ref_min_score) / span,
            "generated": config.data is None,
        },
        "host": dataclasses.asdict(HOST),
        "versions": {
            "offlinerlkit_damo": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit of the checkout that this package is imported from; None for an installed package."""
    source = Path(__file__).resolve().parents[2]
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
