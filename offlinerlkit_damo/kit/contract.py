"""What the plugin relies on in a host: the arguments of its classes and functions, and their methods. Data for the seam and its tests."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import reduce
from typing import Any, NamedTuple

COMMIT = "e3ce697"
"""The commit of OfflineRL-Kit that has all of this."""
SPELLINGS = {"_deteterministic_backup": "_deterministic_backup", "_dynmics_adv_optim": "dynamics_adv_optim"}
"""Attributes of policies as the kit spells them, and as the stand-in does."""
OWN = object()
"""Stands for a default that each host has of its own."""


class Arguments(NamedTuple):
    """The arguments of a class or a function, in their order."""

    positional: tuple[str, ...]  # given by position, so nothing may come between them
    defaults: dict[str, Any]  # those that may be left out, and what they are then

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.positional, *self.defaults]))


def _takes(positional: str, **defaults: Any) -> Arguments:
    return Arguments(tuple(positional.split()), defaults)


_TWINS = "actor critic1 critic2 actor_optim critic1_optim critic2_optim"
_SOFT: dict[str, Any] = {"tau": 0.005, "gamma": 0.99, "alpha": 0.2}
_CONSERVATIVE: dict[str, Any] = {
    "cql_weight": 1.0,
    "temperature": 1.0,
    "max_q_backup": False,
    "deterministic_backup": True,
    "with_lagrange": True,
    "lagrange_threshold": 10.0,
    "cql_alpha_lr": 1e-4,
    "num_repeart_actions": 10,
}

ARGUMENTS: dict[str, Arguments] = {
    "SACPolicy": _takes(_TWINS, **_SOFT),
    "MOPOPolicy": _takes(f"dynamics {_TWINS}", **_SOFT),
    "MOBILEPolicy": _takes(
        "dynamics actor critics actor_optim critics_optim",
        **_SOFT,
        penalty_coef=1.0,
        num_samples=10,
        deterministic_backup=False,
        max_q_backup=False,
    ),
    "CQLPolicy": _takes(f"{_TWINS} action_space", **_SOFT, **_CONSERVATIVE),
    "COMBOPolicy": _takes(f"dynamics {_TWINS} action_space", **_SOFT, **_CONSERVATIVE, uniform_rollout=False, rho_s="mix"),
    "RAMBOPolicy": _takes(
        f"dynamics {_TWINS} dynamics_adv_optim",
        **_SOFT,
        adv_weight=0,
        adv_train_steps=1000,
        adv_rollout_batch_size=256,
        adv_rollout_length=5,
        include_ent_in_adv=False,
        scaler=None,
        device="cpu",
    ),
    "MBPolicyTrainer": _takes(
        "policy eval_env real_buffer fake_buffer logger rollout_setting epoch step_per_epoch batch_size real_ratio eval_episodes "
        "lr_scheduler dynamics_update_freq",
        epoch=1000,
        step_per_epoch=1000,
        batch_size=256,
        real_ratio=0.05,
        eval_episodes=10,
        lr_scheduler=None,
        dynamics_update_freq=0,
    ),
    "EnsembleDynamics": _takes("model optim scaler terminal_fn", penalty_coef=0.0, uncertainty_mode="aleatoric"),
    "EnsembleDynamics.train": _takes(
        "self data logger", max_epochs=None, max_epochs_since_update=5, batch_size=256, holdout_ratio=0.2, logvar_loss_coef=0.01
    ),
    "EnsembleDynamicsModel": _takes(
        "obs_dim action_dim hidden_dims",
        num_ensemble=7,
        num_elites=5,
        activation=OWN,
        weight_decays=None,
        with_reward=True,
        device="cpu",
    ),
    "ReplayBuffer": _takes("buffer_size obs_shape obs_dtype action_dim action_dtype device", device="cpu"),
    "StandardScaler": _takes("mu std", mu=None, std=None),
    "MLP": _takes("input_dim hidden_dims", output_dim=None, activation=OWN, dropout_rate=None),
    "ActorProb": _takes("backbone dist_net device", device="cpu"),
    "Critic": _takes("backbone device", device="cpu"),
    "TanhDiagGaussian": _takes(
        "latent_dim output_dim", unbounded=False, conditioned_sigma=False, max_mu=1.0, sigma_min=-5.0, sigma_max=2.0
    ),
    "Logger": _takes("dir ouput_config"),
    "get_termination_fn": _takes("task"),
    "qlearning_dataset": _takes("env", dataset=None, terminate_on_end=False),
    "make_log_dirs": _takes("task_name algo_name seed args", record_params=None),
}
METHODS = {
    "SACPolicy": "train eval select_action learn actforward _sync_weight",
    "MOPOPolicy": "rollout learn",
    "MOBILEPolicy": "train eval select_action learn actforward _sync_weight rollout compute_lcb",
    "COMBOPolicy": "rollout learn",
    "RAMBOPolicy": "rollout learn pretrain load update_dynamics",
    "MBPolicyTrainer": "train",
    "EnsembleDynamics": "step sample_next_obss format_samples_for_training train learn validate select_elites save load",
    "EnsembleDynamicsModel": "forward load_save update_save get_decay_loss set_elites random_elite_idxs",
    "ReplayBuffer": "add_batch load_dataset normalize_obs sample sample_all",
    "StandardScaler": "fit transform transform_tensor",
    "Logger": "log_hyperparameters logkv dumpkvs log set_timestep close "
    "record_dir checkpoint_dir model_dir result_dir",
}


def spelt(policy: Any, name: str) -> str:
    """What a policy of either host calls the attribute that the stand-in calls `name`."""
    theirs = next((kits for kits, ours in SPELLINGS.items() if ours == name), name)
    return theirs if hasattr(policy, theirs) else name


def misfit(names: Mapping[str, Any]) -> str | None:
    """The first thing in which a host, its exports by name, breaks the contract, as a clause; None where it keeps it.

    More arguments with defaults are no breach, nor are other defaults.
    """
    for name, methods in METHODS.items():
        for method in methods.split():
            if not hasattr(names[name], method):
                return f"{name} has no method {method}"
    for path, expected in ARGUMENTS.items():
        name, *attributes = path.split(".")
        problem = _difference(expected, reduce(getattr, attributes, names[name]))
        if problem:
            return f"{path} {problem}"
    return None


def _difference(expected: Arguments, found: Any) -> str | None:
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):
        return "cannot be called"
    kinds = {p.kind for p in parameters.values()}
    if kinds >= {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        return None  # a wrapper, which takes anything
    named = {name: p for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    optional = set(expected.names) - set(expected.positional) if inspect.Parameter.VAR_KEYWORD in kinds else set()
    for name in expected.names:
        if name not in named and name not in optional:
            return f"takes no argument {name!r}"
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in expected.names:
            return f"needs an argument {name!r}, which is not known here"
        if parameter.default is parameter.empty and name in expected.defaults:
            return f"has no default for its argument {name!r}"
    by_position = [name for name, p in named.items() if p.kind is not p.KEYWORD_ONLY]
    for place, name in enumerate(expected.positional):
        if by_position[place : place + 1] != [name]:
            return f"does not take {name!r} as its {place + 1}. argument"
    return None
