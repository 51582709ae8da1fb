"""Dynamics models are trained once per host, dataset, settings and seed, and damaged ones are refused in one sentence."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from test_scripts import write_hopper_file

from offlinerlkit_damo.config import Config, resolve
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import Logger
from offlinerlkit_damo.tasks.dataset import OfflineDataset, assemble
from offlinerlkit_damo.training import dynamics as store
from offlinerlkit_damo.training import dynamics_store
from offlinerlkit_damo.training.dynamics import dynamics_id, prepare_dynamics, with_expected_successors
from offlinerlkit_damo.training.logs import OUTPUTS
from offlinerlkit_damo.training.run import train
from offlinerlkit_damo.training.scaling import standardised
from offlinerlkit_damo.training.trainer import DAMOTrainer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dynamics"


def dataset(seed: int = 0, rows: int = 300) -> OfflineDataset:
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(rows, 11)).astype(np.float32)
    actions = rng.uniform(-1, 1, (rows, 3)).astype(np.float32)
    return assemble(
        "data",
        observations=observations,
        actions=actions,
        rewards=observations[:, 0],
        terminals=np.zeros(rows, bool),
        timeouts=np.arange(rows) % 50 == 49,
        next_observations=observations + actions.sum(1, keepdims=True),
    )


def config(**flags: Any) -> Config:
    small = {"dynamics_hidden_dims": [16], "dynamics_weight_decay": [0, 0], "dynamics_max_epochs": 3, "n_ensemble": 3, "n_elites": 2}
    return resolve({"task": "hopper-medium", **small, **flags})


def prepare(tmp_path: Path, name: str, data: OfflineDataset | None = None, **flags: Any) -> tuple[Any, dict[str, Any]]:
    folder = tmp_path / name
    folder.mkdir()
    return prepare_dynamics(config(**flags), data or dataset(), Logger(str(folder), OUTPUTS))


def test_second_run_loads_what_the_first_trained(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, facts = prepare(tmp_path, "a")
    monkeypatch.setattr(store.RoutedDynamics, "train", None)  # training again would fail
    second, again = prepare(tmp_path, "b")
    assert facts == again and [folder.name for folder in cache.iterdir()] == [facts["id"]]
    for key, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[key], value)


def test_id_depends_on_everything_that_decides_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    base, data, other_data = config(), dataset().fingerprint, dataset(1).fingerprint
    others = [config(seed=2), config(dynamics_seed=5), config(dynamics_lr=1e-2), config(dynamics_max_epochs=4), config(n_elites=3)]
    ids = [dynamics_id(base, data), *(dynamics_id(other, data) for other in others), dynamics_id(base, other_data)]
    monkeypatch.setattr(store, "HOST", type(store.HOST)("another", "1", "somewhere", None))
    ids.append(dynamics_id(base, data))
    assert len(set(ids)) == len(ids)
    assert dynamics_id(base, data) == dynamics_id(config(damo_alpha=3, actor_lr=1e-3, epoch=7), data)


def test_held_out_error_is_of_rows_that_training_never_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, np.ndarray]] = []
    train = store.RoutedDynamics.train

    def spy(self: Any, data: dict[str, np.ndarray], *args: Any, **kwargs: Any) -> None:
        seen.append(data)
        train(self, data, *args, **kwargs)

    monkeypatch.setattr(store.RoutedDynamics, "train", spy)
    data = dataset()
    model, facts = prepare(tmp_path, "a", data)
    used = {row.tobytes() for row in seen[0]["observations"]}
    held = np.array([row.tobytes() not in used for row in data.observations])
    assert held.sum() == 30
    inputs = model.scaler.transform(np.concatenate([data.observations, data.actions], 1)[held])
    with torch.no_grad():
        mean = model.model(inputs)[0][model.model.elites.tolist()].numpy()
    target = np.concatenate([data.next_observations - data.observations, data.rewards[:, None]], 1)[held]
    assert facts["holdout_mse"] == pytest.approx(((mean - target) ** 2).mean(), rel=1e-4)


def test_successors_that_nobody_recorded_are_the_models_expectation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither training nor the error sees the terminal rows; afterwards their successor is the elites' mean."""
    whole = dataset()
    ends = np.arange(len(whole)) % 50 == 30
    data = dataclasses.replace(
        whole,
        terminals=ends,
        next_observations=np.where(ends[:, None], whole.observations, whole.next_observations),
        report=dataclasses.replace(whole.report, substituted=int(ends.sum())),
    )
    seen, train, error = [], store.RoutedDynamics.train, store._holdout_mse

    def watched(self: Any, rows: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(rows)
        train(self, rows, *args, **kwargs)

    def watched_error(dynamics: Any, rows: Any) -> tuple[float, float]:
        seen.append(rows)
        return error(dynamics, rows)

    monkeypatch.setattr(store.RoutedDynamics, "train", watched)
    monkeypatch.setattr(store, "_holdout_mse", watched_error)
    dynamics, _ = prepare(tmp_path, "a", data)
    assert [rows["terminals"].sum() for rows in seen] == [0, 0] and sum(len(rows["rewards"]) for rows in seen) == (~ends).sum()
    filled = with_expected_successors(data, dynamics)
    mean, _ = dynamics.model(dynamics.scaler.transform(np.concatenate([data.observations, data.actions], 1)))
    expected = data.observations + mean[dynamics.model.elites.long(), :, :-1].mean(0).detach().numpy()
    np.testing.assert_allclose(filled.next_observations[ends], expected[ends], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(filled.next_observations[~ends], data.next_observations[~ends])
    assert with_expected_successors(whole, dynamics) is whole and (data.next_observations[ends] == data.observations[ends]).all()


def test_a_run_learns_from_expected_successors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_hopper_file(tmp_path / "data.hdf5")
    with h5py.File(path, "r+") as file:
        del file["next_observations"]
    found: list[Any] = []
    monkeypatch.setattr(DAMOTrainer, "train", lambda self: found.append(self.real_buffer.sample_all()) or {})
    train(config(data=str(path), logdir=str(tmp_path / "log"), no_eval=True))
    ends = found[0]["terminals"][:, 0] == 1
    moves = np.abs(found[0]["next_observations"] - found[0]["observations"]).min(1)
    assert ends.sum() == 8 and (moves[ends] > 0).all()


def test_a_diverged_model_is_refused_and_not_stored(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="diverged; try a smaller --dynamics-lr"):
        prepare(tmp_path, "a", dynamics_lr=1e30)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("dynamics.pth", b"garbage"), ("dynamics.pth", b""), ("facts.json", b"{"), ("mu.npy", b"x")],
)
def test_damaged_files_of_a_stored_model(tmp_path: Path, cache: Path, name: str, content: bytes) -> None:
    _, facts = prepare(tmp_path, "a")
    (cache / facts["id"] / name).write_bytes(content)
    with pytest.raises(UserError, match=facts["id"]):
        prepare(tmp_path, "b")


def test_a_model_of_other_widths_is_refused(tmp_path: Path, cache: Path) -> None:
    _, facts = prepare(tmp_path, "a")
    np.save(cache / facts["id"] / "mu.npy", np.zeros((1, 5)))
    with pytest.raises(UserError, match="width of the model's inputs, 14"):
        prepare(tmp_path, "b")
    torch.save([1, 2], file := cache / facts["id"] / "dynamics.pth")
    with pytest.raises(UserError, match="does not fit"):
        prepare(tmp_path, "c")
    shutil.copy(cache / prepare(tmp_path, "wide", dynamics_hidden_dims=[5])[1]["id"] / "dynamics.pth", file)
    with pytest.raises(UserError, match=r"does not fit .* its sizes differ, \(3, .*5\) and not \(3, .*16\) in"):
        prepare(tmp_path, "d")


def test_a_given_folder_is_loaded_and_a_wrong_one_refused(tmp_path: Path, cache: Path) -> None:
    first, facts = prepare(tmp_path, "a")
    loaded, about = prepare(tmp_path, "b", load_dynamics_path=str(cache / facts["id"]))
    assert about["holdout_mse"] is None
    torch.testing.assert_close(loaded.model.state_dict()["max_logvar"], first.model.state_dict()["max_logvar"])
    with pytest.raises(UserError, match=r"dynamics\.pth, mu\.npy, std\.npy missing"):
        prepare(tmp_path, "c", load_dynamics_path=str(tmp_path))
    assert json.loads((cache / facts["id"] / "facts.json").read_text()) == facts


def test_a_model_of_standardised_observations_is_not_for_raw_ones(tmp_path: Path, cache: Path) -> None:
    raw = dataset()
    raw = dataclasses.replace(raw, observations=3 * raw.observations + 2, next_observations=3 * raw.next_observations + 2)
    scaled, scaler = standardised(raw)
    models = {}
    for name, data in (("raw", raw), ("scaled", scaled)):
        (tmp_path / name).mkdir()
        models[name] = prepare_dynamics(config(), data, Logger(str(tmp_path / name), OUTPUTS))[1]["id"]
    folders = {name: str(cache / key) for name, key in models.items()}
    with pytest.raises(UserError, match="trained on standardised observations and damo's are raw"):
        prepare(tmp_path, "a", raw, load_dynamics_path=folders["scaled"])
    prepare(tmp_path, "b", raw, load_dynamics_path=folders["raw"])
    (tmp_path / "c").mkdir()
    rambo = config(algo_name="rambo", load_dynamics_path=folders["raw"])
    with pytest.raises(UserError, match="trained on raw observations and rambo's are standardised"):
        prepare_dynamics(rambo, scaled, Logger(str(tmp_path / "c"), OUTPUTS), scaler)


def train_in_another_process(folder: Path, ready: Any) -> None:
    train = store._train

    def slow(*args: Any) -> dict[str, Any]:
        with (folder / "trainings").open("a") as file:
            file.write("x")
        time.sleep(0.3)
        return train(*args)

    store._train = slow
    ready.wait()
    prepare(folder, f"log{os.getpid()}")


def test_simultaneous_runs_train_a_model_once(tmp_path: Path, cache: Path) -> None:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    ready = context.Event()
    processes = [context.Process(target=train_in_another_process, args=(tmp_path, ready)) for _ in range(3)]
    for process in processes:
        process.start()
    ready.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 3
    assert (tmp_path / "trainings").read_text() == "x" and len(list(cache.iterdir())) == 1


def test_a_lock_falls_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held = context.Event()

    def hold() -> None:
        with dynamics_store.locked("key"):
            held.set()
            time.sleep(60)

    process = context.Process(target=hold)
    process.start()
    assert held.wait(30)
    process.kill()
    process.join()
    with dynamics_store.locked("key"):
        pass


def test_models_are_listed_by_last_use_and_pruned(tmp_path: Path, cache: Path) -> None:
    ids = [prepare(tmp_path, name, dynamics_seed=seed)[1]["id"] for seed, name in enumerate("abc")]
    for name, days in zip(ids, (3, 1, 2), strict=True):
        used = time.time() - days * 24 * 3600
        os.utime(cache / name / "facts.json", (used, used))
    listed = dynamics_store.entries()
    assert [entry["id"] for entry in listed] == [ids[0], ids[2], ids[1]]
    assert all(entry["task"] == "hopper-medium" and entry["bytes"] > 1000 and entry["holdout_mse"] > 0 for entry in listed)
    prepare(tmp_path, "d", dynamics_seed=0)  # a use
    assert dynamics_store.entries()[-1]["id"] == ids[0]
    (cache / ids[2] / "facts.json").write_text("{")
    assert [entry.get("damaged") for entry in dynamics_store.entries() if entry["id"] == ids[2]] == [True]
    assert [entry["id"] for entry in dynamics_store.prune(idle_days=0.5)] == [ids[1]]
    assert [entry["id"] for entry in dynamics_store.prune([ids[2]])] == [ids[2]]
    with pytest.raises(UserError, match=f"did you mean {ids[0]}"):
        dynamics_store.prune([ids[0][:-1]])
    assert [path.name for path in cache.iterdir()] == [ids[0]]
