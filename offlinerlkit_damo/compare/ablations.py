"""Ready-made comparisons: the studies of configs/ablations.yaml, joined into one plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offlinerlkit_damo.compare.plan import Plan, make_plan
from offlinerlkit_damo.config import packaged
from offlinerlkit_damo.errors import UserError, unknown


def studies() -> dict[str, dict[str, Any]]:
    """Study -> "about" (a line), "algos" and "variants" as in a plan."""
    return packaged("ablations")


def ablation_plan(names: Sequence[str], tasks: Sequence[str], seeds: int | Sequence[int], given: Mapping[str, Any]) -> Plan:
    """The plan of one or more studies; the algorithm that they share is one contestant. Raises UserError as `make_plan`."""
    if not names:
        raise UserError(f"name a study, or several: {', '.join(studies())}; --list says what they are")
    for name in names:
        if name not in studies():
            raise unknown("study", name, studies())
    algos = dict.fromkeys(algo for name in names for algo in studies()[name]["algos"])
    variants = {label: values for name in names for label, values in studies()[name]["variants"].items()}
    return make_plan(tasks, list(algos), seeds, given, variants)


def described() -> str:
    """Every study with what it asks and its contestants, for people."""
    return "\n".join(
        f"{name}: {study['about']}\n    {', '.join([*study['algos'], *study['variants']])}" for name, study in studies().items()
    )
