"""python -m offlinerlkit_damo compare, and ablate"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import yaml

from offlinerlkit_damo.compare.ablations import ablation_plan, described
from offlinerlkit_damo.compare.fleets import LocalFleets
from offlinerlkit_damo.compare.forecast import clock, dry_run
from offlinerlkit_damo.compare.local import LocalProcesses
from offlinerlkit_damo.compare.pace import seconds_left
from offlinerlkit_damo.compare.plan import SEEDS, Plan, jobs, make_plan, read_plan, write_plan
from offlinerlkit_damo.compare.runner import Executor, Status, failure, log_path, run_plan
from offlinerlkit_damo.cores import usable_cores
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.flags import listed
from offlinerlkit_damo.report.comparison import write_report
from offlinerlkit_damo.training.run import check_device

QUIET_INTERVAL = 60.0  # seconds between lines where there is no terminal
TABLE_INTERVAL = 2.0


def compare(arguments: argparse.Namespace) -> None:
    """Run the command; exits with 1 if a job failed twice, or its run is damaged."""
    _run(_plan(arguments), arguments)


def ablate(arguments: argparse.Namespace) -> None:
    """Run the command: a comparison whose contestants are those of ready-made studies."""
    if arguments.list:
        print(described())
        return
    plan = ablation_plan(arguments.studies, listed(arguments.tasks), _seeds(arguments), _options(arguments))
    if arguments.write is not None:
        write_plan(plan, arguments.write)
        print(f"{arguments.write}: a plan, to be edited and given to `compare --plan`")
        return
    _run(plan, arguments)


def _run(plan: Plan, arguments: argparse.Namespace) -> None:
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UserError(f"--jobs {arguments.jobs} is not positive")
    if arguments.gpu_share is not None and not 0 < arguments.gpu_share < math.inf:
        raise UserError(f"--gpu-share is {arguments.gpu_share:g}; a run's share of a GPU is above 0")
    if arguments.executor != "ray":
        for name in ("ray_address", "gpu_share"):
            if getattr(arguments, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} has no effect without --executor ray")
    configs = [job.config for job in jobs(plan, arguments.out)]
    for name in plan.unread():
        print(f"{name} changes nothing: no contestant of this comparison reads it", file=sys.stderr)
    if arguments.dry_run or arguments.executor != "ray":  # whose devices are other machines'
        for name in sorted({config.device for config in configs}):
            check_device(name)
    at_once = arguments.jobs or max(1, usable_cores() // max(config.threads for config in configs))
    if arguments.dry_run:
        dry_run(plan, arguments.out, at_once)
        if arguments.executor == "fleet":
            print("this is the time of a process for every run; what a fleet needs is not known before it runs")
        return
    with executor(arguments, at_once) as chosen:
        every = run_plan(plan, arguments.out, chosen, show=Display(), force=arguments.force)
    failed = [status for status in every if status.state == "failed"]
    for status in failed:
        print(f"{failure(status, arguments.out)} ({log_path(status.job, arguments.out)})", file=sys.stderr)
    if any(status.folder is not None and status.step and status.damage is None for status in every):
        print(write_report([arguments.out], arguments.out))
    if failed or any(status.damage is not None for status in every):
        raise SystemExit(1)


@contextmanager
def executor(arguments: argparse.Namespace, at_once: int) -> Iterator[Executor]:
    """What --executor and the flags that go with it ask for; `at_once`: processes on this machine."""
    if arguments.executor != "ray":
        if arguments.executor == "fleet":
            yield LocalFleets(arguments.jobs or 1)
        else:
            yield LocalProcesses(at_once)
        return
    # here: nothing else needs Ray
    from offlinerlkit_damo.compare.cluster import ray_cluster

    with ray_cluster(arguments.ray_address, at_once=arguments.jobs, gpu_share=arguments.gpu_share) as cluster:
        yield cluster


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for text in arguments.set or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text} has no value; give --set name=value")
        try:
            options[name.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set {text} has a value that is no YAML; give a number, a word or a [list]") from None
    return options


def _plan(arguments: argparse.Namespace) -> Plan:
    if arguments.plan is not None:
        if any(given is not None for given in (arguments.tasks, arguments.algos, arguments.seeds, arguments.set)):
            raise UserError("--plan is a whole comparison; leave --tasks, --algos, --seeds and --set out")
        return read_plan(arguments.plan)
    if not arguments.tasks:
        raise UserError("name the tasks with --tasks, or give a --plan")
    tasks, algos = (listed(text) for text in (arguments.tasks, arguments.algos or "damo,mopo"))
    return make_plan(tasks, algos, _seeds(arguments), _options(arguments))


def _seeds(arguments: argparse.Namespace) -> int:
    return SEEDS if arguments.seeds is None else int(arguments.seeds)


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
        width, height = shutil.get_terminal_size()
        started = sorted((status for status in every if status.state != "waiting"), key=lambda status: status.state == "finished")
        # what is cut off, and what would scroll away, could not be written over
        lines = [text[: width - 1] for text in (HEAD, *map(_line, started[: height - 3]), summary)]
        up = f"\033[{self._lines}F\033[J" if self._lines else ""
        print(up + "\n".join(lines), flush=True)
        self._lines = len(lines)


def _line(status: Status) -> str:
    score = "" if status.score is None else f"{status.score:15.1f}"
    if status.state == "running" and status.trains_model():
        score = "dynamics model"
    again = ", second try" if status.failures and status.state == "running" else ""
    again += f", machine lost {status.losses}x" if status.losses else ""
    return f"{status.job.name:50s} {status.state:9s}{100 * status.step / status.steps:4.0f}% {score}{again}"


HEAD = f"{'run':50s} {'state':9s} done last evaluation"
"""Of the table: one evaluation's points, where the report has the mean of ten."""


def _summary(every: Sequence[Status]) -> str:
    counts = {state: sum(status.state == state for status in every) for state in ("finished", "running", "waiting", "failed")}
    counts["damaged"] = sum(status.damage is not None for status in every)
    text = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    left, unknown = seconds_left(every)
    if left is None:
        return text
    return f"{text}; {clock(left)} to go" + (f", and {', '.join(unknown)}, whose pace is not known yet" if unknown else "")
