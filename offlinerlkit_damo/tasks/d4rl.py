"""D4RL's Gym-MuJoCo v2 datasets: where they lie on this machine, else the public host."""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks.download import download
from offlinerlkit_damo.tasks.task import Task, list_tasks

FOLDER_VARIABLE = "D4RL_DATASET_DIR"  # d4rl's own
HOME_FOLDER = Path("~/.d4rl/datasets")
HOST_VARIABLE = "OFFLINERLKIT_DAMO_D4RL_URL"
PUBLIC_HOST = "http://rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_v2"
KEYS = ("observations", "actions", "rewards", "terminals")


def d4rl_folder() -> Path:
    """$D4RL_DATASET_DIR or ~/.d4rl/datasets, as the d4rl package has it; not created here."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen or HOME_FOLDER).expanduser()


def d4rl_file(task: Task) -> str:
    """The file's name at D4RL: hopper_medium_replay-v2.hdf5."""
    return f"{task.name.replace('-', '_')}-v2.hdf5"


def d4rl_is_here(task: Task) -> bool:
    """Whether `d4rl_dataset` has nothing to fetch."""
    return any((folder / d4rl_file(task)).exists() for folder in (d4rl_folder(), HOME_FOLDER.expanduser()))


def d4rl_dataset(task: Task, *, progress: bool = True) -> Path:
    """The path of D4RL's dataset of `task`: in the folder of $D4RL_DATASET_DIR, in ~/.d4rl/datasets, or fetched into the first.

    Raises UserError, with the address and the folder, where it cannot be fetched.
    """
    folder, name = d4rl_folder(), d4rl_file(task)
    if not (folder / name).exists() and (HOME_FOLDER.expanduser() / name).exists():
        return HOME_FOLDER.expanduser() / name
    url = f"{os.environ.get(HOST_VARIABLE, PUBLIC_HOST).rstrip('/')}/{name}"
    generated = f", or use --task {task.name}, which is generated here" if task.name in list_tasks() else ""
    remedy = f"put the file {url} into {folder} yourself ({FOLDER_VARIABLE} names another folder), give its path with --data{generated}"
    return download(url, folder / name, check=_check, remedy=remedy, progress=progress)


def _check(path: Path) -> None:
    """Raise UserError unless `path` is an HDF5 file with D4RL's columns: a server's page of apology is neither."""
    try:
        with h5py.File(path, "r") as file:
            missing = [key for key in KEYS if key not in file]
    except Exception as error:  # a damaged file makes the HDF5 library fail in any way
        raise UserError(f"what was fetched to {path} is no HDF5 file ({error}); it is deleted, try again later") from None
    if missing:
        raise UserError(f"what was fetched to {path} lacks {', '.join(missing)}; it is deleted, try again later")
