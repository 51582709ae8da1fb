"""The pure losses against sums written out term by term; leading dimensions are independent."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from offlinerlkit_damo.damo import objective
from offlinerlkit_damo.damo.divergences import get_divergence

GAMMA = 0.9


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_residual() -> None:
    refined, next_q, q = [1.0, -2.0, 0.5], [3.0, -1.0, 7.0], [0.5, 0.25, -4.0]
    discounts = [GAMMA, GAMMA, 0.0]
    columns = [torch.tensor(x, dtype=torch.float64) for x in (refined, discounts, next_q, q)]
    assert objective.bellman_residual(*columns).tolist() == pytest.approx([1 + 2.7 - 0.5, -2 - 0.9 - 0.25, 0.5 + 4])
    # the floor bounds r~ + gamma m Q', not the residual
    assert objective.bellman_residual(*columns, target_floor=0.0).tolist() == pytest.approx([3.2, 0 - 0.25, 4.5])
    assert objective.bellman_residual(*columns, target_floor=-2.5).tolist() == pytest.approx([3.2, -2.5 - 0.25, 4.5])


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_critic_loss(alpha: float) -> None:
    phi, init_q = _random(2, 6), _random(2, 4)
    loss = objective.critic_loss(get_divergence("chi2").conjugate, phi, init_q, alpha=alpha, init_coef=0.3)
    for i in range(2):
        values = [y + y * y / 4 if y >= -2 else -1.0 for y in (float(p) / alpha for p in phi[i])]
        assert loss[i].item() == pytest.approx(0.3 * sum(map(float, init_q[i])) / 4 + alpha * sum(values) / 6)


def test_actor_loss() -> None:
    weights, next_q, init_q = _random(2, 5).abs(), _random(2, 5), _random(2, 3)
    discounts = torch.tensor([GAMMA, 0.0, GAMMA, GAMMA, 0.0], dtype=torch.float64)
    loss = objective.actor_loss(weights, discounts, next_q, init_q, init_coef=0.2)
    for i in range(2):
        weighted = sum(float(weights[i, j] * discounts[j] * next_q[i, j]) for j in range(5)) / 5
        assert loss[i].item() == pytest.approx(-(0.2 * sum(map(float, init_q[i])) / 3 + weighted))


def test_actor_loss_takes_the_weights_as_constants() -> None:
    weights = _random(4).abs().requires_grad_()
    next_q = _random(4).requires_grad_()
    objective.actor_loss(weights, torch.full((4,), GAMMA), next_q, _random(3), init_coef=0.1).backward()
    assert weights.grad is None
    torch.testing.assert_close(next_q.grad, -weights.detach() * GAMMA / 4)


def test_td_and_soft_actor_losses() -> None:
    phi, log_prob, q = _random(2, 5), _random(5), _random(2, 5)
    assert objective.td_loss(phi).tolist() == pytest.approx([sum(float(x) ** 2 for x in row) / 5 for row in phi])
    slow = sum(0.3 * float(log_prob[j]) - min(float(q[0, j]), float(q[1, j])) for j in range(5)) / 5
    assert objective.soft_actor_loss(log_prob, q, temperature=0.3).item() == pytest.approx(slow)


def test_effective_sample_size() -> None:
    weights = torch.tensor([[1.0, 1, 1, 1], [4, 0, 0, 0], [0, 0, 0, 0], [2, 2, 0, 0]], dtype=torch.float64)
    assert objective.effective_sample_size(weights).tolist() == pytest.approx([1, 0.25, 0, 0.5])


def test_orthogonal_gradient() -> None:
    """Check 11: g - gf carries nothing along gf; all of gb that is orthogonal to gf survives; shapes are those of the parameters."""
    forward, backward = [_random(3, 2), _random(4)], [_random(3, 2), _random(4)]
    result = objective.orthogonal_gradient(forward, backward)
    f, b, g = (torch.cat([x.flatten() for x in parts]) for parts in (forward, backward, result))
    assert [r.shape for r in result] == [x.shape for x in forward]
    assert torch.dot(g - f, f).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(g, (1 - torch.dot(f, b) / torch.dot(f, f)) * f + b)
    # without a forward gradient there is nothing to project on
    zero = [torch.zeros_like(x) for x in forward]
    for got, want in zip(objective.orthogonal_gradient(zero, backward), backward, strict=True):
        torch.testing.assert_close(got, want)
    # a backward gradient that only undoes the forward one vanishes
    for got, want in zip(objective.orthogonal_gradient(forward, [-0.9 * x for x in forward]), forward, strict=True):
        torch.testing.assert_close(got, want)


def test_leading_dimensions_are_independent() -> None:
    """[R, E, B] in one call equals R * E calls on [B]."""
    conjugate = get_divergence("cubic").conjugate
    refined, discounts, next_q, q, init_q = _random(3, 1, 7), torch.full((7,), GAMMA), _random(3, 2, 7), _random(3, 2, 7), _random(3, 2, 4)
    phi = objective.bellman_residual(refined, discounts, next_q, q, target_floor=-0.5)
    stacked = {
        "critic": objective.critic_loss(conjugate, phi, init_q, alpha=1.5, init_coef=0.1),
        "actor": objective.actor_loss(phi.abs(), discounts, next_q, init_q, init_coef=0.1),
        "td": objective.td_loss(phi),
        "shift": objective.shift_residual(phi.abs(), discounts, next_share=1.0, init_coef=0.1),
        "ess": objective.effective_sample_size(phi.abs()),
    }
    for r in range(3):
        for e in range(2):
            one = objective.bellman_residual(refined[r, 0], discounts, next_q[r, e], q[r, e], target_floor=-0.5)
            single = {
                "critic": objective.critic_loss(conjugate, one, init_q[r, e], alpha=1.5, init_coef=0.1),
                "actor": objective.actor_loss(one.abs(), discounts, next_q[r, e], init_q[r, e], init_coef=0.1),
                "td": objective.td_loss(one),
                "shift": objective.shift_residual(one.abs(), discounts, next_share=1.0, init_coef=0.1),
                "ess": objective.effective_sample_size(one.abs()),
            }
            for key, value in single.items():
                torch.testing.assert_close(stacked[key][r, e], value)


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_power_loss_is_ompos_up_to_scale(alpha: float) -> None:
    """|Phi|^1.5 / 1.5 + (1 - gamma) alpha Q0 = sqrt(alpha) (alpha f*(Phi / alpha) + (1 - gamma) sqrt(alpha) Q0)."""
    phi, init_q = _random(8), _random(4)
    ours = objective.critic_loss(get_divergence("power").conjugate, phi, init_q, alpha=alpha, init_coef=0.1 * math.sqrt(alpha))
    ompo = sum(abs(float(x)) ** 1.5 / 1.5 for x in phi) / 8 + 0.1 * alpha * sum(map(float, init_q)) / 4
    assert ompo == pytest.approx(math.sqrt(alpha) * ours.item())
