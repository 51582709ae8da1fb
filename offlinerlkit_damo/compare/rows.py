"""The runs of a comparison gathered into one table: a row for every episode of every evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from offlinerlkit_damo.compare.parcel import MODEL
from offlinerlkit_damo.config import options_read
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.report.scores import ROWS
from offlinerlkit_damo.training.dynamics_store import read_model_facts
from offlinerlkit_damo.training.logs import EPISODES, POLICY, read_table
from offlinerlkit_damo.training.resume import FREE
from offlinerlkit_damo.training.run_folder import FACTS, RESULTS, read_facts, read_results

COLUMNS = (
    "task", "label", "algo", "seed", "timestep", "episode", "return", "score", "length", "dataset_mean", "source", "config_hash", "dataset",
    "dynamics", "host", "machine", "commit", "seconds", "q_data", "gamma", "finished",
)  # fmt: skip
NUMBERS = {"timestep": int, "episode": int, "return": float, "score": float, "length": int}
"""The columns of a run's own table."""
FIGURES = {"seconds": "eval/seconds", "q_data": "eval/q_data"}
"""Columns of what its progress table has at an evaluation: seconds of training until then, the critic's mean value of the data."""


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hex digits of the options that decide a run's result, its seed left out."""
    deciding = {name: value for name, value in options_read(config).items() if name not in (*FREE, "seed", "dynamics_seed")}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:12]


def run_rows(folder: Path, label: str) -> pd.DataFrame:
    """The rows of one run so far, with `COLUMNS`; none before its first evaluation.

    Raises UserError, naming the file, where one is damaged, and where the tables of a finished run lack what it has noted at its end.
    """
    facts, results = read_facts(folder), read_results(folder)
    episodes = read_episodes(folder)
    if results is not None:
        _check_complete(episodes, results["evaluations"], folder)
    figures = _figures(folder, episodes, results)
    rows = episodes.assign(**_about(facts, results, folder, label))
    for begun, origin in _origins(facts, folder):
        rows.loc[rows["timestep"] > begun, list(origin)] = list(origin.values())
    return pd.DataFrame(rows.join(figures, on="timestep")[list(COLUMNS)])


def read_episodes(folder: Path) -> pd.DataFrame:
    """The columns of NUMBERS: a row for every episode of every evaluation of a run so far. Raises UserError for a damaged table."""
    path = folder / "record" / EPISODES
    rows = read_table(path)
    table = pd.DataFrame({name: pd.to_numeric([row.get(name, "") for row in rows], errors="coerce") for name in NUMBERS}, dtype=float)
    whole = table[[name for name, kind in NUMBERS.items() if kind is int]].to_numpy()
    # text that is no number is nan by now, and so is its fraction
    bad = ~np.isfinite(table.to_numpy()).all(axis=1) | (whole % 1 != 0).any(axis=1) | (table["length"].to_numpy() < 1)
    broken = np.flatnonzero(bad)
    if len(broken):
        raise UserError(f"line {broken[0] + 2} of {str(path)!r} is damaged")
    return table.astype(NUMBERS)


def _check_complete(episodes: pd.DataFrame, evaluations: Mapping[str, Any], folder: Path) -> None:
    means = episodes.groupby("timestep", sort=False)["score"].mean()
    if list(means.index) != evaluations["timestep"] or not np.allclose(means, evaluations["score"], rtol=1e-6):
        raise UserError(f"{str(folder / 'record' / EPISODES)!r} is damaged: it does not have the evaluations that {RESULTS} has")


def _about(facts: Mapping[str, Any], results: Mapping[str, Any] | None, folder: Path, label: str) -> dict[str, Any]:
    """The columns that are the same in all of a run's rows."""
    config = facts["config"]
    try:
        return {
            "task": config["task"],
            "label": label,
            "algo": config["algo_name"],
            "seed": config["seed"],
            "dataset_mean": facts["dataset"]["mean_score"],
            "source": facts["dataset"]["source"],
            "dynamics": _model_id(results, folder),
            "gamma": config["gamma"],
            "finished": results is not None,
        }
    except (KeyError, TypeError, AttributeError):
        raise _unusual(folder) from None


def _origins(facts: Mapping[str, Any], folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """The step after which each part of the run began, and the columns of what made it; a part is gone back over by those after it."""
    parts = facts.get("parts") or [{}]
    if any("step" not in part for part in parts):
        parts = [{**parts[-1], "step": 0}]  # of a run that was begun before parts had theirs
    try:
        return [
            (
                part["step"],
                {
                    "config_hash": config_hash(part.get("config", facts["config"])),
                    "dataset": part.get("dataset", facts["dataset"]["fingerprint"])[:16],
                    "host": part.get("host", facts["host"]["name"]),
                    "machine": part.get("machine"),
                    "commit": part.get("commit", facts["commit"]),
                },
            )
            for part in parts
        ]
    except (KeyError, TypeError, AttributeError):
        raise _unusual(folder) from None


def _unusual(folder: Path) -> UserError:
    return UserError(f"{str(folder / FACTS)!r} does not say what a run's does")


def _model_id(results: Mapping[str, Any] | None, folder: Path) -> str | None:
    """Which dynamics model the run has; None for one that has none, none yet, or one without a name."""
    model = folder / MODEL
    facts: Mapping[str, Any] = results.get("dynamics") or {} if results is not None else read_model_facts(model) if model.is_dir() else {}
    return facts.get("id")


def _figures(folder: Path, episodes: pd.DataFrame, results: Mapping[str, Any] | None) -> pd.DataFrame:
    """timestep -> the columns of FIGURES, nan where one was not logged. Raises UserError for a damaged table."""
    path = folder / "record" / POLICY
    try:
        rows = {int(float(row["timestep"])): row for row in read_table(path)}
    except (KeyError, ValueError, OverflowError):
        raise UserError(f"{str(path)!r} is damaged: it has a row without a step") from None
    if results is not None and len(episodes) and max(rows, default=0) < episodes["timestep"].max():
        raise UserError(f"{str(path)!r} is damaged: it ends before the run's last evaluation")
    found = {name: [float(row[key]) if row.get(key) else np.nan for row in rows.values()] for name, key in FIGURES.items()}
    return pd.DataFrame(found, index=pd.Index(list(rows), dtype=int))


def write_rows(runs: Iterable[tuple[Path, str]], out: Path) -> dict[Path, str]:
    """Gather (run folder, contestant) pairs into out/rows.csv, which `pandas.read_csv` reads; atomically.

    Returns why the rows of a run are not in it, by its folder, of those that are damaged.
    """
    damaged = {}
    with replacing(out / ROWS) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        file.write(",".join(COLUMNS) + "\n")
        for folder, label in runs:  # one at a time: together they may be millions
            try:
                rows = run_rows(folder, label)
            except UserError as error:
                damaged[folder] = str(error)
                continue
            rows.to_csv(file, header=False, index=False, lineterminator="\n")
    return damaged
