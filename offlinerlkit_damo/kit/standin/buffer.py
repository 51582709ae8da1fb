"""Replay buffer: rows of transitions in a ring."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

# column -> the name that `add_batch` uses for it
COLUMNS = {
    "observations": "obss",
    "actions": "actions",
    "next_observations": "next_obss",
    "terminals": "terminals",
    "rewards": "rewards",
}


class ReplayBuffer:
    """Transitions (obs [d], action [A], next_obs [d], terminal [1], reward [1]), oldest overwritten first.

    Attributes:
        observations, next_observations, actions, rewards, terminals: arrays [capacity, ...]; the first `_size` rows
            hold data.
    """

    def __init__(
        self,
        buffer_size: int,
        obs_shape: tuple[int, ...],
        obs_dtype: DTypeLike,
        action_dim: int,
        action_dtype: DTypeLike,
        device: str = "cpu",
    ) -> None:
        self._max_size = buffer_size
        self.obs_shape = obs_shape
        self.obs_dtype = obs_dtype
        self.action_dim = action_dim
        self.action_dtype = action_dtype
        self.device = torch.device(device)
        self._ptr = 0
        self._size = 0
        self.observations: NDArray[Any] = np.zeros((buffer_size, *obs_shape), dtype=obs_dtype)
        self.next_observations: NDArray[Any] = np.zeros((buffer_size, *obs_shape), dtype=obs_dtype)
        self.actions: NDArray[Any] = np.zeros((buffer_size, action_dim), dtype=action_dtype)
        self.rewards: NDArray[Any] = np.zeros((buffer_size, 1), dtype=np.float32)
        self.terminals: NDArray[Any] = np.zeros((buffer_size, 1), dtype=np.float32)

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any] | float,
        terminal: NDArray[Any] | bool,
    ) -> None:
        """Append one transition."""
        one = [np.asarray(x)[None] for x in (obs, next_obs, action, reward, terminal)]
        self.add_batch(*one)

    def add_batch(
        self,
        obss: NDArray[Any],
        next_obss: NDArray[Any],
        actions: NDArray[Any],
        rewards: NDArray[Any],
        terminals: NDArray[Any],
    ) -> None:
        """Append B transitions: obss [B, d], actions [B, A], rewards and terminals [B, 1] or [B]."""
        given = {"obss": obss, "next_obss": next_obss, "actions": actions, "rewards": rewards, "terminals": terminals}
        batch = len(obss)
        if any(len(values) != batch for values in given.values()):
            raise ValueError(f"columns of unequal length: { ({k: len(v) for k, v in given.items()}) }")
        kept = min(batch, self._max_size)  # of a batch longer than the ring only the end survives
        rows = (self._ptr + np.arange(batch - kept, batch)) % self._max_size
        for column, name in COLUMNS.items():
            array = getattr(self, column)
            array[rows] = np.asarray(given[name])[batch - kept :].reshape(kept, *array.shape[1:])
        self._ptr = (self._ptr + batch) % self._max_size
        self._size = min(self._size + batch, self._max_size)

    def load_dataset(self, dataset: dict[str, NDArray[Any]]) -> None:
        """Replace the content by N rows (keys as the attributes); the capacity grows to N where N is larger."""
        rows = len(dataset["observations"])
        for column in COLUMNS:
            array = getattr(self, column)
            loaded = np.asarray(dataset[column]).reshape(rows, *array.shape[1:])
            if rows < self._max_size:
                array[:rows] = loaded
            else:
                setattr(self, column, np.array(loaded, dtype=array.dtype))
        self._max_size = max(self._max_size, rows)
        self._ptr = rows % self._max_size
        self._size = rows

    def normalize_obs(self, eps: float = 1e-3) -> tuple[NDArray[Any], NDArray[Any]]:
        """Standardise both observation columns in place; returns the mean and the deviation (plus eps), [1, d]."""
        filled = self.observations[: self._size]
        mean, std = filled.mean(0, keepdims=True), filled.std(0, keepdims=True) + eps
        self.observations = (self.observations - mean) / std
        self.next_observations = (self.next_observations - mean) / std
        return mean, std

    def sample(self, batch_size: int) -> dict[str, Tensor]:
        """`batch_size` rows drawn uniformly with replacement (numpy's global generator), as tensors on `device`."""
        rows = np.random.randint(0, self._size, size=batch_size)
        return {column: torch.from_numpy(getattr(self, column)[rows]).to(self.device) for column in COLUMNS}

    def sample_all(self) -> dict[str, NDArray[Any]]:
        """Copies of all rows."""
        return {column: getattr(self, column)[: self._size].copy() for column in COLUMNS}
