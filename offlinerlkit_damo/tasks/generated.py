"""Datasets generated here by D4RL's recipe, with this project's behaviour policies. They are not D4RL.

random: uniform actions. medium, expert: one SAC snapshot, acting stochastically. medium-replay: uniform actions, then
the snapshots up to medium in training order, equal shares. medium-expert: half medium, half expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from offlinerlkit_damo.config import check_seed
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import check_writable, replacing, waiting_lock
from offlinerlkit_damo.tasks.cache import REMEDY, cache_dir
from offlinerlkit_damo.tasks.columns import MAX_ROWS
from offlinerlkit_damo.tasks.dataset import Floats
from offlinerlkit_damo.tasks.simulator import make_simulator
from offlinerlkit_damo.tasks.snapshots import has_behaviour, load_behaviour
from offlinerlkit_damo.tasks.task import ROBOTS, Task, get_task, list_tasks

RECIPE = 2  # raise when the same inputs give other rows
DEFAULT_SIZE = 200_000


@dataclass(frozen=True)
class Player:
    """A policy that plays part of a dataset."""

    act: Callable[[Floats, np.random.Generator], Floats]  # obs f32[d], rng -> action f32[a]
    step: int  # environment steps of training behind it; 0 for uniform actions
    mean_return: float  # measured beforehand; nan for uniform actions


def make_dataset(task: Task | str, *, size: int = DEFAULT_SIZE, seed: int = 0, progress: bool = True) -> Path:
    """The path of the generated dataset of `task` with `size` transitions; made on first use, then kept in the cache.

    The rows depend on task, size and seed alone (on one machine, with one version of the simulator). Two processes
    may ask for the same file at once. `progress` shows a bar on stderr. Raises UserError for an unknown task, a size
    or seed out of range, a robot without behaviour policies, and a cache that cannot be written.
    """
    task = get_task(task) if isinstance(task, str) else task
    players, path, identity = _plan(task, size, seed)
    if _is_current(path, identity):
        return path
    check_writable(path.parent, remedy=REMEDY)  # before minutes of simulation
    with waiting_lock(cache_dir() / "locks" / f"{path.stem}.lock", f"making {path.name}", remedy=REMEDY):
        if not _is_current(path, identity):
            _make(task, players, size, seed, path, identity, progress)
    return path


def is_made(task: Task, *, size: int = DEFAULT_SIZE, seed: int = 0) -> bool:
    """Whether `make_dataset` has no more to do. Raises UserError as it does."""
    _, path, identity = _plan(task, size, seed)
    return _is_current(path, identity)


def _plan(task: Task, size: int, seed: int) -> tuple[list[Player], Path, dict[str, Any]]:
    """Who plays, the file, and the attributes that say what it was made from."""
    if not 1 <= size <= MAX_ROWS:
        raise UserError(f"size {size} is out of range; ask for 1 to {MAX_ROWS:,} transitions")
    check_seed(seed)
    path = cache_dir() / "datasets" / "generated" / f"{task.name}-{size}-seed{seed}.hdf5"
    players, behaviour = _players(task)
    identity = {
        "generated": True,
        "task": task.name,
        "size": size,
        "seed": seed,
        "recipe": RECIPE,
        "behaviour": behaviour,
    }
    return players, path, identity


def _make(task: Task, players: list[Player], size: int, seed: int, path: Path, identity: dict[str, Any], progress: bool) -> None:
    for left in path.parent.glob(f".{path.stem}.*"):  # by a process that was killed
        left.unlink(missing_ok=True)
    arrays, policy_rows = _play(task, players, size, seed, progress)
    about = {
        **identity,
        **_versions(),
        "policy_steps": [player.step for player in players],
        "policy_rows": policy_rows,
        "policy_returns": [player.mean_return for player in players],
    }
    with replacing(path, remedy=REMEDY) as temporary, h5py.File(temporary, "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array, track_times=False)
        for key, value in about.items():
            file.attrs[key] = value


def can_make(task: Task | str) -> bool:
    """Whether this package has what `make_dataset` needs for `task`: only uniform actions need no behaviour policy."""
    task = get_task(task) if isinstance(task, str) else task
    return task.source == "generated" and (task.quality == "random" or has_behaviour(_robot(task)))


def _robot(task: Task) -> str:
    if task.source != "generated" or task.robot is None:
        raise UserError(f"{task.name} is not generated here; choose from {', '.join(list_tasks())}")
    return task.robot


def _players(task: Task) -> tuple[list[Player], str]:
    """The policies that play equal shares of the dataset, in order, and the fingerprint of the snapshots."""

    robot = _robot(task)
    action_dim = ROBOTS[robot].action_dim

    def uniform(obs: Floats, rng: np.random.Generator) -> Floats:
        return rng.uniform(-1, 1, action_dim).astype(np.float32)

    random = Player(uniform, 0, float("nan"))
    if task.quality == "random":
        return [random], "none"
    behaviour = load_behaviour(robot)

    def snapshot(index: int) -> Player:
        return Player(behaviour.actor(index), int(behaviour.steps[index]), float(behaviour.returns[index]))

    if task.quality == "medium-replay":
        players = [random, *(snapshot(index) for index in range(behaviour.medium + 1))]
    else:
        chosen = {"medium": behaviour.medium, "expert": behaviour.expert}
        players = [snapshot(chosen[name]) for name in str(task.quality).split("-")]
    return players, behaviour.fingerprint


def _play(
    task: Task, players: list[Player], size: int, seed: int, progress: bool
) -> tuple[dict[str, NDArray[np.generic]], list[int]]:
    """Equal shares of `size` rows by one player after the other: the arrays of a D4RL file, and each player's rows.

    A player finishes the episode that it is in when its share ends, so every episode is one player's and only the very
    last one stays unfinished. A share shorter than an episode may leave a player none.
    """
    starts = np.linspace(0, size, len(players), endpoint=False)
    policy_rows = [0] * len(players)
    robot = ROBOTS[_robot(task)]
    observations = np.empty((size, robot.obs_dim), np.float32)
    next_observations = np.empty_like(observations)
    actions = np.empty((size, robot.action_dim), np.float32)
    rewards = np.empty(size, np.float32)
    terminals, timeouts = np.zeros(size, bool), np.zeros(size, bool)
    rng = np.random.default_rng(seed)
    simulator = make_simulator(ROBOTS[_robot(task)].env_id)  # a run that is not evaluated has a task without one
    simulator.reset(seed=seed)  # the resets that follow continue from this seed
    obs, player, going = np.empty(0, np.float32), 0, False
    for row in tqdm(range(size), desc=f"generating {task.name}", unit="step", disable=not progress, mininterval=0.5):
        if not going:
            player = int(np.searchsorted(starts, row, side="right")) - 1
            obs = simulator.reset()[0].astype(np.float32)
        action = players[player].act(obs, rng)
        raw, reward, terminated, truncated, _ = simulator.step(action)
        next_obs = raw.astype(np.float32)
        observations[row], actions[row], next_observations[row], rewards[row] = obs, action, next_obs, reward
        terminals[row], timeouts[row] = terminated, truncated
        policy_rows[player] += 1
        obs, going = next_obs, not (terminated or truncated)
    simulator.close()
    arrays: dict[str, NDArray[np.generic]] = {
        "observations": observations,
        "actions": actions,
        "next_observations": next_observations,
        "rewards": rewards,
        "terminals": terminals,
        "timeouts": timeouts,
    }
    return arrays, policy_rows


def _versions() -> dict[str, str]:
    import mujoco

    return {"gymnasium": gymnasium.__version__, "mujoco": mujoco.__version__}


def _is_current(path: Path, identity: dict[str, Any]) -> bool:
    """Whether `path` is a whole file made from the same inputs; anything else is made again."""
    try:
        with h5py.File(path, "r") as file:
            return all(key in file.attrs and file.attrs[key] == value for key, value in identity.items())
    except Exception:  # a damaged file makes the HDF5 library fail in any way
        return False
