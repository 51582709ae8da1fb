"""The state of a learning process as tensors, numbers and strings: what a checkpoint holds of a policy and of the random generators."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offlinerlkit_damo.damo.misfits import why_not_loaded
from offlinerlkit_damo.kit.contract import SPELLINGS, spelt

OPTIONS = {"_target_floor", "_legacy_logsumexp", "diagnose_every"}
"""Attributes that are no state, but come with the configuration: of the stand-in's classes alone, and of the engine."""


def policy_state(policy: Any) -> dict[str, Any]:
    """Everything a policy's next steps depend on: weights and buffers, every optimiser, and the numbers and tensors it keeps as attributes.

    The attributes are those of the policy itself: its temperature and log-temperature, step counters.
    """
    return {
        "weights": policy.state_dict(),
        "optimisers": {name: optim.state_dict() for name, optim in optimisers(policy).items()},
        "values": {name: value.detach() if isinstance(value, Tensor) else value for name, value in _values(policy).items()},
    }


def restore_policy(policy: Any, state: dict[str, Any]) -> None:
    """Put back what `policy_state` gave. Raises ValueError, KeyError or RuntimeError for the state of another kind of policy."""
    found, values = optimisers(policy), _values(policy)
    for kind, ours, theirs in (("optimisers", found, state["optimisers"]), ("numbers", values, state["values"])):
        # it may have more: what a pretraining that is over has left behind
        if lacking := sorted(set(ours) - set(theirs)):
            raise ValueError(f"it is of another algorithm: among its {kind} there is no {', '.join(lacking)}")
    check_weights(policy, state["weights"])
    policy.load_state_dict(state["weights"])
    for name, optim in found.items():
        optim.load_state_dict(state["optimisers"][name])
    for name, value in values.items():
        if isinstance(value, Tensor) and value.requires_grad:
            with torch.no_grad():  # an optimiser owns it: the tensor stays, its content changes
                value.copy_(state["values"][name])
        elif isinstance(value, Tensor):
            setattr(policy, name, state["values"][name].to(value.device))
        else:
            set_number(policy, name, state["values"][name])


def check_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError, naming one of them, where weights have other names or sizes than those of the network that is to take them."""
    reason = why_not_loaded(type(network).__name__, network.state_dict(), weights)
    if reason is not None:
        raise ValueError(reason)


def optimisers(policy: Any) -> dict[str, torch.optim.Optimizer]:
    """Every optimiser of a policy and of its parts, by where it hangs; by the stand-in's names, so that either host can go on from them."""
    found = {}
    for path, module in policy.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.optim.Optimizer):
                found[f"{path}.{SPELLINGS.get(name, name)}"] = value
    return found


def numbers(policy: Any) -> dict[str, int | float | bool]:
    """The plain numbers among a policy's own attributes: some are its options, some count its steps."""
    return {name: value for name, value in _values(policy).items() if not isinstance(value, Tensor)}


def set_number(policy: Any, name: str, value: float) -> None:
    """Set one of `numbers`."""
    setattr(policy, spelt(policy, name), value)


def _values(policy: Any) -> dict[str, Tensor | int | float | bool]:
    own = {name: value for name, value in vars(policy).items() if isinstance(value, (Tensor, int, float)) and name not in OPTIONS}
    return {SPELLINGS.get(name, name): value for name, value in own.items()}


def random_state() -> dict[str, Any]:
    """The global generators of python, numpy and torch, and those of CUDA devices in use."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [torch.from_numpy(np.asarray(keys, np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random(state: dict[str, Any]) -> None:
    """Put back what `random_state` gave."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
