"""SAC and MOPO: what a step returns, what it moves, how rollouts go."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

OBS, ACT = 3, 2
GAMMA, TAU = 0.9, 0.1


def batch_of(build: Any, rows: int = 16) -> dict[str, torch.Tensor]:
    return build.buffer(50, rows=50).sample(rows)


def snapshot(policy: Any) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in policy.state_dict().items()}


@pytest.mark.parametrize("auto_alpha", [True, False])
def test_attributes(build: Any, auto_alpha: bool) -> None:
    policy = build.sac(auto_alpha=auto_alpha)
    assert (policy._tau, policy._gamma, policy._is_auto_alpha) == (TAU, GAMMA, auto_alpha)
    assert float(policy._alpha) == pytest.approx(math.exp(-1) if auto_alpha else 0.3)
    names = "actor critic1 critic2 critic1_old critic2_old actor_optim critic1_optim critic2_optim"
    assert all(hasattr(policy, name) for name in names.split())
    if auto_alpha:
        assert policy._target_entropy == -ACT
        assert policy._log_alpha.requires_grad
        assert isinstance(policy.alpha_optim, torch.optim.Adam)


def test_checkpoint_keys(build: Any) -> None:
    nets = {"actor": 8, "critic1": 6, "critic1_old": 6, "critic2": 6, "critic2_old": 6}
    keys = list(build.sac().state_dict())
    for name, count in nets.items():
        assert sum(key.startswith(name + ".") for key in keys) == count
    assert len(keys) == sum(nets.values())
    assert "actor.dist_net.sigma.weight" in keys and "critic1_old.last.bias" in keys


def test_modes_take_no_argument(build: Any) -> None:
    policy = build.sac()
    policy.eval()
    assert not policy.actor.training and not policy.critic1.training
    policy.train()
    assert policy.actor.training and policy.critic2.training
    assert not policy.critic1_old.training


def test_select_action(build: Any) -> None:
    policy = build.sac()
    obs = np.random.randn(5, OBS)
    first, second = (policy.select_action(obs, deterministic=True) for _ in range(2))
    assert first.shape == (5, ACT) and first.dtype == np.float32
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(policy.select_action(obs), policy.select_action(obs))
    assert policy.select_action(obs[0]).shape == (ACT,)


def test_actforward(build: Any) -> None:
    policy = build.sac()
    obs = torch.randn(5, OBS)
    action, log_prob = policy.actforward(obs)
    assert action.shape == (5, ACT) and log_prob.shape == (5, 1)
    assert action.requires_grad and log_prob.requires_grad
    mode, _ = policy.actforward(obs, deterministic=True)
    torch.testing.assert_close(mode, policy.actor(obs).mode()[0])


@pytest.mark.parametrize("auto_alpha", [True, False])
def test_learn_returns_floats_and_moves_everything(build: Any, auto_alpha: bool) -> None:
    policy = build.sac(auto_alpha=auto_alpha)
    before, alpha = snapshot(policy), float(policy._alpha)
    info = policy.learn(batch_of(build))
    expected = ["loss/actor", "loss/critic1", "loss/critic2"] + ["loss/alpha", "alpha"] * auto_alpha
    assert list(info) == expected
    assert all(isinstance(value, float) and math.isfinite(value) for value in info.values())
    after = policy.state_dict()
    for key in before:
        assert not torch.equal(before[key], after[key]), f"{key} did not move"
    assert (float(policy._alpha) != alpha) == auto_alpha
    assert all(parameter.requires_grad for name, parameter in policy.named_parameters() if "old" not in name)


def test_losses_match_their_equations(build: Any) -> None:
    """Against the equations, with the deterministic part of the actor only (deviation nearly 0, alpha 0)."""
    policy = build.sac(auto_alpha=False)
    policy._alpha = 0.0
    with torch.no_grad():
        policy.actor.dist_net.sigma.weight.zero_()
        policy.actor.dist_net.sigma.bias.fill_(-20.0)  # clamped to e^-5
    batch = batch_of(build, 32)
    with torch.no_grad():
        following = batch["next_observations"]
        action = policy.actor(following).mode()[0]
        q = torch.min(policy.critic1_old(following, action), policy.critic2_old(following, action))
        target = batch["rewards"] + GAMMA * (1 - batch["terminals"]) * q
        expected = [
            (critic(batch["observations"], batch["actions"]) - target).square().mean().item()
            for critic in (policy.critic1, policy.critic2)
        ]
    assert batch["terminals"].sum() > 0
    info = policy.learn(batch)
    assert [info["loss/critic1"], info["loss/critic2"]] == pytest.approx(expected, rel=2e-2)


def test_terminal_rows_have_no_future(build: Any) -> None:
    batch = batch_of(build)
    batch["terminals"] = torch.ones_like(batch["terminals"])
    policy = build.sac()
    with torch.no_grad():
        error = (policy.critic1(batch["observations"], batch["actions"]) - batch["rewards"]).square().mean()
    batch["next_observations"] = batch["next_observations"] + 1e3
    assert policy.learn(batch)["loss/critic1"] == pytest.approx(error.item(), rel=1e-5)


def test_targets_move_by_tau(build: Any) -> None:
    policy = build.sac()
    with torch.no_grad():
        for parameter in policy.critic1.parameters():
            parameter.fill_(1.0)
        for parameter in policy.critic1_old.parameters():
            parameter.fill_(0.0)
    policy._sync_weight()
    for old, new in zip(policy.critic1_old.parameters(), policy.critic1.parameters(), strict=True):
        torch.testing.assert_close(old.detach(), torch.full_like(old, TAU))
        assert (new == 1).all()


def test_mopo_learns_from_both_parts(build: Any) -> None:
    policy, twin = build.sac(dynamics=build.dynamics()), build.sac()
    twin.load_state_dict(policy.state_dict())
    real, fake = batch_of(build, 4), batch_of(build, 8)
    torch.manual_seed(1)
    mixed = policy.learn({"real": real, "fake": fake})
    torch.manual_seed(1)
    joint = twin.learn({key: torch.cat([real[key], fake[key]]) for key in real})
    assert mixed == pytest.approx(joint, rel=1e-5)


class Countdown:
    """Dynamics in which row i (its first entry) lives for i steps; the reward is the step."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []

    def step(self, obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self.rows.append(obs[:, 0].tolist())
        following = obs.copy()
        following[:, 1] += 1
        return following, following[:, 1:2].copy(), following[:, 1:2] >= obs[:, 0:1], {}


def test_rollout_carries_only_the_living(build: Any) -> None:
    dynamics = Countdown()
    policy = build.sac(dynamics=dynamics)
    start = np.zeros((4, OBS), np.float32)
    start[:, 0] = [1, 3, 2, 9]
    transitions, info = policy.rollout(start, 4)
    assert dynamics.rows == [[1, 3, 2, 9], [3, 2, 9], [3, 9], [9]]
    assert set(transitions) == {"obss", "next_obss", "actions", "rewards", "terminals"}
    shapes = [(10, OBS), (10, OBS), (10, ACT), (10, 1), (10, 1)]
    assert [transitions[k].shape for k in ("obss", "next_obss", "actions", "rewards", "terminals")] == shapes
    np.testing.assert_array_equal(transitions["rewards"].ravel(), [1] * 4 + [2] * 3 + [3] * 2 + [4])
    np.testing.assert_array_equal(transitions["next_obss"][:, 1], transitions["obss"][:, 1] + 1)
    assert info == {"num_transitions": 10, "reward_mean": pytest.approx(2.0)}
    assert np.abs(transitions["actions"]).max() <= 1


def test_rollout_ends_when_all_are_dead(build: Any) -> None:
    dynamics = Countdown()
    transitions, info = build.sac(dynamics=dynamics).rollout(np.ones((3, OBS), np.float32) * 2, 50)
    assert len(dynamics.rows) <= 2
    assert info["num_transitions"] == len(transitions["obss"])


def test_rollout_of_the_learned_dynamics_fits_the_buffer(build: Any) -> None:
    policy = build.sac(dynamics=build.dynamics(penalty_coef=1.0))
    transitions, info = policy.rollout(np.random.randn(6, OBS).astype(np.float32), 3)
    buffer = build.buffer(100)
    buffer.add_batch(**transitions)
    assert info["num_transitions"] == 18
    assert buffer.sample(5)["observations"].shape == (5, OBS)


def test_base_policy(host: Any) -> None:
    with pytest.raises(NotImplementedError):
        host.BasePolicy().learn({})
    with pytest.raises(NotImplementedError):
        host.BasePolicy().select_action(np.zeros((1, OBS)))
