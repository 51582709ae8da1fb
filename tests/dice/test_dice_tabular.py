"""The losses on random tabular MDPs, against the regularised problem over occupancies solved by an independent optimiser.

    max_rho  sum rho r - alpha sum rho_D f(rho / rho_D)   with   sum_a rho(s, a) = c0 mu0(s) + gamma sum m P(s|s', a') rho(s', a')

The data are explicit rows, (s, a) as often as its count says, so that the losses' plain means are exact expectations; the next state's
value is the expectation under the true law. Some pairs end the episode with some probability (m).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from offlinerlkit_damo.damo import objective
from offlinerlkit_damo.damo.divergences import get_divergence
from offlinerlkit_damo.dice import losses

S, A, GAMMA = 4, 3, 0.8
Function = Callable[[np.ndarray], np.ndarray]

# f and f' on x > 0, written out here once more
GENERATORS: dict[str, tuple[Function, Function]] = {
    "half_chi2": (lambda x: (x - 1) ** 2 / 2, lambda x: x - 1),
    "chi2": (lambda x: (x - 1) ** 2, lambda x: 2 * (x - 1)),
    "soft_chi2": (
        lambda x: np.where(x < 1, x * np.log(np.maximum(x, 1e-300)) - x + 1, (x - 1) ** 2 / 2),
        lambda x: np.where(x < 1, np.log(np.maximum(x, 1e-300)), x - 1),
    ),
    "kl": (lambda x: x * np.log(np.maximum(x, 1e-300)) - x + 1, lambda x: np.log(np.maximum(x, 1e-300))),
    "power": (lambda x: x**3 / 3, lambda x: x**2),
}


@dataclass
class Problem:
    """A random MDP and a dataset of it; `steps` [S, A, S] is m P(s'|s, a), whose rows sum to less than one where episodes end."""

    start: np.ndarray  # [S]
    steps: np.ndarray  # [S, A, S]
    rewards: np.ndarray  # [S, A]
    counts: np.ndarray  # [S, A] rows of each pair

    @property
    def data(self) -> np.ndarray:
        """rho_D [S, A]."""
        return self.counts / self.counts.sum()

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """State and action of every row."""
        states, actions = np.indices((S, A)).reshape(2, -1)
        repeats = self.counts.ravel()
        return torch.as_tensor(np.repeat(states, repeats)), torch.as_tensor(np.repeat(actions, repeats))

    def occupancy(self, policy: np.ndarray, mass: float = 1 - GAMMA) -> np.ndarray:
        """rho^pi [S, A] from its flow equation; `mass` is c0."""
        step = np.einsum("sa,sat->st", policy, self.steps)
        return np.linalg.solve(np.eye(S) - GAMMA * step.T, mass * self.start)[:, None] * policy


def random_problem(seed: int, *, ends: bool) -> Problem:
    rng = np.random.default_rng(seed)

    def law(*shape: int) -> np.ndarray:
        weights = rng.uniform(0.1, 1, shape)
        return weights / weights.sum(-1, keepdims=True)

    steps = law(S, A, S)
    if ends:
        steps[rng.integers(S, size=2), rng.integers(A, size=2)] *= 0.4
    return Problem(law(S), steps, rng.normal(size=(S, A)), rng.integers(1, 6, (S, A)))


def tensor(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def optimal_occupancy(problem: Problem, divergence: str, alpha: float, mass: float = 1 - GAMMA) -> np.ndarray:
    """rho* [S, A] by sequential quadratic programming on the primal problem; knows nothing of conjugates or values."""
    f, slope = GENERATORS[divergence]
    data, rewards = problem.data.ravel(), problem.rewards.ravel()
    flow = np.repeat(np.eye(S), A, axis=1) - GAMMA * problem.steps.reshape(S * A, S).T  # [S, S * A]
    found = minimize(
        lambda rho: -(rho @ rewards - alpha * data @ f(rho / data)),
        problem.occupancy(np.full((S, A), 1 / A), mass).ravel(),
        jac=lambda rho: -(rewards - alpha * slope(rho / data)),
        bounds=[(1e-12, None)] * (S * A),
        constraints={"type": "eq", "fun": lambda rho: flow @ rho - mass * problem.start, "jac": lambda rho: flow},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    assert np.abs(flow @ found.x - mass * problem.start).max() < 1e-8
    return np.asarray(found.x).reshape(S, A)


def minimise(loss_of: Callable[..., Tensor], *starts: np.ndarray) -> list[Tensor]:
    """argmin of a smooth convex function by L-BFGS."""
    tables = [tensor(start).clone().requires_grad_() for start in starts]
    optim = torch.optim.LBFGS(
        tables, max_iter=3000, history_size=30, tolerance_grad=1e-12, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optim.zero_grad()
        loss = loss_of(*tables)
        loss.backward()
        return loss

    optim.step(closure)
    assert max(float(t.grad.abs().max()) for t in tables if t.grad is not None) < 1e-7
    return [t.detach() for t in tables]


def pair_residuals(problem: Problem, values: Tensor) -> Tensor:
    """e(s, a) = r + gamma E[m V(s')] - V(s), [S, A], through the package's residual."""
    return objective.bellman_residual(tensor(problem.rewards), torch.tensor(GAMMA), tensor(problem.steps) @ values, values[:, None])


def init_batch(problem: Problem, values: Tensor) -> Tensor:
    """S numbers whose mean is E_{mu0}[values]."""
    return S * tensor(problem.start) * values


def planted_values(problem: Problem, ratio: np.ndarray, divergence: str, alpha: float) -> np.ndarray:
    """V* from rho*: wherever w* > 0 the optimality conditions ask for r + gamma P V - V = alpha f'(w*)."""
    active = ratio.ravel() > 1e-6
    flow = np.repeat(np.eye(S), A, axis=0) - GAMMA * problem.steps.reshape(S * A, S)
    target = problem.rewards.ravel() - alpha * GENERATORS[divergence][1](ratio.ravel())
    values, *_ = np.linalg.lstsq(flow[active], target[active], rcond=None)
    return np.asarray(values)


# ---- OptiDICE --------------------------------------------------------------------------------------------------------------------------


def solve_optidice(problem: Problem, divergence: str, alpha: float, *, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """nu*, mu* and w* [S, A] of the package's loss."""
    chosen, (states, actions) = get_divergence(divergence), problem.rows

    def loss(nu: Tensor, mu: Tensor) -> Tensor:
        residuals = pair_residuals(problem, nu)[states, actions]
        multiplier = mu if normalize else 0 * mu
        return losses.nu_loss(chosen.conjugate, residuals, init_batch(problem, nu), multiplier, alpha=alpha, init_coef=1 - GAMMA)

    nu, mu = minimise(loss, np.zeros(S), np.zeros(()))
    return nu, mu, chosen.weight((pair_residuals(problem, nu) - mu) / alpha)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("alpha", [0.3, 2.0])
@pytest.mark.parametrize("divergence", ["half_chi2", "soft_chi2", "kl"])
def test_optidice_finds_the_optimal_ratio(divergence: str, alpha: float, ends: bool) -> None:
    problem = random_problem(1, ends=ends)
    ratio = optimal_occupancy(problem, divergence, alpha) / problem.data
    nu, _, weights = solve_optidice(problem, divergence, alpha, normalize=False)
    np.testing.assert_allclose(weights.numpy(), ratio, atol=2e-5)
    np.testing.assert_allclose(nu.numpy(), planted_values(problem, ratio, divergence, alpha), atol=2e-4)


@pytest.mark.parametrize("divergence", ["half_chi2", "soft_chi2", "kl"])
def test_the_multiplier_changes_nothing_where_episodes_do_not_end(divergence: str) -> None:
    """There the flow implies E[w] = 1; multiplier and a shift of nu are exchanged, (1 - gamma) to one."""
    problem = random_problem(2, ends=False)
    plain_nu, _, plain = solve_optidice(problem, divergence, 0.7, normalize=False)
    nu, mu, weights = solve_optidice(problem, divergence, 0.7, normalize=True)
    np.testing.assert_allclose(weights.numpy(), plain.numpy(), atol=1e-5)
    assert float((tensor(problem.data) * weights).sum()) == pytest.approx(1, abs=1e-7)
    np.testing.assert_allclose((nu - plain_nu).numpy(), np.full(S, -float(mu) / (1 - GAMMA)), atol=1e-4)


def test_the_multiplier_forbids_pairs_that_end() -> None:
    """An occupancy that ends sums to less than one, so E[w] = 1 leaves only pairs that go on (docs/dice.md)."""
    problem = random_problem(3, ends=False)
    problem.steps[:, 0] = 0  # the first action always ends the episode
    _, _, weights = solve_optidice(problem, "half_chi2", 1.0, normalize=True)
    assert float(weights[:, 0].max()) < 1e-6
    assert float((tensor(problem.data) * weights).sum()) == pytest.approx(1, abs=1e-6)
    _, _, free = solve_optidice(problem, "half_chi2", 1.0, normalize=False)
    assert float(free[:, 0].max()) > 0.1


def test_the_advantage_is_the_mean_residual() -> None:
    """Regressed on residuals of drawn next states it is e(s, a), whose w is the optimal one; w of the residuals themselves is not."""
    problem = random_problem(4, ends=False)
    nu, _, weights = solve_optidice(problem, "half_chi2", 0.5, normalize=False)
    drawn = tensor(problem.rewards)[..., None] + GAMMA * nu - nu[:, None, None]  # [S, A, S']
    probabilities = tensor(problem.steps)

    def loss(table: Tensor) -> Tensor:
        # the root of the probability inside the square: td_loss has plain means
        return objective.td_loss(((drawn - table[..., None]) * probabilities.sqrt()).reshape(-1))

    (advantages,) = minimise(loss, np.zeros((S, A)))
    conjugate = get_divergence("half_chi2")
    np.testing.assert_allclose(conjugate.weight(advantages / 0.5).numpy(), weights.numpy(), atol=1e-6)
    jensen = (probabilities * conjugate.weight(drawn / 0.5)).sum(-1)
    assert float((jensen - weights).abs().max()) > 0.01


@pytest.mark.parametrize("extraction", ["cloning", "projection"])
def test_optidice_extracts_the_optimal_policy(extraction: str) -> None:
    problem, alpha = random_problem(5, ends=True), 0.5
    best = optimal_occupancy(problem, "soft_chi2", alpha)
    nu, _, weights = solve_optidice(problem, "soft_chi2", alpha, normalize=False)
    states, actions = problem.rows
    behavior = tensor(problem.data / problem.data.sum(-1, keepdims=True))
    log_weights = losses.log_weight(get_divergence("soft_chi2"), pair_residuals(problem, nu) / alpha)

    def loss(logits: Tensor) -> Tensor:
        log_policy = logits.log_softmax(-1)
        if extraction == "cloning":
            return losses.cloning_loss(log_policy[states, actions], weights[states, actions])
        share = S * A * tensor(problem.data).sum(-1, keepdim=True) * log_policy.exp()  # E over s ~ rho_D, a ~ pi as a plain mean
        return losses.projection_loss(*((share * x).reshape(-1) for x in (log_policy, behavior.log(), log_weights)))

    (logits,) = minimise(loss, np.zeros((S, A)))
    np.testing.assert_allclose(logits.softmax(-1).numpy(), best / best.sum(-1, keepdims=True), atol=1e-4)


# ---- ODICE -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("weight", [0.3, 1 / (2 - GAMMA), 0.8])
def test_odice_with_the_true_gradient_finds_the_optimal_ratio_and_policy(weight: float, ends: bool) -> None:
    """Divided by lambda it is the dual with alpha = 1 and initial mass (1 - lambda) / lambda, 1 - gamma at lambda = 1 / (2 - gamma)."""
    problem = random_problem(6, ends=ends)
    best = optimal_occupancy(problem, "chi2", 1.0, mass=(1 - weight) / weight)
    chosen, (states, actions) = get_divergence("chi2"), problem.rows

    def loss(values: Tensor) -> Tensor:
        residuals = pair_residuals(problem, values)[states, actions]
        states_part = losses.state_term(init_batch(problem, values), weight=weight)
        return states_part + losses.residual_term(chosen.conjugate, residuals, weight=weight)

    (values,) = minimise(loss, np.zeros(S))
    ratio = best / problem.data
    weights = chosen.weight(pair_residuals(problem, values))
    np.testing.assert_allclose(weights.numpy(), ratio, atol=5e-5)
    np.testing.assert_allclose(values.numpy(), planted_values(problem, ratio, "chi2", 1.0), atol=1e-3)

    def cloning(logits: Tensor) -> Tensor:
        # a little decay: where w = 0 the best logit is minus infinity
        return losses.cloning_loss(logits.log_softmax(-1)[states, actions], weights[states, actions]) + 1e-9 * logits.square().sum()

    (logits,) = minimise(cloning, np.zeros((S, A)))
    np.testing.assert_allclose(logits.softmax(-1).numpy(), best / best.sum(-1, keepdims=True), atol=5e-4)


def test_odice_orthogonal_update_on_a_table() -> None:
    """What is left of the backward gradient is orthogonal to the forward one and never points against its own descent."""
    problem, rng = random_problem(7, ends=True), np.random.default_rng(0)
    chosen, (states, actions) = get_divergence("chi2"), problem.rows
    values, targets = tensor(rng.normal(size=S)).requires_grad_(), tensor(rng.normal(size=S))
    rewards, steps = tensor(problem.rewards), tensor(problem.steps)
    forward_e = rewards + GAMMA * steps @ targets - values[:, None]
    backward_e = rewards + GAMMA * steps @ values - targets[:, None]
    ahead, behind = (
        torch.autograd.grad(losses.residual_term(chosen.conjugate, e[states, actions], weight=0.6), values)[0]
        for e in (forward_e, backward_e)
    )
    (update,) = objective.orthogonal_gradient([ahead], [behind])
    projected = update - ahead
    assert float(projected @ ahead) == pytest.approx(0, abs=1e-12)
    assert float(ahead @ behind) < -1e-3  # the conflict that the method removes
    assert float(projected @ behind) >= 0  # a projection keeps the descent of what it projects
    assert float(update @ ahead) == pytest.approx(float(ahead @ ahead))  # the forward descent is as fast as alone


# ---- AlgaeDICE -------------------------------------------------------------------------------------------------------------------------


def algae_residuals(problem: Problem, q: Tensor, policy: Tensor) -> tuple[Tensor, Tensor]:
    """Phi [S, A] and E[m Q(s', pi)] [S, A] at a full online share."""
    next_q = tensor(problem.steps) @ (policy * q).sum(-1)
    mixed = losses.mixed_next_q(next_q[None], torch.zeros_like(next_q[None]), share=1.0)[0]
    return objective.bellman_residual(tensor(problem.rewards), torch.tensor(GAMMA), mixed, q), next_q


def solve_algaedice(problem: Problem, policy: np.ndarray, alpha: float) -> Tensor:
    """Q* [S, A] of the critics' loss at a fixed policy."""
    chosen, (states, actions), pi = get_divergence("power"), problem.rows, tensor(policy)

    def loss(q: Tensor) -> Tensor:
        phi, _ = algae_residuals(problem, q, pi)
        init_q = init_batch(problem, (pi * q).sum(-1))
        return objective.critic_loss(chosen.conjugate, phi[states, actions], init_q, alpha=alpha, init_coef=1 - GAMMA)

    return minimise(loss, planted_q(problem, policy, alpha) + 0.1)[0]


def planted_q(problem: Problem, policy: np.ndarray, alpha: float) -> np.ndarray:
    """Q^pi of the reward r - alpha f'(rho^pi / rho_D), by a linear solve."""
    refined = problem.rewards - alpha * GENERATORS["power"][1](problem.occupancy(policy) / problem.data)
    step = np.einsum("sat,tb->satb", problem.steps, policy).reshape(S * A, S * A)
    return np.linalg.solve(np.eye(S * A) - GAMMA * step, refined.ravel()).reshape(S, A)


def random_policy(seed: int) -> np.ndarray:
    weights = np.random.default_rng(seed).uniform(0.2, 1, (S, A))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("alpha", [0.2, 1.5])
def test_algaedice_critic_finds_the_policys_ratio(alpha: float, ends: bool) -> None:
    """At a fixed policy w = f*'(Phi / alpha) is rho^pi / rho_D, whatever f is, and Q* the value of r - alpha f'(w)."""
    problem, policy = random_problem(8, ends=ends), random_policy(1)
    q = solve_algaedice(problem, policy, alpha)
    np.testing.assert_allclose(q.numpy(), planted_q(problem, policy, alpha), atol=1e-4)
    phi, _ = algae_residuals(problem, q, tensor(policy))
    ratio = problem.occupancy(policy) / problem.data
    np.testing.assert_allclose(get_divergence("power").actor_weight(phi / alpha).numpy(), ratio, atol=1e-4)


def algae_actor_gradient(problem: Problem, logits: np.ndarray, q: Tensor, alpha: float) -> np.ndarray:
    """The gradient of the package's actor loss for a table of logits."""
    table = tensor(logits).requires_grad_()
    policy, (states, actions) = table.softmax(-1), problem.rows
    phi, next_q = algae_residuals(problem, q, policy)
    weights = get_divergence("power").actor_weight(phi / alpha)[states, actions]
    discounts = torch.full(states.shape, GAMMA, dtype=torch.float64)
    init_q = init_batch(problem, (policy * q).sum(-1))
    objective.actor_loss(weights, discounts, next_q[states, actions], init_q, init_coef=1 - GAMMA).backward()
    assert table.grad is not None
    return np.asarray(table.grad.numpy())


@pytest.mark.parametrize("ends", [False, True])
def test_algaedice_actor_follows_the_regularised_return(ends: bool) -> None:
    """At the critics' minimum the actor's gradient is that of E[r] - alpha D_f(rho^pi || rho_D), and zero at its maximum."""
    problem, alpha = random_problem(9, ends=ends), 0.4
    f = GENERATORS["power"][0]

    def regularised_return(logits: np.ndarray) -> float:
        policy = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        rho = problem.occupancy(policy)
        return float((rho * problem.rewards).sum() - alpha * (problem.data * f(rho / problem.data)).sum())

    logits = np.log(random_policy(2))
    got = algae_actor_gradient(problem, logits, tensor(planted_q(problem, random_policy(2), alpha)), alpha)
    want = np.zeros((S, A))
    for index in np.ndindex(S, A):
        shift = np.zeros((S, A))
        shift[index] = 1e-5
        want[index] = -(regularised_return(logits + shift) - regularised_return(logits - shift)) / 2e-5
    np.testing.assert_allclose(got, want, atol=1e-7)
    assert np.abs(want).max() > 1e-3

    best = optimal_occupancy(problem, "power", alpha)
    policy = best / best.sum(-1, keepdims=True)
    at_best = algae_actor_gradient(problem, np.log(policy), tensor(planted_q(problem, policy, alpha)), alpha)
    assert np.abs(at_best).max() < 1e-5
