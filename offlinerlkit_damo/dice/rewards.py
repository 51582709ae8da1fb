"""How the DICE papers scale a dataset's rewards before they learn from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offlinerlkit_damo.dice.config import REWARD_SCALINGS
from offlinerlkit_damo.errors import unknown


def reward_transform(
    scaling: str, factor: float, rewards: NDArray[np.floating], episode_returns: NDArray[np.floating]
) -> tuple[float, float]:
    """(scale, shift) of the reward scale * r + shift that a policy is to learn from.

    * "standard": factor * (r - mean) / std over the dataset's rows (OptiDICE's public code, factor 0.1);
    * "returns": factor * r / (max return - min return) over its episodes (ODICE's public code, factor 1000, the episodes' length);
    * "none": factor * r.

    Args:
        scaling: one of those names.
        factor: factor on the scaled reward.
        rewards: [N] (or [N, 1]), of all rows.
        episode_returns: [C], undiscounted, of the completed episodes; read by "returns" alone.

    Raises:
        UserError: an unknown name.
        ValueError: the rewards, or the returns, are all the same (or there are none), so that they define no scale.
    """
    if scaling not in REWARD_SCALINGS:
        raise unknown("reward scaling", scaling, REWARD_SCALINGS)
    if scaling == "none":
        return factor, 0.0
    values = np.asarray(rewards if scaling == "standard" else episode_returns, dtype=np.float64)
    if values.size == 0 or np.ptp(values) == 0:
        what = "rewards" if scaling == "standard" else "returns of completed episodes"
        raise ValueError(f"reward scaling {scaling!r} needs {what} that differ, got {values.size} of them; use 'none'")
    if scaling == "returns":
        return factor / float(np.ptp(values)), 0.0
    scale = factor / float(values.std())
    return scale, -scale * float(values.mean())
