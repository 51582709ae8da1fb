"""The store of trained dynamics models: a folder each in the cache, named by what decided it; shared by all runs, listed and pruned."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offlinerlkit_damo.errors import UserError, unknown
from offlinerlkit_damo.files import check_writable
from offlinerlkit_damo.kit import EnsembleDynamics
from offlinerlkit_damo.tasks.cache import REMEDY, cache_dir

FACTS = "facts.json"
DAY = 24 * 3600


def stored_folder(key: str) -> Path:
    """Where the model called `key` is, or would be."""
    return cache_dir() / "dynamics" / key


@contextmanager
def locked(key: str) -> Iterator[None]:
    """Only one process at a time trains the model called `key`; the others wait, and then find it.

    The lock is the operating system's, so it falls with the process that holds it, however that ends.
    """
    folder = cache_dir() / "locks"
    check_writable(folder, remedy=REMEDY)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"dynamics-{key}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"waiting for another process that is training the dynamics model {key}", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def store(dynamics: EnsembleDynamics, key: str, facts: dict[str, Any]) -> None:
    """Save into a fresh folder and rename it, so that no reader meets half a model."""
    folder = stored_folder(key)
    fresh = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        fresh.mkdir(parents=True)
        dynamics.save(str(fresh))
        (fresh / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        fresh.rename(folder)
    except OSError as error:
        raise UserError(f"cannot store the dynamics model in {str(folder)!r} ({error.strerror or error}); {REMEDY}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def stored_facts(key: str) -> dict[str, Any]:
    """What was stored beside a model, which counts as used now. Raises UserError where it cannot be read."""
    path = stored_folder(key) / FACTS
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        os.utime(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the stored dynamics model {str(path.parent)!r} is damaged ({error}); `dynamics prune {key}` deletes it, to be trained again"
        ) from error
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
    """Delete the models called `ids` and those not used for `idle_days`; returns their entries. An unknown id is a UserError.

    A run that has loaded its model does not need it any more: it keeps its own copy in its folder.
    """
    known = {entry["id"]: entry for entry in entries()}
    for name in ids:
        if name not in known:
            raise unknown("dynamics model", name, known) if known else UserError("the store of dynamics models is empty")
    gone = [entry for name, entry in known.items() if name in ids or (idle_days is not None and entry["idle_days"] >= idle_days)]
    for entry in gone:
        folder = stored_folder(entry["id"])
        # renamed first: a reader finds a whole model or none
        doomed = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
        folder.rename(doomed)
        shutil.rmtree(doomed)
    return gone
