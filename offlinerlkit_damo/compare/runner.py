"""Running a plan on this machine: one single-threaded process a run, as many at once as asked for, continued where it stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from offlinerlkit_damo.compare.plan import Job, Plan, jobs
from offlinerlkit_damo.compare.rows import write_rows
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import check_writable, replacing, sole_lock
from offlinerlkit_damo.training.logs import EPISODES, read_rows
from offlinerlkit_damo.training.resume import changed_options
from offlinerlkit_damo.training.run_folder import FACTS, is_finished, read_facts, run_parent
from offlinerlkit_damo.training.stopping import StopRequest

POLL = 0.5  # seconds
TRIES = 2


@dataclass
class Status:
    """Where a job stands."""

    job: Job
    folder: Path | None = None  # its run, once it has one
    state: str = "waiting"  # running, finished, failed
    tries: int = 0
    started: float = 0.0
    step: int = 0
    first_step: int = 0  # at which this process found it
    score: float | None = None
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
        table = self.folder / "record" / EPISODES
        if not table.exists():
            return
        about = table.stat()
        if self.seen == (about.st_mtime_ns, about.st_size):
            return  # asked for twice a second, it grows with every evaluation
        self.seen = about.st_mtime_ns, about.st_size
        rows = read_rows(table)
        if rows:
            self.step = int(rows[-1]["timestep"])
            last = [float(row["score"]) for row in rows if row["timestep"] == rows[-1]["timestep"]]
            self.score = sum(last) / len(last)


def find_run(job: Job) -> Path | None:
    """The run folder that `job` has already, None before its start. Raises UserError if it was started with other options."""
    # without run.json: killed before it was written, with nothing to go on from
    found = sorted(run_parent(job.config).glob(f"seed_{job.config.seed}&timestamp_*/{FACTS}"))
    if not found:
        return None
    folder = found[0].parent
    changes = changed_options(read_facts(folder)["config"], job.options)
    if changes:
        raise UserError(f"{str(folder)!r} was made with other options ({'; '.join(changes)}); name another folder with --out")
    return folder


def run_plan(plan: Plan, out: Path, *, at_once: int, show: Callable[[Sequence[Status]], None]) -> list[Status]:
    """Run what is not finished yet, `at_once` processes at a time; returns where every job stands.

    A run that fails is tried once more, from its checkpoint. `show` is called with all jobs every now and then. Interrupted, it stops its
    processes, which checkpoint first; the same call goes on from there. Rows are gathered after every run. Raises UserError if `out` holds
    runs with other options, or belongs to another comparison that is going on.
    """
    check_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    every = [Status(job) for job in jobs(plan, out)]
    with _locked(out), StopRequest(when="; the same command goes on from here"):
        for status in every:
            status.look()
            if status.folder is not None and is_finished(status.folder):
                status.state = "finished"
        running: dict[int, tuple[Status, subprocess.Popen[bytes], IO[bytes]]] = {}
        try:
            while running or any(status.state == "waiting" for status in every):
                for status in every:
                    if status.state == "waiting" and len(running) < at_once:
                        running[id(status)] = (status, *_start(status, out))
                time.sleep(POLL)
                for key, (status, process, log) in list(running.items()):
                    status.look()
                    if process.poll() is None:
                        continue
                    log.close()
                    del running[key]
                    done = process.returncode == 0 and status.folder is not None and is_finished(status.folder)
                    status.state = "finished" if done else "failed" if status.tries == TRIES else "waiting"
                    gather(every, out)
                show(every)
        finally:
            _stop([process for _, process, _ in running.values()])
            for _, _, log in running.values():
                log.close()
            gather(every, out)
    return every


def gather(every: Sequence[Status], out: Path) -> Path:
    """Write the table of all runs so far."""
    return write_rows([(status.folder, status.job.label) for status in every if status.folder is not None], out)


def _start(status: Status, out: Path) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    status.state, status.tries, status.started = "running", status.tries + 1, time.monotonic()
    status.look()
    status.first_step = status.step
    name = re.sub(r"[^\w.+=,-]+", "_", status.job.name)
    (out / "logs").mkdir(exist_ok=True)
    if status.folder is not None:
        flags = ["--resume", str(status.folder)]
    else:
        file = out / "jobs" / f"{name}.yaml"
        with replacing(file) as temporary:
            temporary.write_text(yaml.safe_dump(status.job.options, sort_keys=False), encoding="utf-8")
        flags = ["--config", str(file)]
    log = (out / "logs" / f"{name}.log").open("ab")
    command = [sys.executable, "-m", "offlinerlkit_damo", "train", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": str(status.job.config.threads)}
    # a session of its own: Ctrl-C reaches this process alone, which then stops the others in order
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    return process, log


def _stop(processes: Sequence[subprocess.Popen[Any]]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait()


def _locked(out: Path) -> AbstractContextManager[None]:
    taken = f"another comparison is running in {str(out)!r}; wait for its end, or name another folder with --out"
    return sole_lock(out / "compare.lock", taken)
