"""The seam: everything the plugin takes from the host is imported from here, and from nowhere else.

    from offlinerlkit_damo.kit import HOST, MOPOPolicy, ReplayBuffer

The host is an installed `offlinerlkit` if there is one, else `kit.standin`, our own code with the same contract.
`OFFLINERLKIT_DAMO_HOST=standin` or `=offlinerlkit` forces one. Type checkers see the stand-in's types. `RunLogger` is the stand-in's Logger
on either host: it keeps the host's layout and can continue a run's folder, which the host's refuses.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .host import EXPORTS, HOST_VARIABLE, Host, load_host
from .standin.logger import Logger as RunLogger

if TYPE_CHECKING:
    from .standin import (
        MLP,
        ActorProb,
        BasePolicy,
        COMBOPolicy,
        CQLPolicy,
        Critic,
        EnsembleDynamics,
        EnsembleDynamicsModel,
        Logger,
        MBPolicyTrainer,
        MOBILEPolicy,
        MOPOPolicy,
        RAMBOPolicy,
        ReplayBuffer,
        SACPolicy,
        StandardScaler,
        TanhDiagGaussian,
        get_termination_fn,
        make_log_dirs,
        qlearning_dataset,
    )

    HOST: Host
else:
    HOST, _names = load_host(os.environ.get(HOST_VARIABLE))
    globals().update({name: _names[name] for name in EXPORTS})

__all__ = [
    "HOST",
    "MLP",
    "ActorProb",
    "BasePolicy",
    "COMBOPolicy",
    "CQLPolicy",
    "Critic",
    "EnsembleDynamics",
    "EnsembleDynamicsModel",
    "Host",
    "Logger",
    "MBPolicyTrainer",
    "MOBILEPolicy",
    "MOPOPolicy",
    "RAMBOPolicy",
    "ReplayBuffer",
    "RunLogger",
    "SACPolicy",
    "StandardScaler",
    "TanhDiagGaussian",
    "get_termination_fn",
    "make_log_dirs",
    "qlearning_dataset",
]
