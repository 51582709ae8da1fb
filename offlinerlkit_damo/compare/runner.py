"""Running a plan: a run a job, wherever the executor has it run, continued where it stopped, gathered into one table."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from offlinerlkit_damo.compare.parcel import MODEL
from offlinerlkit_damo.compare.plan import FAILURES, Job, Plan, jobs, keep_plan, model_key, plain, read_failures
from offlinerlkit_damo.compare.rows import read_episodes, write_rows
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import file_name, make_folder, save_text, sole_lock
from offlinerlkit_damo.training.logs import EPISODES
from offlinerlkit_damo.training.resume import changed_options
from offlinerlkit_damo.training.run_folder import FACTS, is_finished, read_facts, run_parent
from offlinerlkit_damo.training.stopping import StopRequest

POLL = 0.5  # seconds
INTERVAL = 60.0  # seconds between two gatherings of the rows of runs that go on
SHARE = 0.02  # of the time, that gathering may take
TRIES = 2
LOSSES = 5  # of its machine, after which a run has failed as well
Outcome = Literal["ended", "failed", "lost"]


@dataclass
class Status:
    """Where a job stands."""

    job: Job
    force: bool = False  # go on with its run even if code, versions, host, data or model have changed since it began
    folder: Path | None = None  # its run, once it has one
    state: str = "waiting"  # running, finished, failed
    failures: int = 0
    losses: int = 0  # of the machine that it ran on
    started: float = 0.0
    step: int = 0
    first_step: int = 0  # at which this process found it
    ready: float | None = None  # when it had its dynamics model
    model_seconds: float | None = None  # that it has waited for it
    pace: float | None = None  # seconds a step, as long as it has run here
    score: float | None = None
    damage: str | None = None  # why its rows are not in the comparison's table
    seen: tuple[int, int] | None = None  # time and size of its table when it was last read

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.job.config.epoch * self.job.config.step_per_epoch

    def look(self) -> None:
        """Read how far its run has come."""
        if self.folder is None:
            self.folder = find_run(self.job)
        if self.folder is None:
            return
        if self.state == "running" and self.ready is None and not self.trains_model():
            self.ready = time.monotonic()
            self.model_seconds = self.ready - self.started if self.first_step == 0 and model_key(self.job.config) is not None else None
        table = self.folder / "record" / EPISODES
        if not table.exists():
            return
        about = table.stat()
        if self.seen == (about.st_mtime_ns, about.st_size):
            return  # asked for twice a second, it grows with every evaluation
        self.seen = about.st_mtime_ns, about.st_size
        try:
            rows = read_episodes(self.folder)
        except UserError:  # said where the rows are gathered
            return
        if len(rows):
            self.step = int(rows["timestep"].iloc[-1])
            if self.ready is not None and self.step > self.first_step:
                self.pace = (time.monotonic() - self.ready) / (self.step - self.first_step)
            self.score = float(rows["score"][rows["timestep"] == self.step].mean())

    def trains_model(self) -> bool:
        """Whether its run still trains its dynamics model, or waits for another that trains it."""
        return self.folder is not None and model_key(self.job.config) is not None and not (self.folder / MODEL).is_dir()

    def begin(self) -> None:
        """Note that its process has begun."""
        self.state, self.started, self.first_step, self.ready = "running", time.monotonic(), self.step, None

    def end(self, outcome: Outcome) -> None:
        """Note how its process has ended. A lost machine is no failure of the run, unless it is lost again and again."""
        if self.folder is not None and is_finished(self.folder):  # whatever became of other runs in its process
            self.state = "finished"
            return
        if outcome == "lost":
            self.losses += 1
        else:
            self.failures += 1
        self.state = "failed" if self.failures == TRIES or self.losses == LOSSES else "waiting"


class Attempt(Protocol):
    """One process of a run."""

    began: bool
    """Whether it has been given what it runs on."""

    def poll(self) -> Outcome | None:
        """How it ended, None before; brings what is new of the run into the job's folder. `lost`: its machine is gone."""

    def stop(self) -> None:
        """Ask it to end, with a checkpoint; `poll` then says when it has."""


class Executor(Protocol):
    """Where runs run."""

    def start(self, status: Status, every: Sequence[Status], out: Path) -> Attempt | None:
        """Start a waiting job's run, or continue it from its folder; None if there is no place for it now.

        `every` job of the plan may have what it can share; what the process prints goes to `log_path`.
        """


def log_path(job: Job, out: Path) -> Path:
    """Where what a job's processes print is kept."""
    return out / "logs" / f"{file_name(job.name)}.log"


def failure(status: Status, out: Path) -> str:
    """What became of a job that has failed, with the last that its processes printed."""
    log = log_path(status.job, out)
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    how = "failed twice" if status.failures == TRIES else f"lost its machine {status.losses} times"
    return f"{how}: {status.job.name}: {last}"


def find_run(job: Job) -> Path | None:
    """The run folder that `job` has already, None before its start. Raises UserError if it was started with other options."""
    parent = run_parent(job.config)
    # without run.json: killed before it was written, with nothing to go on from
    found = sorted(parent.parent.glob(f"*/seed_{job.config.seed}&timestamp_*/{FACTS}"))
    if not found:
        return None
    for facts in found:
        if facts.parts[-3] != parent.name:
            raise _unlike(facts.parent, f"algo_name: {facts.parts[-3]} -> {parent.name}")
    folder = found[0].parent
    try:
        options = read_facts(folder)["config"]
    except UserError:  # said by the run itself, which cannot go on, and where the rows are gathered
        return folder
    changes = changed_options(options, plain(job.config))
    if changes:
        raise _unlike(folder, "; ".join(changes))
    return folder


def _unlike(folder: Path, changes: str) -> UserError:
    return UserError(f"{str(folder)!r} was made with other options ({changes}); name another folder with --out")


def run_plan(plan: Plan, out: Path, executor: Executor, *, show: Callable[[Sequence[Status]], None], force: bool = False) -> list[Status]:
    """Run what is not finished yet; returns where every job stands.

    A run that fails is tried once more, from its checkpoint. `show` is called with all jobs every now and then. Interrupted, it stops its
    processes, which checkpoint first; the same call goes on from there, with `force` whatever has changed since those runs began. Rows are
    gathered after every run, and about every minute. Raises UserError if `out` holds runs with other options, or belongs to another
    comparison that is going on.
    """
    make_folder(out / "logs")
    every = [Status(job, force=force) for job in jobs(plan, out)]
    with _locked(out), StopRequest(when="; the same command goes on from here"):
        for status in every:
            status.look()
            if status.folder is not None and is_finished(status.folder):
                status.state = "finished"
        keep_plan(plan, out)
        table = Table(every, out)
        going: dict[str, tuple[Status, Attempt]] = {}
        try:
            while going or any(status.state == "waiting" for status in every):
                for status in every:
                    if status.state == "waiting" and status.job.name not in going:
                        attempt = executor.start(status, every, out)
                        if attempt is not None:
                            going[status.job.name] = status, attempt
                table.follow()
                time.sleep(POLL)
                for name, (status, attempt) in list(going.items()):
                    if attempt.began and status.state == "waiting":
                        status.begin()
                    outcome = attempt.poll()
                    status.look()
                    if outcome is not None:
                        del going[name]
                        status.end(outcome)
                show(every)
        finally:
            if going:
                runs = "1 run" if len(going) == 1 else f"{len(going)} runs"
                how = "with a checkpoint each where training has begun; once more to quit without waiting for it"
                print(f"stopping {runs}, {how}", file=sys.stderr, flush=True)
            for _, attempt in going.values():
                attempt.stop()
            for status, attempt in going.values():
                _await_end(status, attempt)
            for folder, reason in table.gather().items():
                again = f"without {shlex.quote(str(folder))}, the call that made this run makes it anew"
                print(f"not in the tables: {reason}; {again}", file=sys.stderr)
    return every


def _await_end(status: Status, attempt: Attempt) -> None:
    """Wait until a stopped attempt has ended; one that cannot be asked any more is told of, and the others are still waited for."""
    try:
        while attempt.poll() is None:
            time.sleep(POLL)
    except UserError as error:
        print(f"{status.job.name}: {error}", file=sys.stderr)
    status.look()


class Table:
    """The rows of all runs of a comparison: of the plan's, and of those that other plans have left in its folder."""

    def __init__(self, every: Sequence[Status], out: Path) -> None:
        self._every, self._out = every, out
        self._others = _failures_of_others(every, out)
        self._next = 0.0
        self._seen: Sequence[tuple[object, bool]] = []

    def follow(self) -> None:
        """Gather, if a run has ended, or had an evaluation and the last time is a while ago."""
        seen = [(status.seen, status.state in ("finished", "failed")) for status in self._every]
        ended = [end for _, end in seen] != [end for _, end in self._seen]
        if ended or (seen != self._seen and time.monotonic() >= self._next):
            self._seen, start = seen, time.monotonic()
            self.gather()
            end = time.monotonic()
            self._next = end + max(INTERVAL, (end - start) / SHARE)

    def gather(self) -> dict[Path, str]:
        """Write the table, and beside it what has failed; returns why a run is not in it, by its folder, and notes it of the plan's."""
        ours = [(status.folder, status.job.label) for status in self._every if status.folder is not None]
        damaged = write_rows([*ours, *other_runs([status.job for status in self._every], self._out)], self._out)
        for status in self._every:
            status.damage = damaged.get(status.folder) if status.folder is not None else None
        failed = [failure(status, self._out) for status in self._every if status.state == "failed"]
        left_out = [f"damaged, and left out: {reason}" for reason in damaged.values()]
        if failed or left_out or (self._out / FAILURES).exists():
            save_text("".join(f"{line}\n" for line in (*self._others, *failed, *left_out)), self._out / FAILURES)
        return damaged


def _failures_of_others(every: Sequence[Status], out: Path) -> list[str]:
    """What has been kept of failed jobs that the present plan does not have."""
    ours = {status.job.name for status in every}
    names = ((line, re.match(r"(?:failed twice|lost its machine \d+ times): (.+?): ", line)) for line in read_failures(out))
    return [line for line, name in names if name is not None and name[1] not in ours]


def other_runs(planned: Sequence[Job], out: Path) -> list[tuple[Path, str]]:
    """The runs in a comparison's folder that are none of the `planned` jobs', with their contestants' names."""
    taken = {(run_parent(job.config).resolve(), f"seed_{job.config.seed}") for job in planned}
    found = []
    for facts in sorted((out / "runs").glob(f"*/**/seed_*/{FACTS}")):
        key = facts.parent.parent.resolve(), facts.parent.name.partition("&")[0]
        if key not in taken:
            taken.add(key)
            found.append((facts.parent, facts.relative_to(out / "runs").parts[0]))
    return found


def _locked(out: Path) -> AbstractContextManager[None]:
    taken = f"another comparison is running in {str(out)!r}; wait for its end, or name another folder with --out"
    return sole_lock(out / "compare.lock", taken)
