"""python -m offlinerlkit_damo compare"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from offlinerlkit_damo.compare.estimate import Cost, estimate
from offlinerlkit_damo.compare.plan import Plan, jobs, make_plan, read_plan
from offlinerlkit_damo.compare.runner import Status, find_run, run_plan
from offlinerlkit_damo.config import MODEL_BASED
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.report.comparison import write_report
from offlinerlkit_damo.training.run_folder import is_finished

QUIET_INTERVAL = 60.0  # seconds between lines where there is no terminal
TABLE_INTERVAL = 2.0


def compare(arguments: argparse.Namespace) -> None:
    """Run the command; exits with 1 if a job failed twice."""
    plan = _plan(arguments)
    at_once = (os.cpu_count() or 1) if arguments.jobs is None else arguments.jobs
    if at_once < 1:
        raise UserError(f"--jobs {at_once} is not positive")
    if arguments.dry_run:
        _dry_run(plan, arguments.out, at_once)
        return
    every = run_plan(plan, arguments.out, at_once=at_once, show=Display())
    failed = [status for status in every if status.state == "failed"]
    for status in failed:
        print(f"failed twice: {status.job.name}; its log is in {arguments.out / 'logs'}", file=sys.stderr)
    if any(status.folder is not None and status.step for status in every):
        print(write_report([arguments.out], arguments.out))
    if failed:
        raise SystemExit(1)


def _plan(arguments: argparse.Namespace) -> Plan:
    options: dict[str, Any] = {}
    for text in arguments.set or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text} has no value; give --set name=value")
        options[name.strip().replace("-", "_")] = yaml.safe_load(value)
    if arguments.plan is not None:
        if arguments.tasks or arguments.algos or arguments.seeds or options:
            raise UserError("--plan is a whole comparison; leave --tasks, --algos, --seeds and --set out")
        return read_plan(arguments.plan)
    if not arguments.tasks:
        raise UserError("name the tasks with --tasks, or give a --plan")
    tasks, algos = (text.split(",") for text in (arguments.tasks, arguments.algos or "damo,mopo"))
    return make_plan(tasks, algos, 4 if arguments.seeds is None else arguments.seeds, options)


def _dry_run(plan: Plan, out: Path, at_once: int) -> None:
    """Print what would be run and how long it would take here; runs nothing."""
    costs: dict[tuple[str, str], Cost] = {}
    total, models = 0.0, set()
    every = jobs(plan, out)
    for job in every:
        folder = find_run(job)
        if folder is not None and is_finished(folder):
            print(f"{job.name:50s} finished")
            continue
        key = (job.label, job.config.task)
        if key not in costs:
            costs[key] = estimate(job.config, job.config.data_size)
        seconds = costs[key].training
        model = (job.config.task, job.config.seed)
        if job.config.algo_name in MODEL_BASED and model not in models:
            models.add(model)
            seconds += costs[key].dynamics
        total += seconds
        print(f"{job.name:50s} {_clock(seconds)}")
    print(f"{len(every)} runs, about {_clock(total / min(at_once, len(every)))} with {at_once} at once, evaluations not counted")


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{minutes} min" if minutes else f"{seconds:.0f} s"


class Display:
    """All jobs as a table that is written over and over on a terminal, and as a line now and then elsewhere."""

    def __init__(self) -> None:
        self._lines, self._next, self._last = 0, 0.0, ""
        self._terminal = sys.stdout.isatty()

    def __call__(self, every: Sequence[Status]) -> None:
        """Show where the jobs stand."""
        summary = _summary(every)
        changed = summary.partition(";")[0] != self._last.partition(";")[0]
        if not changed and time.monotonic() < self._next:
            return
        self._last, self._next = summary, time.monotonic() + (TABLE_INTERVAL if self._terminal else QUIET_INTERVAL)
        if not self._terminal:
            print(summary, flush=True)
            return
        lines = [_line(status) for status in every if status.state != "waiting"] + [summary]
        up = f"\033[{self._lines}F\033[J" if self._lines else ""
        print(up + "\n".join(lines), flush=True)
        self._lines = len(lines)


def _line(status: Status) -> str:
    score = "" if status.score is None else f"{status.score:6.1f} points"
    again = ", second try" if status.tries == 2 and status.state == "running" else ""
    return f"{status.job.name:50s} {status.state:9s}{100 * status.step / status.steps:4.0f}% {score}{again}"


def _summary(every: Sequence[Status]) -> str:
    counts = {state: sum(status.state == state for status in every) for state in ("finished", "running", "waiting", "failed")}
    text = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    left = _seconds_left(every)
    return text + (f"; {_clock(left)} to go" if left else "")


def _seconds_left(every: Sequence[Status]) -> float | None:
    """By the speed of the jobs running; None until one has shown its own."""
    running = [status for status in every if status.state == "running"]
    moved = [status for status in running if status.step > status.first_step]
    speeds = [(status.step - status.first_step) / (time.monotonic() - status.started) for status in moved]
    if not speeds:
        return None
    steps = sum(status.steps - status.step for status in every if status.state in ("running", "waiting"))
    return steps / (sum(speeds) / len(speeds)) / len(running)
