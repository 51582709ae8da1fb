"""A comparison's plan: which contestants on which tasks with which seeds, as data."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offlinerlkit_damo.config import ALGORITHMS, MODEL_BASED, Config, coerce, options, read_yaml, resolve, why_idle
from offlinerlkit_damo.errors import UserError, unknown
from offlinerlkit_damo.files import save_yaml
from offlinerlkit_damo.training.dynamics import SETTINGS
from offlinerlkit_damo.training.run import with_absolute_paths
from offlinerlkit_damo.training.run_folder import PLAN

OWN = ("task", "seed", "logdir", "algo_name", "dynamics_seed", "max_minutes")
"""Options that the plan itself sets."""
SEEDS = 4
"""So many where a plan does not say."""
FAILURES = "failures.txt"
"""In a comparison's folder: a line for every run that has failed, or whose files are damaged."""
PARTS = ("tasks", "algos", "variants", "seeds", "options")


@dataclass(frozen=True)
class Plan:
    """Tasks x contestants x seeds.

    A contestant is an algorithm by its name, or options of one under a name of its own: {"mopo+both": {"algo_name": "mopo", ...}}.
    `options` hold for every contestant that reads them. Of one seed, all contestants on a task share the dynamics model of that seed.
    """

    tasks: tuple[str, ...]
    contestants: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def unread(self) -> list[str]:
        """Those of the options that no contestant reads."""
        read = {name for own in self.contestants.values() for task in self.tasks for name in self.shared(own, task)}
        return [name for name in self.options if name not in read]

    def shared(self, own: Mapping[str, Any], task: str) -> dict[str, Any]:
        """Those of the options that a contestant reads, which are those of its algorithm, and of DAMO's terms where it has them."""
        algo = str(own["algo_name"])
        read = {name: value for name, value in self.options.items() if why_idle(name, algo) is None}
        config = resolve({}, defaults={**read, **own, "task": task})
        return {name: value for name, value in read.items() if why_idle(name, algo, config) is None}


@dataclass(frozen=True)
class Job:
    """One run of a plan."""

    label: str  # the contestant
    config: Config

    @property
    def name(self) -> str:
        """For people and file names: contestant, task and seed."""
        return f"{self.label} {self.config.task} seed {self.config.seed}"


def plain(config: Config) -> dict[str, Any]:
    """A configuration as JSON and YAML have it, without tuples."""
    found: dict[str, Any] = json.loads(json.dumps(config.flat()))
    return found


def make_plan(
    tasks: Sequence[str],
    algos: Sequence[str],
    seeds: int | Sequence[int],
    given: Mapping[str, Any],
    variants: Mapping[str, Any] | None = None,
) -> Plan:
    """A plan from names: tasks may have wildcards, `seeds` is a number or the seeds themselves. Raises UserError for what is unknown."""
    contestants: dict[str, Mapping[str, Any]] = {}
    for algo in algos:
        if algo not in ALGORITHMS:
            raise unknown("algorithm", algo, ALGORITHMS)
        contestants[algo] = {"algo_name": algo}
    for name, values in (variants or {}).items():
        label = str(name)
        if not isinstance(values, Mapping) or values.get("algo_name") not in ALGORITHMS:
            raise UserError(f"the variant {label!r} needs an algo_name, one of {', '.join(ALGORITHMS)}")
        if not re.fullmatch(r"[^\W_][\w.+=,-]*", label):
            raise UserError(f"the variant {label!r} names a folder; use letters, digits and + - = , . _, the first a letter or digit")
        if label in contestants:
            raise UserError(f"{label!r} names two contestants; call one of them otherwise")
        contestants[label] = values
    numbers = tuple(range(1, seeds + 1)) if isinstance(seeds, int) else tuple(seeds)
    if not contestants or not numbers or len(set(numbers)) < len(numbers):
        raise UserError("a comparison needs at least one algorithm and one seed, and no seed twice")
    for values in (given, *contestants.values()):
        for name in values:
            if name not in options():
                raise unknown("option", name, options())
            if name in OWN and not (name == "algo_name" and values is not given):
                raise UserError(f"{name} is the plan's own; it cannot be among the options")
        if coerce("no_eval", values.get("no_eval", False)):
            raise UserError("a comparison compares evaluations; leave no_eval out")
        if values.get("env") is not None:
            raise UserError("a comparison's scores are the tasks' own; leave env out, and draw runs in another simulator with `plot`")
    return Plan(tuple(_tasks(tasks)), contestants, numbers, dict(given))


def _tasks(patterns: Sequence[str]) -> Iterator[str]:
    from offlinerlkit_damo.tasks import can_make, get_task, list_tasks

    known = [name for name in list_tasks() if can_make(name)]
    seen = set()
    for pattern in patterns:
        found = fnmatch.filter(known, pattern) if any(x in pattern for x in "*?[") else [pattern]
        if not found:
            raise UserError(f"no task that can be made here matches {pattern!r}; choose from {', '.join(known)}")
        for name in found:
            get_task(name)
            if name not in seen:
                seen.add(name)
                yield name


def read_plan(path: Path) -> Plan:
    """A plan from YAML: tasks, algos, variants, seeds, options. Raises UserError for what is missing or unknown."""
    content = read_yaml(path, kind="plan")
    for name in content:
        if name not in PARTS:
            raise unknown("part of a plan", name, PARTS)
    tasks, algos, seeds = content.get("tasks"), content.get("algos") or [], content.get("seeds", SEEDS)
    if not isinstance(tasks, list) or not tasks or not isinstance(algos, list):
        raise UserError(f"the plan {str(path)!r} needs `tasks`, a list of names, and `algos` or `variants`")
    if not _is_number(seeds) and not (isinstance(seeds, list) and all(map(_is_number, seeds))):
        raise UserError(f"the plan {str(path)!r} has seeds {seeds!r}; give a number of seeds or a list of them")
    for part in ("options", "variants"):
        if not isinstance(content.get(part) or {}, dict):
            raise UserError(f"`{part}` of the plan {str(path)!r} is no mapping")
    names = [str(algo) for algo in algos]
    return make_plan([str(task) for task in tasks], names, seeds, content.get("options") or {}, content.get("variants"))


def _is_number(seed: Any) -> bool:
    return isinstance(seed, int) and not isinstance(seed, bool)


def write_plan(plan: Plan, path: Path) -> None:
    """The YAML that `read_plan` reads; atomically."""
    algos = [label for label, own in plan.contestants.items() if own == {"algo_name": label}]
    variants = {label: dict(own) for label, own in plan.contestants.items() if label not in algos}
    content = {
        "tasks": list(plan.tasks), "algos": algos, "variants": variants, "seeds": list(plan.seeds), "options": dict(plan.options),
    }  # fmt: skip
    save_yaml(content, path)


def keep_plan(plan: Plan, out: Path) -> None:
    """Write the plan into its comparison's folder, where a file that means the same, with a person's own remarks perhaps, stays."""
    try:
        if read_plan(out / PLAN) == plan:
            return
    except UserError:  # none yet, or none of this version
        pass
    write_plan(plan, out / PLAN)


def read_failures(out: Path) -> list[str]:
    """The lines of failures.txt in a comparison's folder, none without it. Raises UserError for one that cannot be read."""
    path = out / FAILURES
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r} ({error.strerror or error}); move it away") from error


def jobs(plan: Plan, out: Path) -> list[Job]:
    """The plan's runs in the order of their start: neighbours differ in task or seed, so that none waits for another's dynamics model.

    Raises UserError, naming the contestant, for options that do not go together.
    """
    found = []
    for label, own in plan.contestants.items():
        algo = str(own["algo_name"])
        for task in plan.tasks:
            try:
                shared = plan.shared(own, task)
                for seed in plan.seeds:
                    ours: dict[str, Any] = {"task": task, "seed": seed, "logdir": str(out / "runs" / label)}
                    if algo in MODEL_BASED:
                        ours["dynamics_seed"] = seed
                    # a run's own record of its options has its paths absolute
                    found.append(Job(label, with_absolute_paths(resolve({**shared, **own, **ours}))))
            except UserError as error:
                raise UserError(f"{label} on {task}: {error} (a comparison's options: --set NAME=VALUE, or in its --plan)") from None
    return found


def model_key(config: Config) -> tuple[Any, ...] | None:
    """What decides a run's dynamics model within one plan; None for one that trains none."""
    if config.algo_name not in MODEL_BASED or config.load_dynamics_path is not None:
        return None
    names = ("task", "data", "env", "data_size", "data_seed", "model_seed", *SETTINGS)
    return (config.algo_name == "rambo", *(getattr(config, name) for name in names))  # RAMBO's sees standardised observations
