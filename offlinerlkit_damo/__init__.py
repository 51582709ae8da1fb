"""DAMO (Dual Alignment Maximin Optimization, arXiv 2502.00850) for OfflineRL-Kit."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from offlinerlkit_damo.config import Config, DAMOConfig, resolve
    from offlinerlkit_damo.damo.addon import with_data_alignment, with_maximin_objective
    from offlinerlkit_damo.damo.policy import DAMOPolicy
    from offlinerlkit_damo.engine.buffer import DeviceReplayBuffer
    from offlinerlkit_damo.engine.dynamics import RoutedDynamics
    from offlinerlkit_damo.training.run import train
    from offlinerlkit_damo.training.saved import load_policy
    from offlinerlkit_damo.training.trainer import DAMOTrainer

__all__ = [
    "Config",
    "DAMOConfig",
    "DAMOPolicy",
    "DAMOTrainer",
    "DeviceReplayBuffer",
    "RoutedDynamics",
    "load_policy",
    "resolve",
    "train",
    "with_data_alignment",
    "with_maximin_objective",
]

_HOMES = {
    "Config": "config",
    "DAMOConfig": "config",
    "DAMOPolicy": "damo.policy",
    "DAMOTrainer": "training.trainer",
    "DeviceReplayBuffer": "engine.buffer",
    "RoutedDynamics": "engine.dynamics",
    "load_policy": "training.saved",
    "resolve": "config",
    "train": "training.run",
    "with_data_alignment": "damo.addon",
    "with_maximin_objective": "damo.addon",
}


def __getattr__(name: str) -> Any:
    # on first use: `import offlinerlkit_damo` alone must not import torch or choose a host
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
