"""What a user should know of a run before it begins, a sentence each: nothing of it is an error, and all of it may spoil the result."""

from __future__ import annotations

from typing import Any

import numpy as np

from offlinerlkit_damo.config import MODEL_BASED, Config, DAMOConfig, presets
from offlinerlkit_damo.damo.divergences import UNCLAMPED
from offlinerlkit_damo.kit import HOST
from offlinerlkit_damo.tasks import OfflineDataset, SimulatorEnv
from offlinerlkit_damo.tasks.task import Task, preset_name
from offlinerlkit_damo.tasks.termination import unruled_ends

LARGE = 0.1
"""Of what is to be nearly 0: ompo's c0 is 0.01 sqrt(alpha)."""


def doubts(config: Config, task: Task, dataset: OfflineDataset, env: Any) -> list[str]:
    """What is doubtful about training so on this data, judged in `env` (None: not at all)."""
    found = []
    if config.preset is not None:
        of_tasks = presets(config.algo_name)[config.preset]["tasks"]
        if of_tasks and preset_name(config.task, config.env) not in of_tasks:
            found.append(
                f"the preset {config.preset} of {config.algo_name} has no values for {config.task}; options that you have not set are "
                "those of all tasks"
            )
    model_based = config.algo_name in MODEL_BASED
    ends = unruled_ends(task, dataset)
    if model_based and ends:
        found.append(
            f"WARNING: {ends} recorded transitions end their episode, and no rule is known by which the states of "
            f"{config.task} do: rollouts of the model never end"
        )
    if dataset.report.torn:
        found.append(
            f"WARNING: the dataset has no timeouts, and in {dataset.report.inferred} of {dataset.report.rows_in} rows next_observations is "
            "not the following observation: its episodes, their returns and first states mean nothing; see `data check`"
        )
    if isinstance(env, SimulatorEnv) and task.source == "file" and env.holds(dataset.actions):
        found.append(
            f"WARNING: all actions of the data lie within the bounds of {env.env_id}, which are narrower than [-1, 1]; if they are in the "
            "simulator's own units, scale them to [-1, 1]"
        )
    if config.algo_name == "combo" and HOST.name == "offlinerlkit":
        found.append("COMBO's conservative term is the kit's, a soft maximum over three columns; the stand-in's is the paper's")
    if model_based and config.damo.behavior_alignment:
        found += _misplaced(config.damo, config.gamma)
    return found


def _misplaced(method: DAMOConfig, gamma: float) -> list[str]:
    """Whether c0 puts Q far from the policy's value: at the fixed point of one state the mean of f*' is c0 / (1 - eta gamma)."""
    settles = method.init_coefficient(gamma) / (1 - method.next_share * gamma)
    modes = f"WARNING: with --divergence {method.divergence} and --grad-mode {method.grad_mode} Q settles where the mean"
    if method.divergence not in UNCLAMPED and not np.isclose(settles, 1):
        return [f"{modes} weight is {settles:.3g} instead of 1, far from the policy's value; they need --init-coef 1-eta*gamma"]
    if method.divergence in UNCLAMPED and method.grad_mode in ("semi", "mix") and settles > LARGE:
        return [f"{modes} of f*' is {settles:.3g} instead of nearly 0, below the policy's value; they need --init-coef ompo"]
    return []
