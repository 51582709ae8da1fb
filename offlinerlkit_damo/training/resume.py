"""Continuing a run: its configuration, what has changed since, and its last checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offlinerlkit_damo.config import Config
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.training.checkpoint import LAST, read
from offlinerlkit_damo.training.run_folder import read_facts

FREE = ("checkpoint_every", "keep_every", "max_minutes", "logdir", "on_warning")
"""Options that decide nothing about a run's result, and may change at will."""


def resumed_config(folder: Path, flags: Mapping[str, Any]) -> Config:
    """The configuration of the run in `folder`, with `flags` over it."""
    saved: dict[str, Any] = read_facts(folder).get("config", {})
    try:
        return Config.from_flat({**saved, **flags})
    except UserError as error:
        raise UserError(f"the configuration of {str(folder)!r} cannot be continued: {error}") from None


def identity(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint stores of its run, to be compared when it is continued. The dynamics model's digest is added when it is there."""
    return {
        "config": json.dumps(facts["config"]),
        "dataset": facts["dataset"]["fingerprint"],
        "host": [facts["host"][key] for key in ("name", "version", "commit")],
        "versions": facts["versions"],
        "commit": facts["commit"],
    }


def last_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The content of the run's last.ckpt, or None if the run ended before its first checkpoint."""
    path = folder / "checkpoint" / LAST
    return read(path) if path.exists() else None


def check_unchanged(stored: Mapping[str, Any], now: Mapping[str, Any], *, force: bool) -> list[str]:
    """What differs between a checkpoint's run and the one that is to continue it, a line each; a UserError unless `force`."""
    before, after = json.loads(stored["config"]), json.loads(now["config"])
    changes = [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted({*before, *after} - set(FREE))
        if before.get(name) != after.get(name)
    ]
    names = [name for name in now if name != "config"]
    changes += [f"{name}: {stored.get(name)} -> {now[name]}" for name in names if stored.get(name) != now[name]]
    if changes and not force:
        raise UserError(f"this is not the run that was interrupted ({'; '.join(changes)}); give --force to continue it all the same")
    return changes
