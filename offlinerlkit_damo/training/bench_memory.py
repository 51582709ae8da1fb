"""Peak memory from a dataset's file to a run's first step, in a process of its own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from offlinerlkit_damo.config import resolve
from offlinerlkit_damo.tasks import load_dataset
from offlinerlkit_damo.tasks.cache import CACHE_VARIABLE
from offlinerlkit_damo.training.bench_stages import Silence
from offlinerlkit_damo.training.dynamics import prepare_dynamics
from offlinerlkit_damo.training.run import make_trainer

WIDTHS = {"observations": 17, "next_observations": 17, "actions": 6}  # HalfCheetah's
BLOCK = 100_000  # rows made up at a time


def peak_memory(rows: int) -> int:
    """Bytes that a fresh process takes at most for `rows` transitions of HalfCheetah's sizes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __name__, str(rows), folder]
        done = subprocess.run(command, env={**os.environ, CACHE_VARIABLE: folder}, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def make_up(path: Path, rows: int) -> None:
    """Write a dataset of random numbers, a thousand steps an episode."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for key, width in WIDTHS.items():
            column = file.create_dataset(key, (rows, width), np.float32)
            for start in range(0, rows, BLOCK):
                column[start : start + BLOCK] = 2 * rng.random((min(BLOCK, rows - start), width), np.float32) - 1
        file["rewards"] = rng.standard_normal(rows, np.float32)
        file["terminals"] = np.zeros(rows, bool)
        file["timeouts"] = np.arange(rows) % 1000 == 999


def main(rows: int, folder: Path) -> None:
    """Load, train an epoch of the dynamics, fill the buffers; print the peak. Narrow networks: it is the rows that take the memory."""
    torch.set_num_threads(1)
    make_up(folder / "made_up.hdf5", rows)
    dataset = load_dataset(folder / "made_up.hdf5")
    config = resolve({"task": "halfcheetah-medium-expert", "dynamics_hidden_dims": (8, 8, 8, 8), "dynamics_max_epochs": 1})
    logger: Any = Silence(folder)
    logger.checkpoint_dir = logger.model_dir
    dynamics, _ = prepare_dynamics(config, dataset, logger)
    make_trainer(config, dataset, None, logger, dynamics, None, fresh=True)
    unit = 1 if sys.platform == "darwin" else 1024
    print(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
