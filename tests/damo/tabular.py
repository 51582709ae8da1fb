"""Random tabular MDPs in float64 and their exact occupancies: the slow reference the losses are held against.

S states, A actions. Transition laws are [S, A, S], policies [S, A], Q [S, A]; occupancies of (s, a, s') are [S, A, S] and sum to one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from offlinerlkit_damo.damo import objective

S, A = 4, 3
GAMMA = 0.8


def random_law(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Positive probabilities over the last axis."""
    weights = rng.uniform(0.1, 1, shape)
    return weights / weights.sum(-1, keepdims=True)


def occupancy(dynamics: np.ndarray, policy: np.ndarray, start: np.ndarray, gamma: float) -> np.ndarray:
    """rho(s, a, s') = (1 - gamma) sum_t gamma^t P(s_t, a_t, s_{t+1}), [S, A, S], by solving the flow equation of the state law."""
    step = np.einsum("sa,sat->st", policy, dynamics)
    states = np.linalg.solve(np.eye(len(start)) - gamma * step.T, (1 - gamma) * start)
    return states[:, None, None] * policy[:, :, None] * dynamics


def policy_value(rewards: np.ndarray, dynamics: np.ndarray, policy: np.ndarray, gamma: float) -> np.ndarray:
    """Q [S, A] of the discounted sum of rewards [S, A, S]."""
    size = policy.size
    step = np.einsum("sat,tb->satb", dynamics, policy).reshape(size, size)
    return np.linalg.solve(np.eye(size) - gamma * step, (dynamics * rewards).sum(-1).ravel()).reshape(policy.shape)


@dataclass
class Problem:
    """A random MDP: truth, model, behaviour and learned policy, and the laws they induce."""

    gamma: float
    start: np.ndarray
    truth: np.ndarray
    model: np.ndarray
    policy: np.ndarray
    rho_model: np.ndarray  # rho_M^pi
    rho_data: np.ndarray  # rho_T^beta
    rewards: np.ndarray
    ell: np.ndarray  # log(rho_M^pi / rho_T^beta)


def random_problem(seed: int, gamma: float = GAMMA, deterministic_model: bool = False) -> Problem:
    """Every law is positive, but for a deterministic model."""
    rng = np.random.default_rng(seed)
    start, truth, model = random_law(rng, S), random_law(rng, S, A, S), random_law(rng, S, A, S)
    policy, behaviour = random_law(rng, S, A), random_law(rng, S, A)
    if deterministic_model:
        model = np.eye(S)[rng.integers(S, size=(S, A))]
    rho_model, rho_data = occupancy(model, policy, start, gamma), occupancy(truth, behaviour, start, gamma)
    ell = np.where(rho_model > 0, np.log(np.maximum(rho_model, 1e-300) / rho_data), 0.0)
    return Problem(gamma, start, truth, model, policy, rho_model, rho_data, rng.normal(size=(S, A, S)), ell)


def tensor(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def residuals(problem: Problem, refined: np.ndarray, q: Tensor, policy: Tensor, survives: np.ndarray | float = 1.0) -> Tensor:
    """Phi [S * A * S] through the package's own `bellman_residual`, with E_{a' ~ pi} Q(s', a') exact."""
    next_q = (policy * q).sum(-1).expand(S, A, S).reshape(-1)
    discounts = tensor(np.broadcast_to(problem.gamma * np.asarray(survives), (S, A, S)).copy()).reshape(-1)
    return objective.bellman_residual(tensor(refined).reshape(-1), discounts, next_q, q[:, :, None].expand(S, A, S).reshape(-1))


def exact_loss(
    problem: Problem,
    refined: np.ndarray,
    q: Tensor,
    *,
    conjugate: Callable[[Tensor], Tensor],
    alpha: float,
    init_coef: float,
    policy: Tensor | None = None,
    survives: np.ndarray | float = 1.0,
) -> Tensor:
    """The package's critic loss with both sample means replaced by exact expectations, over rho_M and over mu0 x pi.

    `critic_loss` averages over its last dimension; multiplied by n p(x) inside, that average is the expectation under p.
    """
    policy = tensor(problem.policy) if policy is None else policy
    phi = residuals(problem, refined, q, policy, survives)
    rho = tensor(problem.rho_model).reshape(-1)
    init_q = (tensor(problem.start)[:, None] * policy * q).reshape(-1) * q.numel()
    return objective.critic_loss(lambda y: len(rho) * rho * conjugate(y), phi, init_q, alpha=alpha, init_coef=init_coef)


def minimise(loss_of: Callable[[Tensor], Tensor], start: np.ndarray) -> Tensor:
    """argmin of a smooth convex function by L-BFGS, restarted until the gradient is gone."""
    q = tensor(start).clone().requires_grad_()
    for _ in range(6):
        optim = torch.optim.LBFGS(
            [q], max_iter=400, history_size=20, tolerance_grad=1e-12, tolerance_change=1e-18, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optim.zero_grad()  # noqa: B023
            loss = loss_of(q)
            loss.backward()
            return loss

        optim.step(closure)
        if q.grad is not None and q.grad.abs().max() < 1e-11:
            break
    return q.detach()
