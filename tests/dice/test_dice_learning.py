"""Each algorithm learns from data of mixed quality on a toy task, and learns the opposite from the opposite reward.

A point on a line, x' = clip(x + 0.25 a), is paid -(x - 0.5)^2 a step; every episode begins at a random x. The data's actions are
uniform for one half of the episodes and, for the other, head for 0.5 with noise: their mean is far from the better half.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from dice_toys import make_kit_policy

from offlinerlkit_damo.dice.policy import DICEPolicy

GOAL, STRIDE, HORIZON, EPISODES, BATCH = 0.5, 0.25, 15, 200, 64
STEPS = {"algaedice": 400, "optidice-projection": 250, "optidice-cloning": 250, "odice": 250}
OPTIONS: dict[str, dict[str, Any]] = {
    "algaedice": {"algae_alpha": 0.01, "algae_actor_every": 1},
    "optidice-projection": {"optidice_alpha": 0.05},
    "optidice-cloning": {"optidice_alpha": 0.05},
    "odice": {"reward_scale": 10.0},
}


def advance(x: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rewards = -((x - GOAL) ** 2)
    return np.clip(x + STRIDE * np.clip(actions, -1, 1), -1, 1), rewards


def collect(sign: float) -> tuple[dict[str, torch.Tensor], float]:
    """The dataset, its rewards times `sign`, and its mean return (of the true reward)."""
    rng = np.random.default_rng(0)
    x, columns, total = rng.uniform(-1, 1, (EPISODES, 1)), [], np.zeros(EPISODES)
    skilled = np.arange(EPISODES)[:, None] % 2 == 0
    for _ in range(HORIZON):
        heading = np.clip((GOAL - x) / STRIDE + 0.3 * rng.normal(size=x.shape), -0.99, 0.99)
        actions = np.where(skilled, heading, rng.uniform(-0.99, 0.99, x.shape))
        next_x, rewards = advance(x, actions)
        columns.append((x, actions, next_x, sign * rewards, np.zeros_like(x)))
        total += rewards[:, 0]
        x = next_x
    names = ("observations", "actions", "next_observations", "rewards", "terminals")
    data = {n: torch.as_tensor(np.concatenate(c), dtype=torch.float32) for n, c in zip(names, zip(*columns, strict=True), strict=True)}
    return data, float(total.mean())


def mean_return(policy: DICEPolicy) -> float:
    x, total = np.linspace(-1, 1, 101)[:, None], np.zeros(101)
    for _ in range(HORIZON):
        actions = policy.select_action(x.astype("f4"), deterministic=True)
        x, rewards = advance(x, actions)
        total += rewards[:, 0]
    return float(total.mean())


def learned(name: str, sign: float) -> tuple[float, float]:
    """Mean return of the policy learned from rewards times `sign`, and that of the data."""
    data, data_return = collect(sign)
    policy = make_kit_policy(name, 1, 1, lr=5e-3, **OPTIONS[name])
    torch.manual_seed(0)
    size = len(data["rewards"])
    for _ in range(STEPS[name]):
        index = torch.randint(size, (BATCH,))
        policy.learn({key: column[index] for key, column in data.items()})
    return mean_return(policy), data_return


@pytest.mark.parametrize("name", OPTIONS)
def test_beats_the_data(name: str) -> None:
    policy_return, data_return = learned(name, 1.0)
    opposite, _ = learned(name, -1.0)
    assert policy_return > data_return + 1.0
    assert opposite < data_return - 1.0
