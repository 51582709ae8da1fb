"""The simulator of a task behind the gym-style interface that the host's trainer expects.

Gymnasium's `reset` and `step` return more than the host's gym 0.2x did, and time limits apart from terminals; the
adapter translates. Observations leave it as float32, the policies' type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from offlinerlkit_damo.errors import UserError, unknown
from offlinerlkit_damo.tasks.dataset import Floats
from offlinerlkit_damo.tasks.simulator import Simulator, make_simulator
from offlinerlkit_damo.tasks.task import ROBOTS, Task, get_task

SelectAction = Callable[[Floats], NDArray[Any]]  # obss [B, d] -> actions [B, a]


class SimulatorEnv:
    """One task's simulator, with the interface of gym 0.2x, D4RL's normalised scores and batched evaluation episodes.

    `observation_space` is float32, as the observations are; `action_space` is the simulator's.
    """

    def __init__(self, env_id: str, ref_min_score: float, ref_max_score: float) -> None:
        """`env_id` is Gymnasium's; the two undiscounted returns are those that score 0 and 1. See `make_env`."""
        self.env_id = env_id
        self.ref_min_score = ref_min_score
        self.ref_max_score = ref_max_score
        self._simulator = make_simulator(env_id)
        self._pool: list[Simulator] = []  # for run_episodes, kept between calls
        self._seed: int | None = None
        space, actions = self._simulator.observation_space, self._simulator.action_space
        if not isinstance(space, gymnasium.spaces.Box) or not isinstance(actions, gymnasium.spaces.Box):
            raise UserError(f"{env_id} has discrete observations or actions; choose one where both are continuous")
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.action_space = actions

    def seed(self, seed: int) -> list[int]:
        """Make the following resets and samples of the action space repeatable; returns [seed], as gym does."""
        self._seed = int(seed)
        self.action_space.seed(self._seed)
        return [self._seed]

    def reset(self) -> Floats:
        """Start an episode; the first observation, f32[d]."""
        obs, _ = self._simulator.reset(seed=self._seed)
        self._seed = None
        return np.asarray(obs, np.float32)

    def step(self, action: NDArray[Any]) -> tuple[Floats, float, bool, dict[str, Any]]:
        """Apply `action` [a]: observation f32[d], reward, done, info.

        `done` is True at a terminal and at the time limit; `info["TimeLimit.truncated"]` tells the second from the
        first.
        """
        obs, reward, terminated, truncated, info = self._simulator.step(action)
        info = {**info, "TimeLimit.truncated": bool(truncated and not terminated)}
        return np.asarray(obs, np.float32), float(reward), bool(terminated or truncated), info

    def get_normalized_score(self, score: float) -> float:
        """Where an undiscounted return lies between the references (0 and 1); times 100 it is D4RL's score."""
        return (score - self.ref_min_score) / (self.ref_max_score - self.ref_min_score)

    def run_episodes(self, select_action: SelectAction, seeds: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Play one episode per seed, in lock-step: undiscounted returns f64[n] and lengths i64[n], in that order.

        Each time step makes one call `select_action(obss f32[alive, d]) -> actions [alive, a]` for the episodes still
        going. If the policy treats the rows of a batch independently, the result is that of playing each episode
        alone, and does not depend on `reset`, `step` or earlier calls.
        """
        while len(self._pool) < len(seeds):
            self._pool.append(make_simulator(self.env_id))
        shape = (len(seeds), *self.observation_space.shape)
        obss = np.empty(shape, np.float32)
        for i, seed in enumerate(seeds):
            obss[i] = self._pool[i].reset(seed=int(seed))[0]
        returns, lengths = np.zeros(len(seeds), np.float64), np.zeros(len(seeds), np.int64)
        alive = np.arange(len(seeds))
        while len(alive):
            actions = np.asarray(select_action(obss[alive]))
            if actions.shape != (len(alive), *self.action_space.shape):
                raise ValueError(f"select_action gave {actions.shape} for {len(alive)} observations of {self.env_id}")
            going = np.ones(len(alive), bool)
            for row, i in enumerate(alive.tolist()):
                obs, reward, terminated, truncated, _ = self._pool[i].step(actions[row])
                obss[i] = obs
                returns[i] += float(reward)
                going[row] = not (terminated or truncated)
            lengths[alive] += 1
            alive = alive[going]
        return returns, lengths

    def close(self) -> None:
        """Free the simulators; closing twice does no harm."""
        for simulator in (self._simulator, *self._pool):
            simulator.close()
        self._pool.clear()


def make_env(task: Task | str, *, ref_scores: tuple[float, float] | None = None) -> SimulatorEnv:
    """The simulator of a task, of a task's name, or with a Gymnasium id such as "Hopper-v4".

    `ref_scores` (return that scores 0, return that scores 1) is needed for an id without known reference scores.
    Raises UserError for an unknown name, an id without scores, and when the simulator is not installed.
    """
    if isinstance(task, str) and (task in gymnasium.registry or task != task.lower()):
        if task not in gymnasium.registry:
            raise unknown("environment", task, gymnasium.registry)
        env_id, scores = task, ref_scores or _known_scores(task)
    else:
        task = get_task(task) if isinstance(task, str) else task
        env_id, scores = task.env_id, ref_scores or (task.ref_min_score, task.ref_max_score)
    if scores is None:
        raise UserError(f"no reference scores are known for {env_id!r}; pass ref_scores=(random return, expert return)")
    if scores[0] == scores[1]:
        raise UserError(f"the reference scores of {env_id!r} are both {scores[0]}; they must differ")
    return SimulatorEnv(env_id, *scores)


def _known_scores(env_id: str) -> tuple[float, float] | None:
    for robot in ROBOTS.values():
        if robot.env_id.rsplit("-v", 1)[0] == env_id.rsplit("-v", 1)[0]:
            return robot.ref_min_score, robot.ref_max_score
    return None
