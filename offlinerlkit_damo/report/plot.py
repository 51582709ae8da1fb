"""Any logged figures of any runs against gradient steps, also of runs of the kit itself."""

from __future__ import annotations

import fnmatch
import math
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from offlinerlkit_damo.errors import UserError, unknown
from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.report.figures import check_figure
from offlinerlkit_damo.report.looks import looks
from offlinerlkit_damo.report.results import SCORE, read_progress, run_folders
from offlinerlkit_damo.training.logs import DYNAMICS
from offlinerlkit_damo.training.run_folder import contestant_of

COLUMNS = 3
WIDTH = 5  # inches of a panel
LETTERS = 14  # of the legend on an inch


def draw_figures(folders: Sequence[Path], path: Path, keys: Sequence[str] = (SCORE,)) -> list[str]:
    """A panel for each key, every run in `folders` a line in each, written to `path`; returns the keys drawn.

    A folder is a run's, or any that holds some. Keys are columns of record/policy_training_progress.csv or of
    record/dynamics_training_progress.csv, whose steps are epochs of the model, and may have wildcards; a run that lacks one leaves it out.
    A run without a readable row is left out with a word on stderr, unless it is the only one. Raises UserError for another suffix, folders
    without runs or rows, and keys that no run has.
    """
    check_figure(path)
    runs, tables = _readable(run_folders(folders))
    known = sorted({str(key) for pair in tables for table in pair for key in table.columns} - {"timestep"})
    chosen: list[str] = []
    for key in keys:
        found = fnmatch.filter(known, key)
        if not found:
            raise unknown("key", key, known)
        chosen += [name for name in found if name not in chosen]
    names = run_names(runs)
    drawn = looks(names)
    columns = min(COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    beside = max(1, WIDTH * columns * LETTERS // (max(map(len, names)) + 8))  # names in a row of the legend, each behind its line
    figure = Figure(figsize=(WIDTH * columns, 3.2 * rows + 0.2 * math.ceil(len(runs) / beside) + 0.2), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, key in zip(panels, chosen, strict=False):
        of_model = not any(key in policy for policy, _ in tables)
        for name, pair in zip(names, tables, strict=True):
            table = pair[of_model]
            if key in table:
                there, look = table.dropna(subset=[key]), drawn[name]
                dot = "." if len(there) == 1 else ""  # a line of one point cannot be seen
                panel.plot(there["timestep"], there[key], color=look.colour, linestyle=look.dashes, marker=dot, linewidth=1.2, label=name)
        panel.set(title=key, xlabel="epochs of the dynamics model" if of_model else "gradient steps")
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.grid(color="0.92")
    for panel in panels[len(chosen) :]:
        panel.set_visible(False)
    handles = {str(line.get_label()): line for panel in panels for line in panel.get_lines()}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", fontsize=8, ncols=beside)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return chosen


def _readable(runs: Sequence[Path]) -> tuple[list[Path], list[tuple[pd.DataFrame, pd.DataFrame]]]:
    """The runs whose progress can be read, and it: the policy's, and their dynamics model's where they have trained one themselves."""
    found: dict[Path, tuple[pd.DataFrame, pd.DataFrame]] = {}
    errors = []
    for run in runs:
        try:
            model = pd.DataFrame()
            with suppress(UserError):
                model = read_progress(run, DYNAMICS)
            found[run] = read_progress(run), model
        except UserError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    for reason in errors:
        print(f"left out: {reason}", file=sys.stderr)
    return list(found), list(found.values())


def run_names(folders: Sequence[Path]) -> list[str]:
    """Contestant or algorithm, and seed, with the task where there are several; where that does not tell the runs apart, their paths do.

    From the folders' names, which end in task/algorithm/seed_... in the kit's runs as well.
    """
    found = []
    several = len({folder.absolute().parts[-3:][0] for folder in folders}) > 1
    for folder in folders:
        parts = folder.absolute().parts
        seed = re.match(r"seed_(\d+)(?!\d)", parts[-1])
        if len(parts) < 4 or seed is None:
            return _paths(folders)
        label = contestant_of(folder) or parts[-2]
        found.append(f"{label}, {parts[-3]}, seed {seed[1]}" if several else f"{label}, seed {seed[1]}")
    return found if len(set(found)) == len(found) else _paths(folders)


def _paths(folders: Sequence[Path]) -> list[str]:
    """What tells the runs apart, and at least task/algorithm/run."""
    parts = [folder.absolute().parts for folder in folders]
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False)))
    # what stands between two dollars would be set as a formula
    return ["/".join(path[min(shared, len(path) - 3) :]).replace("$", r"\$") for path in parts]
