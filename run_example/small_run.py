"""The small run that kill_test.py and soak_test.py train."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from offlinerlkit_damo.errors import UserError

RUN = shlex.split(
    "--task hopper-random --data-size 500 --hidden-dims 16 --batch-size 40 --eval-episodes 1 --checkpoint-every 1 --dynamics-max-epochs 2 "
    "--dynamics-hidden-dims 16 16 --dynamics-weight-decay 0 0 0 --rollout-batch-size 50 --rollout-length 2"
)


def train(*flags: str) -> list[str]:
    """The command line of a training."""
    return [sys.executable, "-m", "offlinerlkit_damo", "train", *flags]


def check_empty(folder: Path) -> None:
    """Raise UserError for a folder that holds something already."""
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{str(folder)!r} is not empty; name a new folder with --out")
