"""When an imagined transition ends its episode: the rules of the simulators, per task family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TerminationFn = Callable[[Array, Array, Array], NDArray[np.bool_]]


def _never(obs: Array, act: Array, next_obs: Array) -> NDArray[np.bool_]:
    return np.zeros((len(next_obs), 1), dtype=np.bool_)


def _all(condition: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(condition.all(axis=-1, keepdims=True))


def _halfcheetah(obs: Array, act: Array, next_obs: Array) -> NDArray[np.bool_]:
    return ~_all(np.abs(next_obs) < 100)  # the simulator never ends; this stops a diverging model


def _hopper(obs: Array, act: Array, next_obs: Array) -> NDArray[np.bool_]:
    height, angle, state = next_obs[:, 0:1], next_obs[:, 1:2], next_obs[:, 1:]
    alive = np.isfinite(height) & (height > 0.7) & (np.abs(angle) < 0.2) & _all(np.abs(state) < 100)
    return np.asarray(~alive)


def _walker2d(obs: Array, act: Array, next_obs: Array) -> NDArray[np.bool_]:
    height, angle = next_obs[:, 0:1], next_obs[:, 1:2]
    alive = (height > 0.8) & (height < 2.0) & (np.abs(angle) < 1.0) & _all(np.abs(next_obs) < 100)
    return np.asarray(~alive)


def _ant(obs: Array, act: Array, next_obs: Array) -> NDArray[np.bool_]:
    height = next_obs[:, 0:1]
    return np.asarray(~((height >= 0.2) & (height <= 1.0) & _all(np.isfinite(next_obs))))


def _humanoid(obs: Array, act: Array, next_obs: Array) -> NDArray[np.bool_]:
    height = next_obs[:, 0:1]
    return np.asarray(~((height >= 1.0) & (height <= 2.0)))


def _pen(obs: Array, act: Array, next_obs: Array) -> NDArray[np.bool_]:
    return np.asarray(~(next_obs[:, 26:27] >= 0.075))  # the pen's height: below, it was dropped


# the first name contained in the task decides, so the longer names come first
TERMINATION_FNS: dict[str, TerminationFn] = {
    "halfcheetahvel": _never,
    "halfcheetah": _halfcheetah,
    "hopper": _hopper,
    "ant": _ant,  # also antangle
    "walker2d": _walker2d,
    "point2d": _never,
    "pendulum": _never,
    "humanoid": _humanoid,
    "pen": _pen,
    "door": _never,
}


def get_termination_fn(task: str) -> TerminationFn:
    """The termination function of a task, by the family named in it ("hopper" in "hopper-medium-v2").

    Returns:
        f(obs [B, d], act [B, A], next_obs [B, d]) -> bool [B, 1], True where the episode ends. A state that is not
        finite ends it wherever the family has a rule.

    Raises:
        ValueError: no family is named in `task`.
    """
    for family, function in TERMINATION_FNS.items():
        if family in task:
            return function
    known = ", ".join(TERMINATION_FNS)
    raise ValueError(f"no termination function for task {task!r}: its name must contain one of {known}")
