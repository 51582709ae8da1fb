"""Model rollouts that stay on the device, the ends of episodes included: what the host's `rollout` does by way of numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from offlinerlkit_damo.engine.dynamics import CHUNK, RoutedDynamics

Ends = Callable[[Tensor], Tensor]
"""next_obs [n, d] -> bool [n], True where the episode ends there."""


def _within(values: Tensor, bound: float) -> Tensor:
    # a comparison with NaN is false: what is not finite has ended
    return (values.abs() < bound).all(-1)


def _hopper(next_obss: Tensor) -> Tensor:
    height, angle = next_obss[:, 0], next_obss[:, 1]
    return ~(height.isfinite() & (height > 0.7) & (angle.abs() < 0.2) & _within(next_obss[:, 1:], 100))


def _halfcheetah(next_obss: Tensor) -> Tensor:
    return ~_within(next_obss, 100)


def _walker2d(next_obss: Tensor) -> Tensor:
    height, angle = next_obss[:, 0], next_obss[:, 1]
    return ~((height > 0.8) & (height < 2.0) & (angle.abs() < 1.0) & _within(next_obss, 100))


def _ant(next_obss: Tensor) -> Tensor:
    height = next_obss[:, 0]
    return ~((height >= 0.2) & (height <= 1.0) & next_obss.isfinite().all(-1))


ENDS: dict[str, Ends] = {"ant": _ant, "halfcheetah": _halfcheetah, "hopper": _hopper, "walker2d": _walker2d}
"""The stand-in's rules by robot: the kit's without its mistake in hopper's (docs/patches.md)."""


def ends_of(robot: str | None, positions: int = 0) -> Ends:
    """The rule of a task's robot, whose observation has `positions` coordinates in front; without a robot no rollout ends."""
    if robot is None:
        return lambda next_obss: torch.zeros(len(next_obss), dtype=torch.bool, device=next_obss.device)
    rule = ENDS[robot]
    return lambda next_obss: rule(next_obss[:, positions:])


@torch.no_grad()
def imagine(
    dynamics: RoutedDynamics, act: Callable[[Tensor], Tensor], ends: Ends, init_obss: Tensor, length: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Up to `length` model steps from init_obss [B, d], one elite a row; only the rows still alive go on.

    Returns obss, next_obss, actions, rewards [n, 1] and terminals [n, 1] of all steps in turn, as the replay buffer takes them, and
    num_transitions and reward_mean. The dynamics' uncertainty penalty is not taken.
    """
    model: Any = dynamics.model
    device = init_obss.device
    elites = model.elites.long().to(device)
    mean, std = (torch.as_tensor(x, dtype=torch.float32, device=device) for x in (dynamics.scaler.mu, dynamics.scaler.std))
    steps = []
    obss = init_obss
    for _ in range(length):
        actions = act(obss)
        outputs = _routed(dynamics, elites, (torch.cat([obss, actions], -1) - mean) / std)
        next_obss, rewards = obss + outputs[:, :-1], outputs[:, -1:]
        ended = ends(next_obss)
        steps.append((obss, next_obss, actions, rewards, ended.unsqueeze(-1)))
        obss = next_obss[~ended]
        if len(obss) == 0:
            break
    names = ("obss", "next_obss", "actions", "rewards", "terminals")
    transitions = {name: torch.cat(column) for name, column in zip(names, zip(*steps, strict=True), strict=True)}
    rewards = transitions["rewards"]
    return transitions, {"num_transitions": len(rewards), "reward_mean": float(rewards.double().mean())}


def _routed(dynamics: RoutedDynamics, elites: Tensor, inputs: Tensor) -> Tensor:
    """A sample [n, d + 1] for every row of standardised inputs [n, d + a], dealt at random and evenly to the elites."""
    n, device = len(inputs), inputs.device
    elites = elites[torch.randperm(len(elites), device=device)]  # the last of them may get a row less
    order = torch.randperm(n, device=device)
    padded = order[torch.arange(-(-n // len(elites)) * len(elites), device=device) % n]
    rows = inputs[padded].unflatten(0, (len(elites), -1))
    chunk = CHUNK if device.type == "cpu" else rows.shape[1]
    parts = [dynamics.sample(part, elites)[0] for part in rows.split(chunk, 1)]
    outputs = torch.empty(n, parts[0].shape[-1], device=device)
    outputs[order] = torch.cat(parts, 1).flatten(0, 1)[:n]
    return outputs
