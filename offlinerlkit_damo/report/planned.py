"""What a comparison's plan has and its rows do not have, and what has failed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from offlinerlkit_damo.compare.plan import read_failures, read_plan
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.report.scores import RUN
from offlinerlkit_damo.training.run_folder import PLAN


def failures(folders: Sequence[Path]) -> list[str]:
    """What the comparisons in `folders` have noted of runs that failed, or whose files are damaged, a sentence each."""
    places = dict.fromkeys(folder if folder.is_dir() else folder.parent for folder in folders)
    return [line for place in places for line in read_failures(place)]


def unmeasured(folders: Sequence[Path], rows: pd.DataFrame) -> list[str]:
    """The runs in the last plans of the comparisons in `folders` that have no row, in a sentence each plan; none where there is no plan."""
    measured = set(rows[RUN].drop_duplicates().itertuples(index=False, name=None))
    found = []
    for path in ((folder if folder.is_dir() else folder.parent) / PLAN for folder in folders):
        if not path.exists():
            continue
        try:
            plan = read_plan(path)
        except UserError as error:
            found.append(f"what was planned is not known: {error}")
            continue
        lacking: dict[tuple[str, str], list[str]] = {}
        for task, label, seed in product(plan.tasks, plan.contestants, plan.seeds):
            if (task, label, seed) not in measured:
                lacking.setdefault((task, label), []).append(str(seed))
        if lacking:
            runs = ", ".join(f"{label} on {task} (seed {', '.join(seeds)})" for (task, label), seeds in lacking.items())
            found.append(f"planned, and without an evaluation so far: {runs}")
    return found
