"""Pure losses of the DICE family; conjugates come from `damo.divergences`, residuals and projections from `damo.objective`.

Shapes: every function works over a trailing batch dimension B, leading dimensions are independent (twin networks E); all losses return
one value per leading index. `values` are nu(s) or V(s), `residuals` e = r + gamma m V(s') - V(s), m = 1 - terminal. Imports torch only.
Any floating dtype; nothing is checked here, the policies check their batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from offlinerlkit_damo.damo import objective
from offlinerlkit_damo.damo.divergences import Divergence
from offlinerlkit_damo.damo.objective import Conjugate

WEIGHT_FLOOR = 1e-10
"""Stands in for a ratio of 0 where its logarithm is needed."""


def mixed_next_q(online: Tensor, target: Tensor, *, share: float) -> Tensor:
    """eta Q_i(s', a') + (1 - eta) min_j Q_old_j(s', a'), with eta = `share`: two [E, B] -> [E, B].

    The next value of AlgaeDICE's public code (0.05 online). At share 1 it is the paper's objective (Nachum et al. 2019, arXiv 1912.02074,
    the max-min objective with Q as the only auxiliary variable), whose gradient passes through Q(s', a') in full.
    """
    return share * online + (1 - share) * target.min(0, keepdim=True).values


def nu_loss(
    conjugate: Conjugate, residuals: Tensor, init_values: Tensor, multiplier: Tensor | float, *, alpha: float, init_coef: float
) -> Tensor:
    """c0 mean nu(s0) + alpha mean f*((e - mu) / alpha) + mu, with c0 = 1 - gamma and mu the multiplier.

    OptiDICE's dual (Lee et al. 2021, arXiv 2106.10783) with the ratio w = f*'((e - mu) / alpha) of its Proposition 1 inserted: then
    E[w (e - mu) - alpha f(w)] = alpha E[f*((e - mu) / alpha)]. The gradient for mu is 1 - E[w], so mu keeps the mean ratio at 1; with
    mu = 0 it is the loss without that constraint. residuals [..., B], init_values [..., B0] -> [...].
    """
    return objective.critic_loss(conjugate, residuals - multiplier, init_values, alpha=alpha, init_coef=init_coef) + multiplier


def log_weight(divergence: Divergence, y: Tensor) -> Tensor:
    """log f*'(y), elementwise; a weight of 0 counts as 1e-10 and has no gradient.

    Where f*' is an exponential its logarithm is taken in closed form: the weight underflows long before its logarithm loses meaning.
    """
    if divergence.name == "kl":
        return y
    if divergence.name == "soft_chi2":
        return torch.where(y < 0, y, torch.log1p(torch.relu(y)))
    return divergence.weight(y).clamp(min=WEIGHT_FLOOR).log()


def cloning_loss(log_prob: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """-mean w log pi(a|s) on the data's actions, w taken as a constant: [..., B] -> [...].

    Weighted behaviour cloning, the policy extraction of ODICE (Mao et al. 2024, arXiv 2402.00348) and one of OptiDICE's two. With the
    exact ratio w = rho* / rho_D its minimiser is pi*(a|s) = rho*(s, a) / sum_a rho*(s, a). Without weights: plain cloning.
    """
    constant = weights.detach() if isinstance(weights, Tensor) else weights
    return -(constant * log_prob).mean(-1)


def projection_loss(log_prob: Tensor, behavior_log_prob: Tensor, log_weights: Tensor) -> Tensor:
    """mean [log pi(a|s) - log pi_D(a|s) - log w(s, a)] with a ~ pi(s), reparameterised: three [..., B] -> [...].

    OptiDICE's information projection (Lee et al. 2021, policy extraction): the divergence KL(rho_D(s) pi(a|s) || rho*(s, a)) up to the
    ratio of the states' occupancies, which no policy changes. Minimised by pi*(a|s) proportional to pi_D(a|s) w(s, a).
    """
    return (log_prob - behavior_log_prob - log_weights).mean(-1)


def state_term(values: Tensor, *, weight: float) -> Tensor:
    """(1 - lambda) mean V(s), with lambda = `weight`: [..., B0] -> [...] (ODICE; the initial states' term, taken on the data's states)."""
    return (1 - weight) * values.mean(-1)


def residual_term(conjugate: Conjugate, residuals: Tensor, *, weight: float) -> Tensor:
    """lambda mean f*(e), with lambda = `weight`: [..., B] -> [...].

    With `state_term` the value loss of V-DICE and ODICE (Mao et al. 2024). Which gradient it carries is the caller's choice of
    residuals: forward e = r + gamma m V_old(s') - V(s), backward e = r + gamma m V(s') - V_old(s), true e = r + gamma m V(s') - V(s).
    """
    return weight * conjugate(residuals).mean(-1)
