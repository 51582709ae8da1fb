"""Fetching one file over HTTP so that what is there is whole: resumed where it was cut, checked, and renamed at the end."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tqdm import tqdm

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import waiting_lock

CHUNK = 1 << 20  # bytes read at once
TIMEOUT = 30.0  # seconds without an answer
ATTEMPTS = 3  # connections in a row that bring nothing new before it is given up


def download(url: str, path: Path, *, check: Callable[[Path], None], remedy: str, progress: bool = True) -> Path:
    """Fetch `url` to `path` unless it is there; returns `path`.

    What has arrived is kept in `path`.part, and the next call, or the next attempt of this one, goes on from there. `check` gets the
    complete file and raises UserError for one that is not what it should be, which is then deleted. Two processes that ask for the same
    file take turns, and the second finds it. Raises UserError, ending in `remedy`, for a server that cannot be reached or does not have
    the file, a size that is not the one announced, and a disk that is full.
    """
    if path.exists():
        return path
    part = path.with_name(path.name + ".part")
    try:
        with waiting_lock(part.with_name(part.name + ".lock"), f"fetching {path.name}", remedy=remedy):
            if not path.exists():
                _fetch(url, part, remedy, progress)
                try:
                    check(part)
                except UserError:
                    part.unlink()
                    raise
                os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot write {str(part)!r} ({error.strerror or error}); {remedy}") from error
    return path


def _fetch(url: str, part: Path, remedy: str, progress: bool) -> None:
    """Bring `part` to the announced size."""
    failures = 0
    while True:
        have = part.stat().st_size if part.exists() else 0
        try:
            if _connect(url, part, have, progress):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                if error.headers.get("Content-Range") == f"bytes */{have}":  # all of it had arrived
                    return
                part.unlink()  # the part of another, longer file
                reason = str(error)
            else:
                raise UserError(f"{url} answers {error.code} {' '.join(str(error.reason).split())}; {remedy}") from error
        except ValueError as error:
            raise UserError(f"{url!r} is no address ({error}); {remedy}") from error
        except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException) as error:
            reason = str(getattr(error, "reason", error) or type(error).__name__)
        now = part.stat().st_size if part.exists() else 0
        failures = 0 if now > have else failures + 1
        if failures == ATTEMPTS:
            raise UserError(f"cannot fetch {url} ({reason}); {now} bytes are kept for the next attempt; {remedy}")


def _connect(url: str, part: Path, have: int, progress: bool) -> bool:
    """One connection, continuing at byte `have`; whether the file is complete."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        begins = answer.headers.get("Content-Range", f"bytes {have}-")
        continued = answer.status == HTTPStatus.PARTIAL_CONTENT and begins.startswith(f"bytes {have}-")
        start = have if continued else 0
        total = _announced(answer, start)
        with (
            part.open("ab" if continued else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=not progress) as bar,
        ):
            while block := answer.read(CHUNK):
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
    size = part.stat().st_size
    if total is not None and size > total:
        part.unlink()
        raise UserError(f"{url} sent {size} bytes and announced {total}; try again later")
    return total is None or size == total


def _announced(answer: Any, start: int) -> int | None:
    """The whole file's size; None where the server does not say."""
    length = answer.headers.get("Content-Length")
    return start + int(length) if length is not None and length.isdecimal() else None
