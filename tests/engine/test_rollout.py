"""Rollouts on the device: the host's rules for the end of an episode, the host's transitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from offlinerlkit_damo.config import resolve
from offlinerlkit_damo.engine.rollout import ENDS, ends_of, imagine
from offlinerlkit_damo.kit.standin.termination import get_termination_fn  # without the defect of the kit's rule for hopper
from offlinerlkit_damo.tasks.task import ROBOTS
from offlinerlkit_damo.training.dynamics import build_dynamics

OBS, ACT, ROWS = 11, 3, 13


@pytest.mark.parametrize("robot", ROBOTS)
def test_an_episode_ends_where_the_rule_ends_it(robot: str) -> None:
    rng = np.random.default_rng(0)
    dim = ROBOTS[robot].obs_dim
    obss = rng.normal(size=(4000, dim)).astype(np.float32)
    obss[:, 0] = rng.uniform(0, 2.5, len(obss))  # the height
    obss[:, 1] *= rng.choice([0.05, 1.0], len(obss))
    spoilt = rng.integers(0, dim, 200)
    obss[np.arange(200), spoilt] = np.tile(np.float32([np.nan, np.inf, -150, 150, -1e6]), 40)
    want = get_termination_fn(f"{robot}-v2")(obss, np.zeros((len(obss), ACT)), obss).reshape(-1)
    assert 0 < want.sum() < len(want)
    np.testing.assert_array_equal(ENDS[robot](torch.from_numpy(obss)).numpy(), want)
    shifted = np.concatenate([np.full((len(obss), 2), np.nan, np.float32), obss], 1)
    np.testing.assert_array_equal(ends_of(robot, 2)(torch.from_numpy(shifted)).numpy(), want)
    assert not ends_of(None)(torch.from_numpy(obss)).any()


def make_dynamics(*, noise: bool) -> Any:
    """An untrained ensemble whose members all predict the same, or without `noise` exactly their mean."""
    torch.manual_seed(0)
    config = resolve({"task": "hopper-medium", "dynamics_hidden_dims": [8], "dynamics_weight_decay": [0, 0]})
    dynamics = build_dynamics(config, OBS, ACT)
    model: Any = dynamics.model
    with torch.no_grad():
        for layer in (*model.backbones, model.output_layer):
            layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
            layer.bias.copy_(torch.randn_like(layer.bias[:1]).expand_as(layer.bias))
        if not noise:
            model.max_logvar.fill_(-80.0)
            model.min_logvar.fill_(-100.0)
    rng = np.random.default_rng(1)
    dynamics.scaler.fit(rng.normal(0.3, 2.0, size=(50, OBS + ACT)).astype(np.float32))
    return dynamics


def act(obss: torch.Tensor) -> torch.Tensor:
    return torch.tanh(obss[:, :ACT])


def test_transitions_are_those_of_the_hosts_step() -> None:
    dynamics = make_dynamics(noise=False)
    starts = torch.randn(ROWS, OBS)

    def ends(next_obss: torch.Tensor) -> torch.Tensor:
        return next_obss[:, 0] > 0.5

    dynamics.terminal_fn = lambda obs, action, next_obs: next_obs[:, :1] > 0.5
    transitions, info = imagine(dynamics, act, ends, starts, 3)
    obss, steps = starts.numpy(), []
    for _ in range(3):
        actions = act(torch.from_numpy(obss)).numpy()
        next_obss, rewards, terminals, _ = dynamics.step(obss, actions)
        steps.append((obss, next_obss, actions, rewards, terminals))
        obss = next_obss[~terminals[:, 0]]
    want = [np.concatenate(column) for column in zip(*steps, strict=True)]
    assert ROWS < info["num_transitions"] < 3 * ROWS and info["num_transitions"] == len(want[0])
    for (name, have), column in zip(transitions.items(), want, strict=True):
        np.testing.assert_allclose(have.numpy(), column, rtol=0, atol=1e-5, err_msg=name)
    assert info["reward_mean"] == pytest.approx(float(want[3].mean()), rel=1e-5)


def self_naming_dynamics() -> Any:
    """An ensemble whose members predict, for every output, their own number; its elites are 0, 1, 3, 4 and 6."""
    dynamics = make_dynamics(noise=False)
    model: Any = dynamics.model
    model.set_elites([1, 3, 4, 6, 0])
    with torch.no_grad():
        model.output_layer.weight.zero_()
        for member in range(7):
            model.output_layer.bias[member] = float(member)
    return dynamics


def test_rows_are_dealt_evenly_to_the_elites_and_come_back_in_their_order() -> None:
    dynamics = self_naming_dynamics()
    starts = 100.0 * torch.arange(10.0)[:, None].expand(-1, OBS)
    transitions, _ = imagine(dynamics, act, ends_of(None), starts, 1)
    members = (transitions["next_obss"] - starts).round()
    assert (members == members[:, :1]).all()
    assert sorted(members[:, 0].int().tolist()) == sorted([0, 1, 3, 4, 6] * 2)


def test_a_single_row_may_meet_any_elite() -> None:
    dynamics = self_naming_dynamics()
    seen = {round(float(imagine(dynamics, act, ends_of(None), torch.zeros(1, OBS), 1)[0]["rewards"])) for _ in range(100)}
    assert seen == {0, 1, 3, 4, 6}


def test_rows_that_all_end_end_the_rollout() -> None:
    transitions, info = imagine(make_dynamics(noise=True), act, lambda x: torch.ones(len(x), dtype=torch.bool), torch.randn(4, OBS), 5)
    assert info["num_transitions"] == 4 and transitions["terminals"].all()
