"""Tasks: where transitions come from, the simulator that goes with them and the score that both are judged by."""

from __future__ import annotations

from offlinerlkit_damo.tasks.d4rl import d4rl_dataset
from offlinerlkit_damo.tasks.dataset import LoadReport, OfflineDataset
from offlinerlkit_damo.tasks.env import SimulatorEnv, make_d4rl_env, make_env
from offlinerlkit_damo.tasks.file import load_dataset
from offlinerlkit_damo.tasks.generated import can_make, make_dataset
from offlinerlkit_damo.tasks.resolve import config_task, is_here, resolve_dataset
from offlinerlkit_damo.tasks.task import Task, file_task, get_task, list_tasks

__all__ = [
    "LoadReport",
    "OfflineDataset",
    "SimulatorEnv",
    "Task",
    "can_make",
    "config_task",
    "d4rl_dataset",
    "file_task",
    "get_task",
    "is_here",
    "list_tasks",
    "load_dataset",
    "make_d4rl_env",
    "make_dataset",
    "make_env",
    "resolve_dataset",
]
