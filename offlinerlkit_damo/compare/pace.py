"""How long a comparison that is going on will take, by the pace of its own runs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from offlinerlkit_damo.compare.estimate import makespan
from offlinerlkit_damo.compare.plan import model_key
from offlinerlkit_damo.compare.runner import Status


def seconds_left(every: Sequence[Status]) -> tuple[float | None, list[str]]:
    """Seconds until all runs whose pace is known are done, and the contestants whose pace is not; None before anything is known.

    A run's pace is its own, else the mean of its contestant's on the same task, else on all. For every model that no run has begun to train
    the longest time counts that a run has waited for one. What is running goes on beside as many others as now.
    """
    running = [status for status in every if status.state == "running"]
    waiting = [status for status in every if status.state == "waiting"]
    model = max((status.model_seconds for status in every if status.model_seconds is not None), default=0.0)
    trained = {model_key(status.job.config) for status in every if status.state != "waiting"} | {None}
    times: list[float] = []
    unknown: list[str] = []
    for status in (*running, *waiting):
        pace, key = _pace(status, every), model_key(status.job.config)
        if pace is None:
            unknown += [status.job.label] * (status.job.label not in unknown)
            continue
        times.append(pace * (status.steps - status.step) + (0.0 if key in trained else model))
        trained.add(key)
    return (makespan(times, max(1, len(running))) if times else None), unknown


def _pace(status: Status, every: Sequence[Status]) -> float | None:
    if status.pace is not None:
        return status.pace
    label, task = status.job.label, status.job.config.task
    known = [(other.job.config.task, other.pace) for other in every if other.job.label == label and other.pace is not None]
    found = [pace for where, pace in known if where == task] or [pace for _, pace in known]
    return fmean(found) if found else None
