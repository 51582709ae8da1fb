"""DAMO's one objective as pure losses: the critic minimises it, the actor maximises it (arXiv 2502.00850, Eq. 6; docs/method.md).

    max_pi min_Q  c0 E_{s0}[Q(s0, pi)] + alpha E_{rho_M}[f*(Phi / alpha)]
    Phi(s, a, s') = r - alpha ell(s, a, s') + gamma m (Q(s', a') - lambda log pi(a'|s')) - Q(s, a)

Shapes: every function works over a trailing batch dimension B, leading dimensions are independent (twin critics E, or stacked runs), so
`[B]`, `[E, B]` and `[R, E, B]` share this code. m = 1 - terminal. All losses return one value per leading index; callers sum or average.
Coefficients are numbers or, one for each leading index, tensors that broadcast to it.
Imports torch only, so that it can be read beside the paper and reused anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Conjugate = Callable[[Tensor], Tensor]
Coefficient = Tensor | float


def bellman_residual(
    refined_rewards: Tensor,
    discounts: Tensor,
    next_q: Tensor,
    q: Tensor,
    *,
    target_floor: float | None = None,
) -> Tensor:
    """Phi = r~ + gamma m Q(s', a') - Q(s, a), [..., B].

    `refined_rewards` is r - alpha ell (plus the absorbing state's value where one is used), `discounts` gamma m, `next_q` the soft value
    of the next pair. `target_floor` bounds r~ + gamma m Q' from below: the MOBILE authors' remedy where rewards are non-negative.
    """
    targets = refined_rewards + discounts * next_q
    if target_floor is not None:
        targets = targets.clamp(min=target_floor)
    return targets - q


def critic_loss(conjugate: Conjugate, phi: Tensor, init_q: Tensor, *, alpha: Coefficient, init_coef: Coefficient) -> Tensor:
    """c0 mean Q(s0, a0) + alpha mean f*(Phi / alpha): phi [..., B], init_q [..., B0] -> [...]."""
    return init_coef * init_q.mean(-1) + alpha * conjugate(phi / over_batch(alpha)).mean(-1)


def over_batch(coefficient: Coefficient) -> Coefficient:
    """A coefficient of each leading index, [...], for its whole batch: [..., 1]; a number as it is."""
    return coefficient.unsqueeze(-1) if isinstance(coefficient, Tensor) else coefficient


def actor_loss(
    weights: Tensor,
    discounts: Tensor,
    next_q: Tensor,
    init_q: Tensor,
    *,
    init_coef: Coefficient,
) -> Tensor:
    """-(c0 mean Q(s0, pi) + mean w gamma m (Q(s', pi) - lambda log pi)): the same objective, ascended by the actor.

    `weights` w = f*'(Phi / alpha_actor) is detached here (the square root's slope at zero is infinite, and by the envelope theorem the
    gradient needs w only as a constant). weights, next_q [..., B]; discounts [B], or broadcast to them; init_q [..., B0] -> [...].
    """
    return -(init_coef * init_q.mean(-1) + (weights.detach() * discounts * next_q).mean(-1))


def td_loss(phi: Tensor) -> Tensor:
    """mean Phi^2, the critic without behaviour alignment ("w/o ir"): [..., B] -> [...]."""
    return phi.square().mean(-1)


def soft_actor_loss(log_prob: Tensor, q: Tensor, *, temperature: Tensor | float) -> Tensor:
    """mean lambda log pi(a|s) - min_E Q(s, a): the ordinary SAC actor ("inconsistent", Table 1). log_prob [B], q [E, B] -> []."""
    return (temperature * log_prob - q.min(0).values).mean(-1)


def shift_residual(weights: Tensor, discounts: Tensor, *, next_share: float, init_coef: Coefficient) -> Tensor:
    """E[w (1 - eta gamma m)] - c0, zero at stationarity of the critic under a constant shift of Q: [..., B] -> [...].

    `next_share` eta is the part of the gradient kept through Q(s', a').
    """
    return (weights * (1 - next_share * discounts)).mean(-1) - init_coef


def effective_sample_size(weights: Tensor) -> Tensor:
    """(sum w)^2 / (B sum w^2) in [0, 1]: the share of the batch that carries the weight; 0 if all weights are 0. [..., B] -> [...]."""
    total = weights.sum(-1).square()
    return total / (weights.shape[-1] * weights.square().sum(-1)).clamp(min=torch.finfo(weights.dtype).tiny)


def orthogonal_gradient(forward: Sequence[Tensor], backward: Sequence[Tensor]) -> list[Tensor]:
    """g = g_f + g_b - (<g_f, g_b> / |g_f|^2) g_f over one network's parameters (ODICE, Mao et al. 2024, Eq. 9).

    The backward gradient keeps only its part orthogonal to the forward one, so it cannot undo it.
    """
    overlap = torch.stack([(f * b).sum() for f, b in zip(forward, backward, strict=True)]).sum()
    norm = torch.stack([f.square().sum() for f in forward]).sum()
    scale = overlap / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    return [f + b - scale * f for f, b in zip(forward, backward, strict=True)]
