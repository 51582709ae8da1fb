"""Searches DAMO's alpha, rollout length and actor learning rate with Ray Tune: random trials, of which ASHA stops the poor ones early.

    python run_example/tune_damo.py --task hopper-medium-expert --trials 20 --epoch 100

takes the flags of run_damo.py for what all trials share. Stopped or killed, the same command goes on from the trials' checkpoints.
Needs Ray: pip install "offlinerlkit-damo[tune]".
"""

from __future__ import annotations

import argparse
import atexit
import json
import shlex
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offlinerlkit_damo.compare.cluster import joined
from offlinerlkit_damo.compare.local import TrainingProcess, run_flags
from offlinerlkit_damo.compare.parcel import copy
from offlinerlkit_damo.compare.plan import OWN, Job, plain
from offlinerlkit_damo.compare.runner import find_run
from offlinerlkit_damo.config import Config, options, options_read, read_yaml
from offlinerlkit_damo.errors import Stopped, UserError
from offlinerlkit_damo.files import check_writable, save_json, save_yaml
from offlinerlkit_damo.flags import Parser, add_config_flags, parse_config, run_command
from offlinerlkit_damo.report.scores import LAST as SCORED
from offlinerlkit_damo.training.checkpoint import LAST
from offlinerlkit_damo.training.logs import EPISODES, read_table
from offlinerlkit_damo.training.resume import FREE
from offlinerlkit_damo.training.run import with_absolute_paths
from offlinerlkit_damo.training.run_folder import is_finished

try:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator
except ImportError as error:
    raise ImportError('tune_damo.py needs Ray Tune, which is missing; run: pip install "offlinerlkit-damo[tune]"') from error

SEARCHED = ("damo_alpha", "rollout_length", "actor_lr")
REFUSED = ("resume", "force", "no_eval")
INTERVAL = 2.0  # seconds between two looks at a trial's run
FRESH_SEEDS = 4  # of the comparison in which the best trial is to prove itself


def space() -> dict[str, Any]:
    """What is drawn from: alpha over the paper's sweep, rollouts as the kit's, learning rates about the default."""
    return {"damo_alpha": tune.uniform(0.5, 5.0), "rollout_length": tune.choice([1, 3, 5, 10]), "actor_lr": tune.loguniform(3e-5, 3e-4)}


def trial(sampled: Mapping[str, Any], shared: Mapping[str, Any], places: str) -> None:
    """One run with `sampled` over the `shared` options; reports every evaluation, with the run's folder as checkpoint.

    It trains in a temporary folder whose name begins with `places`.
    """
    place = Path(tempfile.mkdtemp(prefix=places))
    config = Config.from_flat({**shared, **sampled, "logdir": str(place / "runs")})
    folder, saved, told, stamp = None, tune.get_checkpoint(), 0, None
    if saved is not None:
        folder = place / "run"
        with saved.as_directory() as path:
            copy(Path(path), folder)
        told = len(evaluations(folder))
        if is_finished(folder):  # ended after its last report: there is nothing to go on with
            shutil.rmtree(place)
            return
    outcome = None
    flags = run_flags(config, folder, options=place / "options.yaml")
    with going(TrainingProcess(flags, threads=config.threads, log=place / "log"), place) as process:
        while outcome is None:
            outcome = process.wait(INTERVAL)
            folder = folder or find_run(Job("trial", config))
            if folder is None or len(evaluations(folder)) <= told:
                continue
            snapshot = place / "snapshot"  # the run goes on while Ray copies
            copy(folder, snapshot)
            scores, last = evaluations(snapshot), folder / "checkpoint" / LAST
            for number in range(told + 1, len(scores) + 1):
                recent = [score for _, score in scores[:number][-SCORED:]]
                kept = None
                if number == len(scores) and last.exists() and last.stat().st_mtime_ns != stamp:
                    kept, stamp = tune.Checkpoint.from_directory(str(snapshot)), last.stat().st_mtime_ns
                tune.report({"epoch": scores[number - 1][0] // config.step_per_epoch, "score": sum(recent) / len(recent)}, checkpoint=kept)
            told = len(scores)
        if outcome != "ended":
            raise RuntimeError((place / "log").read_text(encoding="utf-8", errors="replace")[-2000:])


@contextmanager
def going(process: TrainingProcess, place: Path) -> Iterator[TrainingProcess]:
    """Ends a trial's run with the trial, and deletes its place: Ray has its checkpoints."""

    def leave() -> None:
        process.kill()
        shutil.rmtree(place, ignore_errors=True)

    atexit.register(leave)  # Ray ends a trial's process without waiting for a trial that it has stopped within `tune.report`
    try:
        yield process
    finally:
        leave()


@contextmanager
def temporary_places() -> Iterator[str]:
    """How the names of a sweep's temporary folders begin; deletes what is left of them here, of trials that Ray has killed as they left."""
    name = f"tune-damo-{uuid.uuid4().hex[:8]}-"
    try:
        yield name
    finally:
        for place in Path(tempfile.gettempdir()).glob(f"{name}*"):
            shutil.rmtree(place, ignore_errors=True)


def evaluations(folder: Path) -> list[tuple[int, float]]:
    """Step and mean score of a run's evaluations so far."""
    scores: dict[int, list[float]] = {}
    for row in read_table(folder / "record" / EPISODES):
        scores.setdefault(int(row["timestep"]), []).append(float(row["score"]))
    return [(step, sum(found) / len(found)) for step, found in scores.items()]


def shared_options(config: Config, out: Path, trials: int) -> dict[str, Any]:
    """What all trials share, also noted in `out`. Raises UserError if the sweep there has other options, or another number of trials."""
    shared = plain(with_absolute_paths(config))
    note = out / "options.json"
    now = {"trials": trials, **{name: value for name, value in shared.items() if name not in (*FREE, *SEARCHED)}}
    if note.exists() and options_read(json.loads(note.read_text(encoding="utf-8"))) != options_read(now):
        raise UserError(f"the sweep in {str(out)!r} has other options; name another folder with --out")
    save_json(now, note)
    return shared


def sweep(config: Config, shared: Mapping[str, Any], out: Path, *, trials: int, gpu_share: float, places: str) -> Any:
    """Ray's results of all trials, those of an earlier call continued."""
    gpus = gpu_share if config.device.startswith("cuda") else 0
    run = tune.with_resources(tune.with_parameters(trial, shared=shared, places=places), {"cpu": config.threads, "gpu": gpus})
    state = str((out / "trials").absolute())
    if tune.Tuner.can_restore(state):
        return tune.Tuner.restore(state, trainable=run, resume_errored=True).fit()
    halving = ASHAScheduler(time_attr="epoch", max_t=config.epoch, grace_period=max(1, config.epoch // 9), reduction_factor=3)
    tuner = tune.Tuner(
        run,
        param_space=space(),
        tune_config=tune.TuneConfig(
            metric="score", mode="max", num_samples=trials, scheduler=halving, search_alg=BasicVariantGenerator(random_state=config.seed)
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(out.absolute()),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            failure_config=tune.FailureConfig(max_failures=1),
            verbose=1,
        ),
    )
    return tuner.fit()


def show(results: Any, epochs: int) -> dict[str, Any] | None:
    """Print the trials, the best first; what the best one drew, None if none has been evaluated."""
    evaluated = [result for result in results if result.metrics and "score" in result.metrics]
    evaluated.sort(key=lambda result: -result.metrics["score"])
    print(f"{'score':>8s} {'epochs':>7s} {'alpha':>7s} {'length':>7s} {'actor lr':>9s}")
    for result in evaluated:
        score, epoch, drawn = result.metrics["score"], result.metrics["epoch"], result.config
        note = "  failed" if result.error else "" if epoch == epochs else "  stopped early"
        print(f"{score:8.1f} {epoch:7d} {drawn['damo_alpha']:7.3f} {drawn['rollout_length']:7d} {drawn['actor_lr']:9.2e}{note}")
    if len(evaluated) < len(results):
        print(f"{len(results) - len(evaluated)} failed before their first evaluation")
    return {name: evaluated[0].config[name] for name in SEARCHED} if evaluated else None


def main(argv: Sequence[str]) -> None:
    """Run or continue the sweep, print its table, and write the plan of an evaluation of its best trial."""
    parser: argparse.ArgumentParser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20, help="runs, each with its own draw [20]")
    parser.add_argument("--out", type=Path, default=Path("tune"), help="folder for all; a second call goes on [tune]")
    parser.add_argument("--ray-address", metavar="ADDRESS", help="cluster to use, whose machines share --out [this machine]")
    parser.add_argument("--gpu-share", type=float, default=1.0, metavar="X", help="what a trial with --device cuda takes of a GPU [1]")
    add_config_flags(parser, "damo", hidden=(*SEARCHED, *REFUSED))
    arguments = parser.parse_args(argv)
    given = {**(read_yaml(arguments.config) if arguments.config else {}), **{n: v for n, v in vars(arguments).items() if n in options()}}
    for name in SEARCHED:
        if name in given:
            raise UserError(f"{name} is searched for; leave it out")
    if arguments.resume is not None or arguments.force:
        raise UserError("a sweep is continued by the command that began it, without --resume and --force")
    if arguments.trials < 1 or arguments.gpu_share <= 0:
        raise UserError("--trials and --gpu-share must be positive")
    config = parse_config(arguments, algo_name="damo")
    if config.no_eval:
        raise UserError("a sweep compares evaluations; leave --no-eval out")
    check_writable(arguments.out)
    shared = shared_options(config, arguments.out, arguments.trials)
    with temporary_places() as places, joined(arguments.ray_address or "local"):
        results = sweep(config, shared, arguments.out, trials=arguments.trials, gpu_share=arguments.gpu_share, places=places)
    through = results.num_terminated + results.num_errors
    if through < arguments.trials:
        raise Stopped(f"stopped with {through} of {arguments.trials} trials through; the same command goes on from here", code=130)
    best = show(results, config.epoch)
    if best is None:
        raise UserError(f"no trial was evaluated; {str(arguments.out / 'trials')!r} has what Ray says of them")
    print(f"best: {', '.join(f'{name}={value:.4g}' for name, value in best.items())}")
    print("Its score is the highest of many on one seed, and so too high: it is no evaluation. On seeds that no trial has seen:")
    seeds = [config.seed + 1 + i for i in range(FRESH_SEEDS)]
    print(evaluation(config, {name: shared[name] for name in given if name not in OWN}, best, seeds, arguments.out))


def evaluation(config: Config, options: Mapping[str, Any], best: Mapping[str, Any], seeds: Sequence[int], out: Path) -> str:
    """The commands that evaluate what a sweep has found, whose files are written: a comparison, or runs in the user's own simulator."""
    if config.env is not None:  # whose scores are no task's
        save_yaml({"task": config.task, **options, **best}, out / "best.yaml")
        command = f"python -m offlinerlkit_damo train --config {shlex.quote(str(out / 'best.yaml'))}"
        return "\n".join(f"{command} --seed {seed}" for seed in seeds)
    variants = {"damo": {"algo_name": "damo"}, "tuned": {"algo_name": "damo", **best}}
    save_yaml({"tasks": [config.task], "variants": variants, "seeds": list(seeds), "options": dict(options)}, out / "plan.yaml")
    return f"python -m offlinerlkit_damo compare --plan {shlex.quote(str(out / 'plan.yaml'))}"


if __name__ == "__main__":
    run_command(main)
