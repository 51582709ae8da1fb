"""Optional mends for a checkout of OfflineRL-Kit: `python -m offlinerlkit_damo patch PATH`.

The patches only add lines, each at a place counted in the kit's own file. So a file with any set of them on it is known byte for byte,
and it is recognised, completed or restored exactly.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path

from offlinerlkit_damo.errors import UserError

COMMIT = "e3ce69793766d02660217d4dfc0af4693a5531bd"
URL = "https://github.com/yihaosun1124/OfflineRL-Kit"
CRLF = b"\r\n"


@dataclass(frozen=True)
class Patch:
    """What one patch file adds."""

    name: str  # 0001-boolean-flags
    additions: dict[str, dict[int, bytes]]  # file -> line number in the kit's file, from 1 -> text that comes after that line


@dataclass(frozen=True)
class _File:
    """One file that patches touch; a text of None stands for no file."""

    original: bytes | None
    current: bytes | None
    patched: bytes | None  # with all patches
    patches: tuple[Patch, ...]  # those that touch it
    applied: frozenset[str] | None  # the names of those on it; None: it is neither the kit's file nor that with some of the patches


def examine(path: Path) -> dict[str, str]:
    """The patches by name, in order: "applied", "not applied", or "partly applied" (on some of its files only).

    Raises:
        UserError: there is no git, or `path` is not a checkout of the kit at COMMIT whose changes are these patches and nothing else.
    """
    patches = read_patches()
    files = _files(_checkout(path), patches).values()
    states = {}
    for patch in patches:
        on = {patch.name in file.applied for file in files if patch in file.patches and file.applied is not None}
        states[patch.name] = "partly applied" if len(on) > 1 else "applied" if True in on else "not applied"
    return states


def apply(path: Path) -> None:
    """Put all patches on the checkout in `path`, whichever of them it has already; if that fails it stays as it was.

    Raises:
        UserError: as in `examine`, and where a file cannot be written.
    """
    root = _checkout(path)
    _change(root, {name: (file.current, file.patched) for name, file in _files(root, read_patches()).items()})


def revert(path: Path) -> None:
    """Take all patches off the checkout in `path`; if that fails it stays as it was.

    Raises:
        UserError: as in `examine`, and where a file cannot be written.
    """
    root = _checkout(path)
    _change(root, {name: (file.current, file.original) for name, file in _files(root, read_patches()).items()})


def patch_folder() -> Path:
    """Where the patch files are: inside the package if it was installed as a copy, else beside it."""
    inside = Path(__file__).with_name("patches")
    return inside if inside.is_dir() else Path(__file__).parents[1] / "patches"


def read_patches() -> list[Patch]:
    """The patches in the order in which they are applied.

    Raises:
        UserError: the files are not there.
    """
    patches = [_parse(path) for path in sorted(patch_folder().glob("*.patch"))]
    if not patches:
        raise UserError(f"no patches in {str(patch_folder())!r}; install offlinerlkit-damo again")
    return patches


def _parse(path: Path) -> Patch:
    """Read a zero-context unified diff that only adds; what precedes its first file is the explanation."""
    additions: dict[str, dict[int, bytes]] = {}
    file, after = "", 0
    for line in path.read_bytes().replace(b"\r\n", b"\n").splitlines(keepends=True):
        if line.startswith(b"+++ b/"):
            file = line.removeprefix(b"+++ b/").decode().strip()
            additions[file] = {}
        elif hunk := re.match(rb"@@ -(\d+),0 ", line):
            after = int(hunk[1])
            additions[file][after] = b""
        elif file and line.startswith(b"+"):
            additions[file][after] += line[1:]
    return Patch(path.stem, additions)


def _text(name: str, original: bytes | None, patches: Sequence[Patch], line_end: bytes) -> bytes | None:
    """The file `name` with `patches` on it, whose lines get this end."""
    if original is None and not patches:
        return None
    lines = [b"", *(original or b"").splitlines(keepends=True)]
    added = [patch.additions[name] for patch in patches]
    return b"".join(line + b"".join(texts.get(n, b"").replace(b"\n", line_end) for texts in added) for n, line in enumerate(lines))


def _checkout(path: Path) -> Path:
    """The top folder of the kit's checkout in `path`, at the commit that the patches are for."""
    root = Path(_git(path, "rev-parse", "--show-toplevel").decode().rstrip("\n"))
    head = _git(root, "rev-parse", "HEAD").decode().strip()
    if head == COMMIT:
        return root
    if not (root / "offlinerlkit").is_dir():
        raise UserError(f"{str(path)!r} is a git checkout, but not of OfflineRL-Kit; get one with: git clone {URL}")
    raise UserError(f"{str(path)!r} is at commit {head}, the patches are for {COMMIT}; run: git -C {root} checkout {COMMIT[:7]}")


def _files(root: Path, patches: Sequence[Patch]) -> dict[str, _File]:
    """The files that the patches touch; a UserError if these or other tracked files have changes that are not the patches'.

    Untracked files elsewhere are nobody's business: an environment, data, the user's own scripts.
    """
    tracked = set(_names(_git(root, "ls-tree", "-r", "-z", "--name-only", "HEAD")))
    names = dict.fromkeys(name for patch in patches for name in patch.additions)
    present = {name: _read(root / name) for name in names}
    windows = any(CRLF in (text or b"") for text in present.values())
    files = {}
    for name, current in present.items():
        # where core.autocrlf is set files may have Windows' line ends or the kit's own, and git takes either for the kit's
        line_end = CRLF if (CRLF in current if current and b"\n" in current else windows) else b"\n"
        kind = "--filters" if line_end == CRLF else "blob"
        original = _git(root, "cat-file", kind, f"HEAD:{name}") if name in tracked else None
        touching = tuple(patch for patch in patches if name in patch.additions)
        subsets = chain.from_iterable(combinations(touching, size) for size in range(len(touching) + 1))
        applied = next((frozenset(p.name for p in some) for some in subsets if _text(name, original, some, line_end) == current), None)
        files[name] = _File(original, current, _text(name, original, touching, line_end), touching, applied)
    changed = _names(_git(root, "diff", "--name-only", "-z", "HEAD"))
    foreign = {name for name in changed if name not in files} | {name for name, file in files.items() if file.applied is None}
    foreign |= set(_names(_git(root, "diff", "--cached", "--name-only", "-z")))  # staging hides a change from what we restore
    if foreign:
        raise UserError(f"{str(root)!r} has changes, staged or not the patches', in {_listed(foreign)}; stash or undo them first")
    return files


def _names(output: bytes) -> list[str]:
    return [os.fsdecode(name) for name in output.split(b"\0") if name]


def _listed(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _git(path: Path, *words: str) -> bytes:
    """The output of a git command in `path`."""
    environment = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    try:
        done = subprocess.run(["git", "-C", str(path), *words], capture_output=True, env=environment)
    except FileNotFoundError:
        raise UserError("git is not there, and the patches are for a git checkout; install git") from None
    if done.returncode != 0:
        reason = (done.stderr.decode(errors="replace").strip() or "git failed").splitlines()[0]
        raise UserError(f"{str(path)!r} is no usable git checkout of OfflineRL-Kit ({reason}); get one with: git clone {URL}")
    return done.stdout


def _change(root: Path, texts: dict[str, tuple[bytes | None, bytes | None]]) -> None:
    """Turn each file's old text into its new one: all of them, or none and a UserError."""
    changes = {root / name: pair for name, pair in texts.items() if pair[0] != pair[1]}
    fresh = {path: path.with_name(f".{path.name}.patching") for path in changes}
    try:
        for path, (_, new) in changes.items():  # all that takes space or rights comes before the first change
            if new is not None:
                fresh[path].write_bytes(new)
                if path.exists():
                    shutil.copymode(path, fresh[path])
        for path, (_, new) in changes.items():
            if new is None:
                path.unlink()
            else:
                os.replace(fresh[path], path)
    except BaseException as error:
        for path, (old, _) in changes.items():
            if old is None:
                path.unlink(missing_ok=True)
            elif _read(path) != old:
                path.write_bytes(old)
        if isinstance(error, OSError):
            raise UserError(f"cannot change the files in {str(root)!r} ({error}); they are as they were") from error
        raise
    finally:
        for temporary in fresh.values():
            temporary.unlink(missing_ok=True)


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
