"""Minari's datasets, local ones and those it fetches, read with Minari's own library."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks.dataset import OfflineDataset, assemble, check_actions, check_finite
from offlinerlkit_damo.tasks.task import MINARI


def load_minari(name: str) -> OfflineDataset:
    """The dataset `name`, such as "minari:mujoco/hopper/medium-v0", from Minari's folder or fetched into it by Minari.

    Every recorded step is kept: an episode holds its last observation, so a step at a time limit has its true successor. Raises UserError
    where Minari or what it needs is not installed, for a name it does not have, and for spaces or values that cannot be learned from.
    """
    identifier = name.removeprefix(MINARI)
    try:
        minari: Any = importlib.import_module("minari")
    except ImportError:
        raise UserError(f'{name} needs Minari, which is not installed; run: pip install "minari[hdf5,hf]"') from None
    try:
        dataset = minari.load_dataset(identifier, download=True)
    except ImportError as error:
        raise UserError(f"{name} is not on this machine, and Minari cannot fetch it ({error})") from None
    except Exception as error:  # whatever its transport raises
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"Minari cannot give {name} ({reason}); `minari list remote` shows what there is") from error
    episodes = list(dataset.iterate_episodes())
    if not episodes:
        raise UserError(f"{name} holds no episode")
    for kind in ("observations", "actions"):
        value = getattr(episodes[0], kind)
        if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "fiu":
            raise UserError(f"{name} has {kind} that are no vectors of numbers; learn from a dataset of continuous control")
    columns = {
        "observations": np.concatenate([episode.observations[:-1] for episode in episodes]).astype(np.float32),
        "next_observations": np.concatenate([episode.observations[1:] for episode in episodes]).astype(np.float32),
        "actions": np.concatenate([episode.actions for episode in episodes]).astype(np.float32),
        "rewards": np.concatenate([episode.rewards for episode in episodes]).astype(np.float32),
    }
    for key, array in columns.items():
        check_finite(name, key, array)
    check_actions(name, columns["actions"])
    terminals = np.concatenate([episode.terminations for episode in episodes]).astype(bool)
    lengths = np.array([len(episode.rewards) for episode in episodes])
    ends = np.zeros(len(terminals), bool)
    ends[np.cumsum(lengths) - 1] = True
    return assemble(name, **columns, terminals=terminals, timeouts=ends & ~terminals)
