"""python -m offlinerlkit_damo data {list,info,check,make,fetch}"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from offlinerlkit_damo.errors import UserError


def add_data_flags(data: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    actions = ("list", "info", "check", "make", "fetch")
    text = "the tasks; a dataset's facts and figure; what would spoil training on it; make a generated one; fetch one of D4RL's"
    data.add_argument("action", choices=actions, help=text)
    data.add_argument("name", nargs="?", help="task, e.g. hopper-medium-expert; for info and check also a file, or minari:<id>")
    data.add_argument("--task", help="of info and check: the task that a file is judged as, for scores and the termination rule")
    data.add_argument("--out", type=Path, metavar="FILE", help="of info: figure to write [<name>.png]")
    data.add_argument("--json", type=Path, metavar="FILE", help="of info: write the facts, every column's range with them")
    data.add_argument("--size", type=int, metavar="N", help="of make: transitions [200000]")
    data.add_argument("--seed", type=int, metavar="N", help="of make: seed [0]")
    data.set_defaults(run=run)


OPTIONS = {"task": ("info", "check"), "out": ("info",), "json": ("info",), "size": ("make",), "seed": ("make",)}


def run(arguments: argparse.Namespace) -> None:
    """Run the command; a dataset with problems makes `check` exit with 1."""
    for name, actions in OPTIONS.items():
        if getattr(arguments, name) is not None and arguments.action not in actions:
            raise UserError(f"--{name} has no effect with data {arguments.action}; it is for data {' and '.join(actions)}")
    if arguments.action == "list":
        if arguments.name is not None:
            raise UserError(f"data list takes no name; for {arguments.name!r} there is data info")
        _list()
    elif arguments.name is None:
        raise UserError(f"data {arguments.action} needs a name; see `data list`")
    elif arguments.action in ("info", "check"):
        (_info if arguments.action == "info" else _check)(arguments)
    else:
        _provide(arguments)


def _list() -> None:
    from offlinerlkit_damo.tasks import can_make, get_task, list_tasks

    origins = {"d4rl": "D4RL, fetched", "minari": "Minari, fetched", "neorl": "NeoRL's file"}
    for source in ("generated", "d4rl", "minari", "neorl"):
        for name in list_tasks(source):
            here = "generated" if can_make(name) else "give a file with --data"
            print(f"{name:34s} {get_task(name).env_id!s:15s} {here if source == 'generated' else origins[source]}")


def _provide(arguments: argparse.Namespace) -> None:
    from offlinerlkit_damo.tasks import d4rl_dataset, get_task, load_dataset, make_dataset
    from offlinerlkit_damo.tasks.generated import DEFAULT_SIZE

    task = get_task(arguments.name)
    wanted, other = ("d4rl", "make") if arguments.action == "fetch" else ("generated", "fetch")
    if task.source not in ("d4rl", "generated"):
        raise UserError(f"{arguments.name} is not for `data {arguments.action}`; a run of it, or `data info`, gets it")
    if task.source != wanted:
        raise UserError(f"{arguments.name} is not for `data {arguments.action}`; use `data {other} {arguments.name}`")
    if task.source == "d4rl":
        path = d4rl_dataset(task)
    else:
        path = make_dataset(task, size=DEFAULT_SIZE if arguments.size is None else arguments.size, seed=arguments.seed or 0)
    dataset = load_dataset(path)
    print(f"{path}\n{dataset.report.summary()}, mean return {dataset.mean_return:.1f}, sha256 {dataset.fingerprint[:16]}")


def _dataset(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The dataset, and the task to judge it by or None."""
    from offlinerlkit_damo.tasks import file_task, get_task, resolve_dataset
    from offlinerlkit_damo.tasks.task import MINARI, NEORL

    name = arguments.name
    by_path = "/" in name or bool(Path(name).suffix) or Path(name).is_file() or name in (".", "..")
    by_task = name.startswith(NEORL) or not (name.startswith(MINARI) or by_path)
    if by_task:
        if arguments.task is not None:
            raise UserError(f"{name} is a task already; leave --task out")
        task = get_task(name)
        return resolve_dataset(task), task
    if arguments.task is not None:
        task = get_task(arguments.task)
        return resolve_dataset(task, name), task
    if name.startswith(MINARI):
        try:
            task = get_task(name)
        except UserError:  # a robot without known references
            task = file_task(name, None)
        return resolve_dataset(task, name), task
    return resolve_dataset(file_task(Path(name).stem, None), name), None


def _info(arguments: argparse.Namespace) -> None:
    from offlinerlkit_damo.files import check_writable, save_json
    from offlinerlkit_damo.report.dataset import draw_dataset
    from offlinerlkit_damo.report.figures import check_figure
    from offlinerlkit_damo.tasks.facts import dataset_facts

    stem = Path(arguments.name.replace(":", "-")).stem
    out = arguments.out or Path(f"{stem or 'dataset'}.png")
    for path in filter(None, (out, arguments.json)):
        if path.is_dir():
            raise UserError(f"{str(path)!r} is a folder; give the name of a file")
        check_writable(path.parent)
    check_figure(out)
    dataset, task = _dataset(arguments)
    facts = dataset_facts(dataset, task)

    def spread(name: str) -> str:
        found = facts[name]
        return f"{found['min']:.4g} to {found['max']:.4g}, mean {found['mean']:.4g}, deviation {found['std']:.4g}"

    print(f"{dataset.name}: {dataset.report.summary()}, sha256 {dataset.fingerprint[:16]}")
    print(f"observations {facts['obs_dim']}, actions {facts['action_dim']} wide; reward {spread('reward')}")
    print(f"{facts['episodes']} episodes ({facts['completed_episodes']} complete), {facts['terminal_rate']:.3%} of the rows terminal")
    for name, label in (("return", "return"), ("score", "score"), ("episode_length", "length")):
        if name in facts:
            print(f"{label} of an episode {spread(name)}")
    print(f"{facts['saturated_actions']:.1%} of the actions at the end of their range, {facts['duplicate_transitions']} duplicate rows")
    draw_dataset(dataset, out, task)
    if arguments.json is not None:
        save_json(facts, arguments.json)
    print(out)


def _check(arguments: argparse.Namespace) -> None:
    from offlinerlkit_damo.tasks.facts import check_dataset

    dataset, task = _dataset(arguments)
    remarks = check_dataset(dataset, task)
    for remark in remarks:
        print(f"{'problem' if remark.problem else 'note'}: {remark.text}")
    problems = sum(remark.problem for remark in remarks)
    outcome = f"{problems} problem{'s' if problems > 1 else ''}" if problems else "nothing that would spoil a training"
    print(f"{dataset.name}: {len(dataset)} transitions, {outcome}")
    if problems:
        raise SystemExit(1)
