"""Checkpoints: the whole state of a run in one file that is either complete or refused."""

from __future__ import annotations

import hashlib
import io
import math
import shutil
from pathlib import Path
from typing import Any

import torch

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import flush, replacing
from offlinerlkit_damo.training.logs import text_size

MAGIC = b"offlinerlkit_damo checkpoint 1\n"
DIGEST_SIZE = hashlib.sha256().digest_size
LAST = "last.ckpt"
BEST = "best.ckpt"
KEPT = "epoch_"


class Checkpoints:
    """The checkpoints of one run: `last.ckpt`, written again and again, and what is kept of it.

    `best.ckpt` is that of the best evaluation so far, `epoch_N.ckpt` one of every `keep_every` epochs.

    Args:
        folder: the run's folder.
        about: the run's identity, stored in every checkpoint (see `training.resume`).
        every: epochs between checkpoints, 0 for none but those asked for.
        keep_every: epochs between checkpoints kept as epoch_N.ckpt, 0 for none.
    """

    def __init__(self, folder: Path, about: dict[str, Any], *, every: int, keep_every: int) -> None:
        self._run, self._folder, self._about = folder, folder / "checkpoint", about
        self._every, self._keep_every = every, keep_every

    def due(self, epoch: int, *, best: bool = False, last: bool = False) -> bool:
        """Whether the end of this epoch wants a checkpoint; `best`: its evaluation was the best so far; `last`: the run's end."""
        return ((best or last) and self._every > 0) or any(period and epoch % period == 0 for period in (self._every, self._keep_every))

    def save(self, state: dict[str, Any], epoch: int | None = None, *, best: bool = False) -> Path:
        """Write last.ckpt, and if `epoch` has ended epoch_N.ckpt where it is one to keep and best.ckpt if `best`; returns the first."""
        path = self._folder / LAST
        self._write(state, path)
        kept = [self._folder / BEST] if best else []
        if epoch and self._keep_every and epoch % self._keep_every == 0:
            kept.append(self._folder / f"{KEPT}{epoch}.ckpt")
        for name in kept:
            _copy(path, name)
        return path

    @property
    def keeps_best(self) -> bool:
        """Whether the best evaluation's state is kept."""
        return self._every > 0

    def save_best(self, state: dict[str, Any]) -> None:
        """Write best.ckpt alone."""
        self._write(state, self._folder / BEST)

    def _write(self, state: dict[str, Any], path: Path) -> None:
        # what a power cut takes from the tables must be computed again, so the rows are on the disk before the checkpoint that counts them
        for table in (self._run / "record").glob("*.*"):
            flush(table)
        write({"about": self._about, "text_size": text_size(self._run / "record"), "state": state}, path)


def go_back(point: Path, timestep: int, *, step_per_epoch: int, aside: Path) -> list[str]:
    """Make `point`, a run's checkpoint of `timestep`, its last one; returns the names of those that lie after it, moved to `aside`.

    Left in their places a run that is stopped before its next checkpoint would go on from them, and its best would be one it never had.
    """
    last, best = point.with_name(LAST), point.with_name(BEST)
    if point == last:
        return []
    kept = {path: path.stem.removeprefix(KEPT) for path in point.parent.glob(f"{KEPT}*.ckpt")}
    later = [path for path, epoch in kept.items() if epoch.isdecimal() and int(epoch) * step_per_epoch > timestep]
    later += [path for path in (best, last) if path != point and path.exists() and _timestep(path) > timestep]
    if later:
        aside.mkdir(exist_ok=True)
    if last in later:  # never away from its place: without it the run would begin anew
        _copy(last, aside / LAST)
    _copy(point, last)
    for path in later:
        if path != last:
            path.replace(aside / path.name)
    return sorted(path.name for path in later)


def _timestep(path: Path) -> float:
    try:
        return int(read(path)["state"]["timestep"])
    except UserError:  # a damaged one may be why the run goes back
        return math.inf


def _copy(path: Path, to: Path) -> None:
    with replacing(to) as temporary:
        shutil.copyfile(path, temporary)


def write(content: dict[str, Any], path: Path) -> None:
    """Tensors, numbers, strings, lists and dictionaries, with their digest; atomically."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getbuffer()
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(MAGIC)
        file.write(hashlib.sha256(payload).digest())
        file.write(payload)


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote. Nothing in the file is executed; a file that is not whole, or not one of ours, is a UserError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {str(path)!r} ({error.strerror or error})") from error
    start = len(MAGIC) + DIGEST_SIZE
    if not content.startswith(MAGIC):
        raise UserError(f"{str(path)!r} is no checkpoint of this version of offlinerlkit_damo; give a run folder that `train` made")
    if hashlib.sha256(memoryview(content)[start:]).digest() != content[len(MAGIC) : start]:
        raise UserError(f"the checkpoint {str(path)!r} is damaged: its content does not match its digest; use another one of its folder")
    try:
        file = io.BytesIO(content)  # shares the bytes; of the payload alone it would be a copy
        file.seek(start)
        found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler fail in any way
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the checkpoint {str(path)!r} cannot be read ({reason})") from error
    return found
