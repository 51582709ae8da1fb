"""Observations as RAMBO sees them: standardised by the dataset's own statistics."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from offlinerlkit_damo.kit import StandardScaler
from offlinerlkit_damo.tasks import OfflineDataset


def statistics(dataset: OfflineDataset, eps: float = 1e-3) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and deviation + eps of the observations, [1, d] each, as the host's `normalize_obs` has them."""
    return dataset.observations.mean(0, keepdims=True), dataset.observations.std(0, keepdims=True) + eps


def standardised(dataset: OfflineDataset) -> tuple[OfflineDataset, StandardScaler]:
    """The dataset with observations (x - mean) / std of its own `statistics`, and their scaler."""
    mean, std = statistics(dataset)
    columns = {name: (getattr(dataset, name) - mean) / std for name in ("observations", "next_observations", "episode_starts")}
    return dataclasses.replace(dataset, **columns), StandardScaler(mean, std)
