"""What DAMO's two terms have in common when they are mixed into a host's policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from offlinerlkit_damo.config import DAMOConfig
from offlinerlkit_damo.damo.misfits import why_not_loaded
from offlinerlkit_damo.errors import UserError

if TYPE_CHECKING:
    from offlinerlkit_damo.kit import MOPOPolicy as HostPolicy
else:
    HostPolicy = object  # mixed into any policy of the host; type checkers see the commonest


class Terms(HostPolicy):
    """Takes the keyword `config` (a DAMOConfig) in front of the host policy's own arguments, and counts learning steps.

    With `diagnose_every` above 1 figures come with the first of as many steps only (the classifier's, which has not one in every step,
    with its next): reading twenty means costs as much as a network, and the device has to be waited for.

    Raises UserError for a `config` of another kind, and for a host policy that has an attribute which a term keeps (`ATTRIBUTES`).
    """

    ATTRIBUTES: ClassVar[tuple[str, ...]] = ("config", "diagnose_every", "_steps")

    def __init__(self, *args: Any, config: DAMOConfig | None = None, **kwargs: Any) -> None:
        if config is not None and not isinstance(config, DAMOConfig):
            raise UserError(f"{type(self).__name__} takes a DAMOConfig as config, this is a {type(config).__name__}")
        super().__init__(*args, **kwargs)
        for name in kept(type(self)):
            if hasattr(self, name):
                raise UserError(
                    f"{type(self).__name__} keeps an attribute {name!r}, and the policy that it extends has one of that name; "
                    "rename it there"
                )
        self.config = config if config is not None else DAMOConfig()
        self.diagnose_every = 1
        self._steps = 0

    def learn(self, batch: Any) -> dict[str, float]:
        """The host policy's own step, counted."""
        self._steps += 1
        return super().learn(batch)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As the host policy's. Raises RuntimeError, in one sentence, for the state of another algorithm or of other sizes."""
        try:
            return super().load_state_dict(state_dict, *args, **kwargs)
        except RuntimeError:
            reason = why_not_loaded(type(self).__name__, self.state_dict(), state_dict)
            if reason is None:
                raise
            raise RuntimeError(reason) from None

    @staticmethod
    def _parts(batch: Mapping[str, Any]) -> tuple[Any, Any]:
        """The recorded and the synthetic rows of the host trainer's batch."""
        try:
            return batch["real"], batch["fake"]
        except KeyError:
            raise UserError(f"a batch has the rows 'real' and 'fake', as MBPolicyTrainer's, this one has {', '.join(batch)}") from None

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


def kept(policy_class: type[Any]) -> list[str]:
    """The attributes that the terms in a class keep."""
    return [name for part in policy_class.__mro__ for name in vars(part).get("ATTRIBUTES", ()) if issubclass(part, Terms)]
