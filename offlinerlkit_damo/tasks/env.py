"""The simulator of a task behind the gym-style interface that the host's trainer expects.

Gymnasium's `reset` and `step` return more than the host's gym 0.2x did, and time limits apart from terminals; the
adapter translates. Observations leave it as float32, the policies' type.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from offlinerlkit_damo.errors import UserError, unknown
from offlinerlkit_damo.tasks.dataset import Floats
from offlinerlkit_damo.tasks.simulator import Simulator, make_simulator
from offlinerlkit_damo.tasks.task import ROBOTS, Task, get_task, robot_of

SelectAction = Callable[[Floats], NDArray[Any]]  # obss [B, d] -> actions [B, a]


class SimulatorEnv:
    """One task's simulator, with the interface of gym 0.2x, D4RL's normalised scores and batched evaluation episodes.

    `observation_space` is float32, as the observations are. Actions are in [-1, 1], those of the policies; a simulator with other bounds
    gets them scaled to its own.
    """

    def __init__(
        self, env_id: str, ref_min_score: float, ref_max_score: float, *, options: Mapping[str, Any] | None = None, zeros: int = 0
    ) -> None:
        """`env_id` and its `options` are Gymnasium's; the two undiscounted returns are those that score 0 and 1. See `make_env`.

        `zeros`: columns of zeros behind the simulator's own observation.
        """
        self.env_id = env_id
        self._options, self._zeros = dict(options or {}), zeros
        self.ref_min_score = ref_min_score
        self.ref_max_score = ref_max_score
        self._simulator = make_simulator(env_id, **self._options)
        self._pool: list[Simulator] = []  # for episodes in lock-step, kept between calls
        self._seed: int | None = None
        space, actions = self._simulator.observation_space, self._simulator.action_space
        if not isinstance(space, gymnasium.spaces.Box) or not isinstance(actions, gymnasium.spaces.Box):
            raise UserError(f"{env_id} has discrete observations or actions; choose one where both are continuous")
        if not (actions.is_bounded() and len(actions.shape) == 1 and len(space.shape) == 1):
            raise UserError(f"{env_id} has observations or actions that are no vectors, or unbounded actions; choose another simulator")
        low, high = (np.append(bound, np.zeros(zeros)).astype(np.float32) for bound in (space.low, space.high))
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, actions.shape, np.float32)
        scaled = (actions.low != -1).any() or (actions.high != 1).any()
        self._bounds = (actions.low, actions.high) if scaled else None

    @property
    def sizes(self) -> tuple[int, int]:
        """d and a, the lengths of an observation and of an action."""
        (obs_dim,), (action_dim,) = self.observation_space.shape, self.action_space.shape
        return obs_dim, action_dim

    def seed(self, seed: int) -> list[int]:
        """Make the following resets and samples of the action space repeatable; returns [seed], as gym does."""
        self._seed = int(seed)
        self.action_space.seed(self._seed)
        return [self._seed]

    def reset(self) -> Floats:
        """Start an episode; the first observation, f32[d]."""
        obs, _ = self._simulator.reset(seed=self._seed)
        self._seed = None
        return self._observed(obs)

    def step(self, action: NDArray[Any]) -> tuple[Floats, float, bool, dict[str, Any]]:
        """Apply `action` [a]: observation f32[d], reward, done, info.

        `done` is True at a terminal and at the time limit; `info["TimeLimit.truncated"]` tells the second from the
        first.
        """
        obs, reward, terminated, truncated, info = self._simulator.step(self._scaled(action))
        info = {**info, "TimeLimit.truncated": bool(truncated and not terminated)}
        return self._observed(obs), float(reward), bool(terminated or truncated), info

    def _observed(self, obs: NDArray[Any]) -> Floats:
        observed = np.asarray(obs, np.float32)
        return np.append(observed, np.zeros(self._zeros, np.float32)) if self._zeros else observed

    def _scaled(self, action: NDArray[Any]) -> NDArray[Any]:
        if self._bounds is None:
            return action
        low, high = self._bounds
        return np.asarray(low + (np.clip(action, -1, 1) + 1) / 2 * (high - low), low.dtype)

    def holds(self, actions: Floats) -> bool:
        """Whether the simulator's own bounds are narrower than [-1, 1] and hold all of `actions` [n, a]: they may be unscaled then."""
        if self._bounds is None or np.abs(self._bounds).max() >= 1:
            return False
        return bool((actions >= self._bounds[0]).all() and (actions <= self._bounds[1]).all())

    def get_normalized_score(self, score: float) -> float:
        """Where an undiscounted return lies between the references (0 and 1); times 100 it is D4RL's score."""
        return (score - self.ref_min_score) / (self.ref_max_score - self.ref_min_score)

    def run_episodes(self, select_action: SelectAction, seeds: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Play one episode per seed, in lock-step: undiscounted returns f64[n] and lengths i64[n], in that order.

        Each time step makes one call `select_action(obss f32[alive, d]) -> actions [alive, a]` for the episodes still
        going. If the policy treats the rows of a batch independently, the result is that of playing each episode
        alone, and does not depend on `reset`, `step` or earlier calls.
        """
        pool, obss = self._started(seeds)
        returns, lengths = np.zeros(len(seeds), np.float64), np.zeros(len(seeds), np.int64)
        alive = np.arange(len(seeds))
        while len(alive):
            actions = np.asarray(select_action(obss[alive]))
            if actions.shape != (len(alive), *self.action_space.shape):
                raise ValueError(f"select_action gave {actions.shape} for {len(alive)} observations of {self.env_id}")
            going = np.ones(len(alive), bool)
            for row, i in enumerate(alive.tolist()):
                obs, reward, terminated, truncated, _ = pool[i].step(self._scaled(actions[row]))
                obss[i] = self._observed(obs)
                returns[i] += float(reward)
                going[row] = not (terminated or truncated)
            lengths[alive] += 1
            alive = alive[going]
        return returns, lengths

    def _simulators(self, number: int) -> list[Simulator]:
        while len(self._pool) < number:
            self._pool.append(make_simulator(self.env_id, **self._options))
        return self._pool[:number]

    def _started(self, seeds: Sequence[int]) -> tuple[list[Simulator], Floats]:
        """Simulators at the start of one episode per seed, and its first observations [n, d]."""
        pool, obss = self._simulators(len(seeds)), np.empty((len(seeds), *self.observation_space.shape), np.float32)
        for i, seed in enumerate(seeds):
            obss[i] = self._observed(pool[i].reset(seed=int(seed))[0])
        return pool, obss

    @property
    def metadata(self) -> dict[str, Any]:
        """The simulator's own, such as "render_fps"."""
        return self._simulator.metadata

    def render(self) -> Any:
        """The present state as an image, u8 [h, w, 3]; `make_env` must have been given a view."""
        return self._simulator.render()

    def close(self) -> None:
        """Free the simulators; closing twice does no harm."""
        for simulator in (self._simulator, *self._pool):
            simulator.close()
        self._pool.clear()


def make_env(
    task: Task | str, *, ref_scores: tuple[float, float] | None = None, view: Mapping[str, Any] | None = None
) -> SimulatorEnv:
    """The simulator of a task, of a task's name, or with a Gymnasium id such as "Hopper-v4".

    `ref_scores` (return that scores 0, return that scores 1) is needed for an id without known reference scores; `view` holds Gymnasium's
    options for `render`. Raises UserError for an unknown name, an id without scores, and when the simulator is not installed.
    """
    if isinstance(task, str) and (task in gymnasium.registry or (task != task.lower() and ":" not in task)):
        if task not in gymnasium.registry:
            raise unknown("environment", task, gymnasium.registry)
        robot = robot_of(task)
        scores = ref_scores or (None if robot is None else (ROBOTS[robot].ref_min_score, ROBOTS[robot].ref_max_score))
        if scores is None:
            raise UserError(f"no reference scores are known for {task!r}; pass ref_scores=(random return, expert return)")
        return SimulatorEnv(task, *_differing(task, scores), options=view)
    task = get_task(task) if isinstance(task, str) else task
    if task.env_id is None:
        raise UserError(f"{task.name} has no simulator; give one with --env")
    scores = _differing(task.env_id, ref_scores or (task.ref_min_score, task.ref_max_score))
    return SimulatorEnv(task.env_id, *scores, options={**task.env_options, **(view or {})}, zeros=task.zeros)


def _differing(env_id: str, scores: tuple[float, float]) -> tuple[float, float]:
    if scores[0] == scores[1]:
        raise UserError(f"the reference scores of {env_id!r} are both {scores[0]}; they must differ")
    return scores


def make_d4rl_env(task: Task) -> Any:
    """D4RL's own simulator of one of its tasks, with gym's interface and `get_normalized_score`: what the host's scripts make.

    Raises UserError unless gym and the d4rl package are installed and the task is one of D4RL's.
    """
    if task.source != "d4rl":
        raise UserError(f"--env-backend d4rl is for D4RL's tasks, such as hopper-medium-v2; {task.name} is not one of them")
    try:
        gym: Any = importlib.import_module("gym")
        importlib.import_module("d4rl")  # registers its tasks
    except Exception as error:  # mujoco-py, which it needs, compiles itself when imported, and fails in many ways
        reason = " ".join(str(error).split())[:150]
        raise UserError(
            f'--env-backend d4rl needs the packages gym and d4rl, which do not work here ({reason}); run: pip install "d4rl" "gym<0.25", '
            "or use the default --env-backend gymnasium"
        ) from error
    return gym.make(f"{task.name}-v2")
