"""What a figure's file may be."""

from __future__ import annotations

from pathlib import Path

from offlinerlkit_damo.errors import UserError


def check_figure(path: Path) -> None:
    """Raise UserError unless `path` ends in .png, .svg or .pdf, by which matplotlib chooses what to write."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"{str(path)!r} does not end in .png, .svg or .pdf; name the figure so")
