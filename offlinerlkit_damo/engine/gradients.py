"""Gradients of DAMO's losses for what the networks give: formulas, because the losses are elementwise in Q and in the logits.

Shapes as in `damo.objective`: E critics, B rows, B0 initial observations; dimensions before them are independent (stacked runs).
"""

from __future__ import annotations

import torch
from torch import Tensor

from offlinerlkit_damo.damo.objective import Coefficient


def critic_gradient(
    slope: Tensor,
    discounts: Tensor,
    *,
    num_init: int,
    init_coef: Coefficient,
    share: float,
    above: Tensor | None = None,
    least: Tensor | None = None,
) -> Tensor:
    """Of L_Q for Q(s, a), Q(s0, a0) and, if the gradient passes there, Q(s', a'), side by side: [..., E, B + B0 (+ B)].

    Args:
        slope: dL/dPhi [..., E, B], but for the mean's 1 / B; f*'(Phi / alpha) for DAMO.
        discounts: gamma m, broadcasts to it.
        num_init: B0.
        init_coef: c0, a number or broadcasts to [..., E, B0].
        share: the part of the gradient that passes through Q(s', a').
        above: where the target moves with Q(s', a'), because it is not on its floor; None: everywhere.
        least: which critic gave Q(s', a') for all, [..., 1, B]; None: each its own.
    """
    size = slope.shape[-1]
    grad = slope.new_zeros(*slope.shape[:-1], size + num_init + (size if share > 0 else 0))
    torch.mul(slope, -1 / size, out=grad[..., :size])
    grad[..., size : size + num_init] = init_coef / num_init
    if share > 0:
        through = slope * discounts * (share / size)
        if above is not None:
            through *= above
        if least is None:
            grad[..., size + num_init :] = through
        else:
            grad[..., size + num_init :].scatter_(-2, least, through.sum(-2, keepdim=True))
    return grad


def actor_gradient(weights: Tensor, discounts: Tensor, *, num_init: int, init_coef: Coefficient) -> Tensor:
    """Of the actor's loss, in the critics' mean, for Q(s0, pi) and Q(s', pi), side by side: weights [..., E, B] -> [..., E, B0 + B]."""
    *_, critics, size = weights.shape
    grad = weights.new_empty(*weights.shape[:-1], num_init + size)
    grad[..., :num_init] = -init_coef / (num_init * critics)
    torch.mul(weights * discounts, -1 / (size * critics), out=grad[..., num_init:])
    return grad


def classifier_gradient(fake_logits: Tensor, real_logits: Tensor, *, label_smoothing: float) -> Tensor:
    """Of `damo.classifier.classifier_loss` for all logits, the fake ones first: [..., n_M], [..., n_R] -> [..., n_M + n_R].

    It is probability minus label, in the mean over the two kinds' means.
    """
    labels = (fake_logits, 1 - label_smoothing), (real_logits, label_smoothing)
    return torch.cat([(logits.sigmoid() - label) / (2 * logits.shape[-1]) for logits, label in labels], -1)
