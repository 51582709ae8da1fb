"""Convex conjugates f* of the f-divergences that DAMO's objective can be built on.

Every generator f is taken on x >= 0 with f(1) = 0, and y is the Bellman residual divided by alpha. `conjugate` is
f*(y) = sup_{x>=0} xy - f(x); its derivative f*'(y) >= 0 is the maximising x, the estimated density ratio rho_T/rho_M that weighs a
synthetic transition (arXiv 2502.00850, Theorem 5.2; the family cubic(k) covers the paper's three readings of its own f, see
docs/method.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

KL_MAX_EXPONENT = 20.0
"""Exponent at which the KL conjugate continues linearly: e^20 = 5e8 is far beyond any useful weight."""


@dataclass(frozen=True)
class Divergence:
    """One f-divergence: all four functions act elementwise on tensors of any shape and floating dtype.

    `weight` is f*'(y), the derivative the critic's gradient carries; `actor_weight` the non-negative weight for the actor. They differ
    only for the unclamped powers, whose derivative is negative for negative residuals; their conjugate is not that of a generator on
    x >= 0, and `generator` gives NaN.
    """

    name: str
    generator: Callable[[Tensor], Tensor]
    conjugate: Callable[[Tensor], Tensor]
    weight: Callable[[Tensor], Tensor]
    actor_weight: Callable[[Tensor], Tensor]


def _sqrt_relu(y: Tensor) -> Tensor:
    # relu before the fractional power: a negative base gives NaN
    return torch.relu(y).sqrt()


def cubic(k: float) -> Divergence:
    """f(x) = x^3/3 + (k-1)x - (k-2/3): k=0 centred, k=1 OMPO's code, k=2 the conjugate as the paper prints it; f'(1) = k."""

    def weight(y: Tensor) -> Tensor:
        return _sqrt_relu(y + 1 - k)

    return Divergence(
        name="cubic",
        generator=lambda x: x**3 / 3 + (k - 1) * x - (k - 2 / 3),
        conjugate=lambda y: torch.relu(y + 1 - k).pow(1.5) * (2 / 3) + (k - 2 / 3),
        weight=weight,
        actor_weight=weight,
    )


def chi2() -> Divergence:
    """f(x) = (x-1)^2."""

    def weight(y: Tensor) -> Tensor:
        return torch.relu(1 + y / 2)

    return Divergence(
        name="chi2",
        generator=lambda x: (x - 1) ** 2,
        conjugate=lambda y: torch.relu(1 + y / 2) ** 2 - 1,
        weight=weight,
        actor_weight=weight,
    )


def half_chi2() -> Divergence:
    """f(x) = (x-1)^2 / 2."""

    def weight(y: Tensor) -> Tensor:
        return torch.relu(1 + y)

    return Divergence(
        name="half_chi2",
        generator=lambda x: (x - 1) ** 2 / 2,
        conjugate=lambda y: torch.relu(1 + y) ** 2 / 2 - 0.5,
        weight=weight,
        actor_weight=weight,
    )


def _x_log_x(x: Tensor) -> Tensor:
    return torch.xlogy(x, x)


def soft_chi2() -> Divergence:
    """f(x) = x log x - x + 1 below 1 and (x-1)^2/2 above: KL's tail for rare transitions, chi-squared's bound for common ones."""

    def weight(y: Tensor) -> Tensor:
        return torch.where(y < 0, torch.exp(y.clamp(max=0)), 1 + y)

    return Divergence(
        name="soft_chi2",
        generator=lambda x: torch.where(x < 1, _x_log_x(x) - x + 1, (x - 1) ** 2 / 2),
        # the inner clamp keeps the unused branch finite, or its NaN would enter the gradient
        conjugate=lambda y: torch.where(y < 0, torch.expm1(y.clamp(max=0)), y + y**2 / 2),
        weight=weight,
        actor_weight=weight,
    )


def kl() -> Divergence:
    """f(x) = x log x - x + 1; the exponential is continued linearly past y = 20."""

    def weight(y: Tensor) -> Tensor:
        return torch.exp(y.clamp(max=KL_MAX_EXPONENT))

    return Divergence(
        name="kl",
        generator=lambda x: _x_log_x(x) - x + 1,
        conjugate=lambda y: weight(y) * (1 + torch.relu(y - KL_MAX_EXPONENT)) - 1,
        weight=weight,
        actor_weight=weight,
    )


def cubic_kl() -> Divergence:
    """f(x) = (x^3 - 3x + 2)/2: the cubic scaled to dominate KL, as the paper's Theorem 5.3 needs."""

    def weight(y: Tensor) -> Tensor:
        return _sqrt_relu((y + 1.5) * (2 / 3))

    return Divergence(
        name="cubic_kl",
        generator=lambda x: (x**3 - 3 * x + 2) / 2,
        conjugate=lambda y: torch.relu((y + 1.5) * (2 / 3)).pow(1.5) - 1,
        weight=weight,
        actor_weight=weight,
    )


def _undefined(x: Tensor) -> Tensor:
    return torch.full_like(x, math.nan)


def power() -> Divergence:
    """|y|^1.5 / 1.5, unclamped (AlgaeDICE, OMPO): no generator on x >= 0; negative residuals pull Q down instead of being dropped."""
    return Divergence(
        name="power",
        generator=_undefined,
        conjugate=lambda y: y.abs().pow(1.5) / 1.5,
        weight=lambda y: y.sign() * y.abs().sqrt(),
        actor_weight=_sqrt_relu,
    )


def square() -> Divergence:
    """y^2 / 2, unclamped (DualDICE): as `power`, but the critic regresses on the mean of its targets; a lower power discounts the tails."""
    return Divergence(
        name="square",
        generator=_undefined,
        conjugate=lambda y: y.square() / 2,
        weight=lambda y: y,
        actor_weight=torch.relu,
    )


DIVERGENCES: dict[str, Callable[[], Divergence]] = {
    "chi2": chi2,
    "half_chi2": half_chi2,
    "soft_chi2": soft_chi2,
    "kl": kl,
    "cubic_kl": cubic_kl,
    "power": power,
    "square": square,
}
"""The parameterless divergences by name; `cubic` takes k and is reached through `get_divergence`."""

UNCLAMPED = ("power", "square")
"""Those whose weight is negative for negative residuals."""
NAMES = ("cubic", *DIVERGENCES)


def get_divergence(name: str, k: float = 0.0) -> Divergence:
    """The divergence called `name`; `k` = f'(1) is read by `cubic` alone. Raises ValueError for an unknown name."""
    if name == "cubic":
        return cubic(k)
    if name not in DIVERGENCES:
        raise ValueError(f"unknown divergence {name!r}; choose from {', '.join(NAMES)}")
    return DIVERGENCES[name]()
