"""What each contestant of a comparison changes of its algorithm's preset, from the runs in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from offlinerlkit_damo.compare.plan import plain
from offlinerlkit_damo.config import options_read, readers, resolve
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.training.resume import FREE
from offlinerlkit_damo.training.run_folder import FACTS, read_facts

OWN = ("task", "seed", "algo_name", "dynamics_seed", *FREE)
"""Options that name the run, or decide nothing about its result."""
LAYOUT = f"runs/*/*/*/*/{FACTS}"  # contestant, task, algorithm, run


def own_options(folders: Sequence[Path], labels: Sequence[str]) -> tuple[dict[str, str], pd.DataFrame]:
    """What all contestants that read it changed alike, name -> value; and a row a contestant: algorithm, and what else it changed.

    Measured against the presets of this version of the package. Empty where the folders hold no runs, but their rows alone.
    """
    algos: dict[str, str] = {}
    found: dict[str, dict[str, list[str]]] = {}  # contestant -> option -> its values, more than one where tasks differ
    for path, label in sorted((path, path.relative_to(folder).parts[1]) for folder in folders for path in folder.glob(LAYOUT)):
        try:
            config = options_read(read_facts(path.parent)["config"])
            defaults = _defaults(str(config.get("algo_name")), str(config.get("task")), config.get("env"))
        except UserError:
            continue  # damaged, or of another version: then nothing is known
        algos.setdefault(label, str(config["algo_name"]))
        ours = found.setdefault(label, {})
        for name, value in config.items():
            if name in defaults and name not in OWN and value != defaults[name]:
                values = ours.setdefault(name, [])
                if (text := _text(value)) not in values:
                    values.append(text)
    shared = {}
    for name in dict.fromkeys(name for ours in found.values() for name in ours):
        values_of = [ours.get(name) for label, ours in found.items() if algos[label] in readers(name)]
        if values_of[0] is not None and len(values_of) > 1 and all(values == values_of[0] for values in values_of):
            shared[name] = " or ".join(values_of[0])
    rows = []
    for label in filter(found.__contains__, labels):
        own = "; ".join(f"{name}: {' or '.join(values)}" for name, values in found[label].items() if name not in shared)
        rows.append({"contestant": label, "algorithm": algos[label], "options of its own": own or "none"})
    return shared, pd.DataFrame(rows)


@cache
def _defaults(algo: str, task: str, env: str | None) -> dict[str, Any]:
    own_data = {} if env is None else {"env": env, "data": "any"}  # whose simulator decides which options it takes
    return {**plain(resolve({"algo_name": algo, "task": task, **own_data})), "env": None, "data": None}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')
