"""fleet.yaml: which runs train together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offlinerlkit_damo.config import Config, names_of, options, read_yaml, resolve
from offlinerlkit_damo.engine.fleet import PER_RUN, unsupported
from offlinerlkit_damo.errors import UserError, unknown
from offlinerlkit_damo.options import coerce

PARTS = ("options", "runs", "tasks", "seeds")
OWN = (
    "task", "data", "env", "no_eval", "env_backend", "data_size", "data_seed", "seed", "preset", "gamma", "tau", "actor_lr", "critic_lr",
    "alpha_lr", "alpha", "target_entropy", "rollout_batch_size", "rollout_length", "discounted_starts", "model_retain_epochs",
    "penalty_coef", "n_ensemble", "n_elites", "load_dynamics_path", "eval_episodes", "logdir", "init_states", "classifier_lr", *PER_RUN,
)  # fmt: skip
"""Options that may differ between the runs of a fleet, beside those of the dynamics."""


def read_fleet(path: Path, flags: Mapping[str, Any]) -> dict[str, Config]:
    """The runs of a fleet by name; `flags` go over all their options.

    The YAML has `options` of all runs and either `runs`, a list of each one's own and perhaps its `name`, or `tasks` and `seeds`, of which
    every pair is a run. Raises UserError for what is unknown, missing or cannot go together.
    """
    content = read_yaml(path, kind="fleet file")
    for part in content:
        if part not in PARTS:
            raise unknown("part of a fleet", part, PARTS)
    shared = {} if content.get("options") is None else content["options"]
    if not isinstance(shared, dict):
        raise UserError(f"`options` of the fleet {str(path)!r} is no mapping")
    configs: dict[str, Config] = {}
    for own in _runs(content, path):
        name = own.pop("name", None)
        values = {**shared, **own, **flags}
        for option in values:
            if option not in options():
                raise unknown("option", option, options())
        config = resolve(values)
        label = f"{config.task} seed {config.seed}" if name is None else str(name)
        if label in configs:
            raise UserError(f"two runs of the fleet {str(path)!r} are called {label!r}; give each a `name` of its own")
        configs[label] = config
    if len(configs) < 2:
        raise UserError("a fleet needs at least two runs; train a single one without --fleet")
    check_fleet(configs)
    return configs


def _runs(content: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    if ("runs" in content) == ("tasks" in content or "seeds" in content):
        raise UserError(f"the fleet {str(path)!r} needs `runs`, a list of options, or else `tasks` and `seeds`")
    if "runs" in content:
        runs = content["runs"]
        if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
            raise UserError(f"`runs` of the fleet {str(path)!r} is no list of options, such as - {{task: hopper-medium, seed: 1}}")
        return [dict(run) for run in runs]
    tasks, seeds = content.get("tasks"), content.get("seeds", 4)
    if not isinstance(tasks, list) or not tasks:
        raise UserError(f"`tasks` of the fleet {str(path)!r} is no list of names")
    if not isinstance(seeds, list):
        seeds = range(1, coerce("seeds", int, seeds) + 1)
    return [{"task": str(task), "seed": seed} for task in tasks for seed in seeds]


def check_fleet(configs: Mapping[str, Config]) -> None:
    """Raises UserError for runs that cannot train together, and for any that no fleet can train."""
    (first, base), *others = configs.items()
    for name, config in configs.items():
        missing = unsupported(config.damo)
        if config.algo_name != "damo":
            missing = f"algo_name {config.algo_name}"
        elif config.engine == "reference":
            missing = f"engine {config.engine}"
        elif config.on_warning == "stop":
            missing = "on_warning stop"
        if missing is not None:
            raise UserError(f"the run {name!r} has {missing}, which a fleet does not have; train it alone, with --engine fast or reference")
    for name, config in others:
        ours, theirs = base.flat(), config.flat()
        for option in ours:
            if ours[option] != theirs[option] and option not in _may_differ():
                raise UserError(
                    f"{option} is {ours[option]} in the run {first!r} and {theirs[option]} in {name!r}; a fleet's runs must have the same, "
                    "make one fleet for each"
                )


def _may_differ() -> set[str]:
    idle = {name for section in ("mobile", "combo", "rambo", "algaedice", "optidice", "odice") for name in names_of(section)}
    return {*OWN, *idle, *(name for name in options() if name.startswith("dynamics_"))}
