"""The runs of a comparison gathered into one table: a row for every episode of every evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.training.logs import EPISODES, POLICY, read_rows
from offlinerlkit_damo.training.resume import FREE
from offlinerlkit_damo.training.run_folder import read_facts

ROWS = "rows.csv"
COLUMNS = (
    "task", "label", "algo", "seed", "timestep", "episode", "return", "score", "length", "dataset_mean", "source", "config_hash", "dataset",
    "dynamics", "host", "commit", "seconds", "q_data", "gamma", "finished",
)  # fmt: skip


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hex digits of the options that decide a run's result, its seed left out."""
    deciding = {name: value for name, value in config.items() if name not in (*FREE, "seed", "dynamics_seed")}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:12]


def run_rows(folder: Path, label: str) -> list[dict[str, Any]]:
    """The rows of one run so far; none before its first evaluation."""
    facts = read_facts(folder)
    result = folder / "result" / "results.json"
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
    progress = {int(float(row["timestep"])): row for row in read_rows(folder / "record" / POLICY)}
    episodes = read_rows(folder / "record" / EPISODES)
    return [
        {
            **about,
            **{name: float(row[name]) for name in ("return", "score")},
            **_counts(row),
            **_then(progress.get(int(row["timestep"]), {})),
        }
        for row in episodes
    ]


def _then(figures: Mapping[str, str]) -> dict[str, float | None]:
    """Seconds of training until an evaluation and the critic's mean value of the data, None where it was not logged."""
    return {
        name: float(figures[key]) if figures.get(key) else None for name, key in (("seconds", "eval/seconds"), ("q_data", "eval/q_data"))
    }


def _counts(row: Mapping[str, str]) -> dict[str, int]:
    return {name: int(row[name]) for name in ("timestep", "episode", "length")}


def write_rows(runs: Iterable[tuple[Path, str]], out: Path) -> Path:
    """Gather (run folder, contestant) pairs into out/rows.csv, which `pandas.read_csv` reads; atomically."""
    rows = [row for folder, label in runs for row in run_rows(folder, label)]
    path = out / ROWS
    with replacing(path) as temporary:
        pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(temporary, index=False)
    return path
