"""DeviceReplayBuffer: the host's replay buffer as one packed tensor on the training device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import ReplayBuffer

KEYS = ("observations", "next_observations", "actions", "rewards", "terminals")


class DeviceReplayBuffer(ReplayBuffer):
    """A ring of rows [obs, next_obs, action, reward, terminal], float32: a sample is one gather and five views, no host copies.

    The arguments and the contents are the host's. Sampling draws from torch's generator of the device, so `torch.manual_seed` fixes it.
    """

    def __init__(
        self, buffer_size: int, obs_shape: Any, obs_dtype: Any, action_dim: int, action_dtype: Any, device: str = "cpu"
    ) -> None:
        # the host's own arrays are not used: size 1 keeps them from taking the memory twice
        super().__init__(1, obs_shape, obs_dtype, action_dim, action_dtype, device)
        self._max_size = buffer_size
        obs_dim = int(np.prod(obs_shape))
        self._widths = [obs_dim, obs_dim, action_dim, 1, 1]
        self._keep_in(torch.empty(buffer_size, sum(self._widths), device=device))

    def _keep_in(self, rows: Tensor) -> None:
        self._rows = rows
        # the host's attributes, as views
        self.observations, self.next_observations, self.actions, self.rewards, self.terminals = rows.split(self._widths, 1)

    @property
    def capacity(self) -> int:
        """Rows that it can hold."""
        return len(self._rows)

    @property
    def size(self) -> int:
        """Rows that it holds."""
        return self._size

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self._rows.shape[1]

    def move_to(self, home: Tensor) -> None:
        """Keep the rows in `home` [capacity, width] from now on."""
        home[: self._size] = self._rows[: self._size]
        self._keep_in(home)

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, terminal: Any) -> None:
        """Append one transition."""
        self.add_batch(*(np.asarray(x, dtype=np.float32).reshape(1, -1) for x in (obs, next_obs, action, reward, terminal)))

    def add_batch(self, obss: Any, next_obss: Any, actions: Any, rewards: Any, terminals: Any) -> None:
        """Append rows [n, ...]; the oldest are overwritten when the ring is full, and only the last `buffer_size` of a batch stay."""
        n = len(obss)
        device = self._rows.device
        columns = (torch.as_tensor(x, device=device).reshape(n, -1).float() for x in (obss, next_obss, actions, rewards, terminals))
        rows = torch.cat(list(columns), 1)[-self._max_size :]
        start = (self._ptr + n - len(rows)) % self._max_size
        first = min(len(rows), self._max_size - start)
        self._rows[start : start + first] = rows[:first]
        self._rows[: len(rows) - first] = rows[first:]
        self._ptr = (self._ptr + n) % self._max_size
        self._size = min(self._size + n, self._max_size)

    def load_dataset(self, dataset: dict[str, np.ndarray]) -> None:
        """Replace the contents by a dataset's transitions (the host's keys); the capacity becomes its length, at least."""
        n = len(dataset["observations"])
        if n > self._max_size:
            self._max_size = n
            self._keep_in(torch.empty(n, self._rows.shape[1], device=self._rows.device))
        self._ptr = self._size = 0
        self.add_batch(*(dataset[key] for key in KEYS))

    def normalize_obs(self, eps: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
        """Standardise observations and next observations in place by the observations' statistics; returns mean and std, [1, d]."""
        obs_dim = self._widths[0]
        rows = self._rows[: self._size]
        mean, std = rows[:, :obs_dim].mean(0, keepdim=True), rows[:, :obs_dim].std(0, keepdim=True, correction=0) + eps
        for part in (rows[:, :obs_dim], rows[:, obs_dim : 2 * obs_dim]):
            part.sub_(mean).div_(std)
        return mean.cpu().numpy(), std.cpu().numpy()

    def sample(self, batch_size: int) -> dict[str, Tensor]:
        """`batch_size` rows drawn with replacement: float32 tensors, rewards and terminals [B, 1]. An empty buffer is a UserError."""
        if self._size == 0:
            raise UserError("the replay buffer is empty; add transitions before sampling")
        index = torch.randint(self._size, (batch_size,), device=self._rows.device)
        obss, next_obss, actions, rewards, terminals = self._rows.index_select(0, index).split(self._widths, 1)
        return {"observations": obss, "actions": actions, "next_observations": next_obss, "terminals": terminals, "rewards": rewards}

    def state_dict(self, *, rows: bool = True) -> dict[str, Any]:
        """The stored rows and where the next one goes; without `rows` the state of an empty buffer."""
        size, pointer = (self._size, self._ptr) if rows else (0, 0)
        return {"rows": self._rows[:size].clone(), "pointer": pointer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave, of a larger buffer the newest rows. Raises ValueError for rows of another width."""
        rows, pointer = state["rows"], state["pointer"]
        if rows.shape[1:] != self._rows.shape[1:]:
            raise ValueError(f"rows {tuple(rows.shape)} do not fit a buffer of {tuple(self._rows.shape)}")
        if len(rows) > self._max_size or (len(rows) < self._max_size and pointer != len(rows)):
            # the ring that it was had another size: its oldest row, which stood at the pointer, goes first
            rows = rows.roll(-pointer, 0)[-self._max_size :]
            pointer = len(rows)
        self._rows[: len(rows)] = rows
        self._size, self._ptr = len(rows), pointer % self._max_size

    def sample_all(self) -> dict[str, np.ndarray]:
        """Every stored row as numpy arrays, in the host's keys."""
        parts = self._rows[: self._size].cpu().split(self._widths, 1)
        return {key: part.numpy().copy() for key, part in zip(KEYS, parts, strict=True)}
