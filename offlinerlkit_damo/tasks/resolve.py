"""From a task to its transitions, wherever they come from."""

from __future__ import annotations

from pathlib import Path

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks.d4rl import d4rl_dataset
from offlinerlkit_damo.tasks.dataset import OfflineDataset
from offlinerlkit_damo.tasks.generated import DEFAULT_SIZE, make_dataset
from offlinerlkit_damo.tasks.hdf5 import load_dataset
from offlinerlkit_damo.tasks.minari import PREFIX, load_minari
from offlinerlkit_damo.tasks.task import Task, get_task


def resolve_dataset(
    task: Task | str,
    path: str | Path | None = None,
    *,
    size: int = DEFAULT_SIZE,
    seed: int = 0,
    progress: bool = True,
) -> OfflineDataset:
    """The dataset at `path` (a file, or "minari:<id>") or, without one, the task's: D4RL's, or the generated one.

    The other arguments are those of `make_dataset`.

    Raises UserError as `load_dataset`, `load_minari`, `d4rl_dataset` and `make_dataset` do, and when the file is that of another robot.
    """
    task = get_task(task) if isinstance(task, str) else task
    if path is not None and str(path).startswith(PREFIX):
        return _fitting(load_minari(str(path)), str(path), task)
    if path is not None:
        source = Path(path)
    elif task.source == "d4rl":
        source = d4rl_dataset(task, progress=progress)
    else:
        source = make_dataset(task, size=size, seed=seed, progress=progress)
    return _fitting(load_dataset(source, name=task.name), str(source), task)


def _fitting(dataset: OfflineDataset, source: str, task: Task) -> OfflineDataset:
    found, needed = (dataset.obs_dim, dataset.action_dim), (task.obs_dim, task.action_dim)
    if found != needed:
        raise UserError(
            f"{source} has (observation, action) dimensions {found} but {task.robot} has {needed}; "
            "choose the task that the file was recorded in"
        )
    return dataset
