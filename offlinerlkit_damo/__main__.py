"""python -m offlinerlkit_damo {train,evaluate,export,compare,ablate,figures,data,dynamics,doctor,report,plot,bench,patch}"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from offlinerlkit_damo.analysis.settings import Settings
from offlinerlkit_damo.data_command import add_data_flags
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.flags import Parser, add_config_flags, listed, parse_config, run_command, train_and_report, train_fleet_and_report
from offlinerlkit_damo.report.figures import FORMATS

if TYPE_CHECKING:
    from offlinerlkit_damo.training.saved import SavedPolicy

ABOUT = "DAMO (arXiv 2502.00850) and other offline algorithms on OfflineRL-Kit. `COMMAND --help` has a command's flags."
HOST_VARIABLE = "OFFLINERLKIT_DAMO_HOST"  # kit.host's, which cannot be imported before it is set


def _train(arguments: argparse.Namespace) -> None:
    if arguments.fleet is not None or (arguments.resume is not None and arguments.resume.suffix == ".json"):
        train_fleet_and_report(arguments)
        return
    train_and_report(parse_config(arguments), resume=arguments.resume, force=arguments.force)


def _dynamics(arguments: argparse.Namespace) -> None:
    from offlinerlkit_damo.training.dynamics_store import entries, prune

    if arguments.action == "list":
        if arguments.ids or arguments.unused is not None:
            raise UserError("dynamics list takes neither ids nor --unused; they are for `dynamics prune`")
        chosen = entries()
    elif not arguments.ids and arguments.unused is None:
        raise UserError("name the models to delete by their ids (`dynamics list` shows them), or give --unused DAYS")
    else:
        chosen = prune(arguments.ids, idle_days=arguments.unused)
    for entry in chosen:
        about = "damaged" if "damaged" in entry else f"{entry.get('dataset', '?')}, error {entry['holdout_mse']:.4g}"
        print(f"{entry['id']}  {entry['bytes'] / 1e6:6.1f} MB  unused for {entry['idle_days']:6.1f} days  {about}")
    if not chosen:
        print("no models")


def _loaded(path: Path) -> SavedPolicy:
    from offlinerlkit_damo.training.saved import load_policy

    policy = load_policy(path)
    if policy.algo_name is None:
        print(
            f"{path}: no run's folder says which algorithm made it; taken for a policy of raw observations, which RAMBO's are not",
            file=sys.stderr,
        )
    return policy


def _evaluate(arguments: argparse.Namespace) -> None:
    from offlinerlkit_damo.files import check_writable, save_json
    from offlinerlkit_damo.training.saved import evaluate

    if arguments.json is not None:
        check_writable(arguments.json.parent)  # before minutes of simulation
    policy = _loaded(arguments.path)
    options = {"task": arguments.task, "env": arguments.env, "seed": arguments.seed, "deterministic": not arguments.stochastic}
    if arguments.video is not None:
        from offlinerlkit_damo.training.video import film_episode

        value = film_episode(policy, arguments.video, **options)
        print(f"{arguments.video}: an episode with a return of {value:.1f}")
    found = evaluate(policy, episodes=arguments.episodes, **options)
    if arguments.json is not None:
        save_json({"path": str(arguments.path), **found}, arguments.json)
    how = "deterministic" if found["deterministic"] else "stochastic"
    print(
        f"{found['task']}: {found['mean_score']:.1f} +- {found['std_score']:.1f} {found['unit']}, mean return {found['mean_return']:.1f}, "
        f"length {found['mean_length']:.1f} ({found['episodes']} {how} episodes)"
    )


def _export(arguments: argparse.Namespace) -> None:
    from offlinerlkit_damo.training.export import export_policy

    difference = export_policy(_loaded(arguments.path), arguments.out)
    print(f"{arguments.out}: obs f32 [B, d] -> actions f32 [B, a], equal to the policy's mode within {difference:.1e}")


def _compare(arguments: argparse.Namespace) -> None:
    from offlinerlkit_damo.compare.command import compare

    compare(arguments)


def _ablate(arguments: argparse.Namespace) -> None:
    from offlinerlkit_damo.compare.command import ablate

    ablate(arguments)


def _figures(arguments: argparse.Namespace) -> None:
    from offlinerlkit_damo.analysis.command import figures

    figures(arguments)


def _report(arguments: argparse.Namespace) -> None:
    from offlinerlkit_damo.report.scores import ROWS
    from offlinerlkit_damo.training.run_folder import FACTS

    comparisons = [path for path in arguments.runs if path.is_file() or (path / ROWS).is_file()]
    single = [path for path in arguments.runs if (path / FACTS).exists()]
    if comparisons and single:
        raise UserError(f"{str(comparisons[0])!r} is a comparison and {str(single[0])!r} a single run; report either kind by itself")
    if comparisons:
        from offlinerlkit_damo.report.comparison import write_report

        first = arguments.runs[0]
        out = arguments.out or (first.parent if first.is_file() else first)
        print(write_report(arguments.runs, out, arguments.format, arguments.reference))
        return
    for path in arguments.runs:
        if not (path / FACTS).exists():
            raise UserError(f"{str(path)!r} is neither a run's folder, with {FACTS}, nor a comparison's, with {ROWS}")
    if arguments.reference is not None:
        raise UserError("--reference is for a comparison; runs by themselves are drawn, not compared")
    if arguments.format is not None:
        raise UserError("--format is for a comparison's figures; the file of a run's curve ends as it should be written, --out curve.pdf")
    from offlinerlkit_damo.report.curve import draw_learning_curve

    out = arguments.out or Path("learning_curve.png")
    draw_learning_curve(arguments.runs, out)
    print(out)


def _plot(arguments: argparse.Namespace) -> None:
    from offlinerlkit_damo.report.plot import draw_figures
    from offlinerlkit_damo.report.results import SCORE

    chosen = draw_figures(arguments.runs, arguments.out, listed(arguments.keys or SCORE))
    print(f"{arguments.out}: {', '.join(chosen)}")


def _doctor(arguments: argparse.Namespace) -> None:
    from offlinerlkit_damo.doctor import examine

    print(examine())


def _bench(arguments: argparse.Namespace) -> None:
    if arguments.host is not None:
        # before anything imports the seam, which chooses once
        os.environ[HOST_VARIABLE] = arguments.host
    from offlinerlkit_damo.training.bench import bench

    bench(threads=arguments.threads, quick=arguments.quick, json=arguments.json)


def _patch(arguments: argparse.Namespace) -> None:
    from offlinerlkit_damo.patching import apply, examine, revert

    if arguments.revert:
        revert(arguments.path)
    elif not arguments.check:
        apply(arguments.path)
    for name, state in examine(arguments.path).items():
        print(f"{state:15s}{name}")
    if not arguments.check:
        print(f"an installed copy of the kit stays as it is; to use this one: pip install --no-deps --editable {arguments.path}")


def _seeds(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        remedy = "chosen ones stand in `compare --plan`, as seeds: [3, 5]"
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seeds; {remedy}") from None


def _add_plan_flags(command: argparse.ArgumentParser, *, tasks: str | None, out: str) -> None:
    """Which runs a plan has, and how and where they run; with the default `tasks` and folder."""
    text = "tasks, with * for several: hopper-*,halfcheetah-random" + (f" [{tasks}]" if tasks else "")
    command.add_argument("--tasks", metavar="T,T", default=tasks, help=text)
    command.add_argument("--seeds", type=_seeds, metavar="N", help="seeds 1 to N of each [4]")
    command.add_argument("--set", action="append", metavar="OPTION=VALUE", help="an option of train, for all that read it; repeatable")
    command.add_argument("--out", type=Path, default=Path(out), metavar="DIR", help=f"folder for all; a second call goes on [{out}]")
    command.add_argument("--jobs", type=int, metavar="N", help="processes at once [as the cores allow; a fleet 1; with Ray all that fit]")
    command.add_argument(
        "--executor", choices=("local", "fleet", "ray"), default="local",
        help="a process a run; DAMO's runs as fleets (docs/fleet.md); or Ray's cluster [local]",
    )
    command.add_argument(
        "--ray-address", metavar="ADDRESS", help="cluster to use: HOST:PORT [one that this machine is in, else one made here]"
    )
    command.add_argument("--gpu-share", type=float, metavar="X", help="with Ray, what a run with device=cuda takes of a GPU [1]")
    force = "go on with interrupted runs even if code, versions, host, data or model have changed since"
    command.add_argument("--force", action="store_true", help=force)
    command.add_argument("--dry-run", action="store_true", help="print the runs and the time they take here, measured; run none")


def command_line() -> Parser:
    """Every command with its flags; parsed arguments have the command itself as `run`."""
    parser = Parser(prog="python -m offlinerlkit_damo", description=ABOUT)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    usage = "%(prog)s [--algo ALGO] [--task TASK] [flags]"
    train = commands.add_parser("train", help="train a policy; run_example/run_<algo>.py are the same code", usage=usage)
    text = "train the runs in this YAML file together; --resume takes the .json file that this writes (docs/fleet.md)"
    train.add_argument("--fleet", type=Path, metavar="FILE", help=text)
    add_config_flags(train)
    train.set_defaults(run=_train)

    data = commands.add_parser("data", help="list the tasks; look at, check, make or fetch a dataset")
    add_data_flags(data)

    evaluate = commands.add_parser("evaluate", help="play episodes with a saved policy, of this package or of the kit")
    evaluate.add_argument("path", metavar="RUN", type=Path, help="run folder, or a policy.pth or checkpoint of one")
    evaluate.add_argument("--episodes", type=int, default=100, metavar="N", help="episodes [100]")
    evaluate.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the first episode, the others follow [0]")
    mode = evaluate.add_mutually_exclusive_group()
    mode.add_argument("--deterministic", action="store_true", help="act by the policy's mode, the default")
    mode.add_argument("--stochastic", action="store_true", help="sample the actions")
    evaluate.add_argument("--task", help="task, where the folder does not say it, or another")
    evaluate.add_argument("--env", metavar="ID", help="play in this simulator of Gymnasium's instead")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write every episode's return, score and length")
    evaluate.add_argument("--video", type=Path, metavar="FILE", help="film the first episode, .mp4 or .gif")
    evaluate.set_defaults(run=_evaluate)

    export = commands.add_parser("export", help="write a saved policy as a file that runs without this package")
    export.add_argument("path", metavar="RUN", type=Path, help="run folder, or a policy.pth or checkpoint of one")
    export.add_argument("out", metavar="FILE", type=Path, help="policy.pt2 (torch.export) or policy.onnx")
    export.set_defaults(run=_export)

    dynamics = commands.add_parser("dynamics", help="list or delete the stored dynamics models")
    dynamics.add_argument("action", choices=("list", "prune"), help="list the models, or delete some")
    dynamics.add_argument("ids", nargs="*", metavar="ID", help="of prune: models to delete")
    dynamics.add_argument("--unused", type=float, metavar="DAYS", help="of prune: delete those that no run has loaded for so long")
    dynamics.set_defaults(run=_dynamics)

    doctor = commands.add_parser("doctor", help="print host, versions, devices, simulators and datasets, and what is missing")
    doctor.set_defaults(run=_doctor)

    figure = commands.add_parser("report", help="draw the learning curves of run folders, or write the report of a comparison")
    figure.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders of one task, or comparisons (or their rows.csv)")
    figure.add_argument("--out", type=Path, metavar="PATH", help="figure to write [learning_curve.png]; a report's folder [the first RUN]")
    figure.add_argument("--format", choices=FORMATS, help="of a comparison: its figures as files beside the page, too")
    figure.add_argument("--reference", metavar="NAME", help="of a comparison: what others are compared with [the rows' first]")
    figure.set_defaults(run=_report)

    compare = commands.add_parser("compare", help="run algorithms side by side, on the same tasks, seeds and dynamics models")
    compare.add_argument("--algos", metavar="A,A", help="algorithms [damo,mopo]")
    text = "YAML with tasks, algos, variants, seeds and options, in place of --tasks, --algos, --seeds and --set"
    compare.add_argument("--plan", type=Path, metavar="FILE", help=text)
    _add_plan_flags(compare, tasks=None, out="comparison")
    compare.set_defaults(run=_compare)

    ablate = commands.add_parser("ablate", help="run ready-made comparisons: the paper's ablations and sweeps, and the add-on table")
    ablate.add_argument("studies", nargs="*", metavar="STUDY", help="studies, which share their plain algorithms; --list shows them")
    ablate.add_argument("--list", action="store_true", help="print the studies and their contestants; run nothing")
    ablate.add_argument("--write", type=Path, metavar="FILE", help="write the plan as YAML, to be edited for `compare --plan`; run nothing")
    _add_plan_flags(ablate, tasks="hopper-medium-expert", out="ablation")
    ablate.set_defaults(run=_ablate)

    drawn = commands.add_parser("figures", help="draw the paper's figures from finished runs, with their numbers beside them")
    drawn.add_argument("runs", nargs="+", metavar="RUN", help="run folders of one dataset or folders that hold them; NAME=RUN names one")
    drawn.add_argument("--only", metavar="F,F", help="some of curves, alpha, values, distributions and calibration [all that can be drawn]")
    drawn.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR", help="folder of figures and numbers [figures]")
    drawn.add_argument("--format", choices=FORMATS, default="png", help="of the figures [png]")
    for setting in dataclasses.fields(Settings):
        text = f"{setting.metadata['help']} [{setting.default}]"
        drawn.add_argument(f"--{setting.name}", type=int, default=setting.default, metavar="N", help=text)
    drawn.set_defaults(run=_figures)

    plot = commands.add_parser("plot", help="draw any logged figures of any runs, also of the kit's own")
    plot.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or any that hold some")
    plot.add_argument("--keys", metavar="K,K", help="figures of docs/metrics.md, with * for several: loss/*,damo/phi [the score]")
    plot.add_argument("--out", type=Path, default=Path("figures.png"), metavar="FILE", help="figure to write [figures.png]")
    plot.set_defaults(run=_plot)

    bench = commands.add_parser("bench", help="time every stage of a run beside the host's own, in one go")
    bench.add_argument("--threads", type=int, default=1, metavar="N", help="torch threads [1]")
    bench.add_argument("--quick", action="store_true", help="less of everything, in about a minute")
    bench.add_argument("--host", choices=("standin", "offlinerlkit"), help="compare with this host [an installed kit, else the stand-in]")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the table and what it was measured on")
    bench.set_defaults(run=_bench)

    patch = commands.add_parser("patch", help="mend a checkout of OfflineRL-Kit; docs/patches.md says what")
    patch.add_argument("path", metavar="PATH", type=Path, help="git checkout of the kit at commit e3ce697")
    action = patch.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="change nothing; say which patches are applied")
    action.add_argument("--revert", action="store_true", help="remove the patches")
    patch.set_defaults(run=_patch)

    return parser


def main(argv: Sequence[str]) -> None:
    """Parse the command line and run its command."""
    arguments = command_line().parse_args(argv)
    arguments.run(arguments)


if __name__ == "__main__":
    run_command(main)
