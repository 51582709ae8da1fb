"""The offline dataset in memory: transitions, and the episodes that they came from.

Shapes: N transitions, E episodes, C completed episodes (C is E or E - 1), d observation and a action dimensions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from offlinerlkit_damo.errors import UserError

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
CHUNK = 8_192  # rows compared or moved at once
ACTION_TOLERANCE = 1e-6  # how far beyond [-1, 1] an action may lie


@dataclass(frozen=True)
class LoadReport:
    """How many rows a source held and what became of them; rows_in = rows_kept + the dropped ones."""

    rows_in: int
    rows_kept: int
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> rows
    substituted: int = 0  # terminal rows kept whose own observation stands in for the next one, which was not recorded
    inferred: int = 0  # episode ends that no column marks, where a row's successor is not the following observation

    @property
    def torn(self) -> bool:
        """Whether that holds for most rows, so that there are no episodes to speak of: neither returns nor first states nor steps."""
        return 2 * self.inferred > self.rows_in

    def summary(self) -> str:
        """One line for people: rows read, kept and dropped, and why."""
        reasons = "; ".join(f"{count} dropped: {reason}" for reason, count in self.dropped.items())
        stand_ins = f"{self.substituted} terminal rows without a recorded next observation" if self.substituted else ""
        ends = f"{self.inferred} episode ends inferred" if self.inferred else ""
        return ", ".join(filter(None, [f"{self.rows_kept} of {self.rows_in} transitions", reasons, stand_ins, ends]))


@dataclass(frozen=True, eq=False)
class OfflineDataset:
    """Transitions of one task, checked: finite, actions within [-1, 1], at least one row."""

    name: str
    observations: Floats  # [N, d]
    actions: Floats  # [N, a]
    next_observations: Floats  # [N, d]
    rewards: Floats  # [N]
    terminals: Bools  # [N] True where the task ended, so that nothing follows; False at a time limit
    steps: NDArray[np.int64]  # [N] each row's step in its episode, from 0
    episode_starts: Floats  # [E, d] the first observation of each episode
    episode_returns: NDArray[np.float64]  # [C] undiscounted; from all rows, also those that were dropped later
    episode_lengths: NDArray[np.int64]  # [C] steps
    report: LoadReport

    @property
    def obs_dim(self) -> int:
        """d, the length of one observation."""
        return int(self.observations.shape[1])

    @property
    def action_dim(self) -> int:
        """a, the length of one action."""
        return int(self.actions.shape[1])

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return of the completed episodes; nan when none was completed."""
        return float(self.episode_returns.mean()) if len(self.episode_returns) else float("nan")

    def __len__(self) -> int:
        """N."""
        return len(self.observations)

    @property
    def has_successor(self) -> Bools:
        """[N] Whether a row's next observation was recorded, and is not its own in the place of one."""
        return ~self.terminals if self.report.substituted else np.ones(len(self), bool)

    def transitions(self) -> dict[str, NDArray[np.generic]]:
        """The arrays by the keys that the kit's `ReplayBuffer.load_dataset` reads; shared, not copied."""
        return {
            "observations": self.observations,
            "actions": self.actions,
            "next_observations": self.next_observations,
            "rewards": self.rewards,
            "terminals": self.terminals,
        }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all arrays with their names, types and shapes (`steps` follows from them); the name does not enter."""
        digest = hashlib.sha256()
        arrays: dict[str, NDArray[np.generic]] = {
            **self.transitions(),
            "episode_starts": self.episode_starts,
            "episode_returns": self.episode_returns,
            "episode_lengths": self.episode_lengths,
        }
        for key, array in arrays.items():
            digest.update(f"{key} {array.dtype.str} {array.shape};".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def assemble(
    name: str,
    *,
    observations: Floats,
    actions: Floats,
    rewards: Floats,
    terminals: Bools,
    timeouts: Bools,
    next_observations: Floats | None,
) -> OfflineDataset:
    """A dataset out of the rows of consecutive episodes, in order.

    An episode ends where `terminals` or `timeouts` is True; the last one may be unfinished. With `next_observations`
    every row is a valid transition. Without them the successor is the following row of the same episode, so a row at a
    time limit and the last row of an unfinished episode have none and are dropped and counted. A terminal row is kept,
    with its own observation as successor, and counted too: no value follows it whatever its successor is, and without
    it nothing would tell that the state before it was the end. The arrays become the dataset's: dropped rows are closed up in them.
    """
    rows = len(observations)
    ends = terminals | timeouts  # [N]
    last = np.flatnonzero(ends)  # [C] the last row of each completed episode
    first = np.concatenate([[0], last + 1])
    first = first[first < rows]  # [E]
    complete = first[: len(last)]
    steps = np.arange(rows) - np.repeat(first, np.diff(np.append(first, rows)))  # [N]
    totals = np.concatenate([[0.0], np.cumsum(rewards, dtype=np.float64)])  # [N + 1]
    episodes = {
        "episode_starts": observations[first],
        "episode_returns": totals[last + 1] - totals[complete],
        "episode_lengths": last + 1 - complete,
    }
    dropped: dict[str, int] = {}
    substituted = 0
    if next_observations is None:
        unfinished = not ends[-1]
        reasons = {
            "timeout, next observation not recorded": int((timeouts & ~terminals).sum()),
            "end of the unfinished last episode": int(unfinished),
        }
        dropped = {reason: count for reason, count in reasons.items() if count}
        keep = np.flatnonzero(terminals | ~np.append(ends[:-1], True))
        substituted = int(terminals.sum())
        next_observations = observations[np.where(terminals[keep], keep, keep + 1)]
        observations, actions, rewards = (_closed_up(array, keep) for array in (observations, actions, rewards))
        terminals, steps = terminals[keep], steps[keep]
    return OfflineDataset(
        name=name,
        observations=observations,
        actions=actions,
        next_observations=next_observations,
        rewards=rewards,
        terminals=terminals,
        steps=steps,
        report=LoadReport(rows, len(observations), dropped, substituted),
        **episodes,
    )


def _closed_up(array: Floats, keep: NDArray[np.int64]) -> Floats:
    """Rows `keep`, in ascending order, of `array`, moved to its front: a copy would take the room of the whole dataset again."""
    for start in range(0, len(keep), CHUNK):
        rows = keep[start : start + CHUNK]
        array[start : start + len(rows)] = array[rows]
    return array[: len(keep)]


def check_finite(source: str, key: str, array: Floats) -> None:
    """Raise UserError for a column of `source` with NaN or infinite values, naming the first row."""
    if np.isfinite(array).all():
        return
    bad = ~np.isfinite(array)
    row = int(np.argmax(bad.reshape(len(array), -1).any(1)))
    raise UserError(f"{source}: {key} has {int(bad.sum())} NaN or infinite values, the first in row {row}; remove those episodes")


def check_actions(source: str, actions: Floats) -> None:
    """Raise UserError for actions [N, a] of `source` outside [-1, 1]."""
    if max(-float(actions.min()), float(actions.max())) > 1 + ACTION_TOLERANCE:
        rows = (np.abs(actions) > 1 + ACTION_TOLERANCE).any(1)
        raise UserError(
            f"{source}: {int(rows.sum())} actions lie outside [-1, 1], the first in row {int(np.argmax(rows))}; scale them to [-1, 1]"
        )
