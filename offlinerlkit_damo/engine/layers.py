"""The linear layers inside the host's networks, for those that compute with the weights themselves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

Layer = Sequence[nn.Linear]
"""Linear layers that read the same input; their outputs lie side by side."""


def linears(module: nn.Module, *, head: bool = False) -> list[nn.Linear]:
    """The linear layers of an MLP, each followed by ReLU; with `head` the last one is bare. Raises ValueError for any other."""
    linears: list[nn.Linear] = []
    leaves = [leaf for leaf in module.modules() if not list(leaf.children())]
    for leaf, following in pairwise([*leaves, None]):
        if isinstance(leaf, nn.Linear):
            if not (following is None if head and leaf is leaves[-1] else isinstance(following, nn.ReLU)):
                raise ValueError("a linear layer is not followed by ReLU")
            linears.append(leaf)
        elif not isinstance(leaf, nn.ReLU):
            raise ValueError(f"a layer is neither linear nor ReLU: {leaf}")
    return linears


def critic_layers(critic: Any) -> list[Layer]:
    """A critic's linear layers; raises ValueError as `linears`."""
    return [[layer] for layer in (*linears(critic.backbone), critic.last)]


def tanh_gaussian_layers(actor: Any) -> tuple[list[Layer], tuple[float, tuple[float, float]]]:
    """An actor's layers, the last one for (mean, log sigma), and how `TanhGaussian` squashes: (max_action, log_sigma_range).

    Raises ValueError for an actor other than the host's tanh-Gaussian with a free mean and a deviation that depends on the observation.
    """
    dist = actor.dist_net
    if not (dist._unbounded and dist._c_sigma):
        raise ValueError("its actor's mean is bounded, or its deviation does not depend on the observation")
    layers: list[Layer] = [*([layer] for layer in linears(actor.backbone)), [dist.mu, dist.sigma]]
    return layers, (float(dist._max), (dist._sigma_min, dist._sigma_max))
