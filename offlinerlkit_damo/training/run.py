"""A whole run from a configuration: task, dynamics, policy, trainer, results."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offlinerlkit_damo.config import MODEL_BASED, Config
from offlinerlkit_damo.engine.buffer import DeviceReplayBuffer
from offlinerlkit_damo.engine.dynamics import RoutedDynamics
from offlinerlkit_damo.errors import Stopped, UserError
from offlinerlkit_damo.files import check_writable, save_json
from offlinerlkit_damo.kit import Logger, RunLogger, StandardScaler
from offlinerlkit_damo.tasks import OfflineDataset, SimulatorEnv, Task, config_task, make_d4rl_env, make_env, resolve_dataset
from offlinerlkit_damo.tasks.task import MINARI
from offlinerlkit_damo.tasks.termination import unruled_ends
from offlinerlkit_damo.training.checkpoint import Checkpoints, go_back
from offlinerlkit_damo.training.doubts import doubts
from offlinerlkit_damo.training.dynamics import (
    build_dynamics,
    check_dynamics_folder,
    dynamics_digest,
    own_facts,
    prepare_dynamics,
    seed_everything,
    with_expected_successors,
)
from offlinerlkit_damo.training.guards import Guards
from offlinerlkit_damo.training.logs import OUTPUTS, rewind
from offlinerlkit_damo.training.policies import build_policy
from offlinerlkit_damo.training.resume import changed_options, check_unchanged, identity, open_run, resume_point
from offlinerlkit_damo.training.run_folder import (
    RESULTS,
    locked,
    make_run_folder,
    read_facts,
    recorded,
    run_facts,
    run_parent,
    unfinish,
)
from offlinerlkit_damo.training.scaling import standardised
from offlinerlkit_damo.training.starts import DiscountedStarts
from offlinerlkit_damo.training.state import check_weights, restore_policy
from offlinerlkit_damo.training.stopping import StopRequest
from offlinerlkit_damo.training.trainer import DAMOTrainer

MIN_ROWS = 10
OTHER_LOGDIR = "choose another folder with --logdir"
FULL_DISK = ("PytorchStreamWriter failed", "unexpected pos")
"""What torch says, where it writes a file itself, as the kit has it do."""


def train(config: Config, *, resume: Path | None = None, force: bool = False) -> dict[str, Any]:
    """Run `config` to its end; returns the content of result/results.json with "folder" added. Bad input raises UserError.

    `config` is taken as it is: `offlinerlkit_damo.resolve({"algo_name": "mopo", "task": ...})` makes one with the values of the algorithm's
    preset for the task, among them whether it has DAMO's terms; those of a bare `Config` are DAMO's.

    With `resume`, a run's folder, that run is continued from its last checkpoint, on the CPU bit for bit as if it had not been interrupted;
    `config` is then `resume.resumed_config`'s. Anything else that has changed since is a UserError unless `force`. Raises Stopped for a run
    that a signal or `max_minutes` ended, after a checkpoint.
    """
    if config.engine == "graph":
        # that module imports this one
        from offlinerlkit_damo.training.fleet_run import train_alone

        return train_alone(config, resume=resume, force=force)
    stop = StopRequest(config.max_minutes)
    config = with_absolute_paths(config)  # it may be continued from another folder
    set_up_torch(config)
    task = config_task(config)
    # whatever can be found wrong is found before minutes of work, and before the run has a folder
    if resume is None:
        check_writable(run_parent(config), remedy=OTHER_LOGDIR)
    dataset = usable_dataset(config, task)
    with (
        simulator(config, task, dataset) as env,
        open_run_folder(config, task, dataset, resume=resume, force=force) as run,
        stop,
        continuable(run.folder),
    ):
        trainer = prepare(run, env)
        restore(run, trainer, force=force)
        stop.gentle, trainer.stop = True, stop
        return write_results(run, trainer, trainer.train())


@dataclasses.dataclass
class Run:
    """A run with its folder, locked: `checkpoint` is what it goes on from, None at its start, and `changes` what is not as it was then."""

    config: Config
    dataset: OfflineDataset
    folder: Path
    facts: dict[str, Any]
    checkpoint: dict[str, Any] | None
    point: Path  # the checkpoint's file
    changes: list[str]
    about: dict[str, Any]  # its identity, for checkpoints
    dynamics_facts: dict[str, Any] | None = None

    @property
    def aside(self) -> Path:
        """Where the checkpoints go that lie after the one that this part of the run goes back to: after_N, N parts being before it."""
        return self.folder / "checkpoint" / f"after_{len(self.facts['parts']) - 1}"


def usable_dataset(config: Config, task: Task) -> OfflineDataset:
    """The run's dataset. Raises UserError for one that is too small, and for dynamics that are not there."""
    with _explained(config, run_parent(config)):
        dataset = resolve_dataset(task, config.data, size=config.data_size, seed=config.data_seed)
    rows = int(dataset.has_successor.sum())
    if rows < MIN_ROWS:
        raise UserError(
            f"dataset {dataset.name} has {rows} transitions whose next observation is known; training needs at least {MIN_ROWS}, "
            "a fifth is held out"
        )
    if config.algo_name == "rambo" and config.rambo.bc_epoch > 0 and len(dataset.rewards) < config.rambo.bc_batch_size:
        raise UserError(
            f"dataset {dataset.name} has {len(dataset.rewards)} transitions, fewer than a batch of behaviour cloning; "
            f"lower --bc-batch-size ({config.rambo.bc_batch_size}) or set --bc-epoch 0"
        )
    if config.algo_name in MODEL_BASED and config.damo.absorbing and unruled_ends(task, dataset):
        raise UserError(
            f"no rule is known by which the states of {config.task} end an episode, so rollouts of the model never do, and --absorbing "
            "would pay for every recorded end; use --absorbing false"
        )
    if config.load_dynamics_path is not None:
        check_dynamics_folder(Path(config.load_dynamics_path))
    return dataset


@contextmanager
def open_run_folder(config: Config, task: Task, dataset: OfflineDataset, *, resume: Path | None, force: bool) -> Iterator[Run]:
    """A new run folder, or that of the run to `resume`, locked; when and why this part of the run ended is noted there."""
    facts = run_facts(config, task, dataset)
    folder, point = resume_point(make_run_folder(config) if resume is None else resume)
    with locked(folder):
        checkpoint: dict[str, Any] | None = None
        changes: list[str] = []
        if resume is not None:
            checkpoint, changes = open_run(resume, facts, force=force)
            if checkpoint is not None and changes:
                _check_fit(config, dataset, checkpoint["state"], folder)
            before = read_facts(folder)
            facts["parts"] = before.get("parts", [])
            if changed_options(before["config"], json.loads(json.dumps(facts["config"]))):
                for part in facts["parts"]:
                    part.setdefault("config", before["config"])  # what it ran with, which is not the run's any more
        about = {
            "step": checkpoint["state"]["timestep"] if checkpoint else 0,
            "commit": facts["commit"],
            "host": facts["host"]["name"],
            "dataset": facts["dataset"]["fingerprint"],
        }
        with recorded(folder, facts, **about), _explained(config, folder):
            yield Run(config, dataset, folder, facts, checkpoint, point, changes, identity(facts))


def _check_fit(config: Config, dataset: OfflineDataset, state: dict[str, Any], folder: Path) -> None:
    """Raise UserError unless what these options build takes the checkpoint's state, before anything in the folder is touched."""
    dynamics = build_dynamics(config, dataset.obs_dim, dataset.action_dim) if config.algo_name in MODEL_BASED else None
    policy, _ = build_policy(config, dynamics, dataset.obs_dim, dataset.action_dim, dataset=dataset)
    with _fitting(folder):
        restore_policy(policy, state["policy"])
        if "dynamics" in state and dynamics is not None:  # RAMBO's, which changes
            check_weights(dynamics.model, state["dynamics"])


@contextmanager
def _fitting(folder: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the checkpoint in {str(folder)!r} does not fit this run's algorithm or sizes ({reason})") from error


@contextmanager
def continuable(folder: Path) -> Iterator[None]:
    """Adds to the reason of a stop how the run goes on."""
    try:
        yield
    except Stopped as reason:
        raise Stopped(f"{reason}; --resume {shlex.quote(str(folder))} continues it", code=reason.code) from None


def with_absolute_paths(config: Config) -> Config:
    """The same run for a process in any folder."""
    given = {name: getattr(config, name) for name in ("data", "load_dynamics_path")}
    paths = {name: path for name, path in given.items() if path is not None and not path.startswith(MINARI)}
    return dataclasses.replace(config, **{name: os.path.abspath(os.path.expanduser(path)) for name, path in paths.items()})


@contextmanager
def simulator(config: Config, task: Task, dataset: OfflineDataset) -> Iterator[Any]:
    """The simulator to judge by, None where there is none. Raises UserError where its sizes are not the dataset's."""
    if task.env_id is None:
        yield None
        return
    with closing(make_d4rl_env(task) if config.env_backend == "d4rl" else make_env(task)) as env:
        if isinstance(env, SimulatorEnv):
            _check_sizes(env, dataset)
        yield env


def _check_sizes(env: SimulatorEnv, dataset: OfflineDataset) -> None:
    if env.sizes != (dataset.obs_dim, dataset.action_dim):
        raise UserError(
            f"the simulator {env.env_id} has observations and actions of sizes {env.sizes}, the dataset "
            f"{dataset.obs_dim, dataset.action_dim}; give the --env that it was recorded in, or --no-eval true"
        )


@contextmanager
def _explained(config: Config, folder: Path) -> Iterator[None]:
    """Turns running out of memory or of disk into a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(folder) from error
    except (MemoryError, RuntimeError) as error:
        if any(words in str(error) for words in FULL_DISK):
            raise _full(folder) from error
        if not (isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)):
            raise
        sizes = ("data_size", "rollout_batch_size", "rollout_length", "model_retain_epochs", "batch_size", "hidden_dims", "n_ensemble")
        now = ", ".join(f"--{name.replace('_', '-')} {getattr(config, name)}" for name in sizes)
        raise UserError(f"out of memory ({str(error).splitlines()[0][:100]}); lower one of what sets the size: {now}") from error


def _full(folder: Path) -> UserError:
    return UserError(
        f"the disk of {str(folder)!r} is full; what is written is whole. Free space, then --resume {shlex.quote(str(folder))} "
        "continues the run; --checkpoint-every and --keep-every set how much it writes"
    )


def prepare(
    run: Run, env: Any, *, trainer_class: type[DAMOTrainer] = DAMOTrainer, engine: str | None = None, console: bool = True
) -> DAMOTrainer:
    """The run's logs, dynamics and trainer, at its start. `engine`: in place of the configured one; `console`: are its tables printed?"""
    config, dataset, record, own = run.config, run.dataset, run.folder / "record", run.folder / "checkpoint" / "dynamics"
    aside: list[str] = []
    timestep, size = 0, 0
    if run.checkpoint:
        timestep, size = run.checkpoint["state"]["timestep"], run.checkpoint["text_size"]
        aside = _go_back(run, timestep)
    if record.exists():
        rewind(record, timestep, size, has_model=own_facts(config, dataset, own) is not None)
    logger = RunLogger(str(run.folder), OUTPUTS)
    if not console:
        logger.mute()
    logger.log_hyperparameters(config.flat())
    _log_changes(logger, run.changes)
    if aside:
        logger.log(f"went back to {run.point.name}; later checkpoints, {', '.join(aside)}, are in {run.aside}")
    for doubt in doubts(config, config_task(config), dataset, env):
        logger.log(doubt)
    scaler = None
    if config.algo_name == "rambo":  # its networks and its model see standardised observations, the simulator does not
        dataset, scaler = standardised(dataset)
    dynamics = None
    if config.algo_name in MODEL_BASED:
        dynamics, run.dynamics_facts = prepare_dynamics(config, dataset, logger, scaler, own=own)
        run.about["dynamics"] = dynamics_digest(dynamics)
        dataset = with_expected_successors(dataset, dynamics)
    built = dataclasses.replace(config, engine=engine or config.engine)
    fresh = run.checkpoint is None
    trainer = make_trainer(built, dataset, env, logger, dynamics, scaler, fresh=fresh, trainer_class=trainer_class)
    trainer.checkpoints = Checkpoints(run.folder, run.about, every=config.checkpoint_every, keep_every=config.keep_every)
    trainer.guards = Guards(largest_reward=float(np.abs(dataset.rewards).max()), gamma=config.gamma)
    trainer.stop_on_warning = config.on_warning == "stop"
    return trainer


def _go_back(run: Run, timestep: int) -> list[str]:
    """Bring results and checkpoints back to the one that the run goes on from, before its logs are cut; returns what is set aside."""
    unfinish(run.folder, len(run.facts["parts"]) - 1)
    return go_back(run.point, timestep, step_per_epoch=run.config.step_per_epoch, aside=run.aside)


def restore(run: Run, trainer: DAMOTrainer, *, force: bool) -> None:
    """Bring the trainer to the checkpoint that the run goes on from, if there is one. Raises UserError where they do not fit."""
    if run.checkpoint is None:
        return
    changes = check_unchanged(run.checkpoint["about"], run.about, force=force)
    _log_changes(trainer.logger, [change for change in changes if change not in run.changes])  # the model's: it was not known before
    with _fitting(run.folder):
        trainer.load_state_dict(run.checkpoint["state"], reconfigured=bool(run.changes))
    run.checkpoint = None  # its synthetic data is in the trainer now


def _log_changes(logger: Logger, changes: Iterable[str]) -> None:
    for change in changes:
        logger.log(f"WARNING: continued with another {change}")


def write_results(run: Run, trainer: DAMOTrainer, performance: dict[str, float]) -> dict[str, Any]:
    """Write result/results.json; returns its content with "folder" added."""
    results = {
        **run.facts,
        "last_10_performance": None,
        **performance,
        "dynamics": run.dynamics_facts,
        "seconds": round(trainer.seconds, 1),
        "evaluations": trainer.evaluations,
        "warnings": trainer.warnings,
    }
    save_json(results, run.folder / RESULTS)
    return {**results, "folder": str(run.folder)}


def make_trainer(
    config: Config,
    dataset: OfflineDataset,
    env: Any,
    logger: Logger,
    dynamics: RoutedDynamics | None,
    scaler: StandardScaler | None,
    *,
    fresh: bool,
    trainer_class: type[DAMOTrainer] = DAMOTrainer,
) -> DAMOTrainer:
    """Policy, buffers and trainer. `fresh`: at the start of a run, whose policy may have to be pretrained."""
    seed_everything(config.seed)
    policy, scheduler = build_policy(config, dynamics, dataset.obs_dim, dataset.action_dim, dataset=dataset, scaler=scaler)
    real_buffer = _buffer(config, len(dataset.rewards), dataset)
    real_buffer.load_dataset(dataset.transitions())
    fake_size = config.rollout_batch_size * config.rollout_length * config.model_retain_epochs
    if config.algo_name == "rambo" and config.rambo.bc_epoch > 0 and fresh:
        own = config.rambo
        policy.pretrain(real_buffer.sample_all(), own.bc_epoch, own.bc_batch_size, own.bc_lr, logger)
    return trainer_class(
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


def set_up_torch(config: Config) -> None:
    """Give torch the run's threads and precision; a UserError if its device is unknown or not there."""
    check_device(config.device)
    torch.set_num_threads(config.threads)
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")


def check_device(name: str) -> None:
    """Raise UserError for a device that is unknown, or not there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or not 0 <= (device.index or 0) < torch.cuda.device_count()):
        raise UserError(f"device {name!r} asked for, but torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}; use cpu, cuda or cuda:N")


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
