"""RAMBO's adversary by hand is the host's: one step's gradient in float64, and whole updates from the same noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_policy import ACT, OBS, make_parts
from torch import Tensor, nn
from torch.nn import functional

from offlinerlkit_damo.damo.addon import with_maximin_objective
from offlinerlkit_damo.engine.accelerate import accelerate
from offlinerlkit_damo.engine.dynamics import RoutedDynamics
from offlinerlkit_damo.engine.likelihood import EnsembleLikelihood
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import EnsembleDynamicsModel, RAMBOPolicy, StandardScaler
from offlinerlkit_damo.kit.contract import spelt

E, ELITES, ROWS = 4, [3, 0], 20
FIGURES = ["all_loss", "sl_loss", "adv_loss", "adv_advantage", "adv_log_prob"]


def ends_high(obs: np.ndarray, act: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
    return next_obs[:, :1] > 0.3


def rambo(policy_class: Any, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    _, *parts = make_parts(dtype)
    torch.manual_seed(0)
    model = EnsembleDynamicsModel(OBS, ACT, [16, 16], E, len(ELITES), weight_decays=[0.01] * 3).to(dtype)
    model.set_elites(ELITES)
    with torch.no_grad():  # log-variances between their bounds
        model.output_layer.weight *= 5
    scaler = StandardScaler(mu=np.full((1, OBS + ACT), 0.1), std=np.full((1, OBS + ACT), 1.3))
    dynamics = RoutedDynamics(model, torch.optim.Adam(model.parameters()), scaler, ends_high)
    optim = torch.optim.Adam(model.parameters(), 1e-3)
    own = {"adv_weight": 0.7, "adv_train_steps": 6, "adv_rollout_length": 3, "adv_rollout_batch_size": ROWS, **options}
    return policy_class(dynamics, *parts, optim, gamma=0.95, alpha=0.2, **own)


def fast(dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    policy = rambo(with_maximin_objective(RAMBOPolicy), dtype, **options)
    accelerate(policy)
    return policy


def recorded(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    rng = np.random.default_rng(2)
    shapes = {"observations": OBS, "actions": ACT, "next_observations": OBS, "rewards": 1, "terminals": 1}
    return {key: torch.as_tensor(rng.normal(size=(ROWS, size)), dtype=dtype) for key, size in shapes.items()}


class DoubleCritic(nn.Module):
    """A critic without the host's casts to float32."""

    def __init__(self, critic: Any) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        values: Tensor = self.critic.last(self.critic.backbone.model(torch.cat([obs, action], -1)))
        return values


class DoubleScaler:
    """A scaler without them."""

    def transform_tensor(self, data: Tensor) -> Tensor:
        return (data - 0.1) / 1.3


class Same:
    """A buffer whose every batch is the same one."""

    def __init__(self) -> None:
        self.batches = 0

    def sample(self, batch_size: int) -> dict[str, Tensor]:
        assert batch_size == ROWS
        self.batches += 1
        return recorded()


@pytest.mark.parametrize("include_ent_in_adv", [True, False])
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_the_gradient_of_a_step_is_that_of_the_loss(weight: float, include_ent_in_adv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = fast(torch.float64, adv_weight=weight, include_ent_in_adv=include_ent_in_adv)
    model, act = policy.dynamics.model, policy.update_dynamics
    batch = recorded(torch.float64)
    obss = batch["observations"].flip(0)
    policy.critic1, policy.critic2 = DoubleCritic(policy.critic1), DoubleCritic(policy.critic2)
    policy.dynamics.scaler = DoubleScaler()
    acted: list[tuple[Tensor, Tensor]] = []

    def actforward(obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        acted.append((torch.tanh(obs[:, :ACT] + (0.0 if deterministic else 0.5)), obs[:, -1:]))
        return acted[-1]

    monkeypatch.setattr(policy, "actforward", actforward)
    samples: list[Tensor] = []
    sampled = act._sampled
    monkeypatch.setattr(act, "_sampled", lambda *predicted: samples.append(sampled(*predicted)) or samples[-1])
    buffer: Any = type("Buffer", (), {"sample": lambda self, size: batch})()
    with torch.no_grad():
        loss, figures, next_obss = act._adversarial(EnsembleLikelihood(model, 0.001), obss, buffer)
    got = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    sample, (actions, _), (next_actions, entropy) = samples[0], *acted
    torch.testing.assert_close(next_obss, obss + sample[:, :OBS])

    def predict(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        hidden = (torch.cat([obs, action], -1) - 0.1) / 1.3
        for layer in model.backbones:
            hidden = functional.silu(torch.matmul(hidden, layer.weight) + layer.bias)
        mean, free = (torch.matmul(hidden, model.output_layer.weight) + model.output_layer.bias).chunk(2, -1)
        logvar = model.max_logvar - functional.softplus(model.max_logvar - free)
        return mean, model.min_logvar + functional.softplus(logvar - model.min_logvar)

    def q(obs: Tensor, action: Tensor) -> Tensor:
        return torch.min(policy.critic1(obs, action), policy.critic2(obs, action))[:, 0]

    mean, logvar = predict(obss, actions)
    densities = [torch.distributions.Normal(mean[m], (0.5 * logvar[m]).exp()).log_prob(sample).sum(-1).exp() for m in ELITES]
    with torch.no_grad():
        value = q(next_obss, next_actions)
        if include_ent_in_adv:
            value = value - 0.2 * entropy[:, 0]
        ended = torch.as_tensor(next_obss[:, 0] > 0.3).double()
        assert 0 < ended.mean() < 1
        advantage = sample[:, OBS] + 0.95 * (1 - ended) * value - q(obss, actions)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
    log_prob = (sum(densities) / len(ELITES)).log()
    adv_loss = (log_prob * advantage).mean()
    mean, logvar = predict(batch["observations"], batch["actions"])
    target = torch.cat([batch["next_observations"] - batch["observations"], batch["rewards"]], -1)
    sl_loss = sum(((mean[m] - target).square() / logvar[m].exp() + logvar[m]).mean() for m in range(E))
    sl_loss = sl_loss + 0.001 * (model.max_logvar - model.min_logvar).sum()
    (weight * adv_loss + sl_loss).backward()
    want = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(got) == set(want) and len(want) == 8
    for name, grad in want.items():  # softplus is linear from 20 on, and its slope not quite 1
        torch.testing.assert_close(got[name], grad, rtol=1e-5, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(loss, sl_loss.detach())
    torch.testing.assert_close(torch.stack(figures), torch.stack([adv_loss, advantage.mean(), log_prob.mean()]).detach())


@pytest.fixture
def one_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's noise is the same in every draw, since the hosts draw in different orders; the actor's is drawn as always."""
    table = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(7))

    def normal(mean: Tensor, std: Tensor, **_: Any) -> Tensor:
        return mean.detach() + std.detach() * table[:, : mean.shape[-1]]

    monkeypatch.setattr(torch, "normal", normal)
    monkeypatch.setattr(torch, "randn_like", lambda x, **_: normal(torch.zeros_like(x), torch.ones_like(x)))


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_updates_equal_the_hosts(weight: float, one_noise: None) -> None:
    policies, infos = [rambo(RAMBOPolicy, adv_weight=weight), fast(adv_weight=weight)], []
    for policy in policies:
        np.random.seed(4)
        torch.manual_seed(4)
        infos.append([policy.update_dynamics(Same()) for _ in range(3)])
    for want, have in zip(*infos, strict=True):
        assert sorted(have) == sorted(f"adv_dynamics_update/{name}" for name in FIGURES)
        assert have == pytest.approx(want, rel=1e-3, abs=2e-3)  # the decay's part is that of the end
    host, ours = (policy.dynamics.model.state_dict() for policy in policies)
    for key, value in host.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=2e-5, msg=lambda m, key=key: f"{key}: {m}")
    model = policies[1].dynamics.model
    assert not model.training and not torch.equal(model.max_logvar, torch.full_like(model.max_logvar, 0.5))


def test_without_weight_one_rollout_in_so_many_is_imagined() -> None:
    policies = [rambo(RAMBOPolicy, adv_weight=0.0, adv_train_steps=12), fast(adv_weight=0.0, adv_train_steps=12)]
    policies[1].diagnose_every = 3
    buffers = [Same(), Same()]
    infos = [policy.update_dynamics(buffer) for policy, buffer in zip(policies, buffers, strict=True)]
    assert [buffer.batches for buffer in buffers] == [4 + 12, 2 + 12]
    name = "adv_dynamics_update/sl_loss"
    assert infos[1][name] == pytest.approx(infos[0][name], rel=1e-2)
    assert infos[1]["adv_dynamics_update/all_loss"] == infos[1][name]
    host, ours = (policy.dynamics.model.state_dict() for policy in policies)
    for key, value in host.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=2e-5, msg=lambda m, key=key: f"{key}: {m}")


def test_the_optimisers_groups_are_put_back() -> None:
    policy = fast()
    optim = policy.update_dynamics._optim
    groups = optim.param_groups
    policy.update_dynamics(Same())
    assert optim.param_groups is groups and [group["weight_decay"] for group in groups] == [0]


@pytest.mark.parametrize(("steps", "length"), [(7, 3), (2, 5)])
def test_there_are_exactly_as_many_steps_as_asked_for(steps: int, length: int, one_noise: None) -> None:
    policy, buffer = fast(adv_train_steps=steps, adv_rollout_length=length), Same()
    policy.update_dynamics(buffer)
    assert buffer.batches == steps + -(-steps // length)
    assert {int(state["step"]) for state in policy.update_dynamics._optim.state.values()} == {steps}


def test_without_weight_an_infinite_value_leaves_the_model_alone() -> None:
    policy = fast(adv_weight=0.0)
    with torch.no_grad():
        policy.critic1.last.bias.fill_(torch.inf)
        policy.critic2.last.bias.fill_(torch.inf)
    info = policy.update_dynamics(Same())
    assert np.isnan(info["adv_dynamics_update/adv_loss"]) and np.isfinite(info["adv_dynamics_update/sl_loss"])
    assert all(bool(p.isfinite().all()) for p in policy.dynamics.model.parameters())


def test_another_optimiser_is_refused() -> None:
    policy = rambo(with_maximin_objective(RAMBOPolicy))
    setattr(policy, spelt(policy, "dynamics_adv_optim"), torch.optim.SGD(policy.dynamics.model.parameters()))
    with pytest.raises(UserError, match=r"with torch\.optim\.Adam; this is SGD"):
        accelerate(policy)
