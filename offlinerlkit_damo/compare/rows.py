"""The runs of a comparison gathered into one table: a row for every episode of every evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from offlinerlkit_damo.config import with_younger
from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.report.scores import ROWS
from offlinerlkit_damo.training.logs import EPISODES, POLICY, read_table
from offlinerlkit_damo.training.resume import FREE
from offlinerlkit_damo.training.run_folder import RESULTS, read_facts

COLUMNS = (
    "task", "label", "algo", "seed", "timestep", "episode", "return", "score", "length", "dataset_mean", "source", "config_hash", "dataset",
    "dynamics", "host", "commit", "seconds", "q_data", "gamma", "finished",
)  # fmt: skip
NUMBERS = {"timestep": int, "episode": int, "return": float, "score": float, "length": int}
"""The columns of a run's own table."""
FIGURES = {"seconds": "eval/seconds", "q_data": "eval/q_data"}
"""Columns of what its progress table has at an evaluation: seconds of training until then, the critic's mean value of the data."""


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hex digits of the options that decide a run's result, its seed left out."""
    deciding = {name: value for name, value in with_younger(config).items() if name not in (*FREE, "seed", "dynamics_seed")}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:12]


def run_rows(folder: Path, label: str) -> pd.DataFrame:
    """The rows of one run so far, with `COLUMNS`; none before its first evaluation."""
    facts = read_facts(folder)
    result = folder / RESULTS
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    config, dataset = facts["config"], facts["dataset"]
    about = {
        "task": config["task"],
        "label": label,
        "algo": config["algo_name"],
        "seed": config["seed"],
        "dataset_mean": dataset["mean_score"],
        "source": dataset["source"],
        "config_hash": config_hash(config),
        "dataset": dataset["fingerprint"][:16],
        "dynamics": (found.get("dynamics") or {}).get("id"),
        "host": facts["host"]["name"],
        "commit": facts["commit"],
        "gamma": config["gamma"],
        "finished": bool(found),
    }
    episodes = pd.DataFrame(read_table(folder / "record" / EPISODES), columns=list(NUMBERS)).astype(NUMBERS)
    return episodes.assign(**about).join(_figures(folder), on="timestep")[list(COLUMNS)]


def _figures(folder: Path) -> pd.DataFrame:
    """timestep -> the columns of FIGURES, nan where one was not logged."""
    rows = {int(float(row["timestep"])): row for row in read_table(folder / "record" / POLICY)}
    found = {name: [float(row[key]) if row.get(key) else np.nan for row in rows.values()] for name, key in FIGURES.items()}
    return pd.DataFrame(found, index=pd.Index(list(rows), dtype=int))


def write_rows(runs: Iterable[tuple[Path, str]], out: Path) -> Path:
    """Gather (run folder, contestant) pairs into out/rows.csv, which `pandas.read_csv` reads; atomically."""
    path = out / ROWS
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        file.write(",".join(COLUMNS) + "\n")
        for folder, label in runs:  # one at a time: together they may be millions
            run_rows(folder, label).to_csv(file, header=False, index=False, lineterminator="\n")
    return path
