"""The dynamics model of a run: loaded, or trained once per dataset and settings and kept in the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offlinerlkit_damo.config import Config
from offlinerlkit_damo.engine.dynamics import CHUNK, RoutedDynamics
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import HOST, EnsembleDynamics, EnsembleDynamicsModel, Logger, StandardScaler
from offlinerlkit_damo.tasks import OfflineDataset, config_task
from offlinerlkit_damo.tasks.termination import termination_fn
from offlinerlkit_damo.training.dynamics_store import locked, read_model_facts, save_model, stored_facts, stored_folder
from offlinerlkit_damo.training.state import check_weights

SETTINGS = (
    "dynamics_lr", "dynamics_lr_schedule", "dynamics_max_epochs", "dynamics_patience",
    "dynamics_hidden_dims", "dynamics_weight_decay", "n_ensemble", "n_elites",
)
FILES = ("dynamics.pth", "mu.npy", "std.npy")
STORE_FORMAT = 6  # raise when the same settings give another model
MAX_HOLDOUT = 1000  # rows


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def build_dynamics(config: Config, obs_dim: int, action_dim: int, scaler: StandardScaler | None = None) -> RoutedDynamics:
    """An untrained ensemble; MOPO's penalty needs every member at each step, other rollouts are routed to one elite per row.

    `scaler`: of the observations, where the model sees standardised ones; the termination function still sees the task's own.
    """
    model = EnsembleDynamicsModel(
        obs_dim=obs_dim,
        action_dim=action_dim,
        hidden_dims=list(config.dynamics_hidden_dims),
        num_ensemble=config.n_ensemble,
        num_elites=config.n_elites,
        weight_decays=list(config.dynamics_weight_decay),
        device=config.device,
    )
    optim = torch.optim.Adam(model.parameters(), lr=config.dynamics_lr, fused=True)
    penalty = config.penalty_coef if config.algo_name == "mopo" else 0.0
    terminal_fn = termination_fn(config_task(config))
    if scaler is not None:
        terminal_fn = _on_raw_observations(terminal_fn, scaler)
    return RoutedDynamics(model, optim, StandardScaler(), terminal_fn, penalty_coef=penalty)


def _on_raw_observations(terminal_fn: Any, scaler: StandardScaler) -> Any:
    mean, std = scaler.mu, scaler.std
    return lambda obs, action, next_obs: terminal_fn(obs * std + mean, action, next_obs * std + mean)


def _settings(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in SETTINGS} | {"seed": config.model_seed}


def dynamics_id(config: Config, fingerprint: str) -> str:
    """What decides a trained model: host, dataset (its `fingerprint`), settings and seed, as 16 hex digits."""
    settings = _settings(config) | {
        "format": STORE_FORMAT,
        "host": [HOST.name, HOST.version, HOST.commit],
        "dataset": fingerprint,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def dynamics_digest(dynamics: RoutedDynamics) -> str:
    """What tells one trained model from another: a digest of its weights and its scaler."""
    digest = hashlib.sha256()
    for value in (*dynamics.model.state_dict().values(), dynamics.scaler.mu, dynamics.scaler.std):
        digest.update(np.ascontiguousarray(value.cpu().numpy() if isinstance(value, torch.Tensor) else value).tobytes())
    return digest.hexdigest()[:16]


def prepare_dynamics(
    config: Config, dataset: OfflineDataset, logger: Logger, scaler: StandardScaler | None = None, *, own: Path | None = None
) -> tuple[RoutedDynamics, dict[str, Any]]:
    """A trained ensemble and its facts: id, seconds of training and the elites' mean squared error on rows held out of it.

    Loads `load_dynamics_path` if given (whose held-out rows are not known), else the stored model of the same host, dataset, settings
    and seed, else trains and stores one. `scaler` as for `build_dynamics`. `own` is the folder of the run's own copy: the model for the
    same dataset, settings and seed is loaded from there if it has one, whichever host trained it, else copied there, so that the run can be
    continued whatever becomes of the store.
    """
    seed_everything(config.model_seed)  # its first weights are drawn here
    dynamics = build_dynamics(config, dataset.obs_dim, dataset.action_dim, scaler)
    if own is not None and (of_run := own_facts(config, dataset, own)):
        load_dynamics(dynamics, own)
        return dynamics, of_run
    given = config.load_dynamics_path
    if given is not None:
        load_dynamics(dynamics, Path(given))
        _check_scale(dynamics, dataset, config)
        facts = {"id": None, "path": given, "holdout_mse": None}
    else:
        facts = _stored(config, dynamics, dataset, logger)
    if own is not None:
        save_model(dynamics, own, facts)
    return dynamics, facts


def own_facts(config: Config, dataset: OfflineDataset, own: Path) -> dict[str, Any] | None:
    """The facts of the model in `own`, the folder of a run's own copy; None if there is none, or that of another dataset or settings."""
    if not own.is_dir():
        return None
    facts = read_model_facts(own)
    key = None if config.load_dynamics_path is not None else dynamics_id(config, dataset.fingerprint)
    # of the other host it is still the run's model, which training anew would replace
    same = {"fingerprint": dataset.fingerprint, "settings": json.loads(json.dumps(_settings(config)))}
    matches = facts.get("path") == config.load_dynamics_path and (facts.get("id") == key or same.items() <= facts.items())
    return facts if matches else None


def _stored(config: Config, dynamics: RoutedDynamics, dataset: OfflineDataset, logger: Logger) -> dict[str, Any]:
    """Load the stored model of this dataset and these settings, trained before if need be; returns its facts."""
    key = dynamics_id(config, dataset.fingerprint)
    folder = stored_folder(key)
    with locked(key):
        if not folder.exists():
            about = {"task": config.task, "dataset": dataset.name, "fingerprint": dataset.fingerprint}
            facts = {"id": key, **about, "settings": _settings(config)}
            save_model(dynamics, folder, facts | _train(config, dynamics, dataset, logger))
        # loaded even when just trained, so that the first run and the later ones use the same bits
        facts = stored_facts(key)
        load_dynamics(dynamics, folder)
    return facts


def _train(config: Config, dynamics: RoutedDynamics, dataset: OfflineDataset, logger: Logger) -> dict[str, Any]:
    """Train an ensemble; returns the seconds it took and its error. Raises UserError for one that diverged."""
    seed_everything(config.model_seed)
    start = time.time()
    # rows of our own held out: the host's are not the same on every host, and choose the elites
    order = np.random.default_rng(0).permutation(np.flatnonzero(dataset.has_successor))
    held = order[: min(MAX_HOLDOUT, len(order) // 10)]
    columns = {key: value.reshape(len(value), -1) for key, value in dataset.transitions().items()}
    training = {key: value[order[len(held) :]] for key, value in columns.items()}
    with suppress(FloatingPointError):  # the next lines find out what it means for the elites
        dynamics.train(
            training,
            logger,
            max_epochs=config.dynamics_max_epochs,
            max_epochs_since_update=config.dynamics_patience,
            lr_schedule=config.dynamics_lr_schedule,
        )
    error, variance = _holdout_mse(dynamics, {key: value[held] for key, value in columns.items()})
    remedy = f"try a smaller --dynamics-lr ({config.dynamics_lr}) or more --dynamics-max-epochs ({config.dynamics_max_epochs})"
    # the kit puts a diverged model's first weights back, but not its bounds of the log-variance
    if not (math.isfinite(error) and all(bool(p.isfinite().all()) for p in dynamics.model.parameters())):
        raise UserError(f"the dynamics model diverged; {remedy}")
    if error >= variance:
        logger.log(f"WARNING: the dynamics model errs by {error:.3g}, more than no model at all ({variance:.3g}); {remedy}")
    return {"seconds": round(time.time() - start, 1), "holdout_mse": error}


def _check_scale(dynamics: RoutedDynamics, dataset: OfflineDataset, config: Config) -> None:
    """Raise UserError for a model of standardised observations (RAMBO's) where the data is raw, or the reverse: both fit in size."""
    statistics: list[Any] = [dynamics.scaler.mu, dynamics.scaler.std]
    varies = np.ptp(dataset.observations, 0) > 0  # what does not has a deviation of its own
    model, data = (
        _standardised(*pair)
        for pair in (
            (np.asarray(x).reshape(-1)[: dataset.obs_dim][varies] for x in statistics),
            (dataset.observations.mean(0)[varies], dataset.observations.std(0)[varies]),
        )
    )
    if model != data:
        kinds = {True: "standardised", False: "raw"}
        raise UserError(
            f"the dynamics model in {config.load_dynamics_path!r} was trained on {kinds[model]} observations and {config.algo_name}'s are "
            f"{kinds[data]} (only RAMBO standardises them); give a model trained for it"
        )


def _standardised(mean: np.ndarray, std: np.ndarray) -> bool:
    return bool((np.abs(mean) < 0.1).all() and (np.abs(std - 1) < 0.1).all())


@torch.no_grad()
def _holdout_mse(dynamics: EnsembleDynamics, rows: dict[str, np.ndarray]) -> tuple[float, float]:
    """Mean squared one-step error of the elites' means, and the targets' variance: what predicting their mean would leave."""
    inputs = dynamics.scaler.transform(np.concatenate([rows["observations"], rows["actions"]], 1))
    mean, _ = dynamics.model(inputs)
    target = torch.as_tensor(np.concatenate([rows["next_observations"] - rows["observations"], rows["rewards"]], 1), device=mean.device)
    elites = dynamics.model.elites.long().to(mean.device)
    return float((mean[elites] - target).square().mean()), float(target.var(0, correction=0).mean())


@torch.no_grad()
def with_expected_successors(dataset: OfflineDataset, dynamics: EnsembleDynamics) -> OfflineDataset:
    """The dataset with the elites' mean in the place of every next observation that was not recorded.

    No value follows such a row, whatever its successor is, but a classifier of transitions sees it: a row that stands for its own successor
    is like none of the model's.
    """
    rows = np.flatnonzero(~dataset.has_successor)
    if len(rows) == 0:
        return dataset
    successors = dataset.next_observations.copy()
    elites = dynamics.model.elites.long()
    for some in np.array_split(rows, -(-len(rows) // CHUNK)):
        inputs = dynamics.scaler.transform(np.concatenate([dataset.observations[some], dataset.actions[some]], 1))
        mean, _ = dynamics.model(inputs)
        successors[some] += mean[elites.to(mean.device), :, : dataset.obs_dim].mean(0).cpu().numpy()
    return dataclasses.replace(dataset, next_observations=successors)


def check_dynamics_folder(folder: Path) -> None:
    """Raise UserError unless `folder` has the files of a saved dynamics model."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{str(folder)!r} holds no dynamics model: {', '.join(missing)} missing; give a folder that `save` wrote")


def load_dynamics(dynamics: EnsembleDynamics, folder: Path) -> None:
    """Put the saved model in `folder` in the place of `dynamics`. Raises UserError where there is none, or one of other sizes."""
    check_dynamics_folder(folder)
    model: Any = dynamics.model
    width = model.backbones[0].weight.shape[1]
    try:
        check_weights(model, torch.load(folder / FILES[0], map_location="cpu", weights_only=True))
        dynamics.load(str(folder))
    except Exception as error:  # a damaged file makes the unpickler fail in any way
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the dynamics model in {str(folder)!r} does not fit this task or its settings ({reason})") from error
    statistics: list[Any] = [dynamics.scaler.mu, dynamics.scaler.std]
    if any(np.shape(x)[-1:] != (width,) for x in statistics):
        raise UserError(f"mu.npy or std.npy in {str(folder)!r} does not have the width of the model's inputs, {width}")
