"""Guards: figures that say a run has gone wrong before its score does, each a named warning with what to try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PATIENCE = 5  # epochs in a row before a warning
BLIND, SEPARATED = 0.505, 0.995  # accuracies of a classifier that knows nothing, or everything
STARVED = 0.02  # effective sample size, as a share of the batch
BEYOND = 2.0  # times the value that the dataset's largest reward, for ever, could have

QS = ("damo/q_batch", "eval/q_data")
"""Mean values of the critics in units of the rewards."""


@dataclass(frozen=True)
class Finding:
    """A guard's name, what it saw and what to try."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"WARNING {self.name}: {self.text}"


class Guards:
    """Looks at the means of every epoch; a guard that finds the same for five epochs speaks, once until it is well again.

    Args:
        largest_reward: the dataset's largest absolute reward.
        gamma: discount.
    """

    def __init__(self, *, largest_reward: float, gamma: float) -> None:
        self._bound = BEYOND * largest_reward / (1 - gamma)
        self._epochs: dict[str, int] = {}

    def check(self, figures: Mapping[str, float]) -> list[Finding]:
        """The findings that are new with this epoch's figures (docs/metrics.md); figures that are not there are well."""
        seen = {finding.name: finding for finding in self._findings(figures)}
        self._epochs = {name: self._epochs.get(name, 0) + 1 for name in seen}
        return [finding for name, finding in seen.items() if self._epochs[name] == PATIENCE]

    def _findings(self, figures: Mapping[str, float]) -> list[Finding]:
        found = []
        q = max((abs(value) for name, value in figures.items() if name in QS), default=0.0)
        if q > self._bound:
            text = (
                f"the mean Q is {q:.4g} in size, beyond anything the dataset's rewards can be worth ({self._bound:.4g}); try a smaller "
                "--critic-lr or --tau, --q-next min, and for the maximin objective another --grad-mode "
                "with the --init-coef that goes with it (docs/method.md)"
            )
            found.append(Finding("exploding-q", text))
        accuracy = figures.get("damo/classifier_accuracy", 0.75)
        if accuracy >= SEPARATED:
            text = (
                f"the classifier tells model from data with accuracy {accuracy:.4f}, so ell says nothing but which is which; train the "
                "dynamics for longer, or try --classifier-gradient-penalty 10 or --classifier-input-noise 0.1"
            )
            found.append(Finding("separated-classifier", text))
        if accuracy <= BLIND:
            text = (
                f"the classifier cannot tell model from data (accuracy {accuracy:.4f}), so ell is noise; try a larger --classifier-lr or "
                "--classifier-updates-per-step, less regularisation, or do without --data-alignment"
            )
            found.append(Finding("blind-classifier", text))
        share = min((value for name, value in figures.items() if name.endswith("/effective_sample_size")), default=1.0)
        if share < STARVED:
            text = (
                f"{share:.2%} of a batch carries all the weight of the actor's loss; try --w-max 10 or a larger "
                "--actor-alpha"
            )
            found.append(Finding("starved-weights", text))
        return found

    def state_dict(self) -> dict[str, Any]:
        """For how many epochs each finding has been there."""
        return dict(self._epochs)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._epochs = dict(state)
