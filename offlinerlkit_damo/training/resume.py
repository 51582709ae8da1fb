"""Continuing a run: its configuration, what has changed since, and its last checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offlinerlkit_damo.config import Config, alignment_by_number, options_read, refuse_idle, with_younger
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.training.checkpoint import LAST, read
from offlinerlkit_damo.training.run_folder import FACTS, is_finished, read_facts

FREE = ("checkpoint_every", "keep_every", "max_minutes", "logdir", "on_warning")
"""Options that decide nothing about a run's result, and may change at will."""


def resume_point(path: Path) -> tuple[Path, Path]:
    """The run's folder and the checkpoint to go on from: of a folder its last one, or the checkpoint given."""
    return (path.parent.parent, path) if path.suffix == ".ckpt" else (path, path / "checkpoint" / LAST)


def resumed_config(path: Path, flags: Mapping[str, Any]) -> Config:
    """The configuration of the run at `path`, its folder or one of its checkpoints, with `flags` over it."""
    folder, _ = resume_point(path)
    saved: dict[str, Any] = read_facts(folder)["config"]
    try:
        config = Config.from_flat({**saved, **alignment_by_number(flags)})
    except UserError as error:
        raise UserError(f"the configuration of {str(folder)!r} cannot be continued: {error}") from None
    refuse_idle(flags, config.algo_name, config)
    return config


def identity(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint stores of its run, to be compared when it is continued. The dynamics model's digest is added when it is there."""
    return {
        "config": json.dumps(facts["config"]),
        "dataset": facts["dataset"]["fingerprint"],
        "host": [facts["host"][key] for key in ("name", "version", "commit")],
        "versions": facts["versions"],
        "commit": facts["commit"],
    }


def open_run(path: Path, facts: Mapping[str, Any], *, force: bool) -> tuple[dict[str, Any] | None, list[str]]:
    """The checkpoint that the run at `path` goes on from (None if it ended before its first) and what has changed since, a line each.

    Changes nothing on the disk. Raises UserError as `check_unchanged`, for a run that has finished with nothing changed, and for one that
    has finished and left no checkpoint.
    """
    folder, file = resume_point(path)
    checkpoint = read(file) if file.exists() or path == file else None
    try:
        stored = checkpoint["about"] if checkpoint else identity(read_facts(folder))
    except (KeyError, TypeError):
        raise UserError(f"{str(folder / FACTS)!r} is not that of a run that can be continued") from None
    changes = check_unchanged(stored, identity(facts), force=force)
    if is_finished(folder) and path != file:
        if checkpoint is None:
            raise UserError(f"the run in {str(folder)!r} has finished and kept no checkpoint to go on from; start a new one")
        if not changes:
            raise UserError(
                f"the run in {str(folder)!r} has finished; --epoch N --force trains it for longer, and a checkpoint in place of the folder "
                "goes back to that one"
            )
    return checkpoint, changes


def changed_options(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The options that differ between two configurations as JSON has them, a line each; those of `FREE`, and those that neither one's
    algorithm reads, do not count.

    An option that is not in one of them is younger than it, and had its default then.
    """
    names = sorted({"algo_name", *options_read(before), *options_read(after)} - set(FREE))
    before, after = with_younger(before), with_younger(after)
    return [f"{name}: {before.get(name)} -> {after.get(name)}" for name in names if before.get(name) != after.get(name)]


def check_unchanged(stored: Mapping[str, Any], now: Mapping[str, Any], *, force: bool) -> list[str]:
    """What differs between a checkpoint's run and the one that is to continue it, a line each; a UserError unless `force`."""
    changes = changed_options(json.loads(stored["config"]), json.loads(now["config"]))
    names = [name for name in now if name != "config"]
    changes += [f"{name}: {stored.get(name)} -> {now[name]}" for name in names if stored.get(name) != now[name]]
    if changes and not force:
        raise UserError(f"this is not the run that was interrupted ({'; '.join(changes)}); give --force to continue it all the same")
    return changes
