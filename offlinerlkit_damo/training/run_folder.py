"""A run's folder: its name, what run.json says of the run, and the lock that keeps a second process out."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offlinerlkit_damo import __version__
from offlinerlkit_damo.config import Config
from offlinerlkit_damo.errors import Stopped, UserError
from offlinerlkit_damo.files import check_writable, file_name, make_folder, save_json, sole_lock, sweep
from offlinerlkit_damo.kit import HOST
from offlinerlkit_damo.tasks import OfflineDataset, Task
from offlinerlkit_damo.training.scaling import statistics

FACTS = "run.json"
PLAN = "plan.yaml"
"""A comparison's last plan, in its folder."""
RESULTS = Path("result") / "results.json"
"""Written at the end of a run, so a run that has it has finished."""


def run_parent(config: Config) -> Path:
    """The folder that holds the runs of one task and algorithm."""
    # Minari's names and some simulators' have slashes, which would be folders of their own
    return Path(config.logdir) / file_name(config.task) / config.algo_name


def contestant_of(folder: Path) -> str | None:
    """The contestant's name of a run in a comparison's layout, runs/<contestant>/<task>/<algorithm>/<run>; None for any other run."""
    parts = folder.absolute().parts
    # anybody's folder may be called runs; a comparison's has its plan beside it
    there = len(parts) > 5 and parts[-5] == "runs" and (folder.absolute().parents[4] / PLAN).exists()
    return parts[-4] if there else None


def make_run_folder(config: Config) -> Path:
    """A new folder log/<task>/<algo>/seed_S&timestamp_.../ in the host's layout; a counter keeps simultaneous starts apart."""
    parent = run_parent(config)
    make_folder(parent)
    name = f"seed_{config.seed}&timestamp_{time.strftime('%y-%m%d-%H%M%S')}"
    for attempt in count():
        folder = parent / (f"{name}.{attempt}" if attempt else name)
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError  # count() does not end


def run_facts(config: Config, task: Task, dataset: OfflineDataset) -> dict[str, Any]:
    """What is needed to read, or to repeat, a result: configuration, data, host, versions and commit."""
    mean_return = dataset.mean_return if math.isfinite(dataset.mean_return) else None  # no finished episode, no mean
    facts: dict[str, Any] = {
        "config": config.flat(),
        "task": dataclasses.asdict(task),
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "transitions": len(dataset.rewards),
            "rows_in": dataset.report.rows_in,
            "rows_dropped": dataset.report.dropped,
            "mean_return": mean_return,
            "mean_score": None if mean_return is None else task.points(mean_return),
            "source": "file" if config.data is not None else task.source,
            "terminal_rows": int(dataset.terminals.sum()),
        },
        "host": dataclasses.asdict(HOST),
        "versions": {
            "offlinerlkit_damo": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "commit": git_commit(),
    }
    if config.algo_name == "rambo":
        # what the simulator's observations are standardised with before the policy sees them; no host saves it with the policy
        mean, std = statistics(dataset)
        facts["standardised"] = {"mean": mean[0].tolist(), "std": std[0].tolist()}
    return facts


def git_commit() -> str | None:
    """The commit of the checkout that this package is imported from; None for an installed package."""
    source = Path(__file__).resolve().parents[2]
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def read_facts(folder: Path) -> dict[str, Any]:
    """run.json of a run folder: configuration, task, dataset, host and versions. Raises UserError where there is none."""
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{str(folder)!r} is not a run folder: it has no {FACTS}") from None
    except OSError as error:
        raise UserError(f"{str(folder)!r} is not a run folder: it has no readable {FACTS} ({error.strerror or error})") from None
    except ValueError:
        raise UserError(f"{str(folder / FACTS)!r} is cut off or no JSON; leave this run out, or repeat it") from None
    if not (isinstance(facts, dict) and isinstance(facts.get("config"), dict)):
        raise UserError(f"{str(folder / FACTS)!r} is not that of a run: it has no configuration")
    return facts


def is_finished(folder: Path) -> bool:
    """Whether a run has come to its end."""
    return (folder / RESULTS).exists()


def unfinish(folder: Path, parts: int) -> None:
    """Set the results that a run has had after so many parts aside, since it goes on: result/results_<parts>.json."""
    path = folder / RESULTS
    if path.exists():
        path.replace(path.with_stem(f"{path.stem}_{parts}"))


def read_results(folder: Path) -> dict[str, Any] | None:
    """result/results.json of a run folder, None before the run's end. Raises UserError for a damaged one."""
    path = folder / RESULTS
    if not path.exists():
        return None
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        lengths = {len(results["evaluations"][name]) for name in ("timestep", "score")}
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read ({error.strerror or error})") from None
    except ValueError:
        raise UserError(f"{str(path)!r} is cut off or no JSON") from None
    except (KeyError, TypeError):
        lengths = set()
    if len(lengths) != 1:
        raise UserError(f"{str(path)!r} is not that of a run: it has no evaluations")
    return results


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's lock, which falls with the process, however that ends. Raises UserError if another process holds it."""
    check_writable(folder)
    with sole_lock(folder / "run.lock", f"another process is working on {str(folder)!r}; wait for its end or stop it first"):
        sweep(folder)
        yield


@contextmanager
def recorded(folder: Path, facts: dict[str, Any], **about: Any) -> Iterator[None]:
    """Write run.json, and note there when and why this process's part of the run began and ended, and `about` it; under the run's lock."""
    part = {"machine": platform.node(), **about, "started": _now(), "ended": None, "exit": None}
    facts["parts"] = [*facts.get("parts", []), part]
    save_json(facts, folder / FACTS)
    part["exit"] = "finished"
    try:
        yield
    except (UserError, Stopped, KeyboardInterrupt) as reason:
        part["exit"] = str(reason) or "interrupted"
        raise
    except BaseException as error:
        part["exit"] = repr(error)
        raise
    finally:
        part["ended"] = _now()
        with suppress(UserError):  # a full disk has been reported already
            save_json(facts, folder / FACTS)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
