"""A whole fleet from its configurations: tasks, dynamics, policies, training, and results in a folder for each run."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

from offlinerlkit_damo.config import Config
from offlinerlkit_damo.cores import usable_cores
from offlinerlkit_damo.engine.fleet_networks import FleetNetworks
from offlinerlkit_damo.engine.rollout import ends_of
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import check_writable, save_json
from offlinerlkit_damo.tasks import OfflineDataset, config_task
from offlinerlkit_damo.training.evaluation import Evaluators
from offlinerlkit_damo.training.fleet import FleetRun, FleetTrainer
from offlinerlkit_damo.training.fleet_file import check_fleet
from offlinerlkit_damo.training.resume import resumed_config
from offlinerlkit_damo.training.run import (
    OTHER_LOGDIR,
    Run,
    continuable,
    open_run_folder,
    prepare,
    restore,
    set_up_torch,
    simulator,
    usable_dataset,
    with_absolute_paths,
    write_results,
)
from offlinerlkit_damo.training.run_folder import run_parent
from offlinerlkit_damo.training.stopping import StopRequest

DATA = ("task", "data", "data_size", "data_seed")
"""Options that name a dataset."""


def resumed_fleet(record: Path, flags: Mapping[str, Any]) -> tuple[dict[str, Config], dict[str, Path]]:
    """Configurations and folders of the runs in a fleet's record, by name, with `flags` over them; without those that have failed."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        folders = {str(name): record.parent / folder for name, folder in content["runs"].items() if name not in content["failed"]}
    except OSError as error:
        raise UserError(f"cannot read the fleet's record {str(record)!r} ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{str(record)!r} is not the record of a fleet, which `train --fleet` writes") from None
    configs = {name: resumed_config(folder, flags) for name, folder in folders.items()}
    check_fleet(configs)
    return configs, folders


def train_alone(config: Config, *, resume: Path | None, force: bool) -> dict[str, Any]:
    """`training.run.train` for the engine "graph": a fleet of one run."""
    name = f"{config.task} seed {config.seed}"
    check_fleet({name: config})
    results, failed = _train({name: config}, None, {name: resume}, force=force)
    if failed:
        raise failed[name]
    return results[name]


def train_fleet(
    configs: Mapping[str, Config], *, record: Path | None = None, folders: Mapping[str, Path] | None = None, force: bool = False
) -> dict[str, dict[str, Any]]:
    """Train the runs together; returns every run's results (`training.run.train`) by name. Raises UserError for the runs that failed.

    With `record` and `folders` (`resumed_fleet`) they go on from their last checkpoints. Raises Stopped as `training.run.train`.
    """
    logdir = Path(next(iter(configs.values())).logdir)
    record = record or logdir / f"fleet_{time.strftime('%y-%m%d-%H%M%S')}_{os.getpid()}.json"
    results, failed = _train(configs, record, folders or dict.fromkeys(configs), force=force)
    if failed:
        names = ", ".join(failed)
        raise UserError(f"{len(failed)} of {len(configs)} runs failed ({names}), the others are finished; each one's folder says why")
    return results


def _train(
    configs: Mapping[str, Config], record: Path | None, resume: Mapping[str, Path | None], *, force: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, UserError]]:
    """Results of the runs that finished, and why the others did not. `record` (None: none) is written when all have their folders."""
    first = next(iter(configs.values()))
    stop = StopRequest(first.max_minutes)
    configs = {name: with_absolute_paths(config) for name, config in configs.items()}
    set_up_torch(first)
    for name, config in configs.items():
        if resume[name] is None:
            check_writable(run_parent(config), remedy=OTHER_LOGDIR)
    datasets = _datasets(configs)
    workers = max(1, min(len(configs), usable_cores() - first.threads))
    failed: dict[str, UserError] = {}
    with ExitStack() as shared:
        evaluators = shared.enter_context(Evaluators(workers))
        opened: dict[str, ExitStack] = {}
        runs: dict[str, Run] = {}
        environments = {}
        for name, config in configs.items():
            stack = opened[name] = shared.enter_context(ExitStack())
            task, dataset = config_task(config), datasets[name]
            environments[name] = stack.enter_context(simulator(config, task, dataset))
            runs[name] = stack.enter_context(open_run_folder(config, task, dataset, resume=resume[name], force=force))

        def note() -> None:
            if record is not None:
                _write_record(record, runs, failed)

        def ended(name: str, reason: UserError) -> None:
            failed[name] = reason
            print(f"{name} has failed and is out of the fleet: {reason}", file=sys.stderr, flush=True)
            note()
            with suppress(UserError):  # it is noted in the run's folder, and that is what is wanted
                opened[name].__exit__(UserError, reason, None)

        note()
        shared.enter_context(stop)
        shared.enter_context(continuable(record or runs[next(iter(runs))].folder))
        trainers = {name: _trainer(run, environments[name]) for name, run in runs.items()}
        buffers: dict[int, Any] = {}
        for name, trainer in trainers.items():  # runs on the same data share it
            trainer.real_buffer = buffers.setdefault(id(runs[name].dataset), trainer.real_buffer)
        networks = FleetNetworks([trainer.policy for trainer in trainers.values()])
        for name, run in runs.items():
            restore(run, trainers[name], force=force)
        _check_steps(trainers)
        fleet = FleetTrainer(trainers, networks, evaluators, ended)
        stop.gentle, fleet.stop = True, stop
        performance = fleet.train()
        return {name: write_results(runs[name], trainers[name], scores) for name, scores in performance.items()}, failed


def _datasets(configs: Mapping[str, Config]) -> dict[str, OfflineDataset]:
    """Every run's dataset, the same object for the same data. Raises UserError for sizes that differ."""
    loaded: dict[tuple[Any, ...], OfflineDataset] = {}
    datasets: dict[str, OfflineDataset] = {}
    for name, config in configs.items():
        key = tuple(getattr(config, option) for option in DATA)
        if key not in loaded:
            loaded[key] = usable_dataset(config, config_task(config))
        datasets[name] = loaded[key]
    sizes = {name: (dataset.obs_dim, dataset.action_dim) for name, dataset in datasets.items()}
    (first, size), *others = sizes.items()
    for name, other in others:
        if other != size:
            raise UserError(
                f"the data of the run {first!r} has observations and actions of sizes {size}, that of {name!r} {other}; "
                "a fleet's runs must have the same, make one fleet for each"
            )
    return datasets


def _trainer(run: Run, env: Any) -> FleetRun:
    task = config_task(run.config)
    # the host's modules, which the fleet stacks
    trainer = cast(FleetRun, prepare(run, env, trainer_class=FleetRun, engine="reference", console=False))
    trainer.ends, trainer.task, trainer.env_backend = ends_of(task.robot, task.positions), task, run.config.env_backend
    return trainer


def _check_steps(trainers: Mapping[str, FleetRun]) -> None:
    steps = {name: trainer.timestep for name, trainer in trainers.items()}
    if len(set(steps.values())) > 1:
        stand = ", ".join(f"{name}: {step}" for name, step in steps.items())
        raise UserError(
            f"the runs stand at different steps ({stand}): they were killed while their checkpoints were written; "
            "continue each alone with --resume and its own folder"
        )


def _write_record(record: Path, runs: Mapping[str, Run], failed: Mapping[str, UserError]) -> None:
    """Which runs belong together: what `train --resume` needs, folders as seen from the record."""
    folders = {name: os.path.relpath(run.folder, record.parent) for name, run in runs.items()}
    save_json({"runs": folders, "failed": {name: str(reason) for name, reason in failed.items()}}, record)
