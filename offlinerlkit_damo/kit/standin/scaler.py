"""Standardisation of the dynamics model's inputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offlinerlkit_damo.files import replacing


class StandardScaler:
    """(x - mu) / std per column, mu and std of shape [1, D]; a constant column is only centred."""

    def __init__(self, mu: NDArray[Any] | None = None, std: NDArray[Any] | None = None) -> None:
        self.mu = mu
        self.std = std

    def fit(self, data: NDArray[Any]) -> None:
        """Take mu and std (population) from data [N, D]."""
        self.mu = np.mean(data, axis=0, keepdims=True)
        self.std = np.std(data, axis=0, keepdims=True)
        self.std[(self.std < 1e-12) | (np.ptp(data, axis=0, keepdims=True) == 0)] = 1.0  # of 0.1, say, float32 makes 1e-8

    def transform(self, data: NDArray[Any]) -> NDArray[Any]:
        """[..., D] -> standardised [..., D]."""
        mu, std = self._fitted()
        return cast("NDArray[Any]", (data - mu) / std)

    def inverse_transform(self, data: NDArray[Any]) -> NDArray[Any]:
        """Undo `transform`."""
        mu, std = self._fitted()
        return cast("NDArray[Any]", std * data + mu)

    def transform_tensor(self, data: Tensor) -> Tensor:
        """`transform` for a tensor, on its device and in its dtype."""
        mu, std = (torch.as_tensor(x, device=data.device, dtype=data.dtype) for x in self._fitted())
        return (data - mu) / std

    def save_scaler(self, save_path: str | os.PathLike[str]) -> None:
        """Write mu.npy and std.npy into the folder `save_path`."""
        for name, value in zip(("mu", "std"), self._fitted(), strict=True):
            with replacing(Path(save_path) / f"{name}.npy") as partial:
                np.save(partial, value)

    def load_scaler(self, load_path: str | os.PathLike[str]) -> None:
        """Read what `save_scaler` wrote."""
        self.mu = np.load(Path(load_path) / "mu.npy")
        self.std = np.load(Path(load_path) / "std.npy")

    def _fitted(self) -> tuple[NDArray[Any], NDArray[Any]]:
        if self.mu is None or self.std is None:
            raise RuntimeError("StandardScaler has no mu and std yet: call fit(data) or load_scaler(folder) first")
        return self.mu, self.std
