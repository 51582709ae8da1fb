"""D4RL's flat arrays -> transitions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def qlearning_dataset(
    env: Any, dataset: dict[str, NDArray[Any]] | None = None, terminate_on_end: bool = False, **kwargs: Any
) -> dict[str, NDArray[Any]]:
    """Transitions of a D4RL dataset, without those that a time limit cut.

    Where the file has no `next_observations`, a row's is the next row's observation. A terminal row is always kept: its
    next observation is then unknown, its own stands in for it, and the value of it is masked in every target.

    Args:
        env: `env.get_dataset(**kwargs)` where no dataset is given; `env._max_episode_steps` where it has no `timeouts`.
        dataset: observations [N, d], actions [N, A], rewards [N], terminals [N], perhaps timeouts [N] and
            next_observations [N, d].
        terminate_on_end: keep the rows at a time limit too, where their next observation is in the file.

    Returns:
        observations, actions, next_observations, rewards (float32) and terminals (bool), all of one length.

    Raises:
        ValueError: the columns differ in length, or nothing tells where episodes end.
    """
    data = env.get_dataset(**kwargs) if dataset is None else dataset
    rows = len(data["rewards"])
    lengths = {key: len(data[key]) for key in ("observations", "actions", "rewards", "terminals")}
    if set(lengths.values()) != {rows}:
        raise ValueError(f"dataset columns differ in length: {lengths}")
    terminals = np.asarray(data["terminals"], dtype=bool).reshape(-1)
    observations = np.asarray(data["observations"])
    if "timeouts" in data:
        timeouts = np.asarray(data["timeouts"], dtype=bool).reshape(-1)
    else:
        timeouts = _time_limit(terminals, getattr(env, "_max_episode_steps", None))

    known = "next_observations" in data  # is the true next observation of every row in the file?
    cut = timeouts & (not (terminate_on_end and known))
    cut[-1:] = True  # as D4RL does
    keep = np.flatnonzero(terminals | ~cut)
    if known:
        following = np.asarray(data["next_observations"])[keep]
    else:
        following = observations[np.where(terminals[keep], keep, keep + 1)]
    return {
        "observations": observations[keep].astype(np.float32, copy=False),
        "actions": np.asarray(data["actions"])[keep].astype(np.float32, copy=False),
        "next_observations": following.astype(np.float32, copy=False),
        "rewards": np.asarray(data["rewards"]).reshape(-1)[keep].astype(np.float32, copy=False),
        "terminals": terminals[keep],
    }


def _time_limit(terminals: NDArray[np.bool_], limit: int | None) -> NDArray[np.bool_]:
    """[N] True at every `limit`-th row of an episode."""
    if limit is None:
        raise ValueError("the dataset has no 'timeouts' and the env no _max_episode_steps: episode ends are unknown")
    rows = np.arange(len(terminals))
    starts = np.zeros(len(terminals), dtype=np.int64)
    starts[1:] = np.where(terminals[:-1], rows[1:], 0)
    return np.asarray((rows - np.maximum.accumulate(starts)) % limit == limit - 1)
