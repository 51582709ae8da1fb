"""The policies that generated datasets are played with: snapshots of a SAC actor along its training.

`behaviour/<robot>.npz` holds S snapshots in training order: steps i64[S] (environment steps of training), returns
f64[S] and returns_deterministic f64[S] (measured mean undiscounted return, acting stochastically and by the mean),
medium and expert (indices), and the stacked weights w0 [S, d, 256], b0 [S, 256], w1, b1, w2 [S, 256, 2a], b2 [S, 2a]
in float16.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks.dataset import Floats

FOLDER = Path(__file__).parent / "behaviour"
WEIGHTS = ("w0", "b0", "w1", "b1", "w2", "b2")
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


class Actor:
    """A tanh-Gaussian policy: obs -> two ReLU layers -> [mean, log_std].

    The products use einsum and not BLAS: its sums have one order, whatever the number of threads, so data repeats
    exactly.
    """

    def __init__(self, weights: dict[str, NDArray[np.floating]]) -> None:
        """`weights` by the names of WEIGHTS, one snapshot, any float type; computed with in float32."""
        self._weights = [np.ascontiguousarray(weights[key], np.float32) for key in WEIGHTS]

    def __call__(self, obs: Floats, rng: np.random.Generator | None) -> Floats:
        """Action f32[a] for one observation f32[d]: a sample, or the tanh of the mean when `rng` is None."""
        w0, b0, w1, b1, w2, b2 = self._weights
        hidden = np.maximum(np.einsum("i,ij->j", obs, w0) + b0, 0)
        hidden = np.maximum(np.einsum("i,ij->j", hidden, w1) + b1, 0)
        mean, log_std = np.split(np.einsum("i,ij->j", hidden, w2) + b2, 2)
        if rng is not None:
            std = np.exp(np.clip(log_std, LOG_STD_MIN, LOG_STD_MAX))
            mean = mean + std * rng.standard_normal(mean.shape, dtype=np.float32)
        action: Floats = np.tanh(mean)
        return action


@dataclass(frozen=True, eq=False)
class Behaviour:
    """The snapshots of one robot."""

    steps: NDArray[np.int64]  # [S]
    returns: NDArray[np.float64]  # [S] stochastic
    returns_deterministic: NDArray[np.float64]  # [S]
    medium: int  # index of the snapshot that plays "medium"
    expert: int  # index of the snapshot that plays "expert"
    weights: dict[str, NDArray[np.float16]]  # stacked [S, ...]
    fingerprint: str  # SHA-256 (hex) of the file

    def actor(self, index: int) -> Actor:
        """Snapshot `index` as a policy."""
        return Actor({key: stack[index] for key, stack in self.weights.items()})


def has_behaviour(robot: str) -> bool:
    """Whether this package has snapshots for `robot`."""
    return (FOLDER / f"{robot}.npz").is_file()


def load_behaviour(robot: str) -> Behaviour:
    """The snapshots that come with this package. Raises UserError when it has none for `robot`."""
    path = FOLDER / f"{robot}.npz"
    if not has_behaviour(robot):
        others = ", ".join(sorted(p.stem for p in FOLDER.glob("*.npz"))) or "none yet"
        raise UserError(
            f"there are no behaviour policies for {robot!r} (robots that have them: {others}); "
            f"{robot}-random needs none, or give a dataset with --data"
        )
    return read_behaviour(path)


def read_behaviour(path: Path) -> Behaviour:
    """The snapshots of the file `path`. Raises UserError when it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); pack a training with run_example/pack_behaviour.py") from None
    with np.load(io.BytesIO(content)) as data:
        return Behaviour(
            steps=data["steps"],
            returns=data["returns"],
            returns_deterministic=data["returns_deterministic"],
            medium=int(data["medium"]),
            expert=int(data["expert"]),
            weights={key: data[key] for key in WEIGHTS},
            fingerprint=hashlib.sha256(content).hexdigest(),
        )
