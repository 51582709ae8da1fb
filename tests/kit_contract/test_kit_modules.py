"""Networks, actor and critic: names, shapes, dtypes and the maths of the tanh-Gaussian."""

from __future__ import annotations

import inspect
import math
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
import torch

from offlinerlkit_damo.kit import contract

FURTHER = {
    "MBPolicyTrainer": "_evaluate",
    "ReplayBuffer": "add",
    "StandardScaler": "inverse_transform save_scaler load_scaler",
    "Logger": "logkv_mean set_level",
}
"""Methods of a host that this package does not need, and users of it may."""


@pytest.mark.parametrize("path", contract.ARGUMENTS)
def test_signature(host: Any, path: str) -> None:
    """Exactly what `kit.contract` says; the stand-in has switches besides, by keyword only."""
    expected = contract.ARGUMENTS[path]
    parameters = inspect.signature(attrgetter(path)(host)).parameters
    assert [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == expected.names
    for name, default in expected.defaults.items():
        assert default is contract.OWN or parameters[name].default == default


@pytest.mark.parametrize("name", contract.METHODS)
def test_methods(host: Any, name: str) -> None:
    methods = f"{contract.METHODS[name]} {FURTHER.get(name, '')}".split()
    assert [m for m in methods if not hasattr(getattr(host, name), m)] == []


def test_the_host_keeps_the_contract(host: Any) -> None:
    assert contract.misfit(vars(host)) is None


def test_class_tree(host: Any) -> None:
    assert issubclass(host.MOPOPolicy, host.SACPolicy)
    assert issubclass(host.SACPolicy, host.BasePolicy)
    assert issubclass(host.BasePolicy, torch.nn.Module)
    assert issubclass(host.EnsembleDynamicsModel, torch.nn.Module)


@pytest.mark.parametrize(("output_dim", "expected"), [(None, 5), (2, 2)])
def test_mlp(host: Any, output_dim: int | None, expected: int) -> None:
    mlp = host.MLP(3, [4, 5], output_dim, activation=torch.nn.Tanh)
    assert mlp.output_dim == expected
    assert mlp(torch.zeros(6, 3)).shape == (6, expected)
    assert sum(isinstance(m, torch.nn.Tanh) for m in mlp.modules()) == 2
    assert set(mlp.state_dict()) >= {"model.0.weight", "model.0.bias", "model.2.weight", "model.2.bias"}


def test_mlp_dropout(host: Any) -> None:
    mlp = host.MLP(3, [64], dropout_rate=0.5)
    x = torch.ones(1, 3)
    assert not torch.equal(mlp(x), mlp(x))
    mlp.eval()
    assert torch.equal(mlp(x), mlp(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_actor_takes_arrays_and_tensors(build: Any, dtype: type) -> None:
    actor = build.actor()
    obs = np.ones((4, 3), dtype=dtype)
    action, raw = actor(obs).mode()
    assert action.shape == raw.shape == (4, 2)
    assert action.dtype == torch.float32
    torch.testing.assert_close(actor(torch.from_numpy(obs).float()).mode()[0], action)


@pytest.mark.parametrize("max_mu", [1.0, 2.0])
def test_samples_are_squashed_and_keep_their_gradient(build: Any, max_mu: float) -> None:
    dist = build.actor(max_mu=max_mu)(np.ones((400, 3)))
    action, raw = dist.rsample()
    torch.testing.assert_close(action, max_mu * torch.tanh(raw))
    assert action.abs().max() <= max_mu
    assert action.requires_grad
    mode, mean = dist.mode()
    torch.testing.assert_close(mode, max_mu * torch.tanh(mean))


@pytest.mark.parametrize("max_mu", [1.0, 2.0])
def test_log_prob_is_that_of_the_squashed_action(build: Any, max_mu: float) -> None:
    """Against torch's own transformed distribution in float64."""
    dist = build.actor(max_mu=max_mu)(np.ones((200, 3)))
    action, raw = dist.rsample()
    transforms = [torch.distributions.TanhTransform(), torch.distributions.AffineTransform(0.0, max_mu)]
    normal = torch.distributions.Normal(dist.mean.double(), dist.stddev.double())
    reference = torch.distributions.TransformedDistribution(normal, transforms)
    inside = raw.abs().amax(1) < 2.5  # beyond, the 1e-6 in the logarithm shows
    expected = reference.log_prob(max_mu * torch.tanh(raw.double())).sum(1, keepdim=True)
    assert dist.log_prob(action, raw).shape == (200, 1)
    torch.testing.assert_close(dist.log_prob(action, raw)[inside].double(), expected[inside], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(dist.log_prob(action)[inside], dist.log_prob(action, raw)[inside], atol=1e-3, rtol=1e-3)


def test_log_prob_is_finite_at_the_bound(build: Any) -> None:
    dist = build.actor()(np.ones((1, 3)))
    assert torch.isfinite(dist.log_prob(torch.ones(1, 2))).all()


def test_sigma_is_clamped(host: Any) -> None:
    net = host.TanhDiagGaussian(1, 1, unbounded=True, conditioned_sigma=True, sigma_min=-1.0, sigma_max=0.5)
    with torch.no_grad():
        net.sigma.weight.fill_(1.0)
        net.sigma.bias.zero_()
    scale = net(torch.tensor([[-50.0], [0.0], [50.0]])).stddev.flatten()
    torch.testing.assert_close(scale, torch.tensor([math.exp(-1), 1.0, math.exp(0.5)]))


def test_bounded_mean(host: Any) -> None:
    net = host.TanhDiagGaussian(1, 1, max_mu=2.0)
    assert set(net.state_dict()) == {"mu.weight", "mu.bias", "sigma_param"}
    assert net(torch.tensor([[1e6]])).mean.abs().item() == pytest.approx(2.0)


def test_critic(build: Any) -> None:
    critic = build.critic()
    obs, act = np.ones((4, 3)), np.zeros((4, 2))
    q = critic(obs, act)
    assert q.shape == (4, 1)
    torch.testing.assert_close(q, critic(torch.from_numpy(obs).float(), torch.from_numpy(act).float()))
    value = build.host.Critic(build.host.MLP(3, [4]))
    assert value(obs).shape == (4, 1)
    with pytest.raises(RuntimeError):
        critic(obs)  # the actions are missing
