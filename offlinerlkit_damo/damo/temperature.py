"""The entropy temperature's own step, whatever the critics learn."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def temperature_step(policy: Any, log_prob: Tensor, figures: dict[str, Tensor], *, bound: float = 1.0) -> None:
    """The host's update of lambda on a policy with `networks`: minimise -log lambda (log pi + target entropy); log_prob [B].

    `bound` is on the lambda that follows, 1 in the host's SAC and MOBILE.
    """
    gap = (log_prob.detach() + policy._target_entropy).mean()
    loss = -policy._log_alpha.detach() * gap
    policy._log_alpha.grad = (-gap).reshape(policy._log_alpha.shape)  # the loss is linear: its gradient needs no graph
    policy.networks.step(policy.alpha_optim)
    policy._alpha = policy._log_alpha.detach().exp().clamp(0.0, bound)
    figures["loss/alpha"], figures["alpha"] = loss, policy._alpha
