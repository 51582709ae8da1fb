"""Run folders on their way between machines that share no disk: what is new of one as data, unpacked so that it can always be continued."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.training.checkpoint import LAST
from offlinerlkit_damo.training.run_folder import RESULTS

Stamps = dict[str, tuple[int, int, int]]
"""Of every file of a folder: time of change, size and inode."""
MODEL = "checkpoint/dynamics"
LATE = (f"checkpoint/{LAST}", RESULTS.as_posix())
"""They say what the others hold, and how much of it: read before and written after them, the others have that or more."""


@dataclass(frozen=True)
class Parcel:
    """Files of a folder, by their names in it: all that are there, and the content of the new ones."""

    names: frozenset[str] = frozenset()
    files: Mapping[str, bytes] = field(default_factory=dict)
    stamps: Stamps = field(default_factory=dict)


def stamps(folder: Path) -> Stamps:
    """The files of a folder but the lock and what is half written; also of one that another process works on."""
    found: Stamps = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.name == "run.lock" or any(part.startswith(".") for part in name.parts):
            continue
        with suppress(FileNotFoundError):
            facts = path.stat()
            if path.is_file():
                found[name.as_posix()] = facts.st_mtime_ns, facts.st_size, facts.st_ino
    return found


def pack(folder: Path, known: Stamps | None = None) -> Parcel:
    """What of a folder is not `known`; the receiver then knows the parcel's `stamps`."""
    now, files = stamps(folder), {}
    for name in sorted(now, key=lambda name: -LATE.index(name) - 1 if name in LATE else 0):
        if (known or {}).get(name) != now[name]:
            try:
                files[name] = (folder / name).read_bytes()
            except FileNotFoundError:
                del now[name]
    return Parcel(frozenset(now), files, now)


def unpack(parcel: Parcel, folder: Path) -> None:
    """Bring a folder up to a parcel. Cut off at any moment, it leaves a run that can be continued."""
    model = {name: content for name, content in parcel.files.items() if name.startswith(f"{MODEL}/")}
    if model and not (folder / MODEL).exists():  # a run takes the folder as it is, so it comes into being as a whole
        fresh = (folder / MODEL).with_name(f".dynamics.{uuid.uuid4().hex}")
        fresh.mkdir(parents=True)
        for name, content in model.items():
            (fresh / Path(name).name).write_bytes(content)
        os.rename(fresh, folder / MODEL)
    else:
        model = {}
    for name in sorted(parcel.files.keys() - model.keys(), key=lambda name: LATE.index(name) + 1 if name in LATE else 0):
        with replacing(folder / name) as temporary:
            temporary.write_bytes(parcel.files[name])
    for name in stamps(folder).keys() - parcel.names:
        if name.startswith("record/"):  # a continued run writes TensorBoard's files anew, under other names
            (folder / name).unlink()


def copy(folder: Path, target: Path) -> None:
    """A copy that can be continued of a run that may be going on."""
    shutil.rmtree(target, ignore_errors=True)
    unpack(pack(folder), target)
