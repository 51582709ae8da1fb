"""From a task to its transitions, wherever they come from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gymnasium

from offlinerlkit_damo.config import Config
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks.d4rl import d4rl_dataset, d4rl_is_here
from offlinerlkit_damo.tasks.dataset import OfflineDataset
from offlinerlkit_damo.tasks.file import load_dataset
from offlinerlkit_damo.tasks.generated import DEFAULT_SIZE, is_made, make_dataset
from offlinerlkit_damo.tasks.minari import load_minari
from offlinerlkit_damo.tasks.neorl import load_neorl
from offlinerlkit_damo.tasks.task import MINARI, TIME_LIMIT, Task, file_task, get_task


def config_task(config: Config) -> Task:
    """The task of a run: one by name, or of the user's own data, in the simulator of --env or in none. Raises UserError as `get_task`."""
    if config.env is not None:
        return file_task(config.task, config.env)
    try:
        task = get_task(config.task)
    except UserError:
        if not (config.no_eval and config.data is not None):
            raise
        task = file_task(config.task, None)
    return dataclasses.replace(task, env_id=None) if config.no_eval else task


def resolve_dataset(
    task: Task | str,
    path: str | Path | None = None,
    *,
    size: int = DEFAULT_SIZE,
    seed: int = 0,
    progress: bool = True,
) -> OfflineDataset:
    """The dataset at `path` (a file, or "minari:<id>") or, without one, the task's: generated, D4RL's, Minari's or NeoRL's.

    The other arguments are those of `make_dataset`.

    Raises UserError as `load_dataset`, `load_minari`, `load_neorl`, `d4rl_dataset` and `make_dataset` do, and for a dataset that is not of
    the task's robot.
    """
    task = get_task(task) if isinstance(task, str) else task
    if path is not None and str(path).startswith(MINARI):
        return _fitting(load_minari(str(path)), str(path), task)
    if path is None and task.source == "minari":
        return _fitting(load_minari(task.name), task.name, task)
    if path is None and task.source == "neorl":
        return _fitting(load_neorl(task), task.name, task)
    if path is not None:
        source = Path(path)
    elif task.source == "d4rl":
        source = d4rl_dataset(task, progress=progress)
    else:
        source = make_dataset(task, size=size, seed=seed, progress=progress)
    return _fitting(load_dataset(source, name=task.name, time_limit=_time_limit(task)), str(source), task)


def _time_limit(task: Task) -> int | None:
    """Steps after which the simulator cuts an episode off, None where that is not known."""
    if task.robot is not None:
        return TIME_LIMIT
    spec = gymnasium.registry.get(task.env_id or "")
    return None if spec is None else spec.max_episode_steps


def is_here(task: Task, path: str | None, *, size: int, seed: int) -> bool:
    """Whether `resolve_dataset` has only to read a file that lies on this machine; False where that is not known, as of Minari's."""
    if path is not None:
        return not path.startswith(MINARI)
    if task.source == "d4rl":
        return d4rl_is_here(task)
    return task.source == "neorl" or (task.source == "generated" and is_made(task, size=size, seed=seed))


def _fitting(dataset: OfflineDataset, source: str, task: Task) -> OfflineDataset:
    found, needed = (dataset.obs_dim, dataset.action_dim), (task.obs_dim, task.action_dim)
    if task.obs_dim is not None and found != needed:
        raise UserError(
            f"{source} has (observation, action) dimensions {found} but {task.robot} has {needed}; "
            "choose the task that the file was recorded in"
        )
    return dataset
