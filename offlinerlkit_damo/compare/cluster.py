"""Runs on the machines of a Ray cluster, which need not share a disk.

A run trains in a folder of its own wherever Ray has room for it, beside an actor that sends what is new of the folder as often as it is
asked. A machine that goes away so costs what came after the last checkpoint sent. The job brings its dataset and its dynamics model along,
because the same seed does not make the same bits on every processor.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offlinerlkit_damo.compare.local import TrainingProcess, run_flags
from offlinerlkit_damo.compare.parcel import MODEL, Parcel, Stamps, pack, stamps, unpack
from offlinerlkit_damo.compare.plan import Job, model_key
from offlinerlkit_damo.compare.runner import Outcome, Status, find_run, log_path
from offlinerlkit_damo.config import Config
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import config_task, make_dataset
from offlinerlkit_damo.tasks.cache import CACHE_VARIABLE
from offlinerlkit_damo.tasks.generated import is_made
from offlinerlkit_damo.training.dynamics_store import FACTS, adopt_model, read_model_facts

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise ImportError('runs on a cluster need Ray, which is missing; run: pip install "offlinerlkit-damo[tune]"') from error

INTERVAL = 1.0  # seconds between two looks at a run
TIMEOUT = 10.0  # seconds for a cluster to answer
USAGE_VARIABLE = "RAY_USAGE_STATS_ENABLED"
NOTHING = Parcel()


@dataclass(frozen=True)
class Luggage:
    """What a run starts with on a machine that has nothing of it."""

    run: str | None = None  # its folder, beneath the folder of runs, if it is to be continued
    folder: Parcel = NOTHING
    model_id: str | None = None
    model: Parcel = NOTHING  # trained before, for another run


@dataclass(frozen=True)
class News:
    """What has become of a run since the last look."""

    outcome: Outcome | None = None
    run: str | None = None  # its folder, beneath the folder of runs, once it has one
    folder: Parcel = NOTHING
    log: bytes = b""


class Worker:
    """On a machine of the cluster: one run, in a temporary folder, with a cache of its own."""

    def __init__(self) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="offlinerlkit-damo-"))
        self._log = self._place / "log"
        self._told, self._known = 0, Stamps()

    def settle(self) -> News:
        """Answers once the worker has its place."""
        return News()

    def start(self, job: Job, luggage: Luggage, dataset: tuple[str, bytes] | None, force: bool = False) -> News:
        """Unpack and start the run; `dataset`: its file's name in the cache, and its content; `force` as for `runner.Status`."""
        self._job = dataclasses.replace(job, config=dataclasses.replace(job.config, logdir=str(self._place / "runs")))
        cache, folder = self._place / "cache", None
        if dataset is not None:
            file = cache / dataset[0]
            file.parent.mkdir(parents=True)
            file.write_bytes(dataset[1])
        if luggage.model_id is not None:
            unpack(luggage.model, cache / "dynamics" / luggage.model_id)
        if luggage.run is not None:
            folder = self._place / "runs" / luggage.run
            unpack(luggage.folder, folder)
            self._known = stamps(folder)
        flags = run_flags(self._job.config, folder, options=self._place / "job.yaml", force=force)
        variables = {CACHE_VARIABLE: str(cache)}
        self._process = TrainingProcess(flags, threads=self._job.config.threads, log=self._log, environment=variables)
        return News()

    def look(self) -> News:
        """What is new, a while after the last look or when the run's process has ended."""
        outcome = self._process.wait(INTERVAL)
        folder, parcel, name = find_run(self._job), NOTHING, None
        if folder is not None:
            parcel = pack(folder, self._known)
            self._known, name = parcel.stamps, folder.relative_to(self._place / "runs").as_posix()
        with self._log.open("rb") as file:
            file.seek(self._told)
            log = file.read()
        self._told += len(log)
        if outcome is not None:
            shutil.rmtree(self._place, ignore_errors=True)
        return News(outcome, name, parcel, log)

    def stop(self) -> None:
        """Ask the run's process to end, with a checkpoint."""
        self._process.stop()


class RayAttempt:
    """A run on the cluster, seen from the comparison; see `runner.Attempt`."""

    def __init__(self, status: Status, out: Path, model: Path | None, dataset: Any, *, gpus: float) -> None:
        self.began = self._stopped = False
        self.outcome: Outcome | None = None
        self.key = model_key(status.job.config)
        self._job, self._log = status.job, log_path(status.job, out)
        self._folder, self._model, self._dataset, self._force = status.folder, model, dataset, status.force
        actor: Any = ray.remote(Worker)
        self._actor = actor.options(num_cpus=status.job.config.threads, num_gpus=gpus).remote()
        self._pending: Any = self._actor.settle.remote()

    def poll(self) -> Outcome | None:
        """As `runner.Attempt`."""
        if self.outcome is not None or not ray.wait([self._pending], timeout=0)[0]:
            return self.outcome
        try:
            news: News = ray.get(self._pending)
        except RayTaskError as error:  # of our own: it cannot be unpacked or started there
            return self._end("failed", f"{error}\n")
        except RayError as error:
            reason = "" if self._stopped else f"the machine of this run is lost ({' '.join(str(error).split())[:300]})\n"
            return self._end("lost", reason)
        if news.log:
            with self._log.open("ab") as file:
                file.write(news.log)
        if news.run is not None:
            folder = Path(self._job.config.logdir) / news.run
            unpack(news.folder, folder)
            if self.key is not None and f"{MODEL}/{FACTS}" in news.folder.files:
                adopt_model(folder / MODEL)  # for what this machine may run of the plan
        if news.outcome is not None:
            return self._end(news.outcome)
        if self.began:
            self._pending = self._actor.look.remote()
        else:
            self.began = True
            self._pending = self._actor.start.remote(self._job, self._luggage(), self._dataset, self._force)
        return None

    def stop(self) -> None:
        """As `runner.Attempt`."""
        self._stopped = True
        if self.began:
            self._actor.stop.remote()
        else:
            ray.kill(self._actor)

    def _luggage(self) -> Luggage:
        """Packed only when the run has its place: what waits must not fill the memory."""
        luggage = Luggage()
        if self._folder is not None:
            run = self._folder.relative_to(self._job.config.logdir).as_posix()
            luggage = dataclasses.replace(luggage, run=run, folder=pack(self._folder))
        if self._model is not None:
            luggage = dataclasses.replace(luggage, model_id=read_model_facts(self._model)["id"], model=pack(self._model))
        return luggage

    def _end(self, outcome: Outcome, text: str = "") -> Outcome:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(text)
        ray.kill(self._actor)
        self.outcome = outcome
        return outcome


class RayCluster:
    """An executor: a task of the cluster for every run, with its cores or its share of a GPU, and all at once that there is room for.

    Args:
        at_once: at most so many runs; None for as many as there is room for.
        gpu_share: what a run on device cuda takes of a GPU.
    """

    def __init__(self, *, at_once: int | None, gpu_share: float) -> None:
        self._at_once, self._gpu_share = at_once, gpu_share
        self._attempts: list[RayAttempt] = []
        self._datasets: dict[Path, Any] = {}
        self._warned: set[str] = set()

    def start(self, status: Status, every: Sequence[Status], out: Path) -> RayAttempt | None:
        """As `runner.Executor`; also None while another run trains the dynamics model that this one is to share."""
        self._attempts = [attempt for attempt in self._attempts if attempt.outcome is None]
        if self._at_once is not None and len(self._attempts) >= self._at_once:
            return None
        config, model = status.job.config, None
        key = model_key(config)
        if key is not None and (status.folder is None or not (status.folder / MODEL).is_dir()):
            model = _trained_model(key, every)
            if model is None and any(attempt.key == key for attempt in self._attempts):
                return None
        gpus = self._gpu_share if config.device.startswith("cuda") else 0.0
        if gpus and not _most("GPU"):
            self._warn("no machine of the cluster has a GPU now; runs with device=cuda wait for one")
        if config.threads > _most("CPU"):
            self._warn(f"no machine of the cluster has {config.threads} cores now; runs with threads={config.threads} wait for one")
        attempt = RayAttempt(status, out, model, self._dataset(config), gpus=gpus)
        self._attempts.append(attempt)
        return attempt

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            print(text, file=sys.stderr)

    def _dataset(self, config: Config) -> Any:
        """The generated dataset of a run, as an object of the cluster; None for data that every machine gets for itself."""
        task = config_task(config)
        if config.data is not None or task.source != "generated":
            return None
        if not is_made(task, size=config.data_size, seed=config.data_seed):
            print(f"making the dataset of {task.name} here first, which its runs take along", file=sys.stderr)
        path = make_dataset(task, size=config.data_size, seed=config.data_seed)
        if path not in self._datasets:
            name = path.relative_to(path.parents[2]).as_posix()
            self._datasets[path] = ray.put((name, path.read_bytes()))
        return self._datasets[path]


def _most(resource: str) -> float:
    """What the machine of the cluster that has the most of a resource has."""
    return max((float(node["Resources"].get(resource, 0)) for node in ray.nodes() if node["Alive"]), default=0.0)


def _trained_model(key: tuple[Any, ...], every: Sequence[Status]) -> Path | None:
    for status in every:
        if status.folder is not None and model_key(status.job.config) == key and (status.folder / MODEL / FACTS).is_file():
            return status.folder / MODEL
    return None


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Be part of the cluster at `address`; without one of this machine's, or of a new one on it. Raises UserError where there is none."""
    os.environ.setdefault(USAGE_VARIABLE, "0")
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    try:
        if colon and port.isdigit():  # where nobody answers, Ray itself tries for minutes
            socket.create_connection((host, int(port)), timeout=TIMEOUT).close()
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"there is no Ray cluster at {address!r} ({reason}); start one with `ray start --head`, or leave --ray-address out"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def ray_cluster(address: str | None, *, at_once: int | None, gpu_share: float | None) -> Iterator[RayCluster]:
    """The executor on the cluster that `joined` joins."""
    with joined(address):
        yield RayCluster(at_once=at_once, gpu_share=1.0 if gpu_share is None else gpu_share)
