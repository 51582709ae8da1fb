"""How much is sampled for the figures."""

from __future__ import annotations

from dataclasses import dataclass

from offlinerlkit_damo.config import check_seed
from offlinerlkit_damo.options import option, validate


@dataclass(frozen=True)
class Settings:
    """What all figures of one call share."""

    seed: int = option(0, "seed of everything that is sampled")
    episodes: int = option(20, "episodes in the simulator for every run", least=2)
    points: int = option(1000, "rows of every distribution", least=10, most=5000)
    pairs: int = option(200, "state-action pairs outside the data, and as many inside, that are valued", least=1)

    def __post_init__(self) -> None:
        validate(self)
        check_seed(self.seed)
