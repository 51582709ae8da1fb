"""What there is to know of a dataset, and what in it would spoil a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from offlinerlkit_damo.tasks.columns import gaps
from offlinerlkit_damo.tasks.dataset import OfflineDataset
from offlinerlkit_damo.tasks.task import TIME_LIMIT, Task
from offlinerlkit_damo.tasks.termination import termination_fn

SATURATED = 0.99  # an action of at least this size is at the end of its range
TORN = "are the rows shuffled, or next_observations rounded? Without timeouts nothing tells the episodes and their returns"
RULE_SAMPLE = 200_000  # rows that the termination rule is tried on


@dataclass(frozen=True)
class Remark:
    """One thing found in a dataset; a problem spoils the training, a note is worth knowing."""

    problem: bool
    text: str


def dataset_facts(dataset: OfflineDataset, task: Task | None = None) -> dict[str, Any]:
    """Counts, returns, lengths, saturation, duplicates and the range of every column; scores with a task of known references."""
    observations, actions = dataset.observations, dataset.actions
    facts: dict[str, Any] = {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "transitions": len(dataset),
        "rows_in": dataset.report.rows_in,
        "dropped": dataset.report.dropped,
        "substituted": dataset.report.substituted,
        "inferred_ends": dataset.report.inferred,
        "obs_dim": dataset.obs_dim,
        "action_dim": dataset.action_dim,
        "episodes": len(dataset.episode_starts),
        "completed_episodes": len(dataset.episode_returns),
        "terminal_rate": float(dataset.terminals.mean()),
        "reward": _spread(dataset.rewards),
        "saturated_actions": float((np.abs(actions) >= SATURATED).mean()),
        "duplicate_transitions": _duplicates(dataset),
        "observation_columns": [_spread(column) for column in observations.T],
        "action_columns": [_spread(column) for column in actions.T],
    }
    if len(dataset.episode_returns):
        facts["return"] = _spread(dataset.episode_returns)
        facts["episode_length"] = _spread(dataset.episode_lengths)
        if task is not None and task.robot is not None:
            facts["score"] = _spread(task.points(dataset.episode_returns))
    return facts


def _spread(values: Any) -> dict[str, float]:
    return {
        "min": float(np.min(values)),
        "mean": float(np.mean(values, dtype=np.float64)),
        "max": float(np.max(values)),
        "std": float(np.std(values, dtype=np.float64)),
    }


def _duplicates(dataset: OfflineDataset) -> int:
    """Rows whose observation and action have been seen before."""
    rows = np.ascontiguousarray(np.hstack([dataset.observations, dataset.actions]))
    return len(rows) - len(np.unique(rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))))


def check_dataset(dataset: OfflineDataset, task: Task | None = None) -> list[Remark]:
    """What is wrong or remarkable. That values are finite and actions within bounds has been seen to by the loader.

    With a task also whether its termination rule, which ends the model's rollouts, agrees with the recorded ends, and the time limit.
    """
    remarks = [
        *([Remark(False, f"{count} rows dropped: {reason}") for reason, count in dataset.report.dropped.items()]),
        *_continuity(dataset),
        *_columns(dataset),
    ]
    if dataset.report.substituted:
        text = f"{dataset.report.substituted} terminal rows have no recorded next observation; their own stands in"
        remarks.append(Remark(False, text))
    if dataset.report.inferred:
        why = TORN if dataset.report.torn else "each of them is taken for the end of an episode, since there are no timeouts"
        text = f"in {dataset.report.inferred} of {dataset.report.rows_in} rows next_observations is not the following observation; {why}"
        remarks.append(Remark(dataset.report.torn, text))
    if len(dataset.episode_returns) == 0:
        remarks.append(Remark(False, "no episode is complete, so there is no mean return to compare with"))
    if dataset.terminals.all():
        remarks.append(Remark(True, "every row is terminal: no value follows any action; look at how terminals were recorded"))
    if np.ptp(dataset.rewards) == 0:
        remarks.append(Remark(True, f"every reward is {float(dataset.rewards[0]):g}; there is nothing to learn"))
    if task is not None and task.robot is not None:
        remarks += _against_task(dataset, task)
    return remarks


def _continuity(dataset: OfflineDataset) -> list[Remark]:
    """Whether the successor of a row is the following observation within an episode, and only there."""
    gap, remarks = gaps(dataset.observations, dataset.next_observations), []
    within = dataset.steps[1:] == dataset.steps[:-1] + 1
    broken = np.flatnonzero(within & gap)
    if len(broken):
        text = (
            f"in {len(broken)} of {within.sum()} rows next_observations is not the following observation of the same episode, the first in "
            f"row {broken[0]}; are the rows shuffled, or timeouts missing?"
        )
        # a few may be a recorder's slips; as many as there are episodes are their ends
        remarks.append(Remark(len(broken) > min(within.sum() // 100, len(dataset.episode_returns)), text))
    cut = (dataset.steps[1:] == 0) & ~dataset.terminals[:-1]
    going = int((cut & ~gap).sum())
    if going and not dataset.report.dropped:
        text = f"after {going} of {cut.sum()} timeouts the episode goes on in the following row; are they marked in the wrong rows?"
        remarks.append(Remark(False, text))
    return remarks


def _columns(dataset: OfflineDataset) -> list[Remark]:
    remarks = []
    for kind, array in (("observations", dataset.observations), ("actions", dataset.actions)):
        constant = np.flatnonzero(np.ptp(array, 0) == 0)
        if len(constant):
            problem = kind == "actions" and len(constant) == array.shape[1]
            told = "; the dynamics model and the classifier do not look at them" if kind == "observations" else ""
            remarks.append(Remark(problem, f"{kind} do not vary in columns {', '.join(map(str, constant))}{told}"))
    saturated = float((np.abs(dataset.actions) >= SATURATED).mean())
    if saturated > 0.5:
        remarks.append(Remark(False, f"{saturated:.0%} of the actions are at the end of their range"))
    return remarks


def _against_task(dataset: OfflineDataset, task: Task) -> list[Remark]:
    remarks = []
    longest = max(int(dataset.episode_lengths.max(initial=0)), int(dataset.steps.max()) + 1)  # the last one may be unfinished
    if longest > TIME_LIMIT:
        text = f"an episode has {longest} steps and {task.env_id} stops after {TIME_LIMIT}; timeouts may be missing"
        remarks.append(Remark(True, text))
    rows = slice(0, RULE_SAMPLE)
    ends, successors = dataset.terminals[rows], dataset.next_observations[rows]
    ruled = termination_fn(task)(dataset.observations[rows], dataset.actions[rows], successors).reshape(-1)
    early, missed = int((ruled & ~ends).sum()), int((ends & ~ruled).sum())
    if dataset.report.substituted:
        missed = 0  # the state that ended the episode was not recorded
    if early or missed:
        share = (early + missed) / len(ends)
        text = (
            f"the termination rule of {task.robot} differs from the recorded terminals in {early + missed} of {len(ends)} rows: it ends "
            f"{early} that go on and misses {missed} that end; is it the data of another simulator?"
        )
        remarks.append(Remark(share > 1e-3, text))
    return remarks
