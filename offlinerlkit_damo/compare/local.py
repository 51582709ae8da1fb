"""Runs as processes of this machine, which is where a comparison runs unless it is told otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from offlinerlkit_damo.compare.plan import plain
from offlinerlkit_damo.compare.runner import Outcome, Status, log_path
from offlinerlkit_damo.config import Config
from offlinerlkit_damo.files import file_name, save_yaml


class LocalProcesses:
    """An executor: a process a run, `at_once` of them at a time."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._running: list[TrainingProcess] = []

    def start(self, status: Status, every: Sequence[Status], out: Path) -> TrainingProcess | None:
        """As `runner.Executor`. What runs can share, they find in this machine's cache."""
        if not self.places():
            return None
        job = status.job
        flags = run_flags(job.config, status.folder, options=out / "jobs" / f"{file_name(job.name)}.yaml", force=status.force)
        return self.launch(flags, job.config, log=log_path(job, out))

    def places(self) -> int:
        """How many processes may be started now."""
        self._running = [process for process in self._running if process.poll() is None]
        return self._at_once - len(self._running)

    def launch(self, flags: Sequence[str], config: Config, *, log: Path) -> TrainingProcess:
        """One more process."""
        process = TrainingProcess(flags, threads=config.threads, log=log)
        self._running.append(process)
        return process


def run_flags(config: Config, folder: Path | None, *, options: Path, force: bool = False) -> list[str]:
    """What `train` is told: `config` from its start, which is written to `options`, or on from `folder`, the run that it has already."""
    if folder is not None:
        return resume_flags(folder, force=force)
    save_yaml(plain(config), options)
    return ["--config", str(options)]


def resume_flags(path: Path, *, force: bool) -> list[str]:
    """What `train` is told to go on with a run's folder or a fleet's record, with `force` whatever has changed since."""
    return ["--resume", str(path), *(["--force"] if force else [])]


class TrainingProcess:
    """`train` with these flags, in a process of its own.

    Args:
        threads: of the process.
        log: file that what it prints is added to.
        environment: variables beside those of this process.
    """

    began = True

    def __init__(self, flags: Sequence[str], *, threads: int, log: Path, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "offlinerlkit_damo.compare.child", str(os.getpid()), "train", *flags]
        self._log, self._stopping, self._told = log, False, False
        variables = {**os.environ, "OMP_NUM_THREADS": str(threads), **(environment or {})}
        with log.open("ab") as file:
            # a session of its own: Ctrl-C reaches the comparison alone, which then stops its processes in order
            self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=variables, start_new_session=True)

    def poll(self) -> Outcome | None:
        """As `runner.Attempt`; the process writes into the job's folder itself."""
        code = self._process.poll()
        if code is not None and code < 0 and not (self._stopping or self._told):
            self._told = True
            why = "; the system does that when memory runs out" if -code == signal.SIGKILL else ""
            with self._log.open("a", encoding="utf-8") as file:
                file.write(f"\nended by signal {-code} ({signal.strsignal(-code)}){why}\n")
        return None if code is None else "failed" if code else "ended"

    def wait(self, seconds: float) -> Outcome | None:
        """`poll` after its end, or after so many seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return self.poll()

    def stop(self) -> None:
        """As `runner.Attempt`; asked for once however many runs are in the process, which a second signal would end without checkpoints."""
        if not self._stopping:
            self._stopping = True
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once; returns when it has ended."""
        self._process.kill()
        self._process.wait()
