"""What DAMO's two terms have in common when they are mixed into a host's policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offlinerlkit_damo.config import DAMOConfig

if TYPE_CHECKING:
    from offlinerlkit_damo.kit import MOPOPolicy as HostPolicy
else:
    HostPolicy = object  # mixed into any policy of the host; type checkers see the commonest


class Terms(HostPolicy):
    """Takes the keyword `config` (a DAMOConfig) in front of the host policy's own arguments, and counts learning steps.

    With `diagnose_every` above 1 figures come with the first of as many steps only (the classifier's, which has not one in every step,
    with its next): reading twenty means costs as much as a network, and the device has to be waited for.
    """

    def __init__(self, *args: Any, config: DAMOConfig | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config = config if config is not None else DAMOConfig()
        self.diagnose_every = 1
        self._steps = 0

    def learn(self, batch: Any) -> dict[str, float]:
        """The host policy's own step, counted."""
        self._steps += 1
        return super().learn(batch)

    @property
    def _diagnoses(self) -> bool:
        return self._steps % self.diagnose_every == 0

    def _shown(self, figures: Mapping[str, Tensor], *, due: bool | None = None) -> dict[str, float]:
        """The figures as numbers, each the mean of its tensor, if they are due: by default in the steps that diagnose."""
        if not (self._diagnoses if due is None else due) or not figures:
            return {}
        # one transfer for all figures: a .item() each would wait for the device twenty times
        values = torch.stack([value.detach().float().mean() for value in figures.values()]).tolist()
        return dict(zip(figures, values, strict=True))


def sizes(policy: Any) -> tuple[int, int]:
    """Sizes of observation and action, d and a, from the networks' first layers."""
    obs_dim = next(policy.actor.parameters()).shape[-1]
    critic = policy.critics[0] if hasattr(policy, "critics") else policy.critic1
    return obs_dim, next(critic.parameters()).shape[-1] - obs_dim
