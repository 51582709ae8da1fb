"""NeoRL's datasets (Qin et al. 2022), read from where they lie on this machine: the neorl package itself cannot be installed today."""

from __future__ import annotations

import os
import re
from pathlib import Path

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks.dataset import OfflineDataset
from offlinerlkit_damo.tasks.npz import load_npz
from offlinerlkit_damo.tasks.task import NEORL, TIME_LIMIT, Task

FOLDER_VARIABLE = "NEORL_DATASET_DIR"


def neorl_folder() -> Path:
    """$NEORL_DATASET_DIR or ~/.neorl/datasets; not created here."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".neorl" / "datasets"


def load_neorl(task: Task) -> OfflineDataset:
    """The training trajectories of a task of NeoRL's, the first so many of the smallest file that has enough, as NeoRL takes them.

    Raises UserError where no such file is on this machine.
    """
    stem, number = task.name.removeprefix(NEORL).rsplit("-", 1)
    folder, wanted = neorl_folder(), int(number)
    files = {
        int(match[1]): path
        for path in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if (match := re.fullmatch(rf"{re.escape(stem)}-(\d+)-train[\w-]*\.npz", path.name))
    }
    enough = [size for size in files if size >= wanted]
    if not enough:
        raise UserError(
            f"{task.name} needs NeoRL's file {stem}-{number}-train.npz, or a larger one, in {folder} ({FOLDER_VARIABLE} names another "
            "folder); NeoRL's own downloader (github polixir/NeoRL) fetches it, or give a path with --data"
        )
    return load_npz(files[min(enough)], name=task.name, time_limit=TIME_LIMIT, trajectories=wanted)
