"""AveragedActor: the running mean of an actor's weights, to evaluate and keep in place of the last iterate."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn


class AveragedActor:
    """Exponential mean of a module's weights over about `horizon` updates; a plain mean until there are as many.

    Inside a `with` block the module holds the mean, afterwards its own weights again. Model-based actors swing: neighbouring iterates
    differ by the whole scale of returns on tasks where an episode can end, while their mean stays good (docs/experiments.md). Averaging
    iterates is Polyak's (Polyak & Juditsky 1992); on deep policies: Nikishin et al. 2018.
    """

    def __init__(self, module: nn.Module, horizon: int) -> None:
        # parameters, not their tensors: a fleet gives them others
        self._weights: list[Tensor] = list(module.parameters())
        self._mean = [p.detach().clone() for p in self._weights]
        self.horizon = horizon
        self.updates = 0
        """How many iterates the mean has seen."""

    @torch.no_grad()
    def update(self) -> None:
        """Count the module's present weights in."""
        self.updates += 1
        torch._foreach_lerp_(self._mean, self._weights, 1 / min(self.updates, self.horizon))

    def move_to(self, home: list[Tensor]) -> None:
        """Keep the mean in these tensors from now on, one for each parameter."""
        torch._foreach_copy_(home, self._mean)
        self._mean = home

    def state_dict(self) -> dict[str, Any]:
        """The mean and how many updates it has seen."""
        # of a fleet, they are parts of all means' storage, which would be saved with each of them
        return {"mean": [mean.clone() for mean in self._mean], "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        torch._foreach_copy_(self._mean, [mean.to(p.device) for mean, p in zip(state["mean"], self._mean, strict=True)])
        self.updates = state["updates"]

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        own = [p.clone() for p in self._weights]
        torch._foreach_copy_(self._weights, self._mean)
        torch._foreach_copy_(self._mean, own)
