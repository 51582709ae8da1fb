"""What the figures of this package share: a result with its numbers, colours that everyone can tell apart, and how both are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from offlinerlkit_damo.files import replacing, save_json

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito 2008."""
STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Drawn:
    """A figure, the table of the numbers in it, and what they were computed from."""

    figure: Figure
    table: pd.DataFrame
    about: dict[str, Any]


def look(labels: Sequence[str]) -> dict[str, dict[str, str]]:
    """Colour and line style of each label, in the order of their first appearance; no two alike up to 28."""
    names = list(dict.fromkeys(labels))
    return {
        name: {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i // len(COLOURS) % len(STYLES)]} for i, name in enumerate(names)
    }


def write(name: str, drawn: Drawn, out: Path, suffix: str) -> Path:
    """out/<name>.<suffix>, and beside it <name>.csv and <name>.json; returns the figure's path."""
    path = out / f"{name}.{suffix}"
    with replacing(path) as temporary:
        drawn.figure.savefig(temporary, dpi=150)
    with replacing(path.with_suffix(".csv")) as temporary:
        drawn.table.to_csv(temporary, index=False)
    save_json(drawn.about, path.with_suffix(".json"))
    return path
