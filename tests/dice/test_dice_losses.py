"""The pure losses of the DICE family against sums written out term by term in numpy, and their gradients against differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from offlinerlkit_damo.damo.divergences import get_divergence
from offlinerlkit_damo.dice import losses

GAMMA = 0.9
CONJUGATES: dict[str, Callable[[float], float]] = {
    "half_chi2": lambda y: max(1 + y, 0) ** 2 / 2 - 0.5,
    "soft_chi2": lambda y: math.exp(y) - 1 if y < 0 else y + y * y / 2,
    "kl": lambda y: math.exp(y) - 1,
    "chi2": lambda y: max(1 + y / 2, 0) ** 2 - 1,
}
SLOPES: dict[str, Callable[[float], float]] = {
    "half_chi2": lambda y: max(1 + y, 0),
    "soft_chi2": lambda y: math.exp(y) if y < 0 else 1 + y,
    "kl": math.exp,
    "chi2": lambda y: max(1 + y / 2, 0),
}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def tensor(values: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def slow_gradient(function: Callable[[np.ndarray], float], point: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences in every coordinate."""
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        shift = np.zeros_like(point)
        shift[index] = step
        gradient[index] = (function(point + shift) - function(point - shift)) / (2 * step)
    return gradient


def gradient_of(loss: Tensor, *inputs: Tensor) -> list[np.ndarray]:
    return [g.numpy() for g in torch.autograd.grad(loss.sum(), inputs)]


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_mixed_next_q(rng: np.random.Generator, share: float) -> None:
    online, target = rng.normal(size=(2, 5)), rng.normal(size=(2, 5))
    q = tensor(online, grad=True)
    mixed = losses.mixed_next_q(q, tensor(target), share=share)
    slow = [[share * online[i, j] + (1 - share) * min(target[:, j]) for j in range(5)] for i in range(2)]
    np.testing.assert_allclose(mixed.detach().numpy(), slow, atol=1e-15)
    np.testing.assert_allclose(gradient_of(mixed, q)[0], np.full((2, 5), share))


@pytest.mark.parametrize("name", ["half_chi2", "soft_chi2", "kl"])
@pytest.mark.parametrize(("alpha", "multiplier"), [(1.0, 0.0), (0.4, 0.7), (2.5, -1.3)])
def test_nu_loss(rng: np.random.Generator, name: str, alpha: float, multiplier: float) -> None:
    """OptiDICE's dual in the form its public code has it, E[w (e - mu) - alpha f(w)], with f written out."""
    generators = {
        "half_chi2": lambda x: (x - 1) ** 2 / 2,
        "soft_chi2": lambda x: x * math.log(x) - x + 1 if x < 1 else (x - 1) ** 2 / 2,
        "kl": lambda x: x * math.log(x) - x + 1,
    }
    residuals, init = rng.normal(size=(2, 7)), rng.normal(size=(2, 4))

    def slow(e: np.ndarray, nu: np.ndarray, mu: float) -> np.ndarray:
        totals = []
        for row, start in zip(e, nu, strict=True):
            ratios = [SLOPES[name]((x - mu) / alpha) for x in row]
            parts = [w * (x - mu) - alpha * generators[name](w) for w, x in zip(ratios, row, strict=True)]
            totals.append((1 - GAMMA) * sum(start) / 4 + sum(parts) / 7 + mu)
        return np.array(totals)

    e, nu, mu = tensor(residuals, grad=True), tensor(init, grad=True), tensor(np.array(multiplier), grad=True)
    loss = losses.nu_loss(get_divergence(name).conjugate, e, nu, mu, alpha=alpha, init_coef=1 - GAMMA)
    np.testing.assert_allclose(loss.detach().numpy(), slow(residuals, init, multiplier), rtol=1e-12)
    for got, want in zip(
        gradient_of(loss, e, nu, mu),
        (
            slow_gradient(lambda x: slow(x, init, multiplier).sum(), residuals),
            slow_gradient(lambda x: slow(residuals, x, multiplier).sum(), init),
            slow_gradient(lambda x: slow(residuals, init, float(x)).sum(), np.array(multiplier)),
        ),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, atol=1e-7)


@pytest.mark.parametrize("name", ["half_chi2", "soft_chi2", "kl", "chi2"])
def test_log_weight(rng: np.random.Generator, name: str) -> None:
    points = np.concatenate([rng.normal(size=20) * 2, [-3.0, -1.0, -1e-3, 1e-3, 4.0]])
    points = points[np.abs(points + 1) > 1e-4] if name == "half_chi2" else points  # its slope has a kink there

    def slow(y: float) -> float:
        return math.log(max(SLOPES[name](y), 1e-10))

    y = tensor(points, grad=True)
    value = losses.log_weight(get_divergence(name), y)
    np.testing.assert_allclose(value.detach().numpy(), [slow(x) for x in points], atol=1e-12)
    np.testing.assert_allclose(gradient_of(value, y)[0], slow_gradient(lambda x: sum(map(slow, x)), points), atol=1e-6)


@pytest.mark.parametrize("name", ["soft_chi2", "kl"])
def test_log_weight_survives_underflow(name: str) -> None:
    """e^-500 is 0 in single precision; its logarithm and the slope of that are not lost."""
    y = torch.tensor([-500.0], requires_grad=True)
    value = losses.log_weight(get_divergence(name), y)
    value.backward()
    assert value.item() == -500 and y.grad is not None and y.grad.item() == 1


def test_cloning_loss(rng: np.random.Generator) -> None:
    log_prob, weights = rng.normal(size=(2, 6)), rng.uniform(0, 3, (2, 6))
    p, w = tensor(log_prob, grad=True), tensor(weights, grad=True)
    loss = losses.cloning_loss(p, w)
    np.testing.assert_allclose(loss.detach().numpy(), [-sum(weights[i] * log_prob[i]) / 6 for i in range(2)])
    loss.sum().backward()
    np.testing.assert_allclose(p.grad, -weights / 6)
    assert w.grad is None  # the ratio is a constant for the actor
    np.testing.assert_allclose(losses.cloning_loss(p).detach().numpy(), -log_prob.mean(-1))


def test_projection_loss(rng: np.random.Generator) -> None:
    columns = [rng.normal(size=(2, 6)) for _ in range(3)]
    inputs = [tensor(x, grad=True) for x in columns]
    loss = losses.projection_loss(*inputs)
    own, behavior, weight = columns
    slow = [sum(own[i, j] - behavior[i, j] - weight[i, j] for j in range(6)) / 6 for i in range(2)]
    np.testing.assert_allclose(loss.detach().numpy(), slow)
    for got, sign in zip(gradient_of(loss, *inputs), (1, -1, -1), strict=True):
        np.testing.assert_allclose(got, np.full((2, 6), sign / 6))


@pytest.mark.parametrize("weight", [0.3, 0.6])
def test_odice_terms(rng: np.random.Generator, weight: float) -> None:
    values, residuals = rng.normal(size=(2, 4)), 3 * rng.normal(size=(2, 9))

    def slow(v: np.ndarray, e: np.ndarray) -> np.ndarray:
        conjugates = np.array([[CONJUGATES["chi2"](x) for x in row] for row in e])
        return (1 - weight) * v.sum(-1) / 4 + weight * conjugates.sum(-1) / 9

    v, e = tensor(values, grad=True), tensor(residuals, grad=True)
    loss = losses.state_term(v, weight=weight) + losses.residual_term(get_divergence("chi2").conjugate, e, weight=weight)
    np.testing.assert_allclose(loss.detach().numpy(), slow(values, residuals), rtol=1e-12)
    got_v, got_e = gradient_of(loss, v, e)
    np.testing.assert_allclose(got_v, slow_gradient(lambda x: slow(x, residuals).sum(), values), atol=1e-8)
    np.testing.assert_allclose(got_e, slow_gradient(lambda x: slow(values, x).sum(), residuals), atol=1e-7)
