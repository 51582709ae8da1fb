"""Minari's datasets, local ones and those it fetches, read with Minari's own library."""

from __future__ import annotations

import difflib
import importlib
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks.dataset import Floats, OfflineDataset, assemble, check_actions, check_finite
from offlinerlkit_damo.tasks.task import MINARI, list_tasks


def load_minari(name: str) -> OfflineDataset:
    """The dataset `name`, such as "minari:mujoco/hopper/medium-v0", from Minari's folder or fetched into it by Minari.

    Every recorded step is kept: an episode holds its last observation, so a step at a time limit has its true successor. Actions are
    scaled from the bounds of the dataset's action space to [-1, 1]. Raises UserError where Minari or what it needs is not installed, for a
    name it does not have, and for spaces or values that cannot be learned from.
    """
    identifier = name.removeprefix(MINARI)
    try:
        minari: Any = importlib.import_module("minari")
    except ImportError:
        raise UserError(f'{name} needs Minari, which is not installed; run: pip install "minari[hdf5,hf]"') from None
    try:
        dataset = minari.load_dataset(identifier, download=True)
    except ImportError as error:
        raise UserError(f"{name} is not on this machine, and Minari cannot fetch it ({error}){_nearest(minari, name)}") from None
    except Exception as error:  # whatever its transport raises
        reason = " ".join(str(error).split())[:200]
        hint = _nearest(minari, name)
        raise UserError(f"Minari cannot give {name} ({reason}); `minari list remote` shows what there is{hint}") from error
    for kind, space in (("observations", dataset.observation_space), ("actions", dataset.action_space)):
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise UserError(f"{name} has {kind} that are no vectors of numbers ({space}); learn from a dataset of continuous control")
    parts: dict[str, list[NDArray[Any]]] = {key: [] for key in ("observations", "next_observations", "actions", "rewards", "ends")}
    terminals: list[NDArray[np.bool_]] = []
    try:
        for episode in dataset.iterate_episodes():
            rows = len(episode.rewards)
            observations = np.asarray(episode.observations, np.float32)
            parts["observations"].append(observations[:-1])
            parts["next_observations"].append(observations[1:])
            parts["actions"].append(_scaled(episode.actions, dataset.action_space))
            parts["rewards"].append(np.asarray(episode.rewards, np.float32))
            parts["ends"].append(np.arange(rows) == rows - 1)
            terminals.append(np.asarray(episode.terminations, bool))
    except Exception as error:  # a damaged file makes the HDF5 library fail in any way
        raise UserError(f"Minari cannot read {name} ({' '.join(str(error).split())[:200]}); delete it and fetch it again") from error
    if not sum(map(len, terminals)):
        raise UserError(f"{name} holds no step; choose another dataset")
    columns = {key: np.concatenate(parts.pop(key)) for key in list(parts)}
    for key in ("observations", "next_observations", "actions", "rewards"):
        check_finite(name, key, columns[key])
    check_actions(name, columns["actions"])
    done = np.concatenate(terminals)
    return assemble(name, terminals=done, timeouts=columns.pop("ends") & ~done, **columns)


def _scaled(actions: NDArray[Any], space: gymnasium.spaces.Box) -> Floats:
    """Actions of a bounded space in [-1, 1], as the simulator's adapter has them."""
    if not space.is_bounded() or not (space.low < space.high).all():
        return np.asarray(actions, np.float32)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return np.asarray(2 * (actions - low) / (high - low) - 1, np.float32)


def _nearest(minari: Any, name: str) -> str:
    """A hint for a name that is nearly one on this machine, or a task's."""
    here: list[str] = []
    with suppress(Exception):  # another, damaged one
        here = [MINARI + found for found in minari.list_local_datasets()]
    near = difflib.get_close_matches(name, {*here, *list_tasks("minari")} - {name}, n=3, cutoff=0.8)
    return f"; did you mean {' or '.join(near)}?" if near and name not in list_tasks("minari") else ""
