"""DAMO's terms on other policies: the same numbers as DAMOPolicy's, a policy of the user's own, and what cannot be extended."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_policy import OBS, make_batch, make_parts, make_policy, run_steps

from offlinerlkit_damo import DAMOConfig, DAMOPolicy, with_data_alignment, with_maximin_objective
from offlinerlkit_damo.damo.aligned import DataAligned
from offlinerlkit_damo.damo.maximin import MaximinObjective
from offlinerlkit_damo.damo.terms import Terms
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import COMBOPolicy, MOBILEPolicy, MOPOPolicy, RAMBOPolicy, SACPolicy

METHOD = {"classifier_hidden_dims": (16,), "damo_alpha": 0.7}


def make(policy_class: Any, **options: Any) -> Any:
    return make_policy(DAMOConfig(**{**METHOD, **options}), torch.float32, policy_class)


def same_state(first: torch.nn.Module, second: torch.nn.Module) -> None:
    for (key, value), (other_key, other) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert key == other_key
        if key != "data_alignment._extra_state" or value.dim() == 0:
            torch.testing.assert_close(other, value, rtol=0, atol=1e-6)


def test_both_terms_on_mopo_are_damo() -> None:
    policies = make(DAMOPolicy), make(with_data_alignment(with_maximin_objective(MOPOPolicy)))
    figures = [run_steps(policy, 4, torch.float32) for policy in policies]
    assert figures[0] == figures[1]
    same_state(*policies)


def test_the_maximin_objective_alone_is_damo_without_data_alignment() -> None:
    policies = make(DAMOPolicy, data_alignment=False), make(with_maximin_objective(MOPOPolicy))
    figures = [run_steps(policy, 4, torch.float32) for policy in policies]
    assert figures[0] == figures[1]


def test_data_alignment_hands_refined_rewards_to_the_policys_own_step() -> None:
    seen: list[Any] = []

    class Spy(MOPOPolicy):
        def learn(self, batch: Any) -> dict[str, float]:
            seen.append(batch)
            return super().learn(batch)

    policy = make(with_data_alignment(Spy), classifier_updates_per_step=0.0)
    batch = make_batch(0, torch.float32)
    figures = policy.learn(batch)
    for kind in ("real", "fake"):
        rows = batch[kind]
        ell = policy.data_alignment.log_ratio(rows["observations"], rows["actions"], rows["next_observations"], real_share=0.0)
        torch.testing.assert_close(seen[0][kind]["rewards"], rows["rewards"] - 0.7 * ell.unsqueeze(-1))
        assert figures[f"damo/ell_{kind}"] == pytest.approx(ell.mean().item(), rel=1e-4)
        assert figures[f"damo/refined_reward_{kind}"] == pytest.approx(seen[0][kind]["rewards"].mean().item(), rel=1e-4)
    assert {"loss/critic1", "loss/actor", "alpha"} <= set(figures)  # the policy's own figures are there too


def test_a_penalty_computed_while_learning_lowers_the_refined_reward() -> None:
    """MOBILE's: subtracted inside the residual, once, from synthetic rows."""

    class Penalised(MOPOPolicy):
        _penalty_coef = 2.0

        def compute_lcb(self, obss: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
            return actions.abs().sum(-1, keepdim=True)

    plain, penalised = make(with_maximin_objective(MOPOPolicy)), make(with_maximin_objective(Penalised))
    batch = make_batch(0, torch.float32)
    want = {
        "real": batch["real"]["rewards"].mean().item(),
        "fake": (batch["fake"]["rewards"].squeeze(-1) - 2 * batch["fake"]["actions"].abs().sum(-1)).mean().item(),
    }
    assert plain.learn(batch)["damo/refined_reward_fake"] == pytest.approx(batch["fake"]["rewards"].mean().item(), rel=1e-5)
    figures = penalised.learn(batch)
    assert {kind: figures[f"damo/refined_reward_{kind}"] for kind in want} == pytest.approx(want, rel=1e-4)


def test_the_page_about_extending_works_as_printed() -> None:
    text = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    names: dict[str, Any] = {}
    exec(compile(code, "docs/extending.md", "exec"), names)
    dynamics, actor, critic1, critic2, *_ = make_parts(torch.float32)
    policy = names["build"](dynamics, actor, critic1, critic2)
    batch = make_batch(0, torch.float32)
    batch["fake"]["rewards"][0] = 100.0
    figures = policy.learn(batch)
    assert np.isfinite(list(figures.values())).all()
    assert policy.select_action(np.zeros((3, OBS), "f4")).shape == (3, 2)


class NoLearn:
    def select_action(self) -> None: ...


def test_the_terms_shadow_nothing_of_the_hosts_policies() -> None:
    """Helpers of a mixin with the name of a host's method would silently change the host's own steps."""
    hosts = set(dir(MOPOPolicy)) | set(dir(MOBILEPolicy)) | set(dir(COMBOPolicy)) | set(dir(RAMBOPolicy))
    for term in (DataAligned, MaximinObjective, Terms):
        shared = set(vars(term)) & hosts
        assert {name for name in shared if not name.startswith("__")} <= {"learn"}


@pytest.mark.parametrize(
    ("extend", "policy_class", "message"),
    [
        (with_data_alignment, NoLearn, "NoLearn cannot be extended: it has no learn"),
        (with_maximin_objective, NoLearn, "no learn and no actforward and no _sync_weight"),
        (with_data_alignment, "MOPOPolicy", "is no class"),
        (with_data_alignment, DAMOPolicy, "DAMOPolicy has DataAligned already"),
        (with_maximin_objective, DAMOPolicy, "DAMOPolicy has MaximinObjective already"),
        (with_maximin_objective, with_data_alignment(MOPOPolicy), "in this order"),
        (with_maximin_objective, COMBOPolicy, "conservative term"),
    ],
)
def test_what_cannot_be_extended_says_why(extend: Any, policy_class: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        extend(policy_class)


def test_a_policy_without_dynamics_is_refused_when_it_learns() -> None:
    arguments = make_parts(torch.float32)[1:]
    policy = with_data_alignment(SACPolicy)(*arguments, config=DAMOConfig())
    with pytest.raises(UserError, match="no dynamics"):
        policy.learn(make_batch(0, torch.float32))
