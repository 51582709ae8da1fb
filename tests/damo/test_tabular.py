"""Checks 4 to 10 of docs/method.md: the losses against exact solutions of random tabular MDPs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tabular import GAMMA, A, Problem, S, exact_loss, minimise, occupancy, policy_value, random_problem, residuals, tensor
from torch import Tensor

from offlinerlkit_damo.damo import objective
from offlinerlkit_damo.damo.divergences import Divergence, get_divergence

ALPHA = 1.7
SLOPES: dict[tuple[str, float], Callable[[np.ndarray], np.ndarray]] = {
    ("cubic", 0.0): lambda x: x**2 - 1,
    ("cubic", 2.0): lambda x: x**2 + 1,
    ("chi2", 0.0): lambda x: 2 * (x - 1),
    ("soft_chi2", 0.0): lambda x: np.where(x < 1, np.log(x), x - 1),
    ("kl", 0.0): np.log,
    ("cubic_kl", 0.0): lambda x: 1.5 * (x**2 - 1),
}
GENERATORS: dict[tuple[str, float], Callable[[np.ndarray], np.ndarray]] = {
    ("cubic", 0.0): lambda x: x**3 / 3 - x + 2 / 3,
    ("cubic", 2.0): lambda x: x**3 / 3 + x - 4 / 3,
    ("chi2", 0.0): lambda x: (x - 1) ** 2,
    ("soft_chi2", 0.0): lambda x: np.where(x < 1, x * np.log(np.maximum(x, 1e-300)) - x + 1, (x - 1) ** 2 / 2),
    ("kl", 0.0): lambda x: x * np.log(np.maximum(x, 1e-300)) - x + 1,
    ("cubic_kl", 0.0): lambda x: (x**3 - 3 * x + 2) / 2,
}
FAMILIES = tuple(SLOPES)


def _solve(problem: Problem, refined: np.ndarray, divergence: Divergence, init_coef: float | None = None) -> Tensor:
    coef = 1 - problem.gamma if init_coef is None else init_coef

    def loss(q: Tensor) -> Tensor:
        return exact_loss(problem, refined, q, conjugate=divergence.conjugate, alpha=ALPHA, init_coef=coef)

    return minimise(loss, np.zeros((S, A)))


def _weights(problem: Problem, refined: np.ndarray, q: Tensor, divergence: Divergence) -> np.ndarray:
    """w = f*'(Phi / alpha), [S, A, S], with Phi spelled out."""
    values = q.numpy()
    phi = refined + problem.gamma * (problem.policy * values).sum(-1)[None, None, :] - values[:, :, None]
    weights: np.ndarray = divergence.weight(tensor(phi / ALPHA)).numpy()
    return weights


@pytest.mark.parametrize(("name", "k"), FAMILIES)
def test_planted_q_is_the_minimiser(name: str, k: float) -> None:
    """Check 4, Theorem 5.2: the reward that makes w = rho_T^pi / rho_M^pi at Q makes Q the critic's minimiser."""
    problem, rng = random_problem(1), np.random.default_rng(2)
    planted = rng.normal(size=(S, A))
    ratio = occupancy(problem.truth, problem.policy, problem.start, GAMMA) / problem.rho_model
    next_value = (problem.policy * planted).sum(-1)[None, None, :]
    rewards = ALPHA * problem.ell + ALPHA * SLOPES[name, k](ratio) + planted[:, :, None] - GAMMA * next_value
    refined = rewards - ALPHA * problem.ell
    divergence = get_divergence(name, k)

    q = tensor(planted).requires_grad_()
    loss = exact_loss(problem, refined, q, conjugate=divergence.conjugate, alpha=ALPHA, init_coef=1 - GAMMA)
    (gradient,) = torch.autograd.grad(loss, q)
    assert gradient.abs().max() < 1e-12
    np.testing.assert_allclose(_solve(problem, refined, divergence).numpy(), planted, atol=1e-5)
    np.testing.assert_allclose(_weights(problem, refined, q.detach(), divergence), ratio, atol=1e-10)


@pytest.mark.parametrize(("name", "k"), FAMILIES)
def test_duality(name: str, k: float) -> None:
    """Check 5: min_Q J is a primal value, E_nu[r~] - alpha D_f(nu || rho_M) at nu = w rho_M, which is an occupancy of pi."""
    problem = random_problem(3)
    refined = problem.rewards - ALPHA * problem.ell
    divergence = get_divergence(name, k)
    q = _solve(problem, refined, divergence)
    minimum = exact_loss(problem, refined, q, conjugate=divergence.conjugate, alpha=ALPHA, init_coef=1 - GAMMA).item()

    weights = _weights(problem, refined, q, divergence)
    nu = weights * problem.rho_model
    assert nu.sum() == pytest.approx(1, abs=1e-6)
    inflow = (1 - GAMMA) * problem.start + GAMMA * nu.sum((0, 1))
    np.testing.assert_allclose(nu.sum(-1), inflow[:, None] * problem.policy, atol=1e-6)
    primal = (nu * refined).sum() - ALPHA * (problem.rho_model * GENERATORS[name, k](weights)).sum()
    assert minimum == pytest.approx(primal, abs=1e-6)
    assert minimum >= (problem.rho_model * refined).sum() - 1e-9  # nu = rho_M is feasible and D_f = 0 there


@pytest.mark.parametrize("k", [0.0, 1.0, 2.0])
def test_deterministic_model(k: float) -> None:
    """Check 6: with no other dynamics to choose, Q is the policy's value of r~, shifted by -alpha k / (1 - gamma)."""
    problem = random_problem(4, deterministic_model=True)
    refined = problem.rewards - ALPHA * problem.ell
    value = policy_value(refined, problem.model, problem.policy, GAMMA)
    q = _solve(problem, refined, get_divergence("cubic", k))
    np.testing.assert_allclose(q.numpy(), value - ALPHA * k / (1 - GAMMA), atol=1e-5)


def test_bandit_with_kl() -> None:
    """Check 7: gamma = 0 and KL give Q(s, a) = alpha log E_{s'}[exp(r~ / alpha)]."""
    problem = random_problem(5, gamma=0.0)
    refined = problem.rewards - ALPHA * problem.ell
    expected = ALPHA * np.log((problem.model * np.exp(refined / ALPHA)).sum(-1))
    np.testing.assert_allclose(_solve(problem, refined, get_divergence("kl")).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("name", "k"), [("cubic", 0.0), ("soft_chi2", 0.0), ("kl", 0.0)])
def test_actor_gradient_is_the_slope_of_the_minimum(name: str, k: float) -> None:
    """Check 8: by the envelope theorem, -grad of the actor's loss = d/dpi min_Q J with the base rho_M and ell held fixed."""
    problem, rng = random_problem(6), np.random.default_rng(7)
    refined = problem.rewards - ALPHA * problem.ell
    divergence = get_divergence(name, k)
    logits = tensor(rng.normal(size=(S, A)))

    def minimum(z: Tensor) -> tuple[Tensor, float]:
        policy = torch.softmax(z, -1)

        def loss(q: Tensor) -> Tensor:
            return exact_loss(problem, refined, q, conjugate=divergence.conjugate, alpha=ALPHA, init_coef=1 - GAMMA, policy=policy)

        q = minimise(loss, np.zeros((S, A)))
        return q, loss(q).item()

    q, _ = minimum(logits)
    parameters = logits.clone().requires_grad_()
    policy = torch.softmax(parameters, -1)
    weights = divergence.actor_weight(residuals(problem, refined, q, policy) / ALPHA)  # the loss must detach this itself
    rho = tensor(problem.rho_model).reshape(-1)
    next_q = (policy * q).sum(-1).expand(S, A, S).reshape(-1)
    init_q = (tensor(problem.start)[:, None] * policy * q).reshape(-1) * q.numel()
    discounts = torch.full_like(next_q, GAMMA)
    loss = objective.actor_loss(weights * rho * len(rho), discounts, next_q, init_q, init_coef=1 - GAMMA)
    (gradient,) = torch.autograd.grad(loss, parameters)

    step = 1e-4
    for index in [(0, 0), (1, 2), (3, 1)]:
        shift = torch.zeros_like(logits)
        shift[index] = step
        slope = (minimum(logits + shift)[1] - minimum(logits - shift)[1]) / (2 * step)
        assert -gradient[index].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("eta", [1.0, 0.05, 0.0])
@pytest.mark.parametrize("name", ["cubic", "soft_chi2", "power"])
def test_shift_identity(name: str, eta: float) -> None:
    """Check 9: the gradient along a constant shift of Q is c0 - E[w (1 - eta gamma m)], whatever Q is."""
    torch.manual_seed(8)
    size, coef = 50, 0.37
    divergence = get_divergence(name)
    q, target, init_q = (torch.randn(2, n, dtype=torch.float64) for n in (size, size, 20))
    rewards, discounts = torch.randn(size, dtype=torch.float64), GAMMA * (torch.rand(size) < 0.7).double()
    online = torch.randn(2, size, dtype=torch.float64)
    shift = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    phi = objective.bellman_residual(rewards, discounts, eta * (online + shift) + (1 - eta) * target, q + shift)
    loss = objective.critic_loss(divergence.conjugate, phi, init_q + shift, alpha=ALPHA, init_coef=coef)
    (gradient,) = torch.autograd.grad(loss.sum(), shift)
    weights = divergence.weight(phi.detach() / ALPHA)
    residual = objective.shift_residual(weights, discounts, next_share=eta, init_coef=coef)
    torch.testing.assert_close(-gradient.squeeze(-1), residual)
    slow = [sum(weights[i, j] * (1 - eta * discounts[j]) for j in range(size)) / size - coef for i in range(2)]
    assert residual.tolist() == pytest.approx([float(x) for x in slow])


def test_shift_identity_at_the_minimum() -> None:
    problem = random_problem(9)
    divergence = get_divergence("cubic")
    q = _solve(problem, problem.rewards, divergence, init_coef=0.4)
    weights = _weights(problem, problem.rewards, q, divergence)
    assert (problem.rho_model * weights * (1 - GAMMA)).sum() == pytest.approx(0.4, abs=1e-7)


def test_constant_reward_shifts_q_and_leaves_the_weights() -> None:
    """Check 10, first half: without terminals r + c moves Q by c / (1 - gamma) and no weight."""
    problem, c = random_problem(10), 0.9
    divergence = get_divergence("soft_chi2")
    plain, raised = (_solve(problem, problem.rewards + x, divergence) for x in (0.0, c))
    np.testing.assert_allclose((raised - plain).numpy(), c / (1 - GAMMA), atol=1e-5)
    np.testing.assert_allclose(
        _weights(problem, problem.rewards + c, raised, divergence), _weights(problem, problem.rewards, plain, divergence), atol=1e-6
    )


def test_no_gradient_through_terminal_transitions() -> None:
    """Check 10, second half: where every transition into a state is terminal, that state's Q gets no gradient as a next value."""
    problem = random_problem(11)
    dead = 2
    survives = np.ones((S, A, S))
    survives[:, :, dead] = 0
    start = problem.start.copy()
    start[dead] = 0
    rho = problem.rho_model.copy()
    rho[dead] = 0  # so that the dead state appears as a successor only
    for alive in (survives, 1.0):
        q = tensor(np.random.default_rng(0).normal(size=(S, A))).requires_grad_()
        changed = Problem(**{**vars(problem), "start": start, "rho_model": rho})
        loss = exact_loss(
            changed, problem.rewards, q, conjugate=get_divergence("kl").conjugate, alpha=ALPHA, init_coef=1 - GAMMA, survives=alive
        )
        (gradient,) = torch.autograd.grad(loss, q)
        assert (gradient[dead] == 0).all() == (alive is survives)


def _one_state(divergence: Divergence, share: float) -> float:
    """The fixed point Q of one state, r ~ N(0, 1), gamma = .99, alpha = 1, c0 = 1 - gamma, by bisection on the shift identity."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(201)
    rewards, law = tensor(nodes), tensor(weights / weights.sum())
    discounts = torch.full_like(rewards, 0.99)

    def slope(value: float) -> float:
        q = torch.full_like(rewards, value)
        w = divergence.weight(objective.bellman_residual(rewards, discounts, q, q))
        return objective.shift_residual(w * law * len(law), discounts, next_share=share, init_coef=0.01).item()

    low, high = -2000.0, 2000.0  # the residual (gamma - 1) Q + r, hence w, falls as Q rises
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return low


@pytest.mark.parametrize(
    ("name", "k", "full", "semi"), [("cubic", 0, -20, 309), ("cubic", 1, -120, 209), ("soft_chi2", 0, 22, 511), ("power", 0, -132, -1)]
)
def test_one_state_table(name: str, k: float, full: float, semi: float) -> None:
    """docs/method.md's table: gradient mode, clamp and the coefficient of Q(s0) are one joint choice."""
    divergence = get_divergence(name, k)
    assert _one_state(divergence, 1.0) == pytest.approx(full, abs=1.5)
    assert _one_state(divergence, 0.0) == pytest.approx(semi, abs=3)
