"""What the figures of this package share: a drawing with its numbers, and how both are written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from offlinerlkit_damo.files import replacing, save_json, save_text
from offlinerlkit_damo.report.tables import markdown

DIVERGED = 30  # times the median


@dataclass(frozen=True)
class Drawn:
    """A figure, its numbers, what they were computed from, its points' places where the numbers have none, and a table to read."""

    figure: Figure
    table: pd.DataFrame
    about: dict[str, Any]
    points: pd.DataFrame | None = None
    shown: pd.DataFrame | None = None


def keep_legible(panels: Iterable[Axes], axis: Literal["x", "y"], values: ArrayLike) -> None:
    """Where one of `values` has diverged, beside which the others would be one line, an axis that is linear in their midst alone."""
    sizes = np.abs(np.asarray(values, np.float64))
    sizes = sizes[~np.isnan(sizes)]
    usual = float(np.median(sizes)) if len(sizes) else 0.0
    if usual and sizes.max() > DIVERGED * usual:
        # just above a power of ten, which is then the first mark beside zero: below it they would lie on each other
        linear = 10 ** math.ceil(math.log10(2 * usual)) * (1 + 1e-9)
        for panel in panels:
            getattr(panel, f"set_{axis}scale")("symlog", linthresh=linear)


def write(name: str, drawn: Drawn, out: Path, suffix: str) -> Path:
    """out/<name>.<suffix>, beside it <name>.csv, .json and, where there are some, <name>_points.csv and .md; returns the figure's path."""
    path = out / f"{name}.{suffix}"
    with replacing(path) as temporary:
        drawn.figure.savefig(temporary, dpi=150)
    tables = {f"{name}.csv": drawn.table} | ({} if drawn.points is None else {f"{name}_points.csv": drawn.points})
    for file, table in tables.items():
        with replacing(out / file) as temporary:
            table.to_csv(temporary, index=False)
    if drawn.shown is not None:
        save_text(markdown(drawn.shown), path.with_suffix(".md"))
    save_json(drawn.about, path.with_suffix(".json"))
    return path
