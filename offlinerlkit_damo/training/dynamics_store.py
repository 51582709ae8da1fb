"""The store of trained dynamics models: a folder each in the cache, named by what decided it; shared by all runs, listed and pruned."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from offlinerlkit_damo.errors import UserError, unknown
from offlinerlkit_damo.files import waiting_lock
from offlinerlkit_damo.kit import EnsembleDynamics
from offlinerlkit_damo.tasks.cache import REMEDY, cache_dir

FACTS = "facts.json"
DAY = 24 * 3600


def stored_folder(key: str) -> Path:
    """Where the model called `key` is, or would be."""
    return cache_dir() / "dynamics" / key


@contextmanager
def locked(key: str) -> Iterator[None]:
    """Only one process at a time trains, loads or deletes the model called `key`; the others wait, and then find it."""
    lock = cache_dir() / "locks" / f"dynamics-{key}.lock"
    with waiting_lock(lock, f"at work on the dynamics model {key}", remedy=REMEDY):
        for left in stored_folder(key).parent.glob(f".{key}.*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield


def save_model(dynamics: EnsembleDynamics, folder: Path, facts: dict[str, Any]) -> None:
    """Save a model and its facts into a fresh folder and rename it to `folder`, so that no reader meets half a model."""
    fresh = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        fresh.mkdir(parents=True)
        dynamics.save(str(fresh))
        (fresh / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    except OSError as error:
        raise UserError(f"cannot store the dynamics model in {str(folder)!r} ({error.strerror or error}); {REMEDY}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def adopt_model(folder: Path) -> None:
    """Store a model that another machine has trained, unless there is one by its name already."""
    key = str(read_model_facts(folder)["id"])
    with locked(key):
        if not stored_folder(key).exists():
            fresh = stored_folder(key).with_name(f".{key}.{uuid.uuid4().hex}")
            shutil.copytree(folder, fresh)
            fresh.rename(stored_folder(key))


def stored_facts(key: str) -> dict[str, Any]:
    """What was stored beside a model, which counts as used now. Raises UserError where it cannot be read."""
    folder = stored_folder(key)
    facts = read_model_facts(folder, remedy=f"`dynamics prune {key}` deletes it, to be trained again")
    os.utime(folder / FACTS)
    return facts


def read_model_facts(folder: Path, *, remedy: str = "delete the folder") -> dict[str, Any]:
    """What `save_model` stored beside a model. Raises UserError where it cannot be read."""
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the dynamics model {str(folder)!r} is damaged ({error}); {remedy}") from error
    return facts


def entries() -> list[dict[str, Any]]:
    """Every stored model: its facts with "id", "bytes" and "idle_days" since it was last used; the least recently used first."""
    found = []
    for folder in (cache_dir() / "dynamics").glob("[!.]*"):
        facts = folder / FACTS
        try:
            about = json.loads(facts.read_text(encoding="utf-8"))
            used = facts.stat().st_mtime
        except (OSError, ValueError):
            about, used = {"damaged": True}, folder.stat().st_mtime
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        found.append({**about, "id": folder.name, "bytes": size, "idle_days": (time.time() - used) / DAY})
    return sorted(found, key=lambda entry: -float(entry["idle_days"]))


def prune(ids: Collection[str] = (), *, idle_days: float | None = None) -> list[dict[str, Any]]:
    """Delete the models called `ids` and those not used for `idle_days`; returns their entries. Raises UserError for an unknown id, or days
    below 0.

    A run that has loaded its model does not need it any more: it keeps its own copy in its folder.
    """
    if idle_days is not None and not 0 <= idle_days < math.inf:
        raise UserError(f"--unused is {idle_days:g}; give a number of days, 0 for every model")
    known = {entry["id"]: entry for entry in entries()}
    for name in ids:
        if name not in known:
            raise unknown("dynamics model", name, known) if known else UserError("the store of dynamics models is empty")
    gone = [entry for name, entry in known.items() if name in ids or (idle_days is not None and entry["idle_days"] >= idle_days)]
    for entry in gone:
        folder = stored_folder(entry["id"])
        # renamed first: a reader finds a whole model or none
        doomed = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
        with locked(entry["id"]), suppress(FileNotFoundError):  # another process may have pruned it meanwhile
            folder.rename(doomed)
            shutil.rmtree(doomed)
    return gone
