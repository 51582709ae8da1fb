"""The three distributions that the paper compares: offline data, the policy's real data, and its synthetic data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offlinerlkit_damo.analysis.overlap import Cloud
from offlinerlkit_damo.tasks import OfflineDataset

KINDS = ("(s, a)", "s", "(s, a, s')")


@dataclass(frozen=True)
class Transitions:
    """Transitions of one source, in the simulator's units, and the episode or rollout that each is of."""

    observations: NDArray[Any]  # [n, d]
    actions: NDArray[Any]  # [n, a]
    next_observations: NDArray[Any]  # [n, d]
    groups: NDArray[np.int64]  # [n]

    def sample(self, size: int, rng: np.random.Generator) -> Transitions:
        """So many rows at random, or all where there are fewer."""
        rows = np.sort(rng.permutation(len(self.groups))[:size])
        return Transitions(self.observations[rows], self.actions[rows], self.next_observations[rows], self.groups[rows])


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of the offline data's columns, in which all clouds are measured."""

    obs: tuple[NDArray[np.float64], NDArray[np.float64]]
    action: tuple[NDArray[np.float64], NDArray[np.float64]]

    def cloud(self, transitions: Transitions, kind: str) -> Cloud:
        """The rows of one of KINDS, in standard deviations of the offline data."""
        columns = {
            "s": (transitions.observations - self.obs[0]) / self.obs[1],
            "a": (transitions.actions - self.action[0]) / self.action[1],
            "s'": (transitions.next_observations - self.obs[0]) / self.obs[1],
        }
        names = kind.strip("()").split(", ")
        return Cloud(np.concatenate([columns[name] for name in names], 1).astype(np.float64), transitions.groups)


def scale_of(dataset: OfflineDataset) -> Scale:
    """Of a dataset; a column that never changes keeps its own unit."""
    found = []
    for values in (dataset.observations, dataset.actions):
        mean, std = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
        found.append((mean, np.where(std > 1e-6, std, 1.0)))
    return Scale(*found)


def offline(dataset: OfflineDataset) -> Transitions:
    """All of a dataset."""
    begins = np.append(True, dataset.steps[1:] <= dataset.steps[:-1])
    return Transitions(dataset.observations, dataset.actions, dataset.next_observations, np.cumsum(begins))
