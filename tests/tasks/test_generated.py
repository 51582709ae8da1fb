"""Generated datasets: the recipes, exact repetition, the cache, and what goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import h5py
import mujoco
import numpy as np
import pytest

from offlinerlkit_damo.config import resolve
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import config_task, generated, load_dataset, make_dataset, resolve_dataset
from offlinerlkit_damo.tasks.snapshots import Actor, load_behaviour

KEYS = {"observations", "actions", "next_observations", "rewards", "terminals", "timeouts"}


def read(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {key: file[key][()] for key in file}


def make(task: str, size: int, seed: int = 0) -> Path:
    return make_dataset(task, size=size, seed=seed, progress=False)


@pytest.mark.parametrize("quality", ["random", "medium", "medium-replay", "medium-expert", "expert"])
def test_every_recipe_gives_a_valid_d4rl_file(cache: Path, snapshots: Path, quality: str) -> None:
    path = make(f"hopper-{quality}", 150, seed=3)
    assert path == cache / "datasets" / "generated" / f"hopper-{quality}-150-seed3.hdf5"
    rows = read(path)
    assert set(rows) == KEYS and {len(value) for value in rows.values()} == {150}
    assert {key: value.dtype.str for key, value in rows.items()} == {
        **dict.fromkeys(KEYS - {"terminals", "timeouts"}, "<f4"),
        "terminals": "|b1",
        "timeouts": "|b1",
    }
    ends = rows["terminals"] | rows["timeouts"]
    same = (rows["next_observations"][:-1] == rows["observations"][1:]).all(1)
    np.testing.assert_array_equal(same, ~ends[:-1])  # a chain breaks where an episode ends and nowhere else
    assert load_dataset(path).report.dropped == {}


def test_a_run_that_is_not_evaluated_can_make_its_data(cache: Path) -> None:
    task = config_task(resolve({"task": "hopper-random", "no_eval": True}))
    assert task.env_id is None and len(resolve_dataset(task, size=60, progress=False).rewards) > 50
    assert list((cache / "datasets" / "generated").glob("hopper-random-60-seed0.hdf5"))


def test_attributes_tell_how_the_file_was_made(cache: Path, snapshots: Path) -> None:
    with h5py.File(make("hopper-medium-replay", 90, seed=1)) as file:
        about = dict(file.attrs)
    assert about["generated"] and about["task"] == "hopper-medium-replay"
    assert (about["size"], about["seed"], about["recipe"]) == (90, 1, generated.RECIPE)
    assert (about["gymnasium"], about["mujoco"]) == (gymnasium.__version__, mujoco.__version__)
    assert about["behaviour"] == load_behaviour("hopper").fingerprint
    assert about["policy_steps"].tolist() == [0, 100, 200]  # uniform, then the snapshots up to medium
    assert about["policy_rows"].sum() == 90 and about["policy_rows"][0] >= 30
    np.testing.assert_array_equal(about["policy_returns"], [np.nan, 10.0, 50.0])


@pytest.mark.filterwarnings("ignore:.*out of date")
def test_replaying_the_actions_gives_the_same_transitions(cache: Path, snapshots: Path) -> None:
    rows = read(make("hopper-medium-expert", 120, seed=5))
    simulator = gymnasium.make("Hopper-v4")
    simulator.reset(seed=5)
    fresh = True
    for i in range(120):
        if fresh:
            np.testing.assert_array_equal(simulator.reset()[0].astype("f4"), rows["observations"][i])
        obs, reward, terminated, truncated, _ = simulator.step(rows["actions"][i])
        np.testing.assert_array_equal(obs.astype("f4"), rows["next_observations"][i])
        assert np.float32(reward) == rows["rewards"][i] and terminated == rows["terminals"][i]
        fresh = terminated or truncated or rows["timeouts"][i]
    simulator.close()


def test_no_episode_spans_two_policies_and_each_plays_its_share(cache: Path, snapshots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Constant:
        """Stands for a snapshot by always choosing an action that names it."""

        def __init__(self, weights: dict[str, np.ndarray]) -> None:
            self.mark = np.float32(weights["b2"][0])

        def __call__(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return np.full(3, self.mark, "f4")

    monkeypatch.setattr("offlinerlkit_damo.tasks.snapshots.Actor", Constant)
    marks = np.clip(load_behaviour("hopper").weights["b2"][:, 0].astype("f4"), -1, 1)

    def switch(rows: dict[str, np.ndarray], share: int) -> int:
        """The row after the end of the episode that holds the last row of a share."""
        return int(np.flatnonzero((rows["terminals"] | rows["timeouts"])[share - 1 :])[0]) + share

    rows = read(make("hopper-medium-expert", 201))
    first = switch(rows, 101)  # an episode that begins before row 100.5 is still the first player's
    np.testing.assert_array_equal(rows["actions"][:first], np.full((first, 3), marks[1]))
    np.testing.assert_array_equal(rows["actions"][first:], np.full((201 - first, 3), marks[2]))
    assert not rows["timeouts"].any()  # nothing is cut off
    rows = read(make("hopper-medium-replay", 300))
    first, second = switch(rows, 100), switch(rows, 200)
    assert 100 <= first < 200 <= second < 300
    assert len(np.unique(rows["actions"][:first])) > 2.9 * first  # uniform
    assert np.abs(rows["actions"][:first]).max() <= 1
    np.testing.assert_array_equal(rows["actions"][first:second], np.full((second - first, 3), marks[0]))
    np.testing.assert_array_equal(rows["actions"][second:], np.full((300 - second, 3), marks[1]))


def test_time_limit_is_a_timeout_and_the_cut_end_has_no_flag(cache: Path) -> None:
    rows = read(make("halfcheetah-random", 1010))
    assert np.flatnonzero(rows["timeouts"]).tolist() == [999] and not rows["terminals"].any()
    data = load_dataset(make("halfcheetah-random", 1010))
    assert data.episode_lengths.tolist() == [1000] and len(data.episode_starts) == 2


def test_files_repeat_byte_for_byte_and_differ_by_seed(cache: Path, snapshots: Path) -> None:
    path = make("hopper-medium-replay", 80)
    first = path.read_bytes()
    path.unlink()
    time.sleep(1.1)  # a time stamp in the file would show
    assert make("hopper-medium-replay", 80).read_bytes() == first
    assert not np.array_equal(read(make("hopper-medium-replay", 80, seed=1))["rewards"], read(path)["rewards"])


def test_the_cache_serves_the_same_file_until_its_inputs_change(cache: Path, snapshots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make("hopper-medium", 40)
    made, rows = path.stat().st_mtime_ns, read(path)
    assert make("hopper-medium", 40) == path and path.stat().st_mtime_ns == made
    with np.load(snapshots / "hopper.npz") as data:
        changed = dict(data)
    changed["b2"] = changed["b2"] + np.float16(1)
    np.savez(snapshots / "hopper.npz", **changed)
    make("hopper-medium", 40)
    assert not np.array_equal(read(path)["actions"], rows["actions"])
    made = path.stat().st_mtime_ns
    monkeypatch.setattr(generated, "RECIPE", generated.RECIPE + 1)
    make("hopper-medium", 40)
    assert path.stat().st_mtime_ns > made


def test_a_damaged_cache_file_is_made_again(cache: Path) -> None:
    path = make("hopper-random", 40)
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    assert make("hopper-random", 40).read_bytes() == content


def test_two_processes_may_make_the_same_dataset_at_once(cache: Path) -> None:
    code = "from offlinerlkit_damo.tasks import make_dataset; make_dataset('hopper-random', size=1500, progress=False)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    runs = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [run.wait(timeout=60) for run in runs] == [0, 0]
    folder = cache / "datasets" / "generated"
    assert [path.name for path in folder.iterdir()] == ["hopper-random-1500-seed0.hdf5"]
    assert len(load_dataset(next(folder.iterdir()))) == 1500


def test_an_interrupted_run_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(generated, "_play", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make("hopper-random", 40)
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["hopper-random-40-seed0.lock"]


def test_progress_goes_to_stderr_or_nowhere(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_dataset("hopper-random", size=20)
    shown = capsys.readouterr()
    assert "generating hopper-random" in shown.err and shown.out == ""
    make_dataset("hopper-random", size=21, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("size", [0, -5, 10**9])
def test_size_out_of_range(cache: Path, size: int) -> None:
    with pytest.raises(UserError, match=f"size {size} is out of range"):
        make("hopper-random", size)
    assert not cache.exists()


def test_negative_seed(cache: Path) -> None:
    with pytest.raises(UserError, match="seed -1 is out of range"):
        make("hopper-random", 10, seed=-1)


def test_robot_without_behaviour_policies(cache: Path, snapshots: Path) -> None:
    with pytest.raises(UserError, match=r"'walker2d' \(robots that have them: hopper\); walker2d-random needs none"):
        make("walker2d-medium", 10)
    assert not cache.exists()
    assert make("walker2d-random", 10).exists()


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write .* set OFFLINERLKIT_DAMO_CACHE"):
        make("hopper-random", 10)


def test_actor_agrees_with_a_plain_computation() -> None:
    rng = np.random.default_rng(0)
    shapes = {"w0": (11, 8), "b0": (8,), "w1": (8, 8), "b1": (8,), "w2": (8, 6), "b2": (6,)}
    weights = {key: rng.normal(0, 0.2, shape).astype("f2") for key, shape in shapes.items()}
    weights["b2"][3:] = [-9, 9, 0]  # log_std: clamped below, above, and free
    obs, actor = rng.normal(size=11).astype("f4"), Actor(weights)
    w = {key: value.astype("f8") for key, value in weights.items()}
    hidden = np.maximum(np.maximum(obs @ w["w0"] + w["b0"], 0) @ w["w1"] + w["b1"], 0)
    out = hidden @ w["w2"] + w["b2"]
    np.testing.assert_allclose(actor(obs, None), np.tanh(out[:3]), rtol=1e-4, atol=1e-6)
    drawn, noise = np.random.default_rng(7), np.random.default_rng(7)
    for _ in range(20):
        sample = actor(obs, drawn)
        expected = np.tanh(out[:3] + np.exp(np.clip(out[3:], -5, 2)) * noise.standard_normal(3, dtype=np.float32))
        np.testing.assert_allclose(sample, expected, rtol=1e-4, atol=1e-6)
        assert sample.dtype == np.float32


def test_resolve_prefers_the_path_and_checks_the_robot(cache: Path) -> None:
    path = make("walker2d-random", 30)
    data = resolve_dataset("walker2d-medium-v2", path)
    assert data.name == "walker2d-medium" and len(data) == 30
    with pytest.raises(UserError, match=r"dimensions \(17, 6\) but hopper has \(11, 3\)"):
        resolve_dataset("hopper-medium", str(path))
    generated_data = resolve_dataset("hopper-random", size=25, seed=2, progress=False)
    assert len(generated_data) == 25 and (path.parent / "hopper-random-25-seed2.hdf5").exists()
