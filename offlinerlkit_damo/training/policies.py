"""From a configuration to a policy: the host's networks and optimisers, handed to the algorithm's class."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import nn

from offlinerlkit_damo.config import MODEL_BASED, Config
from offlinerlkit_damo.damo.addon import with_data_alignment, with_maximin_objective
from offlinerlkit_damo.damo.policy import DAMOPolicy
from offlinerlkit_damo.dice.algaedice import AlgaeDICEPolicy
from offlinerlkit_damo.dice.odice import ODICEPolicy
from offlinerlkit_damo.dice.optidice import OptiDICEPolicy
from offlinerlkit_damo.dice.rewards import reward_transform
from offlinerlkit_damo.engine.accelerate import accelerate
from offlinerlkit_damo.engine.conservative import FlatCOMBO
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import (
    MLP,
    ActorProb,
    COMBOPolicy,
    Critic,
    EnsembleDynamics,
    MOBILEPolicy,
    MOPOPolicy,
    RAMBOPolicy,
    StandardScaler,
    TanhDiagGaussian,
)
from offlinerlkit_damo.tasks import OfflineDataset

DIAGNOSE_EVERY = 10
"""Steps of the fast engine between those that compute figures: reading twenty means costs as much as a network."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """What every policy is made of: networks and optimisers of the configured sizes and rates, for one task."""

    config: Config
    obs_dim: int
    action_dim: int

    def optim(self, network: nn.Module, lr: float) -> torch.optim.Optimizer:
        """Adam over the network's parameters."""
        return torch.optim.Adam(network.parameters(), lr=lr, fused=True)

    def actor(self) -> nn.Module:
        """A tanh-Gaussian actor with a free mean and a deviation that depends on the observation."""
        backbone = MLP(input_dim=self.obs_dim, hidden_dims=list(self.config.hidden_dims))
        dist = TanhDiagGaussian(latent_dim=self.config.hidden_dims[-1], output_dim=self.action_dim, unbounded=True, conditioned_sigma=True)
        return ActorProb(backbone, dist, self.config.device)

    def critic(self, *, with_action: bool = True) -> nn.Module:
        """Q(s, a), or a function of the state alone."""
        inputs = self.obs_dim + (self.action_dim if with_action else 0)
        return Critic(MLP(input_dim=inputs, hidden_dims=list(self.config.hidden_dims)), self.config.device)

    def temperature(self) -> Any:
        """The host's `alpha`: a number, or (target entropy, log alpha, its optimiser)."""
        config = self.config
        if not config.auto_alpha:
            return config.alpha
        target = -float(self.action_dim) if config.target_entropy is None else config.target_entropy
        log_alpha = torch.zeros(1, requires_grad=True, device=config.device)
        return target, log_alpha, torch.optim.Adam([log_alpha], lr=config.alpha_lr, fused=True)

    def soft_actor_critic(self, *, critics: Callable[[], nn.Module] | None = None) -> list[Any]:
        """Actor, twin critics and their optimisers, in the order of the host's SACPolicy."""
        actor, first, second = self.actor(), *((critics or self.critic)() for _ in range(2))
        rates = self.config.actor_lr, self.config.critic_lr, self.config.critic_lr
        return [actor, first, second, *(self.optim(net, lr) for net, lr in zip((actor, first, second), rates, strict=True))]


def build_policy(
    config: Config,
    dynamics: EnsembleDynamics | None,
    obs_dim: int,
    action_dim: int,
    *,
    dataset: OfflineDataset | None = None,
    scaler: StandardScaler | None = None,
) -> tuple[Any, torch.optim.lr_scheduler.LRScheduler | None]:
    """The algorithm's policy, and the actor's learning-rate schedule.

    `dynamics` is needed by the model-based ones, `dataset` (its rewards) by those of the DICE family that scale rewards, `scaler` of the
    simulator's observations by RAMBO, whose networks see standardised ones.
    """
    parts = Parts(config, obs_dim, action_dim)
    if config.algo_name in MODEL_BASED:
        policy = _model_based(config, parts, dynamics, scaler)
    else:
        policy = _dice(config, parts, dataset)
    scheduler = None
    if config.lr_schedule == "cosine":
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(policy.actor_optim, config.epoch)
    return policy, scheduler


def _model_based(config: Config, parts: Parts, dynamics: Any, scaler: StandardScaler | None) -> Any:
    common: dict[str, Any] = {"tau": config.tau, "gamma": config.gamma, "alpha": parts.temperature()}
    method, fast = config.damo, config.engine == "fast"
    soft = fast and (config.algo_name in ("mopo", "rambo") or (config.algo_name == "mobile" and not config.max_q_backup))
    if soft and not method.behavior_alignment:
        # without the objective DAMO's step is the host's SAC step (tests/engine proves it)
        method = dataclasses.replace(method, **_host_target(config))
    if config.algo_name == "damo":
        policy = DAMOPolicy(dynamics, *parts.soft_actor_critic(), **common, config=method)
    else:
        maximin = method.behavior_alignment or soft
        terms: dict[str, Any] = {"config": method} if method.data_alignment or maximin else {}
        extended = partial(_extended, maximin=maximin, data_alignment=method.data_alignment)
        policy = _BASELINES[config.algo_name](config, parts, dynamics, scaler, extended, {**common, **terms})
    if fast:
        accelerate(policy, diagnose_every=min(DIAGNOSE_EVERY, config.step_per_epoch))
    return policy


def _extended(policy_class: type[Any], *, maximin: bool, data_alignment: bool) -> type[Any]:
    """The host's class with DAMO's own step, and with data alignment, where they are asked for."""
    if maximin:
        policy_class = with_maximin_objective(policy_class)
    return with_data_alignment(policy_class) if data_alignment else policy_class


def _mopo(config: Config, parts: Parts, dynamics: Any, scaler: Any, extended: Any, common: dict[str, Any]) -> Any:
    return extended(MOPOPolicy)(dynamics, *parts.soft_actor_critic(), **common)


def _mobile(config: Config, parts: Parts, dynamics: Any, scaler: Any, extended: Any, common: dict[str, Any]) -> Any:
    actor = parts.actor()
    critics = nn.ModuleList([parts.critic() for _ in range(config.mobile.num_q_ensemble)])
    optims = parts.optim(actor, config.actor_lr), parts.optim(critics, config.critic_lr)
    return extended(MOBILEPolicy)(
        dynamics,
        actor,
        critics,
        *optims,
        **common,
        penalty_coef=config.penalty_coef,
        num_samples=config.mobile.num_samples,
        deterministic_backup=config.deterministic_backup,
        max_q_backup=config.max_q_backup,
        **_own_floor(config),
    )


def _combo(config: Config, parts: Parts, dynamics: Any, scaler: Any, extended: Any, common: dict[str, Any]) -> Any:
    own = config.combo
    by_hand = config.engine == "fast" and not (own.with_lagrange or config.max_q_backup)
    return extended(FlatCOMBO if by_hand else COMBOPolicy)(
        dynamics,
        *parts.soft_actor_critic(),
        Box(-1.0, 1.0, (parts.action_dim,), np.float32),
        **common,
        cql_weight=own.cql_weight,
        temperature=own.temperature,
        max_q_backup=config.max_q_backup,
        deterministic_backup=config.deterministic_backup,
        with_lagrange=own.with_lagrange,
        lagrange_threshold=own.lagrange_threshold,
        cql_alpha_lr=own.cql_alpha_lr,
        num_repeart_actions=own.num_repeat_actions,
        uniform_rollout=own.uniform_rollout,
        rho_s=own.rho_s,
    )


def _rambo(config: Config, parts: Parts, dynamics: Any, scaler: Any, extended: Any, common: dict[str, Any]) -> Any:
    own = config.rambo
    return extended(RAMBOPolicy)(
        dynamics,
        *parts.soft_actor_critic(),
        torch.optim.Adam(_trained(dynamics.model), lr=own.dynamics_adv_lr, fused=True),
        **common,
        adv_weight=own.adv_weight,
        adv_train_steps=own.adv_train_steps,
        adv_rollout_batch_size=own.adv_batch_size,
        adv_rollout_length=own.adv_rollout_length,
        include_ent_in_adv=own.include_ent_in_adv,
        scaler=scaler,
        device=config.device,
    )


def _trained(model: nn.Module) -> list[nn.Parameter]:
    """An ensemble's parameters without its elites and its best epoch's weights, which only the kit keeps as parameters."""
    return [value for name, value in model.named_parameters() if name != "elites" and ".saved_" not in name]


_BASELINES: dict[str, Callable[..., Any]] = {"mopo": _mopo, "mobile": _mobile, "combo": _combo, "rambo": _rambo}


def _own_floor(config: Config) -> dict[str, Any]:
    """MOBILE's target floor, an argument of the stand-in's class only: the kit's floor is 0."""
    there = "target_floor" in inspect.signature(MOBILEPolicy).parameters
    return {"target_floor": config.mobile.mobile_target_floor} if there else {}


def _host_target(config: Config) -> dict[str, Any]:
    """The target of the algorithm's own SAC step, as options of DAMO's: whether it has the entropy, and its floor."""
    if config.algo_name != "mobile":
        return {"entropy_backup": True, "target_floor": None}
    return {"entropy_backup": not config.deterministic_backup, "target_floor": _own_floor(config).get("target_floor", 0.0)}


def _dice(config: Config, parts: Parts, dataset: OfflineDataset | None) -> Any:
    def rewards(scaling: str, factor: float) -> dict[str, Any]:
        if dataset is None:
            return {}
        try:
            scale, shift = reward_transform(scaling, factor, dataset.rewards, dataset.episode_returns)
        except ValueError as error:
            raise UserError(f"dataset {dataset.name}: {error}") from error
        return {"reward_scale": scale, "reward_shift": shift}

    gamma = config.gamma
    if config.algo_name == "algaedice":
        common: dict[str, Any] = {"tau": config.tau, "gamma": gamma, "alpha": parts.temperature(), "config": config.algaedice}
        return AlgaeDICEPolicy(*parts.soft_actor_critic(), **common)
    networks = parts.soft_actor_critic(critics=partial(parts.critic, with_action=False))
    if config.algo_name == "odice":
        scaled = rewards(config.odice.odice_reward_scaling, config.odice.odice_reward_factor)
        common = {"tau": config.tau, "gamma": gamma, "config": config.odice, **scaled}
        return ODICEPolicy(*networks, **common)
    own = config.optidice
    actor, nu, _, actor_optim, nu_optim, _ = networks
    advantage = parts.critic()
    behavior: dict[str, Any] = {}
    if own.optidice_extraction == "projection":
        cloned = parts.actor()
        behavior = {"behavior_actor": cloned, "behavior_actor_optim": parts.optim(cloned, config.actor_lr)}
    return OptiDICEPolicy(
        actor,
        nu,
        advantage,
        actor_optim,
        nu_optim,
        parts.optim(advantage, config.critic_lr),
        gamma=gamma,
        alpha=parts.temperature(),
        config=own,
        **behavior,
        **rewards(own.optidice_reward_scaling, own.optidice_reward_factor),
    )
