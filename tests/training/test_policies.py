"""Every algorithm from its configuration: built, one step, and DAMO's terms where they are asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from offlinerlkit_damo.config import MODEL_BASED, MODEL_FREE, resolve
from offlinerlkit_damo.damo.aligned import DataAligned
from offlinerlkit_damo.damo.maximin import MaximinObjective
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import COMBOPolicy, MOBILEPolicy, MOPOPolicy, RAMBOPolicy
from offlinerlkit_damo.training.dynamics import build_dynamics
from offlinerlkit_damo.training.policies import build_policy

OBS, ACT = 11, 3
SMALL = {"task": "hopper-medium-expert", "hidden_dims": [8, 8], "dynamics_hidden_dims": [8], "dynamics_weight_decay": [0, 0]}
TERMS: dict[str, dict[str, Any]] = {
    "none": {},
    "data alignment": {"data_alignment": 0.5},
    "both": {"data_alignment": 0.5, "behavior_alignment": True},
}


def rows(size: int, seed: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    columns = {
        "observations": rng.normal(size=(size, OBS)),
        "actions": rng.uniform(-1, 1, (size, ACT)),
        "next_observations": rng.normal(size=(size, OBS)),
        "rewards": rng.normal(size=(size, 1)),
        "terminals": np.zeros((size, 1)),
    }
    return {key: torch.as_tensor(value, dtype=torch.float32) for key, value in columns.items()}


def build(algo: str, **options: Any) -> Any:
    own = {key: value for key, value in SMALL.items() if algo in MODEL_BASED or not key.startswith("dynamics")}
    config = resolve({"algo_name": algo, **own, **options})
    torch.manual_seed(0)
    dynamics = None
    if algo in MODEL_BASED:
        dynamics = build_dynamics(config, OBS, ACT)
        dynamics.scaler.fit(np.random.default_rng(0).normal(size=(50, OBS + ACT)).astype("f4"))
    rewards = np.random.default_rng(0).normal(size=20)
    dataset: Any = SimpleNamespace(rewards=rewards, episode_returns=np.array([1.0, 3.0]))
    return build_policy(config, dynamics, OBS, ACT, dataset=dataset)[0]


@pytest.mark.parametrize("algo", ["mopo", "mobile", "combo", "rambo"])
def test_the_fast_engines_files_are_the_hosts(algo: str) -> None:
    """What a baseline saves loads into the host's own class, whichever engine trained it."""
    host = {"mopo": MOPOPolicy, "mobile": MOBILEPolicy, "combo": COMBOPolicy, "rambo": RAMBOPolicy}[algo]
    plain = build(algo, engine="reference")
    assert type(plain) is host
    for options in ({}, {"behavior_alignment": True}) if algo != "combo" else ({},):
        assert list(build(algo, engine="fast", **options).state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("engine", ["fast", "reference"])
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("algo", MODEL_BASED)
def test_model_based_algorithms_take_a_step(algo: str, terms: str, engine: str) -> None:
    options = TERMS[terms]
    if algo == "combo" and "behavior_alignment" in options:
        pytest.skip("COMBO's critics have a conservative loss of their own")
    policy = build(algo, engine=engine, **options)
    own = algo == "damo"  # a class with both, switched by the configuration
    assert isinstance(policy, DataAligned) == (own or "data_alignment" in options)
    plain_step = algo in ("mopo", "mobile", "rambo") and engine == "fast"  # SAC's step, which DAMO's is without its terms
    assert isinstance(policy, MaximinObjective) == (own or plain_step or "behavior_alignment" in options)
    actor = [p.clone() for p in policy.actor.parameters()]
    first, figures = (policy.learn({"real": rows(4, step), "fake": rows(12, step + 9)}) for step in range(2))
    assert np.isfinite(list(figures.values())).all()
    assert ("damo/ell_fake" in first) == (algo == "damo" or bool(options))
    assert ("damo/weight" in first) == (algo == "damo" or "behavior_alignment" in options)
    assert any(not torch.equal(p, q) for p, q in zip(policy.actor.parameters(), actor, strict=True))
    assert policy.select_action(np.zeros((5, OBS), "f4"), deterministic=True).shape == (5, ACT)


@pytest.mark.parametrize("algo", MODEL_FREE)
def test_model_free_algorithms_take_a_step(algo: str) -> None:
    policy = build(algo)
    figures = policy.learn({"real": rows(16, 0), "init": rows(6, 1)["observations"]})
    assert np.isfinite(list(figures.values())).all()
    assert policy.select_action(np.zeros((5, OBS), "f4"), deterministic=True).shape == (5, ACT)


def test_the_maximin_objective_does_not_go_with_combo() -> None:
    with pytest.raises(UserError, match="combo"):
        build("combo", data_alignment=0.5, behavior_alignment=True)


def test_mobiles_penalty_is_part_of_the_refined_reward() -> None:
    figures = {}
    for coefficient in (0.0, 5.0):
        policy = build("mobile", behavior_alignment=True, penalty_coef=coefficient)
        figures[coefficient] = policy.learn({"real": rows(4, 0), "fake": rows(12, 9)})
    assert figures[5.0]["damo/refined_reward_fake"] < figures[0.0]["damo/refined_reward_fake"]
