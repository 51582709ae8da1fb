"""Writing files so that a reader, or a crash, never meets half of one."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from offlinerlkit_damo.errors import UserError

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
        _flush(temporary)
        os.replace(temporary, target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {str(target)!r} ({reason}); {remedy}") from error
    finally:
        with suppress(OSError):  # renamed away, or never made
            temporary.unlink()


def _flush(path: Path) -> None:
    """Wait until the file is on the disk: a rename that overtakes the content would leave an empty file after a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(folder: Path, *, remedy: str = REMEDY) -> None:
    """Raise UserError unless `folder` can be written to, or made: for the start of work whose result goes there. Touches nothing."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise UserError(f"cannot write to {str(folder)!r} ({str(existing)!r} is no folder that you may write to); {remedy}")


def save_torch(state: Any, path: str | os.PathLike[str]) -> None:
    """`torch.save`, atomically."""
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # how torch reports a disk that fills up
            raise OSError(str(error).splitlines()[0]) from error


def save_json(content: Any, path: str | os.PathLike[str]) -> None:
    """Indented JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
