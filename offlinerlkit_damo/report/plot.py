"""Any logged figures of any runs against gradient steps, also of runs of the kit itself."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from offlinerlkit_damo.errors import unknown
from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.report.figures import check_figure
from offlinerlkit_damo.report.results import SCORE, read_progress

COLUMNS = 3


def draw_figures(folders: Sequence[Path], path: Path, keys: Sequence[str] = (SCORE,)) -> list[str]:
    """A panel for each key, every run a line in each, written to `path`; returns the keys drawn.

    Keys are columns of record/policy_training_progress.csv, and may have wildcards; a run that lacks one leaves it out. Raises UserError
    for another suffix, folders that are no runs, and keys that no run has.
    """
    check_figure(path)
    tables = [read_progress(folder) for folder in folders]
    known = sorted({str(key) for table in tables for key in table.columns} - {"timestep"})
    chosen: list[str] = []
    for key in keys:
        found = fnmatch.filter(known, key)
        if not found:
            raise unknown("key", key, known)
        chosen += [name for name in found if name not in chosen]
    columns = min(COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    figure = Figure(figsize=(5 * columns, 3.2 * rows + 0.25 * len(folders)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, key in zip(panels, chosen, strict=False):
        for i, (folder, table) in enumerate(zip(folders, tables, strict=True)):
            if key in table:
                there = table.dropna(subset=[key])
                panel.plot(there["timestep"], there[key], color=f"C{i}", linewidth=1.2, label=_name(folder))
        panel.set(title=key, xlabel="gradient steps")
    for panel in panels[len(chosen) :]:
        panel.set_visible(False)
    handles = {str(line.get_label()): line for panel in panels for line in panel.get_lines()}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return chosen


def _name(folder: Path) -> str:
    """task/algorithm/run, which both layouts end in."""
    return "/".join(folder.absolute().parts[-3:])
