"""Checks 1 and 2 of docs/method.md: every conjugate against a grid supremum and against its own derivative, D_f against KL."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from offlinerlkit_damo.config import DIVERGENCES
from offlinerlkit_damo.damo.divergences import KL_MAX_EXPONENT, NAMES, Divergence, get_divergence

# generators written out by hand from docs/method.md, and where their derivative f' is defined, x > 0
GENERATORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cubic0": lambda x: x**3 / 3 - x + 2 / 3,
    "cubic1": lambda x: x**3 / 3 - 1 / 3,
    "cubic2": lambda x: x**3 / 3 + x - 4 / 3,
    "chi2": lambda x: (x - 1) ** 2,
    "half_chi2": lambda x: (x - 1) ** 2 / 2,
    "soft_chi2": lambda x: np.where(x < 1, x * np.log(np.maximum(x, 1e-300)) - x + 1, (x - 1) ** 2 / 2),
    "kl": lambda x: x * np.log(np.maximum(x, 1e-300)) - x + 1,
    "cubic_kl": lambda x: (x**3 - 3 * x + 2) / 2,
}
SLOPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cubic0": lambda x: x**2 - 1,
    "cubic1": lambda x: x**2,
    "cubic2": lambda x: x**2 + 1,
    "chi2": lambda x: 2 * (x - 1),
    "half_chi2": lambda x: x - 1,
    "soft_chi2": lambda x: np.where(x < 1, np.log(x), x - 1),
    "kl": np.log,
    "cubic_kl": lambda x: 1.5 * (x**2 - 1),
}
SLOPE_AT_ONE = {"cubic1": 1.0, "cubic2": 2.0}  # f'(1), zero elsewhere
REGULAR = tuple(GENERATORS)


def _divergence(name: str) -> Divergence:
    if name in ("cubic0", "cubic1", "cubic2"):
        return get_divergence("cubic", k=float(name[-1]))
    return get_divergence(name)


def _column(values: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def test_every_name_is_covered() -> None:
    assert {_divergence(name).name for name in REGULAR} | {"power", "square"} == set(NAMES)
    assert DIVERGENCES == NAMES  # the option's choices


@pytest.mark.parametrize("name", REGULAR)
def test_conjugate_is_the_supremum_over_nonnegative_x(name: str) -> None:
    ys = np.linspace(-6, 4, 81)
    xs = np.concatenate([[0.0], np.geomspace(1e-8, 1, 20_000), np.linspace(1, 60, 200_000)])
    supremum = np.array([(xs * y - GENERATORS[name](xs)).max() for y in ys])
    np.testing.assert_allclose(_divergence(name).conjugate(_column(ys)).numpy(), supremum, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("name", REGULAR)
def test_generator(name: str) -> None:
    xs = np.concatenate([[0.0], np.linspace(0.01, 5, 100)])
    divergence = _divergence(name)
    np.testing.assert_allclose(divergence.generator(_column(xs)).numpy(), GENERATORS[name](xs), atol=1e-13)
    one = torch.ones((), dtype=torch.float64, requires_grad=True)
    value = divergence.generator(one)
    (slope,) = torch.autograd.grad(value, one)
    assert value.item() == pytest.approx(0, abs=1e-15)
    assert slope.item() == pytest.approx(SLOPE_AT_ONE.get(name, 0.0), abs=1e-12)


@pytest.mark.parametrize("name", [*REGULAR, "power", "square"])
def test_weight_is_the_derivative(name: str) -> None:
    ys = torch.linspace(-6, 6, 200, dtype=torch.float64, requires_grad=True)  # an even number of points: none on a kink
    divergence = _divergence(name)
    (slope,) = torch.autograd.grad(divergence.conjugate(ys).sum(), ys)
    torch.testing.assert_close(divergence.weight(ys.detach()), slope, atol=1e-12, rtol=1e-12)
    step = 1e-6
    with torch.no_grad():
        difference = (divergence.conjugate(ys + step) - divergence.conjugate(ys - step)) / (2 * step)
    torch.testing.assert_close(slope, difference, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", REGULAR)
def test_weight_inverts_the_slope_and_is_nonnegative(name: str) -> None:
    xs = np.linspace(0.05, 6, 100)
    divergence = _divergence(name)
    np.testing.assert_allclose(divergence.weight(_column(SLOPES[name](xs))).numpy(), xs, atol=1e-12)
    ys = _column(np.linspace(-50, 50, 1001))
    assert (divergence.weight(ys) >= 0).all()
    torch.testing.assert_close(divergence.actor_weight(ys), divergence.weight(ys))


def test_power_is_odd_for_the_critic_and_clamped_for_the_actor() -> None:
    power = get_divergence("power")
    ys = _column(np.array([-4.0, -0.25, 0.0, 0.25, 4.0]))
    assert power.conjugate(ys).tolist() == pytest.approx([16 / 3, 0.125 / 1.5, 0, 0.125 / 1.5, 16 / 3])
    assert power.weight(ys).tolist() == pytest.approx([-2, -0.5, 0, 0.5, 2])
    assert power.actor_weight(ys).tolist() == pytest.approx([0, 0, 0, 0.5, 2])
    assert power.generator(ys).isnan().all()


def test_square_is_the_mean_squared_residual() -> None:
    square = get_divergence("square")
    ys = _column(np.array([-4.0, -0.5, 0.0, 3.0]))
    assert square.conjugate(ys).tolist() == [8, 0.125, 0, 4.5] and square.weight(ys).tolist() == ys.tolist()
    assert square.actor_weight(ys).tolist() == [0, 0, 0, 3]
    assert square.generator(ys).isnan().all()


def test_k_shifts_the_cubic_only() -> None:
    ys = _column(np.linspace(-3, 3, 7))
    torch.testing.assert_close(get_divergence("cubic", 2.0).weight(ys), get_divergence("cubic", 0.0).weight(ys - 2))
    torch.testing.assert_close(get_divergence("kl", 2.0).conjugate(ys), get_divergence("kl", 0.0).conjugate(ys))


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"unknown divergence 'tv'.*cubic.*power"):
        get_divergence("tv")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*REGULAR, "power", "square"])
def test_finite_at_kinks_and_at_huge_residuals(name: str, dtype: torch.dtype) -> None:
    """The square roots and the unused branches of `where` must not leak inf or NaN into values or gradients."""
    kinks = [-2.0, -1.5, -1.0, 0.0, 1.0]
    values = [*kinks, *(k + s * e for k in kinks for s in (-1, 1) for e in (1e-30, 1e-7)), -1e8, -1e4, 1e4, 1e8, KL_MAX_EXPONENT]
    ys = torch.tensor(values, dtype=dtype, requires_grad=True)
    divergence = _divergence(name)
    conjugate = divergence.conjugate(ys)
    (slope,) = torch.autograd.grad(conjugate.sum(), ys)
    for tensor in (conjugate, slope, divergence.weight(ys), divergence.actor_weight(ys)):
        assert tensor.isfinite().all()
    torch.testing.assert_close(slope, divergence.weight(ys.detach()))


def test_kl_continues_linearly_past_the_cap() -> None:
    kl = get_divergence("kl")
    ys = _column(np.array([KL_MAX_EXPONENT, KL_MAX_EXPONENT + 1, KL_MAX_EXPONENT + 5]))
    top = math.exp(KL_MAX_EXPONENT)
    assert kl.conjugate(ys).tolist() == pytest.approx([top - 1, 2 * top - 1, 6 * top - 1])


def _slack(generator: Callable[[np.ndarray], np.ndarray]) -> float:
    """min over two-point laws p, q of D_f(p || q) - KL(p || q), both sums over q of a convex function of x = p/q."""
    q = np.concatenate([np.geomspace(1e-4, 0.5, 120), 1 - np.geomspace(1e-4, 0.5, 120)])[:, None]
    p = np.concatenate([np.geomspace(1e-5, 0.5, 400), 1 - np.geomspace(1e-5, 0.5, 400)])[None, :]
    with np.errstate(divide="ignore"):
        total = sum(b * (generator(a / b) - a / b * np.log(a / b)) for a, b in ((p, q), (1 - p, 1 - q)))
    return float(np.min(total))


@pytest.mark.parametrize(
    ("name", "slack"),
    [
        ("half_chi2", -0.193), ("cubic0", -0.036), ("cubic1", -0.036), ("cubic2", -0.036),
        ("chi2", 0), ("soft_chi2", 0), ("kl", 0), ("cubic_kl", 0),
    ],
)
def test_slack_of_the_kl_bound(name: str, slack: float) -> None:
    """Theorem 5.3 needs D_f >= D_KL: docs/method.md's table of the worst slack."""
    divergence = _divergence(name)
    assert _slack(lambda x: divergence.generator(_column(x)).numpy()) == pytest.approx(slack, abs=2e-3)


def test_slack_of_the_generators_as_printed() -> None:
    assert _slack(lambda x: (x - 1) ** 3 / 3) == pytest.approx(-0.709, abs=2e-3)
    assert _slack(lambda x: np.abs(x - 1) ** 3 / 3) == pytest.approx(-0.360, abs=2e-3)
