"""Dynamics models are trained once per host, dataset, settings and seed, and damaged ones are refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offlinerlkit_damo.config import Config, resolve
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import Logger
from offlinerlkit_damo.tasks.dataset import OfflineDataset, assemble
from offlinerlkit_damo.training import dynamics as store
from offlinerlkit_damo.training.dynamics import dynamics_id, prepare_dynamics
from offlinerlkit_damo.training.logs import OUTPUTS


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
    base, data = config(), dataset()
    others = [config(seed=2), config(dynamics_seed=5), config(dynamics_lr=1e-2), config(dynamics_max_epochs=4), config(n_elites=3)]
    ids = [dynamics_id(base, data), *(dynamics_id(other, data) for other in others), dynamics_id(base, dataset(1))]
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
    torch.save([1, 2], cache / facts["id"] / "dynamics.pth")
    with pytest.raises(UserError, match="does not fit"):
        prepare(tmp_path, "c")


def test_a_given_folder_is_loaded_and_a_wrong_one_refused(tmp_path: Path, cache: Path) -> None:
    first, facts = prepare(tmp_path, "a")
    loaded, about = prepare(tmp_path, "b", load_dynamics_path=str(cache / facts["id"]))
    assert about["holdout_mse"] is None
    torch.testing.assert_close(loaded.model.state_dict()["max_logvar"], first.model.state_dict()["max_logvar"])
    with pytest.raises(UserError, match=r"dynamics\.pth, mu\.npy, std\.npy missing"):
        prepare(tmp_path, "c", load_dynamics_path=str(tmp_path))
    assert json.loads((cache / facts["id"] / "facts.json").read_text()) == facts
