"""Writing files so that a reader, or a crash, never meets half of one."""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
import yaml

from offlinerlkit_damo.errors import UserError

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}(\.\w+)?")
REMEDY = "free space there or choose a folder that you may write to"


@contextmanager
def replacing(path: str | os.PathLike[str], *, remedy: str = REMEDY) -> Iterator[Path]:
    """Yield a fresh path beside `path` to write to; renamed to `path` at the end, removed on any error.

    Readers see the old file or the new one, and two processes writing at once do not meet. The folder is made if need be. An OSError,
    in making, writing or renaming, becomes a UserError that names the file and ends in `remedy`.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
        flush(temporary)
        os.replace(temporary, target)
        flush(target.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {str(target)!r} ({reason}); {remedy}") from error
    finally:
        with suppress(OSError):  # renamed away, or never made
            temporary.unlink()


def file_name(text: str) -> str:
    """`text` as a part of a file's name."""
    return re.sub(r"[^\w.+=,-]+", "_", text)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's entries, are on the disk: a rename that overtakes the content would leave an empty file after a
    power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Delete what `replacing` left behind in processes that were killed: for folders that no other process writes to."""
    for path in folder.glob("**/.*"):
        if TEMPORARY.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()


@contextmanager
def waiting_lock(path: Path, waiting_for: str, *, remedy: str = REMEDY) -> Iterator[None]:
    """Hold the lock at `path`, waiting, with one line on stderr, while another process does.

    The lock is the operating system's, so it falls with the process that holds it, however that ends. Raises UserError, ending in
    `remedy`, for a folder that cannot be written to.
    """
    make_folder(path.parent, remedy=remedy)
    with path.open("a") as lock:
        if not try_lock(lock):
            print(f"waiting for another process that is {waiting_for}", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def sole_lock(path: Path, taken: str) -> Iterator[None]:
    """Hold the lock at `path`, as `waiting_lock` but without waiting: a UserError that says `taken` if another process does."""
    with path.open("w") as lock:
        if not try_lock(lock):
            raise UserError(taken)
        yield


def try_lock(file: IO[Any]) -> bool:
    """Take the lock of an open file; False if another process has it. Raises UserError where the disk knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(f"cannot lock {file.name!r} ({error.strerror or error}); choose a folder on a disk that has locks") from error
    return True


def check_writable(folder: Path, *, remedy: str = REMEDY) -> None:
    """Raise UserError unless `folder` can be written to, or made: for the start of work whose result goes there. Touches nothing."""
    # exists() follows links: one that leads nowhere is in the way all the same
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise UserError(f"cannot write to {str(folder)!r} ({str(existing)!r} is no folder that you may write to); {remedy}")


def make_folder(folder: Path, *, remedy: str = REMEDY) -> None:
    """Make `folder` and those above it, unless it is there. Raises UserError, ending in `remedy`, where it cannot be."""
    check_writable(folder, remedy=remedy)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {str(folder)!r} ({error.strerror or error}); {remedy}") from error


def save_torch(state: Any, path: str | os.PathLike[str]) -> None:
    """`torch.save`, atomically."""
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # how torch reports a disk that fills up
            raise OSError(str(error).splitlines()[0]) from error


def save_text(text: str, path: str | os.PathLike[str]) -> None:
    """A text file, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_json(content: Any, path: str | os.PathLike[str]) -> None:
    """Indented JSON, atomically."""
    save_text(json.dumps(content, indent=2) + "\n", path)


def save_yaml(content: Any, path: str | os.PathLike[str]) -> None:
    """YAML in the content's own order, atomically."""
    save_text(yaml.safe_dump(content, sort_keys=False), path)
