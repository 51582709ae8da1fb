"""How runs and contestants are told apart in every figure: by colour, dashes and marker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Okabe and Ito (2008), told apart by readers of every colour vision; without their yellow, which is lost on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (8, 2, 2, 2)), (0, (1, 1)), (0, (12, 2)), (0, (6, 2, 1, 2, 1, 2)), (0, (3, 4)))
MARKERS = "osD^vPX"


@dataclass(frozen=True)
class Look:
    """How a contestant is drawn."""

    colour: str
    dashes: Any
    marker: str


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """A look for every contestant, all different for up to 56."""
    found = {}
    for i, label in enumerate(labels):
        again, place = divmod(i, len(COLOURS))
        found[label] = Look(COLOURS[place], DASHES[again % len(DASHES)], MARKERS[(place + again) % len(MARKERS)])
    return found
