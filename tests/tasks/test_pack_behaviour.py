"""run_example/pack_behaviour.py on a training folder with small random actors."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from offlinerlkit_damo.tasks import make_dataset
from offlinerlkit_damo.tasks import snapshots as behaviour

SCRIPT = Path(__file__).parents[2] / "run_example" / "pack_behaviour.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pack_behaviour", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A folder as train_behaviour.py leaves it: 5 snapshots, biases as rows, a log entry whose snapshot is missing."""
    folder, rng = tmp_path / "training", np.random.default_rng(0)
    folder.mkdir()
    shapes = {"w0": (11, 8), "b0": (1, 8), "w1": (8, 8), "b1": (1, 8), "w2": (8, 6), "b2": (1, 6)}
    log = []
    for step in range(10_000, 70_000, 10_000):
        log.append({"step": step, "seconds": 1, "deterministic": step / 100, "stochastic": step / 100})
        if step < 60_000:
            weights = {key: rng.normal(0, 0.3, shape).astype("f4") for key, shape in shapes.items()}
            np.savez(folder / f"actor_{step:07d}.npz", **weights)
    (folder / "log.json").write_text(json.dumps(log))
    return folder


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_packed_file_holds_the_rounded_measured_snapshots(training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "packed"
    out = folder / "hopper.npz"
    arguments = ("--robot", "hopper", "--folder", training, "--out", out, "--episodes", 2, "--quiet")
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    monkeypatch.setattr(behaviour, "FOLDER", folder)
    packed = behaviour.load_behaviour("hopper")
    assert packed.steps.tolist() == [10_000, 20_000, 30_000, 40_000, 50_000]
    assert packed.expert == packed.returns.argmax() and packed.medium <= packed.expert
    with np.load(training / "actor_0020000.npz") as snapshot:
        np.testing.assert_array_equal(packed.weights["w1"][1], snapshot["w1"].astype("f2"))
        np.testing.assert_array_equal(packed.weights["b1"][1], snapshot["b1"][0].astype("f2"))
    assert f"{packed.steps[packed.expert]} steps" in result.stdout and "medium" in result.stdout
    first = out.read_bytes()
    run(*arguments)
    assert out.read_bytes() == first
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(tmp_path / "cache"))
    assert make_dataset("hopper-medium-expert", size=20, progress=False).exists()


def test_extended_file_keeps_what_it_had_up_to_medium(training: Path, tmp_path: Path) -> None:
    out = tmp_path / "hopper.npz"
    arguments = ("--robot", "hopper", "--folder", training, "--out", out, "--episodes", 1, "--quiet")
    missing = run(*arguments, "--extend")
    assert missing.returncode == 2 and f"cannot read {out}" in missing.stderr and not out.exists()
    assert run(*arguments).returncode == 0
    with np.load(out) as packed:
        before = dict(packed)
    np.savez_compressed(out, **{**before, "medium": np.int64(1)})  # as if trained for less, whatever the returns say
    for step in (10_000, 20_000):  # the training's own files do not matter up to medium
        (training / f"actor_{step:07d}.npz").unlink()
    result = run(*arguments, "--extend")
    assert result.returncode == 0, result.stderr
    after = behaviour.read_behaviour(out)
    assert after.medium == 1 and after.steps.tolist() == before["steps"].tolist()
    assert after.expert == after.returns.argmax()
    for key in behaviour.WEIGHTS:
        np.testing.assert_array_equal(after.weights[key], before[key])
    np.savez_compressed(out, **{**before, "medium": np.int64(4)})
    nothing = run(*arguments, "--extend")
    assert nothing.returncode == 2 and "no snapshot after step 50000" in nothing.stderr


def test_measured_return_is_that_of_the_rounded_actor(script: ModuleType, training: Path) -> None:
    weights = script.load_snapshot(training / "actor_0010000.npz")
    actor = behaviour.Actor(weights)
    env = script.make_simulator("Hopper-v4")
    totals = []
    for episode in range(2):
        obs, total, done = env.reset(seed=script.FIRST_SEED + episode)[0], 0.0, False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(actor(obs.astype("f4"), None))
            total, done = total + reward, terminated or truncated
        totals.append(total)
    assert script.measure("hopper", weights, 2, False) == pytest.approx(np.mean(totals))


def test_choice_holds_both_roles_and_spreads_along_the_training(script: ModuleType) -> None:
    logged = np.concatenate([np.linspace(0, 3000, 90), np.full(10, 500.0)])  # collapses at the end
    chosen = script.choose(logged, 1650.0, 20)
    assert 15 <= len(chosen) <= 21
    assert {0, 87, 88, 89} <= set(chosen.tolist()) and chosen.max() == 89
    assert np.abs(logged[chosen] - 1650).argmin() == np.searchsorted(chosen, np.abs(logged - 1650).argmin())
    assert np.diff(chosen).min() > 0 and np.diff(chosen).max() < 15
    assert script.choose(logged[:1], 1650.0, 20).tolist() == [0]


@pytest.mark.parametrize("content", [None, "[]", "not json"])
def test_folder_without_snapshots(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "log.json").write_text(content)
    result = run("--robot", "hopper", "--folder", tmp_path, "--out", tmp_path / "hopper.npz")
    assert result.returncode == 2 and result.stderr.startswith("error: ") and "Traceback" not in result.stderr
    assert not (tmp_path / "hopper.npz").exists()
