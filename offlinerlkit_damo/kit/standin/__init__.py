"""A stand-in for OfflineRL-Kit where the kit is not installed: the same names, signatures, shapes and files.

It is written from the contract and from the papers (SAC: Haarnoja et al. 2018; PETS: Chua et al. 2018; MBPO: Janner et
al. 2019; MOPO: Yu et al. 2020; CQL: Kumar et al. 2020; COMBO: Yu et al. 2021; RAMBO: Rigter et al. 2022; MOBILE: Sun et
al. 2023), not from the kit's source, and it has no feature that the contract does not name, but for keyword-only
switches back to two of the kit's defects (CQL's logsumexp, MOBILE's floor).

Shapes: B rows, d observation size, A action size, E ensemble members, N rows of a dataset.
"""

from __future__ import annotations

from .buffer import ReplayBuffer
from .combo import COMBOPolicy
from .cql import CQLPolicy
from .dataset import qlearning_dataset
from .dynamics import EnsembleDynamics
from .dynamics_model import EnsembleDynamicsModel
from .logger import Logger, make_log_dirs
from .mobile import MOBILEPolicy
from .modules import ActorProb, Critic, TanhDiagGaussian
from .mopo import MOPOPolicy
from .nets import MLP
from .policy import BasePolicy, SACPolicy
from .rambo import RAMBOPolicy
from .scaler import StandardScaler
from .termination import get_termination_fn
from .trainer import MBPolicyTrainer

__version__ = "0.0.1"  # the version of the kit whose contract this follows

__all__ = [
    "MLP",
    "ActorProb",
    "BasePolicy",
    "COMBOPolicy",
    "CQLPolicy",
    "Critic",
    "EnsembleDynamics",
    "EnsembleDynamicsModel",
    "Logger",
    "MBPolicyTrainer",
    "MOBILEPolicy",
    "MOPOPolicy",
    "RAMBOPolicy",
    "ReplayBuffer",
    "SACPolicy",
    "StandardScaler",
    "TanhDiagGaussian",
    "get_termination_fn",
    "make_log_dirs",
    "qlearning_dataset",
]
