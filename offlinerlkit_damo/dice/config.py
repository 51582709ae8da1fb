"""The options of the DICE family; presets are data in configs/{algaedice,optidice,odice}.yaml, sources in docs/dice.md.

Every name carries its algorithm's, so that the options of all algorithms fit into one flat mapping.
"""

from __future__ import annotations

from dataclasses import dataclass

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.options import option, validate

REWARD_SCALINGS = ("none", "standard", "returns")


@dataclass(frozen=True, kw_only=True)
class AlgaeDICEConfig:
    """Options of AlgaeDICE (Nachum et al. 2019)."""

    algae_alpha: float = option(1e-4, "weight alpha of the divergence in the paper's objective (public code: its square root)", above=0)
    algae_mix: float = option(0.05, "share of the online critics in the next value, the rest is the target networks'", least=0, most=1)
    algae_actor_every: int = option(2, "critic steps between steps of actor, entropy temperature and target networks", least=1)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, kw_only=True)
class OptiDICEConfig:
    """Options of OptiDICE (Lee et al. 2021)."""

    optidice_alpha: float = option(1.0, "weight alpha of the divergence between the policy's occupancy and the data's", above=0)
    optidice_divergence: str = option("soft_chi2", "f-divergence of the objective", choices=("soft_chi2", "half_chi2", "kl"))
    optidice_extraction: str = option(
        "projection", "policy from ratios: projection (information projection) or cloning (weighted)", choices=("projection", "cloning")
    )
    optidice_normalize: bool = option(True, "learn a multiplier that keeps the mean ratio at 1")
    optidice_multiplier_lr: float = option(3e-4, "learning rate of that multiplier", above=0)
    optidice_warmup_steps: int = option(0, "steps of all other networks before the actor's first one", least=0)
    optidice_reward_scaling: str = option(
        "standard", "rewards: none, standard (mean 0, std 1) or returns (by the range of the episodes' returns)", choices=REWARD_SCALINGS
    )
    optidice_reward_factor: float = option(0.1, "factor on the scaled rewards", above=0)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, kw_only=True)
class ODICEConfig:
    """Options of ODICE (Mao et al. 2024)."""

    odice_lambda: float = option(0.6, "weight lambda of the residual's term against the state values' 1 - lambda, in (0, 1)", above=0)
    odice_eta: float = option(1.0, "weight eta of the projected backward gradient", least=0)
    odice_grad_mode: str = option(
        "orthogonal", "gradient through V(s'): orthogonal (the method), full (true gradient) or semi (target networks)",
        choices=("orthogonal", "full", "semi"),
    )
    odice_actor_weight: str = option(
        "ratio", "weight of a row in the actor's loss: ratio = max(0, 1 + e/2) (f*', the method) or residual = max(0, e) (public code)",
        choices=("residual", "ratio"),
    )
    odice_w_max: float = option(100.0, "largest weight of a row in the actor's loss", above=0)
    odice_reward_scaling: str = option(
        "returns", "rewards: none, standard (mean 0, std 1) or returns (by the range of the episodes' returns)", choices=REWARD_SCALINGS
    )
    odice_reward_factor: float = option(1000.0, "factor on the scaled rewards", above=0)

    def __post_init__(self) -> None:
        validate(self)
        if self.odice_lambda >= 1:
            raise UserError(f"odice_lambda is {self.odice_lambda}; it must be below 1")
