"""DAMO's runs of a comparison as fleets: those that can train together share one process and one batched step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offlinerlkit_damo.compare.local import LocalProcesses, TrainingProcess, resume_flags
from offlinerlkit_damo.compare.plan import Job, plain
from offlinerlkit_damo.compare.runner import Status
from offlinerlkit_damo.config import readers
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import file_name, save_yaml
from offlinerlkit_damo.tasks import config_task
from offlinerlkit_damo.training.fleet_file import check_fleet
from offlinerlkit_damo.training.fleet_run import resumed_fleet


class LocalFleets(LocalProcesses):
    """An executor: waiting runs that can train together are dealt evenly to `at_once` fleets, every other run has a process of its own.

    Runs that were stopped together go on together; one that failed is tried again alone.
    """

    def __init__(self, at_once: int) -> None:
        super().__init__(at_once)
        self._process_of: dict[str, TrainingProcess] = {}
        self._joined: set[str] = set()  # jobs that another one's fleet has begun, not yet asked for

    def start(self, status: Status, every: Sequence[Status], out: Path) -> TrainingProcess | None:
        """As `runner.Executor`."""
        name = status.job.name
        if name in self._joined:
            self._joined.remove(name)
            return self._process_of[name]
        if not self.places():
            return None
        group, flags = self._together(status, every, out)
        if len(group) < 2:
            alone = super().start(status, every, out)
            assert alone is not None
            self._process_of[name] = alone
            return alone
        process = self.launch(flags, status.job.config, log=out / "logs" / f"{_fleet_name(status.job)}.log")
        self._process_of |= {member.job.name: process for member in group}
        self._joined |= {member.job.name for member in group} - {name}
        return process

    def _together(self, status: Status, every: Sequence[Status], out: Path) -> tuple[list[Status], list[str]]:
        """The waiting runs that train with this one, itself included, and what `train` is told."""
        candidates = [other for other in every if self._is_free(other) and _fit(status.job, other.job)]
        if status not in candidates:
            return [], []
        if status.folder is not None:
            group, record = _stopped_together(status, candidates, out)
            return group, [] if record is None else resume_flags(record, force=status.force)
        fresh = [other for other in candidates if other.folder is None]
        group = fresh[: math.ceil(len(fresh) / self.places())]
        if status not in group:
            group = [status, *group[1:]]
        file = out / "jobs" / f"{_fleet_name(status.job)}.yaml"
        save_yaml({"runs": [_options(member.job) for member in group]}, file)
        return group, ["--fleet", str(file)]

    def _is_free(self, status: Status) -> bool:
        process = self._process_of.get(status.job.name)
        return status.state == "waiting" and status.failures == 0 and (process is None or process.poll() is not None)


def _options(job: Job) -> dict[str, Any]:
    return {"name": job.name, **{name: value for name, value in plain(job.config).items() if job.config.algo_name in readers(name)}}


def _fit(job: Job, other: Job) -> bool:
    """Whether two runs can be in one fleet."""
    try:
        check_fleet({"": job.config, other.name: other.config})
    except UserError:
        return False
    task, others = config_task(job.config), config_task(other.config)
    # a file of the user's own says its sizes only when it is read
    alike = (task.obs_dim, task.action_dim) == (others.obs_dim, others.action_dim)
    return alike and (job.config.data, job.config.env) == (other.config.data, other.config.env)


def _stopped_together(status: Status, candidates: Sequence[Status], out: Path) -> tuple[list[Status], Path | None]:
    """The runs of the fleet that this one was stopped in, with its record, if all of them wait."""
    for record in sorted((out / "runs").glob("*/fleet_*.json")):
        try:
            _, folders = resumed_fleet(record, {})
        except UserError:  # damaged, or one of its runs is: each goes on alone
            continue
        members = {folder.resolve() for folder in folders.values()}
        group = [other for other in candidates if other.folder is not None and other.folder.resolve() in members]
        if status in group and len(group) == len(members):
            return group, record
    return [], None


def _fleet_name(job: Job) -> str:
    return f"fleet_{file_name(job.name)}"
