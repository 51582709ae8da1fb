"""DAMOPolicy: the host's MOPO policy with both of DAMO's terms."""

from __future__ import annotations

from typing import Any

from offlinerlkit_damo.damo.aligned import DataAligned
from offlinerlkit_damo.damo.maximin import MaximinObjective
from offlinerlkit_damo.kit import MOPOPolicy


class DAMOPolicy(DataAligned, MaximinObjective, MOPOPolicy):
    """Dual Alignment Maximin Optimization (arXiv 2502.00850).

    The arguments are MOPOPolicy's; the keyword `config` (DAMOConfig) holds the method's options. `learn` takes the host trainer's
    {"real", "fake"} and, when `DAMOTrainer` provides them, "init" (initial observations, [B0, d]) and "classifier" (a list of
    {"real", "fake"}, one for each classifier update that is due). It makes one step of classifier, critics, actor and entropy
    temperature and returns every logged figure (docs/metrics.md).
    """

    def learn(self, batch: dict[str, Any]) -> dict[str, float]:
        """One learning step; see the class."""
        return super().learn(batch)
