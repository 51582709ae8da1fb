"""CQL and COMBO: what a step returns, what it moves, and the conservative term."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

OBS, ACT = 3, 2


def batch_of(build: Any, combo: bool, real: int = 5, fake: int = 11) -> Any:
    buffer = build.buffer(50, rows=50)
    return {"real": buffer.sample(real), "fake": buffer.sample(fake)} if combo else buffer.sample(fake)


def policy_of(build: Any, combo: bool, **options: Any) -> Any:
    return build.cql(dynamics=build.dynamics() if combo else None, **options)


def test_inheritance(host: Any) -> None:
    assert issubclass(host.COMBOPolicy, host.CQLPolicy) and issubclass(host.CQLPolicy, host.SACPolicy)


@pytest.mark.parametrize("combo", [False, True])
def test_checkpoint_keys_are_those_of_sac(build: Any, combo: bool) -> None:
    assert list(policy_of(build, combo).state_dict()) == list(build.sac().state_dict())


@pytest.mark.parametrize("combo", [False, True])
@pytest.mark.parametrize("auto_alpha", [True, False])
@pytest.mark.parametrize("with_lagrange", [True, False])
def test_learn_returns_floats_and_moves_everything(build: Any, combo: bool, auto_alpha: bool, with_lagrange: bool) -> None:
    policy = policy_of(build, combo, auto_alpha=auto_alpha, with_lagrange=with_lagrange)
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    info = policy.learn(batch_of(build, combo))
    names = ["loss/actor", "loss/critic1", "loss/critic2"]
    assert list(info) == names + ["loss/alpha", "alpha"] * auto_alpha + ["loss/cql_alpha", "cql_alpha"] * with_lagrange
    assert all(isinstance(value, float) and math.isfinite(value) for value in info.values())
    for key, value in policy.state_dict().items():
        assert not torch.equal(before[key], value), f"{key} did not move"
    assert (float(policy.cql_log_alpha.detach()) != 0) == with_lagrange
    if with_lagrange:
        assert info["cql_alpha"] == 1.0  # the value that weighed this step's loss


@pytest.mark.parametrize(("threshold", "direction"), [(-1e3, 1), (1e3, -1)])
def test_the_multiplier_rises_where_the_gap_exceeds_the_threshold(build: Any, threshold: float, direction: int) -> None:
    policy = build.cql(lagrange_threshold=threshold)
    policy.learn(batch_of(build, False))
    assert float(policy.cql_log_alpha.detach()) == pytest.approx(direction * 0.1, rel=1e-3)  # a step of Adam


def test_learning_lowers_values_off_the_data(build: Any) -> None:
    """After some steps the data's actions are worth more than uniform ones; without the term they need not be."""
    gaps = []
    for weight in (0.0, 20.0):
        policy = build.cql(with_lagrange=False, cql_weight=weight, auto_alpha=False)
        batch = build.buffer(50, rows=50).sample(40)
        for _ in range(60):
            policy.learn(batch)
        with torch.no_grad():
            other = policy.critic1(batch["observations"], torch.rand(40, ACT) * 2 - 1)
            gaps.append(float((policy.critic1(batch["observations"], batch["actions"]) - other).mean()))
    assert gaps[1] > gaps[0] + 0.1


@pytest.mark.parametrize("uniform", [True, False])
def test_rollout(build: Any, uniform: bool) -> None:
    policy = build.cql(dynamics=build.dynamics(), uniform_rollout=uniform)
    asked: list[Any] = []
    policy.actor.register_forward_hook(lambda *_: asked.append(1))
    transitions, info = policy.rollout(np.random.randn(400, OBS).astype(np.float32), 2)
    assert bool(asked) != uniform
    assert info["num_transitions"] == 800
    assert transitions["actions"].shape == (800, ACT) and np.abs(transitions["actions"]).max() <= 1
    if uniform:
        np.testing.assert_allclose(transitions["actions"].var(0), 1 / 3, rtol=0.15)
    build.buffer(1000).add_batch(**transitions)


def test_uniform_actions_fill_every_dimension_of_the_box(standin: Any) -> None:
    """The kit takes one bound for all dimensions."""
    box = SimpleNamespace(low=np.array([-1.0, 2.0], np.float32), high=np.array([1.0, 6.0], np.float32))
    policy = standin.cql(dynamics=standin.dynamics(), uniform_rollout=True, action_space=box)
    actions = policy.rollout(np.zeros((500, OBS), np.float32), 1)[0]["actions"]
    assert actions.dtype == np.float32
    for chosen in (actions, policy._candidates(torch.zeros(100, OBS), torch.zeros(100, OBS))[1][:400].numpy()):
        np.testing.assert_allclose(chosen.min(0), box.low, atol=0.05)
        np.testing.assert_allclose(chosen.max(0), box.high, atol=0.05)
    assert float(policy._candidates(torch.zeros(1, OBS), torch.zeros(1, OBS))[2][0]) == pytest.approx(-math.log(2 * 4))


def test_unknown_rho(standin: Any) -> None:
    with pytest.raises(ValueError, match="rho_s 'real' is not one of mix, model"):
        standin.cql(dynamics=standin.dynamics(), rho_s="real")


class Steered(nn.Module):
    """Q(s, a) = |s|^2 + w.a: linear in the action, so that its soft maximum over the box has a closed form."""

    def __init__(self, weight: tuple[float, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight)[:, None])

    def forward(self, obs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return obs.square().sum(1, keepdim=True) + actions @ self.weight


def steered(standin: Any, **options: Any) -> Any:
    policy = standin.cql(dynamics=standin.dynamics(), with_lagrange=False, auto_alpha=False, **options)
    policy.critic1, policy.critic2 = Steered((1.5, -2.5)), Steered((0.5, 3.0))
    return policy


def test_the_soft_maximum_is_the_integral_over_actions(standin: Any) -> None:
    """log sum exp(Q - log p) - log 3n -> log of the integral of exp(Q), whatever the densities p.

    For w.a over the box it is sum_j log(2 sinh(w_j) / w_j). The kit's term, a mean of soft maxima over three actions, lies well below it
    (and its gradient pushes down the average action, not the best).
    """
    n = 4000
    policy, legacy = steered(standin, num_repeart_actions=n), steered(standin, num_repeart_actions=n, legacy_logsumexp=True)
    batch = {"observations": torch.randn(3, OBS), "next_observations": torch.randn(3, OBS)}
    state = float(batch["observations"].square().sum(1).mean())
    for critic, found, kits in zip((policy.critic1, policy.critic2), policy._soft_maxima(batch), legacy._soft_maxima(batch), strict=True):
        w = critic.weight.detach().double().numpy()
        expected = state + float(np.log(2 * np.sinh(w) / w).sum())
        assert float(found.detach()) - math.log(3 * n) == pytest.approx(expected, abs=0.05)
        assert float(kits.detach()) - math.log(3) < expected - 0.2


@pytest.mark.parametrize("rho_s", ["mix", "model"])
@pytest.mark.parametrize("lagrange", [True, False])
def test_losses_match_their_equations(standin: Any, rho_s: str, lagrange: bool) -> None:
    """Against loops over the very actions that the critics were asked about; terminal rows, so that the target is the reward."""
    n, w, t, real = 4, 2.0, 0.7, 3
    policy = standin.cql(
        dynamics=standin.dynamics(), auto_alpha=False, rho_s=rho_s, temperature=t, with_lagrange=lagrange, lagrange_threshold=0.4
    )
    batch = batch_of(standin, True, real, 5)
    for part in batch.values():
        part["terminals"] = torch.ones_like(part["terminals"])
    asked: dict[str, list[Any]] = {"critic1": [], "critic2": []}
    densities: list[torch.Tensor] = []
    for name, calls in asked.items():
        getattr(policy, name).register_forward_hook(lambda m, inputs, q, calls=calls: calls.append((*inputs, q.detach().double().numpy())))
    forward = policy.actforward

    def listening(*args: Any) -> Any:
        action, log_prob = forward(*args)
        densities.append(log_prob.detach().double().numpy())
        return action, log_prob

    policy.actforward = listening
    info = policy.learn(batch)
    obss, actions, rewards = (torch.cat([batch["real"][k], batch["fake"][k]]) for k in ("observations", "actions", "rewards"))
    states = obss if rho_s == "mix" else batch["fake"]["observations"]
    for name, calls in asked.items():
        _, (_, _, q_data), (where, which, q_any) = calls  # the actor's question, the data, the candidates
        log_p = np.concatenate([np.full((len(states) * n, 1), ACT * math.log(0.5)), *densities[-2:]])
        assert which[: len(states) * n].abs().max() <= 1
        soft = []
        for b, state in enumerate(states):
            rows = [kind * len(states) * n + b * n + j for kind in range(3) for j in range(n)]
            assert all(torch.equal(where[row], state) for row in rows)
            soft.append(t * math.log(sum(math.exp((q_any[row, 0] - log_p[row, 0]) / t) for row in rows)))
        gap = w * (sum(soft) / len(soft) - q_data[:real, 0].mean())
        loss = ((q_data - rewards.numpy()) ** 2).mean() + (gap - 0.4 if lagrange else gap)
        assert info[f"loss/{name}"] == pytest.approx(loss, rel=1e-5)
    assert actions.shape == (8, ACT)
