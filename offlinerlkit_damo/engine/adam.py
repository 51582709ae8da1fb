"""Adam without its Python: the fused kernel on an optimiser's own state."""

from __future__ import annotations

from typing import Any

import torch


@torch.no_grad()
def fused_step(optim: torch.optim.Optimizer) -> None:
    """`optim.step()`; where that is Adam's fused kernel it is called directly, which halves the time of a small network's step.

    The state stays the optimiser's, as its `state_dict` and its schedule see it. The first step and every other optimiser take their
    usual way.
    """
    if not (type(optim) is torch.optim.Adam and optim.state and all(group["fused"] for group in optim.param_groups)):
        optim.step()
        return
    optim._opt_called = True  # type: ignore[attr-defined]  # a schedule would warn that there was no step, after a checkpoint
    for group in optim.param_groups:
        params = [p for p in group["params"] if p.grad is not None]
        states: list[dict[str, Any]] = [optim.state[p] for p in params]
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            params,
            [p.grad for p in params],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
        )
