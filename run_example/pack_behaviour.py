"""Pack about twenty snapshots of a behaviour policy into the one file that the generated datasets are played with.

Reads the folder that train_behaviour.py wrote, picks snapshots along the training, rounds them to float16, measures
each of them in the simulator and names two: `medium`, nearest to the middle of the return that D4RL's medium data
has, and `expert`, the best. With `--extend` a file that is there already keeps its snapshots up to `medium`, and so the
rows of its medium and medium-replay data, and a longer training gives the later ones and the expert.

    python run_example/pack_behaviour.py --robot hopper --folder behaviour/hopper
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.tasks.simulator import make_simulator
from offlinerlkit_damo.tasks.snapshots import FOLDER, WEIGHTS, Actor, read_behaviour
from offlinerlkit_damo.tasks.task import GENERATED_ROBOTS, ROBOTS

MEDIUM_SCORE = {"hopper": 52.5, "halfcheetah": 45.0, "walker2d": 70.0}  # normalised, middle of the range aimed at
CANDIDATES = 3  # snapshots measured for each of the two roles; the log's few episodes only suggest them
FIRST_SEED = 20_000  # of the measuring episodes; the training's own evaluation used 10 000 onwards

Weights = dict[str, NDArray[np.float16]]


def read_folder(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Steps i64[S] and logged stochastic returns f64[S] of the snapshots that `folder` holds, in training order."""
    try:
        log = json.loads((folder / "log.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {folder / 'log.json'} ({error}); give a folder of train_behaviour.py") from error
    log = [entry for entry in log if snapshot_path(folder, entry["step"]).is_file()]
    if not log:
        raise UserError(f"{folder} has no snapshot; let train_behaviour.py run until the first one")
    order = sorted(log, key=lambda entry: int(entry["step"]))
    return np.array([entry["step"] for entry in order]), np.array([entry["stochastic"] for entry in order], np.float64)


def snapshot_path(folder: Path, step: int) -> Path:
    """Where train_behaviour.py puts the actor after `step` environment steps."""
    return folder / f"actor_{step:07d}.npz"


def choose(logged: NDArray[np.float64], target: float, count: int) -> NDArray[np.int64]:
    """At most about `count` of the snapshots with the returns `logged` [S]: indices in training order.

    The candidates for expert (highest) and medium (nearest to `target`, before the last expert candidate) are always
    there. The others are spread evenly, half of them up to the medium candidates, where medium-replay needs them.
    """
    expert = np.argsort(-logged, kind="stable")[:CANDIDATES]
    last = int(expert.max())
    medium = np.argsort(np.abs(logged[: last + 1] - target), kind="stable")[:CANDIDATES]
    rest = max(2, count - 2 * CANDIDATES)
    early = np.linspace(0, medium.max(), rest - rest // 2)
    late = np.linspace(medium.max(), last, rest // 2 + 1)
    return np.unique(np.concatenate([expert, medium, early.round().astype(int), late.round().astype(int)]))


def choose_later(logged: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """As `choose`, for the snapshots after medium: the expert's candidates, the others spread evenly up to them."""
    expert = np.argsort(-logged, kind="stable")[:CANDIDATES]
    spread = np.linspace(0, expert.max(), max(1, count - CANDIDATES)).round().astype(int)
    return np.unique(np.concatenate([expert, spread]))


def load_snapshot(path: Path) -> Weights:
    """One snapshot as float16, its biases as vectors."""
    with np.load(path) as data:
        return {key: (data[key].reshape(-1) if key.startswith("b") else data[key]).astype(np.float16) for key in WEIGHTS}


def measure(robot: str, weights: Weights, episodes: int, stochastic: bool) -> float:
    """Mean undiscounted return over `episodes` seeded episodes."""
    simulator, actor = make_simulator(ROBOTS[robot].env_id), Actor(weights)
    total = 0.0
    for episode in range(episodes):
        rng = np.random.default_rng(episode) if stochastic else None
        obs, going = simulator.reset(seed=FIRST_SEED + episode)[0], True
        while going:
            obs, reward, terminated, truncated, _ = simulator.step(actor(obs.astype(np.float32), rng))
            total += float(reward)
            going = not (terminated or truncated)
    simulator.close()
    return total / episodes


def pack(robot: str, folder: Path, out: Path, *, count: int, episodes: int, extend: bool, progress: bool) -> None:
    """Choose, measure and write; prints one line per snapshot."""
    spec = ROBOTS[robot]
    target = spec.ref_min_score + MEDIUM_SCORE[robot] / 100 * (spec.ref_max_score - spec.ref_min_score)
    steps, logged = read_folder(folder)
    kept = read_behaviour(out) if extend else None
    first = 0  # snapshots that are there already and stay
    if kept is None:
        chosen = choose(logged, target, count)
    else:
        first = kept.medium + 1
        later = np.flatnonzero(steps > kept.steps[kept.medium])
        if not later.size:
            raise UserError(f"{folder} has no snapshot after step {kept.steps[kept.medium]}, the medium one of {out}; train for longer")
        chosen = later[choose_later(logged[later], count - first)]
    snapshots = [load_snapshot(snapshot_path(folder, int(step))) for step in steps[chosen]]
    bar = tqdm(snapshots, desc=f"measuring {robot}", disable=not progress)
    both = np.array([[measure(robot, weights, episodes, mode) for mode in (True, False)] for weights in bar])
    steps, stacks = steps[chosen], {key: np.stack([weights[key] for weights in snapshots]) for key in WEIGHTS}
    if kept is not None:
        steps = np.concatenate([kept.steps[:first], steps])
        both = np.concatenate([np.stack([kept.returns, kept.returns_deterministic], 1)[:first], both])
        stacks = {key: np.concatenate([kept.weights[key][:first], stacks[key]]) for key in WEIGHTS}
    returns = both[:, 0]
    expert = int(returns.argmax())
    medium = int(np.abs(returns[: expert + 1] - target).argmin()) if kept is None else kept.medium
    contents: dict[str, Any] = {
        "steps": steps,
        "returns": returns,
        "returns_deterministic": both[:, 1],
        "medium": np.int64(medium),
        "expert": np.int64(expert),
        **stacks,
    }
    with replacing(out, remedy="choose another --out") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **contents)
    for i, step in enumerate(steps):
        score = 100 * (returns[i] - spec.ref_min_score) / (spec.ref_max_score - spec.ref_min_score)
        role = " medium" * (i == medium) + " expert" * (i == expert)
        print(f"{step:8d} steps: return {returns[i]:8.1f} (score {score:5.1f}), by the mean {both[i, 1]:8.1f}{role}")
    print(f"wrote {out}")


def main() -> None:
    """Parse the command line and pack one robot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robot", choices=GENERATED_ROBOTS, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="folder that train_behaviour.py wrote")
    parser.add_argument("--out", type=Path, help="file to write; default: the package's own for the robot")
    parser.add_argument("--count", type=int, default=20, help="snapshots to keep, about")
    parser.add_argument("--episodes", type=int, default=20, help="measuring episodes per snapshot and mode")
    parser.add_argument("--extend", action="store_true", help="keep the file's snapshots up to its medium one")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args()
    if args.count < 1 or args.episodes < 1:
        parser.error("--count and --episodes must be at least 1")
    out = args.out or FOLDER / f"{args.robot}.npz"
    try:
        pack(args.robot, args.folder, out, count=args.count, episodes=args.episodes, extend=args.extend, progress=not args.quiet)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
