"""What a figure's file may be."""

from __future__ import annotations

from pathlib import Path

from offlinerlkit_damo.errors import UserError

FORMATS = ("png", "svg", "pdf")
SUFFIXES = tuple(f".{name}" for name in FORMATS)


def check_figure(path: Path) -> None:
    """Raise UserError unless `path` ends in one of SUFFIXES, by which matplotlib chooses what to write."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{str(path)!r} does not end in .png, .svg or .pdf; name the figure so")
