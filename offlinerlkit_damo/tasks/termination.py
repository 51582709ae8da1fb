"""When the model's rollouts end: the host's rule of a task's robot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offlinerlkit_damo.kit import get_termination_fn
from offlinerlkit_damo.tasks.dataset import OfflineDataset
from offlinerlkit_damo.tasks.task import Task

TerminationFn = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[np.bool_]]


def termination_fn(task: Task) -> TerminationFn:
    """The host's rule, (obs, action, next_obs) -> bool [n, 1], of the task's robot; a simulator without one never ends a model rollout."""
    if task.robot is None:
        return lambda obs, action, next_obs: np.zeros((len(next_obs), 1), bool)
    rule: TerminationFn = get_termination_fn(f"{task.robot}-v2")
    skip = task.positions
    return (lambda obs, action, next_obs: rule(obs[:, skip:], action, next_obs[:, skip:])) if skip else rule


def unruled_ends(task: Task, dataset: OfflineDataset) -> int:
    """How many recorded transitions end their episode where no rule is known by which the model's rollouts could."""
    return int(dataset.terminals.sum()) if task.robot is None else 0
