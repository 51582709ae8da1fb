"""The simulator of a task with its states laid open: recorded while a policy plays, and put back to begin from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offlinerlkit_damo.analysis.clouds import Transitions
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import SimulatorEnv, Task
from offlinerlkit_damo.tasks.env import SelectAction
from offlinerlkit_damo.training.saved import AT_ONCE


@dataclass(frozen=True)
class Played(Transitions):
    """The transitions of whole episodes, in the order of time steps, each with the simulator's own state before it."""

    states: NDArray[np.float64]  # [n, q + v] positions and velocities


class OpenSimulator(SimulatorEnv):
    """A MuJoCo task whose simulators' states can be read and set."""

    def __init__(self, task: Task) -> None:
        """Raises UserError for a task without a simulator, and for one of another kind than MuJoCo."""
        if task.env_id is None:
            raise UserError(f"{task.name} has no simulator, in which its policies could be played")
        super().__init__(task.env_id, task.ref_min_score, task.ref_max_score, options=task.env_options, zeros=task.zeros)
        if not hasattr(self._simulator.unwrapped, "set_state"):
            self.close()
            raise UserError(f"{task.env_id} is no simulator of MuJoCo, whose state could be set; values by Monte Carlo need that")

    def play(self, select_action: SelectAction, seeds: Sequence[int]) -> Played:
        """One episode per seed, in lock-step, as `run_episodes`, with every transition kept."""
        (pool, obss), columns = self._started(seeds), []
        alive = np.arange(len(seeds))
        while len(alive):
            actions, before = np.asarray(select_action(obss[alive]), np.float32), obss[alive]
            states = np.stack([_state(pool[i]) for i in alive])
            going = np.ones(len(alive), bool)
            for row, i in enumerate(alive.tolist()):
                obs, _, terminated, truncated, _ = pool[i].step(self._scaled(actions[row]))
                obss[i], going[row] = self._observed(obs), not (terminated or truncated)
            columns.append((before, actions, obss[alive], alive, states))
            alive = alive[going]
        return Played(*(np.concatenate(column) for column in zip(*columns, strict=True)))

    def returns_from(
        self, states: NDArray[np.float64], actions: NDArray[np.float32], select_action: SelectAction, *, gamma: float, horizon: int
    ) -> NDArray[np.float64]:
        """Discounted returns f64 [n] of beginning in `states` [n, q + v] with `actions` [n, a] and going on with the policy.

        Ends at a terminal or after `horizon` steps, not at the time limit, which is none of the task's own.
        """
        parts = [
            self._returns(states[i : i + AT_ONCE], actions[i : i + AT_ONCE], select_action, gamma, horizon)
            for i in range(0, len(states), AT_ONCE)
        ]
        return np.concatenate(parts)

    def _returns(self, states: Any, actions: Any, select_action: SelectAction, gamma: float, horizon: int) -> NDArray[np.float64]:
        pool = self._simulators(len(states))
        for simulator, state in zip(pool, states, strict=True):
            simulator.reset(seed=0)
            env: Any = simulator.unwrapped
            env.set_state(state[: env.model.nq], state[env.model.nq :])
        returns, alive = np.zeros(len(states)), np.arange(len(states))
        obss = np.empty((len(states), *self.observation_space.shape), np.float32)
        for step in range(horizon):
            chosen = actions if step == 0 else np.asarray(select_action(obss[alive]))
            going = np.ones(len(alive), bool)
            for row, i in enumerate(alive.tolist()):
                # the bare simulator: the time limit's wrapper counts from the reset
                obs, reward, terminated, _, _ = pool[i].unwrapped.step(self._scaled(chosen[row]))
                obss[i], going[row] = self._observed(obs), not terminated
                returns[i] += gamma**step * float(reward)
            alive = alive[going]
            if not len(alive):
                break
        return returns


def _state(simulator: Any) -> NDArray[np.float64]:
    data = simulator.unwrapped.data
    return np.concatenate([data.qpos, data.qvel])
