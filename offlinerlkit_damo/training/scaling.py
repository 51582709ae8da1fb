"""Observations as RAMBO sees them: standardised by the dataset's own statistics."""

from __future__ import annotations

import dataclasses

from offlinerlkit_damo.kit import StandardScaler
from offlinerlkit_damo.tasks import OfflineDataset


def standardised(dataset: OfflineDataset, eps: float = 1e-3) -> tuple[OfflineDataset, StandardScaler]:
    """The dataset with observations (x - mean) / (std + eps) of its own statistics, as the host's `normalize_obs`, and their scaler."""
    mean, std = dataset.observations.mean(0, keepdims=True), dataset.observations.std(0, keepdims=True) + eps
    columns = {name: (getattr(dataset, name) - mean) / std for name in ("observations", "next_observations", "episode_starts")}
    scaler = StandardScaler(mean, std)
    return dataclasses.replace(dataset, **columns), scaler
