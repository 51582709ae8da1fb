"""The runs that figures are made of: found on disk, called by their contestants' names, and loaded as they were at their end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from offlinerlkit_damo.analysis.clouds import Transitions
from offlinerlkit_damo.compare.rows import config_hash
from offlinerlkit_damo.config import MODEL_BASED, Config
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.report.results import read_evaluations
from offlinerlkit_damo.report.scores import LAST
from offlinerlkit_damo.tasks import OfflineDataset, Task, config_task, resolve_dataset
from offlinerlkit_damo.training.dynamics import build_dynamics, load_dynamics
from offlinerlkit_damo.training.resume import changed_options
from offlinerlkit_damo.training.run import make_trainer
from offlinerlkit_damo.training.run_folder import FACTS, contestant_of, read_facts
from offlinerlkit_damo.training.scaling import standardised

ROLLOUTS = 2000
"""Rollouts of the model that a run's synthetic data is drawn from."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder, the name that figures call it by, and what its run.json says."""

    folder: Path
    label: str
    facts: dict[str, Any]

    @property
    def seed(self) -> int:
        """Of its networks and sampling."""
        return int(self.facts["config"]["seed"])

    @property
    def name(self) -> str:
        """Of one run among several with the same label."""
        return f"{self.label}, seed {self.seed}"

    @property
    def score(self) -> float | None:
        """The mean of its last evaluations, normalised points; None if it has none."""
        try:
            return float(self.evaluations["score"].tail(LAST).mean())
        except UserError:
            return None

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """As `read_evaluations`, which may raise."""
        return read_evaluations(self.folder)

    @cached_property
    def config(self) -> Config:
        """Its options. Raises UserError for those of another version of this package."""
        try:
            return Config.from_flat(self.facts["config"])
        except UserError as error:
            raise UserError(f"the configuration of {str(self.folder)!r} cannot be used: {error}") from None

    def check_classifier(self) -> None:
        """Raise UserError for a run without a classifier."""
        if not self.config.damo.data_alignment:
            raise UserError(f"{self.name} has no classifier: it was trained without data alignment; leave it out")


def find_runs(paths: Sequence[str]) -> list[Run]:
    """The runs at `paths`: run folders, folders that hold some (a comparison's), or either with a name, NAME=PATH.

    Unnamed, a run of a comparison has its contestant's name, any other its algorithm's. Raises UserError for a path without runs, runs of
    different tasks or datasets, a run given twice, and a name that stands for runs with different options or for two of one seed.
    """
    found = []
    for text in paths:
        name, equals, rest = text.partition("=")
        named = bool(equals) and not Path(text).exists()
        if named and (name.startswith("_") or "$" in name):
            raise UserError(f"{name!r} cannot stand in a figure; give a name without $, that does not begin with _")
        path = Path(rest if named else text)
        folders = [path] if (path / FACTS).is_file() else sorted(facts.parent for facts in path.glob(f"**/{FACTS}"))
        if not folders:
            raise UserError(f"{str(path)!r} is not a run folder and holds none; give the folder of a run, or of a comparison")
        for folder in folders:
            facts = read_facts(folder)
            found.append(Run(folder, name if named else _label(folder, facts), facts))
    _check_alike(found)
    return found


def _label(folder: Path, facts: dict[str, Any]) -> str:
    return contestant_of(folder) or str(facts["config"].get("algo_name"))


def _check_alike(runs: Sequence[Run]) -> None:
    by_label: dict[str, Run] = {}
    by_name: dict[str, Run] = {}
    first, folders = runs[0], set()
    for run in runs:
        if run.folder.resolve() in folders:
            raise UserError(f"{str(run.folder)!r} is given twice; leave one out")
        folders.add(run.folder.resolve())
        try:
            ours, theirs = ((x.facts["config"]["task"], x.facts["dataset"]["fingerprint"], x.facts["task"]["robot"]) for x in (run, first))
        except (KeyError, TypeError):
            raise UserError(f"{str(run.folder / FACTS)!r} does not say which task and dataset the run is on; leave it out") from None
        if ours != theirs:
            what = f"on {ours[0]}" if ours[0] != theirs[0] else "on another dataset"
            raise UserError(f"{str(run.folder)!r} is {what}, {str(first.folder)!r} on {theirs[0]}; draw the runs of one dataset at a time")
        other = by_label.setdefault(run.label, run)
        seeds = {name: run.facts["config"].get(name) for name in ("seed", "dynamics_seed")}  # these may differ
        changes = changed_options({**other.facts["config"], **seeds}, {**run.facts["config"], **seeds})
        if changes:
            told = "; ".join(changes[:4])
            raise UserError(f"two runs called {run.label!r} have different options ({told}); name them, NAME={run.folder}")
        same = by_name.setdefault(run.name, run)
        if same is not run:
            raise UserError(
                f"{str(same.folder)!r} and {str(run.folder)!r} are both {run.name}; leave one out, or name it, NAME={run.folder}"
            )


def load_dataset(run: Run) -> OfflineDataset:
    """What the run learned from. Raises UserError where it is not that dataset any more."""
    config = run.config
    dataset = resolve_dataset(config_task(config), config.data, size=config.data_size, seed=config.data_seed)
    if dataset.fingerprint != run.facts["dataset"]["fingerprint"]:
        raise UserError(f"the dataset {dataset.name} is not the one that {str(run.folder)!r} learned from; its rows have changed since")
    return dataset


class Learned:
    """A finished, model-based run at its end: policy, critics, classifier and dynamics model, on the CPU.

    Attributes:
        run, config, task: which run.
        policy: the trained policy of the host's class, with all its networks.
    """

    def __init__(self, run: Run, dataset: OfflineDataset) -> None:
        """Raises UserError for a run that is not model-based, has not finished, or whose files are missing or damaged."""
        here: dict[str, Any] = {"device": "cpu", "tf32": False}
        self.run, self.config = run, dataclasses.replace(run.config, **here, rollout_batch_size=ROLLOUTS, model_retain_epochs=1)
        self.task: Task = config_task(run.config)
        if self.config.algo_name not in MODEL_BASED:
            raise UserError(f"{run.name} ({self.config.algo_name}) has no dynamics model; leave it out")
        file = run.folder / "model" / "policy.pth"
        if not file.is_file():
            raise UserError(f"{str(run.folder)!r} has no model/policy.pth: the run has not finished; continue it with `train --resume`")
        self._scaler = None
        if self.config.algo_name == "rambo":
            dataset, self._scaler = standardised(dataset)
        dynamics = build_dynamics(self.config, dataset.obs_dim, dataset.action_dim, self._scaler)
        load_dynamics(dynamics, run.folder / "model")  # as it was at the end: RAMBO's changes
        nothing: Any = None  # neither simulator nor logger is touched
        self._trainer = make_trainer(self.config, dataset, nothing, nothing, dynamics, self._scaler, fresh=False)
        self.policy: Any = self._trainer.policy
        try:
            saved = torch.load(file, map_location="cpu", weights_only=True)
            # MOPO's files once had a classifier that was never used, and RAMBO's its statistics
            self.policy.load_state_dict({name: saved[name] for name in self.policy.state_dict()})
        except Exception as error:  # a damaged file makes the unpickler fail in any way
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{str(file)!r} does not hold this run's policy ({reason})") from error
        self.policy.eval()

    def act(self, obss: NDArray[Any]) -> NDArray[np.float32]:
        """A sample of the policy for the simulator's observations [B, d] (torch's global generator): [B, a]."""
        actions: NDArray[np.float32] = self.policy.select_action(obss, deterministic=False)
        return actions

    @torch.no_grad()
    def q(self, obss: NDArray[Any], actions: NDArray[Any]) -> NDArray[np.float64]:
        """Every critic's value of the simulator's observations [B, d] and actions [B, a]: [E, B]."""
        critics = getattr(self.policy, "critics", None) or (self.policy.critic1, self.policy.critic2)
        pair = self._tensor(self._seen(obss)), self._tensor(actions)
        return np.stack([critic(*pair).squeeze(-1).numpy() for critic in critics]).astype(np.float64)

    @torch.no_grad()
    def logits(self, obss: NDArray[Any], actions: NDArray[Any], next_obss: NDArray[Any]) -> NDArray[np.float64]:
        """The classifier's d(s, a, s') [B] of transitions in the simulator's observations. Raises UserError where the run has none."""
        self.run.check_classifier()
        classifier = self.policy.data_alignment.classifier
        rows = classifier.standardise(*map(self._tensor, (self._seen(obss), actions, self._seen(next_obss))))
        values: NDArray[np.float64] = classifier(rows).numpy().astype(np.float64)
        return values

    def imagine(self) -> Transitions:
        """Fresh rollouts of the policy in its model, from starts and of a length as in the run's training."""
        rows, _ = self.policy.rollout(self._trainer._rollout_starts(ROLLOUTS), self.config.rollout_length)
        ended = rows["terminals"].reshape(-1).astype(bool)
        return Transitions(self._raw(rows["obss"]), rows["actions"], self._raw(rows["next_obss"]), rollout_of_rows(ended, ROLLOUTS))

    def _seen(self, obss: NDArray[Any]) -> NDArray[Any]:
        return obss if self._scaler is None else self._scaler.transform(obss)

    def _raw(self, obss: NDArray[Any]) -> NDArray[Any]:
        return obss if self._scaler is None else obss * self._scaler.std + self._scaler.mu

    @staticmethod
    def _tensor(values: NDArray[Any]) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32)


def rollout_of_rows(ended: NDArray[np.bool_], rollouts: int) -> NDArray[np.int64]:
    """Which rollout each row [n] is of, from whether it ended: the host hands back all first steps, then the second ones of the rest..."""
    found: list[NDArray[np.int64]] = []
    alive, start = np.arange(rollouts), 0
    while start < len(ended):
        found.append(alive)
        start, alive = start + len(alive), alive[~ended[start : start + len(alive)]]
    return np.concatenate(found)


def settings_of(run: Run) -> dict[str, Any]:
    """What a figure's JSON says of a run."""
    return {
        "label": run.label,
        "seed": run.seed,
        "algo_name": run.facts["config"]["algo_name"],
        "steps": run.facts["config"]["epoch"] * run.facts["config"]["step_per_epoch"],
        "config_hash": config_hash(run.facts["config"]),
        "commit": run.facts.get("commit"),
    }
