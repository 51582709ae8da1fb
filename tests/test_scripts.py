"""The run scripts from start to end with a tiny budget, each in a process of its own."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "run_example"
BUDGET = shlex.split(
    "--task hopper-medium-expert --seed 3 --hidden-dims 16 --batch-size 40 --epoch 2 --step-per-epoch 5 --eval-episodes 1"
)
MODEL = shlex.split(
    "--dynamics-max-epochs 1 --dynamics-hidden-dims 16 16 --dynamics-weight-decay 1e-5 1e-5 1e-5 --dynamics-seed 7 "
    "--rollout-batch-size 50 --rollout-length 2"
)
ADVERSARY = shlex.split("--bc-epoch 1 --bc-batch-size 32 --dynamics-update-freq 3 --adv-train-steps 2 --adv-batch-size 16")
OTHERS = {
    "mobile": MODEL,
    "mobile aligned": [*MODEL, "--data-alignment", "0.5"],
    "mopo with both terms": [*MODEL, "--data-alignment", "0.5", "--behavior-alignment", "true"],
    "combo": MODEL,
    "rambo": [*MODEL, *ADVERSARY],
    "algaedice": [],
    "optidice": ["--optidice-warmup-steps", "2"],
    "odice": [],
}
FILES = (
    "run.json",
    "record/hyper_param.json",
    "record/consoleout_backup.txt",
    "record/policy_training_progress.csv",
    "record/dynamics_training_progress.csv",
    "checkpoint/policy.pth",
    "model/policy.pth",
    "model/dynamics.pth",
    "model/mu.npy",
    "model/std.npy",
    "result/results.json",
    "result/learning_curve.png",
)
Runs = tuple[Path, list[subprocess.CompletedProcess[str]]]


def write_hopper_file(path: Path, rows: int = 400) -> Path:
    """A D4RL-format file of Hopper's sizes; the numbers are random."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(rows, 11)).astype("f4")
    timeouts = np.arange(rows) % 50 == 49
    with h5py.File(path, "w") as file:
        file["observations"] = observations
        file["next_observations"] = observations + 0.1 * rng.normal(size=(rows, 11)).astype("f4")
        file["actions"] = rng.uniform(-1, 1, (rows, 3)).astype("f4")
        file["rewards"] = rng.normal(1, 1, rows).astype("f4")
        file["terminals"] = (np.arange(rows) % 50 == 20) & ~timeouts
        file["timeouts"] = timeouts
    return path


def run_script(name: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run run_example/<name> in `folder` (made if need be), with its cache and its logs there."""
    folder.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "OFFLINERLKIT_DAMO_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, str(SCRIPTS / name), *flags]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Three runs in one folder, on the same data and dynamics seed: DAMO, MOPO, and MOPO again."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ["--data", str(write_hopper_file(folder / "tiny.hdf5")), *BUDGET, *MODEL]
    done = [run_script(f"run_{algo}.py", folder, *flags) for algo in ("damo", "mopo", "mopo")]
    assert [process.returncode for process in done] == [0, 0, 0], "\n".join(process.stderr for process in done)
    return folder, done


@pytest.mark.parametrize("algo", ["damo", "mopo"])
def test_a_run_leaves_the_files_of_the_kit(algo: str, runs: Runs) -> None:
    """Every file of the kit's layout, the results file and the figure; nothing half-written."""
    folder = sorted((runs[0] / "log" / "hopper-medium-expert" / algo).iterdir())[0]
    assert folder.name.startswith("seed_3&timestamp_")
    empty = {name for name in FILES if not (folder / name).is_file() or not (folder / name).stat().st_size}
    # only the first run trained the dynamics model
    assert empty == (set() if algo == "damo" else {"record/dynamics_training_progress.csv"})
    assert any((folder / "record" / "tb").iterdir())
    assert [path.name for path in folder.rglob("*") if path.name.startswith(".")] == []


@pytest.mark.parametrize("algo", ["damo", "mopo"])
def test_results_agree_with_the_progress_table(algo: str, runs: Runs) -> None:
    """results.json holds the configuration and the evaluations of policy_training_progress.csv."""
    folder = sorted((runs[0] / "log" / "hopper-medium-expert" / algo).iterdir())[0]
    results = json.loads((folder / "result" / "results.json").read_text())
    progress = pd.read_csv(folder / "record" / "policy_training_progress.csv")
    assert list(progress["timestep"]) == [5, 10]
    scores = progress["eval/normalized_episode_reward"]
    assert results["last_10_performance"] == pytest.approx(scores.mean(), rel=1e-4)
    assert results["evaluations"]["score"] == pytest.approx(list(scores))
    assert results["config"]["algo_name"] == algo
    assert results["config"]["seed"] == 3
    assert results["dataset"]["source"] == "file"
    assert json.loads((folder / "run.json").read_text())["config"] == results["config"]
    columns = set(progress.columns)
    assert {"loss/actor", "loss/critic1", "rollout_info/num_transitions"} <= columns
    assert ("damo/weight" in columns) == (algo == "damo")


def test_a_run_names_its_folder(runs: Runs) -> None:
    """The last lines of the output are the score and the folder."""
    folder, (damo, *_) = runs
    score, place = damo.stdout.splitlines()[-2:]
    assert score.startswith("last 10 evaluations: ")
    assert (folder / place.removeprefix("run folder: ")).is_dir()


def test_runs_share_a_dynamics_model_and_never_a_folder(runs: Runs) -> None:
    """One dynamics seed: one stored model, the same bits in every run; a repeated run gets a folder of its own and repeats exactly."""
    folder, _ = runs
    assert len(list((folder / "cache" / "dynamics").iterdir())) == 1
    logs = folder / "log" / "hopper-medium-expert"
    assert (len(list((logs / "damo").iterdir())), len(list((logs / "mopo").iterdir()))) == (1, 2)
    assert len({path.read_bytes() for path in logs.glob("*/*/model/mu.npy")}) == 1
    first, second = (json.loads(path.read_text()) for path in sorted((logs / "mopo").glob("*/result/results.json")))
    assert first["evaluations"] == second["evaluations"]


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_algorithms_train_and_leave_results(name: str, runs: Runs) -> None:
    """The baselines and the add-on, on the data and (MOBILE, COMBO) the dynamics model of the first runs."""
    folder, algo = runs[0], name.split()[0]
    before = set((folder / "log" / "hopper-medium-expert" / algo).glob("*"))
    process = run_script(f"run_{algo}.py", folder, "--data", str(folder / "tiny.hdf5"), *BUDGET, *OTHERS[name])
    assert process.returncode == 0, process.stderr
    (made,) = set((folder / "log" / "hopper-medium-expert" / algo).glob("*")) - before
    results = json.loads((made / "result" / "results.json").read_text())
    assert results["config"]["algo_name"] == algo and len(results["evaluations"]["score"]) == 2
    columns = set(pd.read_csv(made / "record" / "policy_training_progress.csv").columns)
    assert ("damo/ell_fake" in columns) == ("aligned" in name or "both" in name)
    assert (made / "model" / "dynamics.pth").is_file() == (algo not in ("algaedice", "optidice", "odice"))
    assert (made / "model" / "policy.pth").is_file()
    # RAMBO's model sees standardised observations and is a model of its own
    assert len(list((folder / "cache" / "dynamics").iterdir())) <= 2


def test_bench_gpu_without_a_gpu(tmp_path: Path) -> None:
    done = run_script("bench_gpu.py", tmp_path, "--device", "cpu", "--quick", "--json", "table.json")
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "table.json").read_text())
    assert [row["stage"] for row in table["stages"][-2:]] == ["fleet of 1, eager", "fleet of 2, eager"]
    assert all(row["steps_per_second"] > 0 for row in table["stages"]) and table["quick"]
    assert set(table["differences"]) == {"cpu"} and table["differences"]["cpu"] <= 1e-7


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_bench_gpu_says_that_there_is_none(tmp_path: Path) -> None:
    done = run_script("bench_gpu.py", tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: torch sees no CUDA device on this machine, so there is nothing to measure; --device cpu --quick tries the script\n"
    )
