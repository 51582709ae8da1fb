"""Command-line flags made out of the configuration: the kit's names, real booleans, one help line each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from offlinerlkit_damo.config import SECTIONS, Config, names_of, option_types, options, readers, resolve
from offlinerlkit_damo.errors import Stopped, UserError
from offlinerlkit_damo.options import coerce


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are UserErrors, to which --batch_size and --batch-size are the same (the kit mixes both), and --lr is not
    short for --lr-schedule."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([_hyphenated(word) for word in words], namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _hyphenated(word: str) -> str:
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else word


TITLES = {
    "damo": "method (DAMO; on other algorithms with --data-alignment or --behavior-alignment)",
    "mobile": "MOBILE",
    "combo": "COMBO",
    "rambo": "RAMBO",
    "algaedice": "AlgaeDICE",
    "optidice": "OptiDICE",
    "odice": "ODICE",
}


def _schedule(text: str) -> str:
    return "cosine" if coerce("lr_scheduler", bool, text) else "constant"


def _rewards_as_they_are(text: str) -> None:
    if coerce("norm_reward", bool, text):
        raise UserError("--norm-reward is not done here: rewards stay as the dataset has them; give one of normalised rewards by --data")


def _clone_anew(text: str) -> NoReturn:
    raise UserError(f"--load-bc-path {text!r} is not read: a run clones the behaviour itself, in --bc-epoch epochs; leave it out")


KIT_FLAGS: dict[str, dict[str, tuple[str, Callable[[str], Any], str]]] = {
    "mobile": {
        "--max-epochs-since-update": ("dynamics_patience", str, "the kit's name of --dynamics-patience"),
        "--lr-scheduler": ("lr_schedule", _schedule, "the kit's --lr-schedule: true = cosine, false = constant"),
        "--norm-reward": ("norm_reward", _rewards_as_they_are, argparse.SUPPRESS),
    },
    "rambo": {"--load-bc-path": ("load_bc_path", _clone_anew, argparse.SUPPRESS)},
}
"""Flags of the kit's scripts that no option is called by: (what it sets, the value as that one's or the refusal, help line)."""


def listed(text: str) -> list[str]:
    """The parts of a flag's value "a, b"."""
    return [part.strip() for part in text.split(",")]


def add_config_flags(parser: argparse.ArgumentParser, algo_name: str | None = None, hidden: Sequence[str] = ()) -> None:
    """One flag per option; flags not given leave the configuration's layers alone.

    With `algo_name`, a script's algorithm, the flags are also those of the kit's script of it, and the help leaves out what that algorithm
    does not read; and it leaves out the flags that are `hidden`, which the script refuses.
    """
    note = "Defaults in brackets; the preset's and the task's values of configs/<algo>.yaml come on top of them."
    run = parser.add_argument_group("run (OfflineRL-Kit's flags and this package's)", note)
    sections = {name: section for section in SECTIONS for name in names_of(section)}
    shown_names = {name for name in options() if name not in hidden and (algo_name is None or algo_name in readers(name))}
    groups = {section: parser.add_argument_group(TITLES[section]) for section in SECTIONS if shown_names & set(names_of(section))}
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of options; flags override it")
    resume = "continue the interrupted run in this folder, or from this checkpoint of it, with its own options"
    parser.add_argument("--resume", type=Path, metavar="RUN", help=argparse.SUPPRESS if "resume" in hidden else resume)
    force = "continue it even if options, data, model, host or versions have changed"
    parser.add_argument("--force", action="store_true", help=argparse.SUPPRESS if "force" in hidden else force)
    for name, field in options().items():
        several = str(option_types()[name]).startswith("tuple")
        default: Any = field.default
        shown = " ".join(map(str, default)) if several else str(default)
        shown = shown.lower() if shown in ("None", "True", "False") else shown
        groups.get(sections.get(name, ""), run).add_argument(
            f"--{name.replace('_', '-')}",
            *(["--algo"] if name == "algo_name" else []),
            dest=name,
            default=argparse.SUPPRESS,
            metavar="{" + ",".join(field.metadata["choices"]) + "}" if field.metadata["choices"] else "X",
            # hidden and not left out: giving it is answered with what it belongs to
            help=f"{field.metadata['help']} [{shown}]".replace("%", "%%") if name in shown_names else argparse.SUPPRESS,
            nargs="+" if several else None,
        )
    for flag, (name, read, text) in KIT_FLAGS.get(algo_name or "", {}).items():
        run.add_argument(flag, dest=name, type=read, default=argparse.SUPPRESS, metavar="X", help=text)


def parse_config(arguments: argparse.Namespace, **defaults: Any) -> Config:
    """The Config of parsed flags; `defaults` stand where neither a flag nor the config file says otherwise."""
    flags = {name: value for name, value in vars(arguments).items() if name in options()}
    if arguments.resume is None:
        if arguments.force:
            raise UserError("--force has no effect without --resume")
        return resolve(flags, config_file=arguments.config, defaults=defaults)
    # here, so that --help does not wait for torch
    from offlinerlkit_damo.training.resume import resumed_config

    if arguments.config is not None:
        raise UserError("--config has no effect with --resume, which has the run's own options")
    config = resumed_config(arguments.resume, flags)
    if config.algo_name != defaults.get("algo_name", config.algo_name):
        raise UserError(f"{str(arguments.resume)!r} is a run of {config.algo_name}; continue it with its own script or with `train`")
    return config


def run_command(command: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> None:
    """Run a command line: a UserError is printed as one sentence and exits with 2, Ctrl-C with 130; neither shows a traceback.

    A run that was stopped from outside says so and exits with its reason's code.
    """
    try:
        command(sys.argv[1:] if argv is None else argv)
    except (UserError, ImportError) as error:  # ImportError: a host that was asked for and is not there, or a missing package
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Stopped as reason:
        print(reason, file=sys.stderr)
        raise SystemExit(reason.code) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        # the reader of our output went away (a pager, head): nothing is wrong, and the interpreter must not complain at exit
        sys.stderr.close()


def train_command(algo_name: str, description: str) -> Callable[[Sequence[str]], None]:
    """The whole of a run script: flags of `algo_name`'s training, and the training."""

    def command(argv: Sequence[str]) -> None:
        parser = Parser(description=description, usage="%(prog)s [--task TASK] [--seed N] [flags]")
        add_config_flags(parser, algo_name)
        arguments = parser.parse_args(argv)
        train_and_report(parse_config(arguments, algo_name=algo_name), resume=arguments.resume, force=arguments.force)

    return command


def train_and_report(config: Config, *, resume: Path | None = None, force: bool = False) -> Path:
    """Train (or continue a run, see `training.run.train`), draw the learning curve, print the score; returns the run folder."""
    # here, so that --help does not wait for torch
    from offlinerlkit_damo.report.curve import draw_learning_curve
    from offlinerlkit_damo.tasks import Task
    from offlinerlkit_damo.training.run import train

    results = train(config, resume=resume, force=force)
    folder, mean = Path(results["folder"]), results["dataset"]["mean_score"]
    if results["last_10_performance"] is None:
        print(f"not evaluated (--no-eval)\nrun folder: {folder}")
        return folder
    draw_learning_curve([folder], folder / "result" / "learning_curve.png")
    beside = "" if mean is None else f" (dataset mean {mean:.1f})"
    print(f"last 10 evaluations: {results['last_10_performance']:.1f} {Task(**results['task']).unit}{beside}\nrun folder: {folder}")
    return folder


def train_fleet_and_report(arguments: argparse.Namespace) -> None:
    """Train the runs of `--fleet`, or go on with those of `--resume` RECORD.json; draw every learning curve, print every score."""
    # here, so that --help does not wait for torch
    from offlinerlkit_damo.report.curve import draw_learning_curve
    from offlinerlkit_damo.tasks import Task
    from offlinerlkit_damo.training.fleet_file import read_fleet
    from offlinerlkit_damo.training.fleet_run import resumed_fleet, train_fleet

    if arguments.config is not None:
        raise UserError("--config has no effect on a fleet, whose file has the options of its runs")
    if arguments.fleet is not None and arguments.resume is not None:
        raise UserError("--fleet begins a fleet and --resume continues one; leave one out")
    if arguments.force and arguments.resume is None:
        raise UserError("--force has no effect without --resume")
    flags = {name: value for name, value in vars(arguments).items() if name in options()}
    if arguments.fleet is not None:
        results = train_fleet(read_fleet(arguments.fleet, flags))
    else:
        configs, folders = resumed_fleet(arguments.resume, flags)
        results = train_fleet(configs, record=arguments.resume, folders=folders, force=arguments.force)
    for name, result in results.items():
        folder, score = Path(result["folder"]), result["last_10_performance"]
        if score is not None:
            draw_learning_curve([folder], folder / "result" / "learning_curve.png")
        judged = "not evaluated" if score is None else f"last 10 evaluations: {score:.1f} {Task(**result['task']).unit}"
        print(f"{name}: {judged}; run folder: {folder}")
