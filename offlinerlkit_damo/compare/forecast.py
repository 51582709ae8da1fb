"""What a comparison has still to run, and how long that takes on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offlinerlkit_damo.compare.estimate import Cost, Data, estimate, makespan, run_data
from offlinerlkit_damo.compare.plan import Plan, jobs, model_key
from offlinerlkit_damo.compare.runner import Status
from offlinerlkit_damo.config import Config
from offlinerlkit_damo.files import check_writable
from offlinerlkit_damo.training.dynamics import dynamics_id
from offlinerlkit_damo.training.dynamics_store import stored_folder
from offlinerlkit_damo.training.run_folder import is_finished


def dry_run(plan: Plan, out: Path, at_once: int) -> None:
    """Print what would be run and how long it would take here; runs nothing. Raises UserError where `out` cannot be."""
    check_writable(out)
    costs: dict[tuple[str, str], Cost] = {}
    datasets: dict[tuple[Any, ...], Data] = {}
    models: set[Any] = {None}  # those that are there or that an earlier run trains, and that of a run without
    times: list[float] = []
    every = [Status(job) for job in jobs(plan, out)]
    for status in every:
        status.look()
        job, config, model = status.job, status.job.config, model_key(status.job.config)
        if status.folder is not None and is_finished(status.folder):
            print(f"{job.name:50s} finished")
            continue
        about = config.task, config.data, config.data_size, config.data_seed, config.algo_name == "rambo"
        if about not in datasets:
            datasets[about] = run_data(config)
        key = job.label, config.task
        if key not in costs:
            costs[key] = estimate(config, datasets[about])
        if (status.folder is not None and not status.trains_model()) or _is_stored(config, datasets[about]):
            models.add(model)
        seconds = costs[key].training * (1 - status.step / status.steps)
        seconds += 0.0 if status.step else costs[key].before
        seconds += 0.0 if model in models else costs[key].dynamics
        models.add(model)
        times.append(seconds)
        print(f"{job.name:50s} {clock(seconds)}")
    absent = {(data or task, found.rows) for (task, data, *_), found in datasets.items() if found.fingerprint is None}
    for name, rows in sorted(absent):
        print(f"{name} is not here yet: counted as {rows:,} transitions")
    at_once = min(at_once, len(times))
    print(f"{len(every)} runs, {f'about {clock(makespan(times, at_once))} with {at_once} at once' if times else 'all finished'}")


def _is_stored(config: Config, data: Data) -> bool:
    return data.fingerprint is not None and stored_folder(dynamics_id(config, data.fingerprint)).is_dir()


def clock(seconds: float) -> str:
    """A time for people."""
    minutes = round(seconds / 60)
    if minutes >= 48 * 60:
        return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{minutes} min" if minutes else f"{seconds:.0f} s"
