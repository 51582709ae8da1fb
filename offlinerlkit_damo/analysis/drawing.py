"""What the figures of this package share: a drawing with its numbers, and how both are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from offlinerlkit_damo.files import replacing, save_json


@dataclass(frozen=True)
class Drawn:
    """A figure, the table of its numbers, what they were computed from, and the places of its points where the table has none."""

    figure: Figure
    table: pd.DataFrame
    about: dict[str, Any]
    points: pd.DataFrame | None = None


def write(name: str, drawn: Drawn, out: Path, suffix: str) -> Path:
    """out/<name>.<suffix>, and beside it <name>.csv, <name>.json and, where there is one, <name>_points.csv; returns the figure's path."""
    path = out / f"{name}.{suffix}"
    with replacing(path) as temporary:
        drawn.figure.savefig(temporary, dpi=150)
    tables = {f"{name}.csv": drawn.table} | ({} if drawn.points is None else {f"{name}_points.csv": drawn.points})
    for file, table in tables.items():
        with replacing(out / file) as temporary:
            table.to_csv(temporary, index=False)
    save_json(drawn.about, path.with_suffix(".json"))
    return path
