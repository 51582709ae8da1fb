"""A stand-in for OfflineRL-Kit where the kit is not installed: the same names, signatures, shapes and files.

It is written from the contract and from the papers (SAC: Haarnoja et al. 2018; PETS: Chua et al. 2018; MBPO: Janner et
al. 2019; MOPO: Yu et al. 2020), not from the kit's source, and it has no feature that the contract does not name.

Shapes: B rows, d observation size, A action size, E ensemble members, N rows of a dataset.
"""

from __future__ import annotations

from .buffer import ReplayBuffer
from .dataset import qlearning_dataset
from .dynamics import EnsembleDynamics
from .dynamics_model import EnsembleDynamicsModel
from .logger import Logger, make_log_dirs
from .modules import ActorProb, Critic, TanhDiagGaussian
from .mopo import MOPOPolicy
from .nets import MLP
from .policy import BasePolicy, SACPolicy
from .scaler import StandardScaler
from .termination import get_termination_fn
from .trainer import MBPolicyTrainer

__version__ = "0.0.1"  # the version of the kit whose contract this follows

__all__ = [
    "MLP",
    "ActorProb",
    "BasePolicy",
    "Critic",
    "EnsembleDynamics",
    "EnsembleDynamicsModel",
    "Logger",
    "MBPolicyTrainer",
    "MOPOPolicy",
    "ReplayBuffer",
    "SACPolicy",
    "StandardScaler",
    "TanhDiagGaussian",
    "get_termination_fn",
    "make_log_dirs",
    "qlearning_dataset",
]
