"""The folder for files that this package makes or fetches."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "OFFLINERLKIT_DAMO_CACHE"
REMEDY = f"free space there or set {CACHE_VARIABLE} to a folder that you may write to"


def cache_dir() -> Path:
    """$OFFLINERLKIT_DAMO_CACHE, or ~/.cache/offlinerlkit_damo; not created here."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "offlinerlkit_damo"
