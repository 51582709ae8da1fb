"""MOBILE: what a step returns, what it moves, the penalty and the target against their equations."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

OBS, ACT = 3, 2
GAMMA, TAU = 0.9, 0.1


def batch_of(build: Any, real: int = 4, fake: int = 12) -> dict[str, dict[str, torch.Tensor]]:
    buffer = build.buffer(50, rows=50)
    return {"real": buffer.sample(real), "fake": buffer.sample(fake)}


class Steady(nn.Module):
    """An actor without noise: a = 0.9 tanh(W s), log pi = -sum a^2."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(OBS, ACT, dtype=torch.float64))

    def forward(self, obs: torch.Tensor) -> Any:
        action = 0.9 * torch.tanh(torch.as_tensor(obs, dtype=torch.float64) @ self.weight)
        log_prob = -action.square().sum(-1, keepdim=True)
        return SimpleNamespace(rsample=lambda: (action, action), mode=lambda: (action, action), log_prob=lambda *_: log_prob)


class Quadratic(nn.Module):
    """Q(s, a) = u.s + v.a + (w.s)^2."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.w = (nn.Parameter(torch.randn(OBS, 1, dtype=torch.float64)) for _ in range(2))
        self.v = nn.Parameter(torch.randn(ACT, 1, dtype=torch.float64))

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return obs @ self.u + action @ self.v + (obs @ self.w).square()


class Guesses:
    """Dynamics whose elites guess (s, a) -> table[j, i] + s, with n samples j of members i."""

    def __init__(self, samples: int, elites: int, rows: int) -> None:
        self.table = torch.randn(samples, elites, rows, OBS, dtype=torch.float64)

    def sample_next_obss(self, obs: torch.Tensor, action: torch.Tensor, num_samples: int) -> torch.Tensor:
        assert num_samples == len(self.table)
        return obs + self.table[:, :, : len(obs)]


def exact(host: Any, dynamics: Any, **options: Any) -> Any:
    """A policy of float64 functions without noise, its copies unlike its critics."""
    actor, critics = Steady(), nn.ModuleList(Quadratic() for _ in range(2))
    optims = [torch.optim.SGD(m.parameters(), lr=0.0) for m in (actor, critics)]
    policy = host.MOBILEPolicy(dynamics, actor, critics, *optims, tau=TAU, gamma=GAMMA, alpha=0.3, **options)
    with torch.no_grad():
        for parameter in policy.critics_old.parameters():
            parameter.add_(torch.randn_like(parameter))
    return policy


def reference_q(critic: Any, obs: np.ndarray, action: np.ndarray) -> float:
    u, v, w = (getattr(critic, name).detach().numpy()[:, 0] for name in "uvw")
    return float(sum(u * obs) + sum(v * action) + sum(w * obs) ** 2)


def reference_value(policy: Any, obs: np.ndarray) -> tuple[float, float]:
    """min_k Q_old_k(s, pi(s)) and log pi."""
    action = 0.9 * np.tanh(policy.actor.weight.detach().numpy().T @ obs)
    return min(reference_q(critic, obs, action) for critic in policy.critics_old), -float(sum(action**2))


def reference_lcb(policy: Any, table: np.ndarray, obss: np.ndarray) -> list[float]:
    """One loop per index of the definition."""
    samples, elites, rows, _ = table.shape
    result = []
    for b in range(rows):
        means = [sum(reference_value(policy, obss[b] + table[j, i, b])[0] for j in range(samples)) / samples for i in range(elites)]
        centre = sum(means) / elites
        result.append(math.sqrt(sum((x - centre) ** 2 for x in means) / (elites - 1)))
    return result


def test_inheritance(host: Any) -> None:
    assert issubclass(host.MOBILEPolicy, host.BasePolicy) and not issubclass(host.MOBILEPolicy, host.SACPolicy)


def test_checkpoint_keys(build: Any) -> None:
    keys = list(build.mobile().state_dict())
    assert len(keys) == 8 + 2 * 3 * 6
    assert {key.split(".")[0] for key in keys} == {"actor", "critics", "critics_old"}
    assert "critics.2.last.bias" in keys and "critics_old.0.backbone.model.0.weight" in keys


def test_modes_take_no_argument(build: Any) -> None:
    policy = build.mobile()
    policy.eval()
    assert not policy.actor.training and not policy.critics[1].training
    policy.train()
    assert policy.actor.training and policy.critics[2].training
    assert not policy.critics_old[0].training


def test_select_action(build: Any) -> None:
    policy = build.mobile()
    obs = np.random.randn(5, OBS)
    first = policy.select_action(obs, deterministic=True)
    assert first.shape == (5, ACT) and first.dtype == np.float32
    np.testing.assert_array_equal(first, policy.select_action(obs, deterministic=True))
    assert not np.array_equal(policy.select_action(obs), policy.select_action(obs))


@pytest.mark.parametrize("auto_alpha", [True, False])
@pytest.mark.parametrize("max_q_backup", [True, False])
def test_learn_returns_floats_and_moves_everything(build: Any, auto_alpha: bool, max_q_backup: bool) -> None:
    policy = build.mobile(auto_alpha=auto_alpha, max_q_backup=max_q_backup)
    model = {key: value.clone() for key, value in policy.dynamics.model.state_dict().items()}
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    info = policy.learn(batch_of(build))
    assert list(info) == ["loss/actor", "loss/critic"] + ["loss/alpha", "alpha"] * auto_alpha
    assert all(isinstance(value, float) and math.isfinite(value) for value in info.values())
    for key, value in policy.state_dict().items():
        assert not torch.equal(before[key], value), f"{key} did not move"
    assert all(torch.equal(model[key], value) for key, value in policy.dynamics.model.state_dict().items())
    assert all(p.requires_grad for p in (*policy.actor.parameters(), *policy.critics.parameters()))


def test_copies_move_by_tau(build: Any) -> None:
    policy = build.mobile()
    with torch.no_grad():
        for parameter in policy.critics.parameters():
            parameter.fill_(1.0)
        for parameter in policy.critics_old.parameters():
            parameter.fill_(0.0)
    policy._sync_weight()
    assert all(torch.allclose(old, torch.full_like(old, TAU)) for old in policy.critics_old.parameters())


def test_rollout(build: Any) -> None:
    policy = build.mobile(dynamics=build.dynamics(terminal_fn=lambda obs, act, next_obs: obs[:, :1] > 0))
    start = np.random.randn(20, OBS).astype(np.float32)
    transitions, info = policy.rollout(start, 2)
    alive = start[:, 0] <= 0
    assert list(transitions) == ["obss", "next_obss", "actions", "rewards", "terminals"]
    assert info["num_transitions"] == 20 + alive.sum() == len(transitions["obss"])
    assert info["reward_mean"] == pytest.approx(float(transitions["rewards"].mean()), rel=1e-5)
    np.testing.assert_array_equal(transitions["obss"][20:], transitions["next_obss"][:20][alive])


def test_lcb_is_the_spread_of_the_members_values(host: Any) -> None:
    """Against loops in float64: std over members (with Bessel's correction) of the mean over samples of the least copy."""
    policy = exact(host, Guesses(4, 5, 6), num_samples=4)
    obss, actions = torch.randn(6, OBS, dtype=torch.float64), torch.randn(6, ACT, dtype=torch.float64)
    lcb = policy.compute_lcb(obss, actions)
    assert lcb.shape == (6, 1) and not lcb.requires_grad
    expected = reference_lcb(policy, policy.dynamics.table.numpy(), obss.numpy())
    np.testing.assert_allclose(lcb.ravel(), expected, rtol=1e-12)


def test_members_that_agree_are_not_penalised(host: Any) -> None:
    dynamics = Guesses(3, 5, 4)
    dynamics.table[:] = dynamics.table[:, :1]  # the samples of a member differ, the members' samples do not
    obss, actions = torch.randn(4, OBS, dtype=torch.float64), torch.randn(4, ACT, dtype=torch.float64)
    assert exact(host, dynamics, num_samples=3).compute_lcb(obss, actions).abs().max() < 1e-12


@pytest.mark.parametrize("deterministic_backup", [True, False])
def test_losses_match_their_equations(host: Any, deterministic_backup: bool) -> None:
    """Against loops in float64, with rewards so large that no floor is met.

    The kit, like the paper's algorithm, penalises imagined rows only.
    """
    rows, real, beta = 7, 3, 0.8
    policy = exact(host, Guesses(4, 5, rows), num_samples=4, penalty_coef=beta, deterministic_backup=deterministic_backup)
    batch = {
        "observations": torch.randn(rows, OBS, dtype=torch.float64),
        "actions": torch.randn(rows, ACT, dtype=torch.float64),
        "next_observations": torch.randn(rows, OBS, dtype=torch.float64),
        "rewards": 1000 + torch.randn(rows, 1, dtype=torch.float64),
        "terminals": torch.tensor([0, 1, 0, 0, 1, 0, 0], dtype=torch.float64)[:, None],
    }
    obss, actions, following, rewards, terminals = (batch[key].numpy() for key in batch)
    penalty = [0.0] * real + reference_lcb(policy, policy.dynamics.table.numpy(), obss)[real:]
    errors, gains = [], []
    for b in range(rows):
        value, log_prob = reference_value(policy, following[b])
        value -= 0 if deterministic_backup else 0.3 * log_prob
        target = rewards[b, 0] - beta * penalty[b] + GAMMA * (1 - terminals[b, 0]) * value
        errors += [(reference_q(critic, obss[b], actions[b]) - target) ** 2 for critic in policy.critics]
        action = 0.9 * np.tanh(policy.actor.weight.detach().numpy().T @ obss[b])
        gains.append(min(reference_q(critic, obss[b], action) for critic in policy.critics) + 0.3 * sum(action**2))
    info = policy.learn({"real": {k: v[:real] for k, v in batch.items()}, "fake": {k: v[real:] for k, v in batch.items()}})
    assert info["loss/critic"] == pytest.approx(np.mean(errors), rel=1e-6)
    assert info["loss/actor"] == pytest.approx(-np.mean(gains), rel=1e-6)


def losses_at_reward(standin: Any, reward: float, **options: Any) -> tuple[float, float]:
    """loss/critic of terminal rows with this reward, and what it is without a floor."""
    policy, batch = standin.mobile(**options), batch_of(standin)
    for part in batch.values():
        part["rewards"], part["terminals"] = torch.full_like(part["rewards"], reward), torch.ones_like(part["terminals"])
    obss, actions = (torch.cat([batch["real"][key], batch["fake"][key]]) for key in ("observations", "actions"))
    with torch.no_grad():
        q = torch.stack([critic(obss, actions) for critic in policy.critics])
    return policy.learn(batch)["loss/critic"], float((q - reward).square().mean())


def test_targets_may_be_negative(standin: Any) -> None:
    """The kit's floor at 0 would teach that the worst outcome of a task with negative rewards is worth 0."""
    loss, unfloored = losses_at_reward(standin, -5.0, penalty_coef=0.0)
    assert loss == pytest.approx(unfloored, rel=1e-5)


def test_floor(standin: Any) -> None:
    loss, unfloored = losses_at_reward(standin, -5.0, penalty_coef=0.0, target_floor=-4.0)
    assert loss < 0.8 * unfloored
    loss, unfloored = losses_at_reward(standin, 5.0, penalty_coef=0.0, target_floor=-4.0)
    assert loss == pytest.approx(unfloored, rel=1e-5)


def test_the_best_of_ten_actions(standin: Any) -> None:
    """max_q_backup: each copy at its own best action, then the least copy."""
    policy = standin.mobile(auto_alpha=False, max_q_backup=True)
    seen: list[torch.Tensor] = []
    for critic in policy.critics_old:
        critic.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    obss = torch.randn(6, OBS)
    value = policy._next_value(obss, best_of=10)
    assert [q.shape for q in seen] == [(60, 1)] * 3
    expected = torch.stack([torch.stack([q[10 * b : 10 * b + 10].max() for b in range(6)]) for q in seen]).min(0).values
    torch.testing.assert_close(value[:, 0], expected)
