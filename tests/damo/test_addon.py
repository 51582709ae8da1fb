"""DAMO's terms on other policies: the same numbers as DAMOPolicy's, a policy of the user's own, and what cannot be extended."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_policy import ACT, OBS, make_batch, make_parts, make_policy, run_steps

from offlinerlkit_damo import DAMOConfig, DAMOPolicy, with_data_alignment, with_maximin_objective
from offlinerlkit_damo.damo.addon import EXTENDED
from offlinerlkit_damo.damo.aligned import DataAligned
from offlinerlkit_damo.damo.maximin import MaximinObjective
from offlinerlkit_damo.damo.terms import Terms
from offlinerlkit_damo.dice.algaedice import AlgaeDICEPolicy
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import BasePolicy, COMBOPolicy, CQLPolicy, MOBILEPolicy, MOPOPolicy, RAMBOPolicy, SACPolicy

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


def test_the_page_about_extending_names_what_the_terms_keep() -> None:
    text = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    (names,) = re.findall(r"The terms keep (.*?)\non the policy", text, re.DOTALL)
    assert re.findall(r"`(\w+)`", names) == [name for part in (Terms, DataAligned, MaximinObjective) for name in part.ATTRIBUTES]


class NoLearn:
    def select_action(self) -> None: ...


def test_the_terms_shadow_nothing_of_the_hosts_policies() -> None:
    """Helpers of a mixin with the name of a host's method would silently change the host's own steps."""
    hosts = set(dir(MOPOPolicy)) | set(dir(MOBILEPolicy)) | set(dir(COMBOPolicy)) | set(dir(RAMBOPolicy))
    for term in (DataAligned, MaximinObjective, Terms):
        shared = set(vars(term)) & hosts
        assert {name for name in shared if not name.startswith("__")} <= set(EXTENDED)


@pytest.mark.parametrize(
    ("extend", "policy_class", "message"),
    [
        (with_data_alignment, NoLearn, "NoLearn cannot be extended: it has no learn"),
        (with_maximin_objective, NoLearn, "no learn and no rollout and no actforward and no _sync_weight"),
        (with_data_alignment, SACPolicy, "SACPolicy cannot be extended: it has no rollout, which the host's model-based policies have"),
        (with_maximin_objective, SACPolicy, "no rollout"),
        (with_data_alignment, CQLPolicy, "no rollout"),
        (with_data_alignment, AlgaeDICEPolicy, "no rollout"),
        (with_data_alignment, BasePolicy, "no learn and no select_action and no rollout"),
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


# ---- a policy of the user's own that lacks something ------------------------------------------------------------------------------------


def without(*names: str) -> type[Any]:
    """MOPO whose objects lack these attributes."""

    class Lacking(MOPOPolicy):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            for name in names:
                delattr(self, name)

    return Lacking


@pytest.mark.parametrize(
    ("extend", "names", "message"),
    [
        (with_data_alignment, ("actor",), "DataAlignedLacking cannot be made: the policy that it extends has no attribute actor"),
        (with_data_alignment, ("critic1",), "no attribute critic1"),
        (with_data_alignment, ("dynamics",), "no attribute dynamics"),
        (with_maximin_objective, ("critic2", "critic2_old"), "no attribute critic2 and no critic2_old"),
        (with_maximin_objective, ("_gamma", "alpha_optim"), "no attribute _gamma and no alpha_optim"),
    ],
)
def test_a_policy_that_lacks_an_attribute_is_refused_when_it_is_made(extend: Any, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(extend(without(*names)))


def test_what_an_option_does_not_need_may_be_lacking() -> None:
    policy = make(with_data_alignment(without("dynamics")), classifier_normalize=False)
    assert np.isfinite(list(policy.learn(make_batch(0, torch.float32)).values())).all()
    with pytest.raises(UserError, match="no attribute _gamma"):
        make(with_data_alignment(without("_gamma")), absorbing=True)


def test_a_penalty_without_its_coefficient_is_refused() -> None:
    class Penalised(MOPOPolicy):
        def compute_lcb(self, obss: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
            return actions[:, :1]

    with pytest.raises(UserError, match="no attribute _penalty_coef"):
        make(with_maximin_objective(Penalised))


@pytest.mark.parametrize("dynamics", [None, SimpleNamespace(scaler=SimpleNamespace(mu=None, std=None))])
def test_dynamics_without_statistics_are_refused_when_it_learns(dynamics: Any) -> None:
    policy = with_data_alignment(MOPOPolicy)(dynamics, *make_parts(torch.float32)[1:], config=DAMOConfig())
    with pytest.raises(UserError, match="has no statistics yet; train or load the dynamics first"):
        policy.learn(make_batch(0, torch.float32))


def test_another_kind_of_config_is_refused() -> None:
    with pytest.raises(UserError, match="takes a DAMOConfig as config, this is a dict"):
        with_data_alignment(MOPOPolicy)(*make_parts(torch.float32), config={"damo_alpha": 1})


def test_a_batch_of_one_kind_is_refused() -> None:
    for policy in make(with_data_alignment(MOPOPolicy)), make(with_maximin_objective(MOPOPolicy)):
        with pytest.raises(UserError, match=r"a batch has the rows 'real' and 'fake', .* this one has observations, actions"):
            policy.learn(make_batch(0, torch.float32)["real"])


# ---- the sizes of observation and action ------------------------------------------------------------------------------------------------


class Wrapped(torch.nn.Module):
    """An actor with a parameter, and a normalisation, in front of its first linear layer."""

    def __init__(self, actor: torch.nn.Module) -> None:
        super().__init__()
        self.log_std = torch.nn.Parameter(torch.zeros(3))
        self.norm = torch.nn.LayerNorm(OBS)
        self.inner = actor

    def forward(self, obss: Any) -> Any:
        return self.inner(self.norm(torch.as_tensor(obss, dtype=torch.float32)))


def with_actor(actor: torch.nn.Module, policy_class: type[Any] = MOPOPolicy) -> Any:
    dynamics, _, critic1, critic2, _, *optims = make_parts(torch.float32)
    actor_optim = torch.optim.Adam(actor.parameters())
    return with_data_alignment(policy_class)(dynamics, actor, critic1, critic2, actor_optim, *optims, config=DAMOConfig(**METHOD))


def test_the_sizes_are_those_of_the_first_linear_layers() -> None:
    policy = with_actor(Wrapped(make_parts(torch.float32)[1]))
    assert (policy.data_alignment.obs_dim, policy.data_alignment.action_dim) == (OBS, ACT)
    assert np.isfinite(list(policy.learn(make_batch(0, torch.float32)).values())).all()


class Folded(torch.nn.Module):
    """An actor that has no linear layer, or whose first one takes in something else than an observation."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = torch.nn.Parameter(torch.ones(OBS, features))
        self.inner = torch.nn.Linear(features, ACT) if features else None


@pytest.mark.parametrize("features", [0, OBS + ACT])
def test_sizes_that_the_networks_do_not_tell_are_the_policys_to_give(features: int) -> None:
    class Sized(MOPOPolicy):
        obs_dim, action_dim = OBS, np.int64(ACT)

    with pytest.raises(UserError, match="give the policy that it extends the attributes obs_dim and action_dim"):
        with_actor(Folded(features))
    alignment = with_actor(Folded(features), Sized).data_alignment
    assert (alignment.obs_dim, alignment.action_dim) == (OBS, ACT)


@pytest.mark.parametrize("extend", [with_data_alignment, with_maximin_objective])
def test_twins_may_be_in_a_list_besides(extend: Any) -> None:
    class Listed(MOPOPolicy):
        @property
        def critics(self) -> list[Any]:
            return [self.critic1, self.critic2]

    assert np.isfinite(list(make(extend(Listed)).learn(make_batch(0, torch.float32)).values())).all()


def test_a_batch_of_other_sizes_is_refused() -> None:
    policy = with_actor(Folded(OBS - 1))  # taken for the size of the observation
    with pytest.raises(UserError, match=r"of sizes \(4, 3\), its batches have \(5, 2\); .* give the policy the attributes obs_dim"):
        policy.learn(make_batch(0, torch.float32))


# ---- a policy of the user's own that would be overridden ---------------------------------------------------------------------------------


class Clipped(MOPOPolicy):
    """The class of docs/extending.md."""

    def learn(self, batch: Any) -> dict[str, float]:
        return super().learn({**batch, "fake": {**batch["fake"], "rewards": batch["fake"]["rewards"].clamp(-0.1, 0.1)}})


class OwnMOBILE(MOBILEPolicy):
    def learn(self, batch: Any) -> dict[str, float]:
        return super().learn(batch)


@pytest.mark.parametrize(
    "policy_class", [Clipped, OwnMOBILE, type("Below", (Clipped,), {}), type("Penalised", (Clipped,), {"compute_lcb": lambda *_: 0})]
)
def test_a_learn_that_the_objective_would_drop_is_refused(policy_class: type[Any]) -> None:
    with pytest.raises(UserError, match=r"own learn \(of (Clipped|OwnMOBILE)\) would never run, .* put what it does into a subclass"):
        with_maximin_objective(policy_class)


@pytest.mark.parametrize("extend", [with_data_alignment, with_maximin_objective])
def test_a_way_of_loading_of_its_own_runs(extend: Any) -> None:
    class Own(MOPOPolicy):
        def load_state_dict(self, state_dict: Any) -> Any:  # type: ignore[override]
            self.loaded = True
            return super().load_state_dict(state_dict)

    policy = make(extend(Own))
    policy.load_state_dict(policy.state_dict())
    assert policy.loaded
    with pytest.raises(RuntimeError, match="cannot load this state: its sizes differ, float and not"):
        policy.load_state_dict({**policy.state_dict(), "actor.backbone.model.0.weight": 0.0})


def test_a_learn_on_top_of_the_objective_runs() -> None:
    class ClippedMaximin(with_maximin_objective(MOPOPolicy)):  # type: ignore[misc]
        def learn(self, batch: Any) -> dict[str, float]:
            return super().learn({**batch, "fake": {**batch["fake"], "rewards": batch["fake"]["rewards"].clamp(-0.1, 0.1)}})

    figures = make(ClippedMaximin).learn(make_batch(0, torch.float32))
    assert abs(figures["damo/refined_reward_fake"]) <= 0.1
    assert {"damo/ell_fake", "damo/phi"} <= set(make(with_data_alignment(ClippedMaximin)).learn(make_batch(0, torch.float32)))


def test_a_learn_that_comes_with_its_penalty_is_replaced() -> None:
    class Penalised(Clipped):
        _penalty_coef = 2.0

        def learn(self, batch: Any) -> dict[str, float]:
            raise AssertionError("the objective is in its place")

        def compute_lcb(self, obss: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
            return actions.abs().sum(-1, keepdim=True)

    batch = make_batch(0, torch.float32)
    figures = make(with_maximin_objective(Penalised)).learn(batch)
    want = (batch["fake"]["rewards"].squeeze(-1) - 2 * batch["fake"]["actions"].abs().sum(-1)).mean().item()
    assert figures["damo/refined_reward_fake"] == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("extend", [with_data_alignment, with_maximin_objective])
@pytest.mark.parametrize("name", ["config", "_steps", "diagnose_every"])
def test_an_attribute_that_a_term_would_overwrite_is_refused(extend: Any, name: str) -> None:
    class Own(MOPOPolicy):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            setattr(self, name, 3)

    with pytest.raises(UserError, match=f"keeps an attribute '{name}', and the policy that it extends has one of that name"):
        make(extend(Own))


def test_both_terms_keep_their_attributes_apart() -> None:
    """The second term on top of the first is no clash; a user's attribute that only the first keeps is."""

    class Own(MOPOPolicy):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.networks = 3

    make(with_data_alignment(Own))
    with pytest.raises(UserError, match="keeps an attribute 'networks'"):
        make(with_data_alignment(with_maximin_objective(Own)))


@pytest.mark.parametrize(
    ("extend", "body", "name"),
    [
        (with_data_alignment, {"_refined": lambda self: None}, "_refined"),
        (with_maximin_objective, {"_critic_step": lambda self: None}, "_critic_step"),
        (with_maximin_objective, {"_steps": 0}, "_steps"),
        (with_data_alignment, {"__init__": lambda self, actor, *, config=None: None}, "config"),
    ],
)
def test_a_name_that_a_term_would_shadow_is_refused(extend: Any, body: dict[str, Any], name: str) -> None:
    with pytest.raises(UserError, match=f"Own has a name of its own that .* uses, '{name}'; rename it in your class"):
        extend(type("Own", (MOPOPolicy,), body))


# ---- states of other policies -----------------------------------------------------------------------------------------------------------


def mobile(policy_class: type[Any] = MOBILEPolicy, **options: Any) -> Any:
    dynamics, actor, *critics = make_parts(torch.float32)[:4]
    ensemble = torch.nn.ModuleList(critics)
    return policy_class(dynamics, actor, ensemble, *(torch.optim.Adam(net.parameters()) for net in (actor, ensemble)), **options)


def wider(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a policy whose observations have one more number."""
    key = "actor.backbone.model.0.weight"
    return {**state, key: torch.cat([state[key], state[key][:, :1]], 1)}


def states() -> dict[str, tuple[Any, dict[str, Any]]]:
    """A policy and a state that it cannot load."""
    damo, mopo = make(DAMOPolicy), make_policy(None, torch.float32, MOPOPolicy)
    return {
        "MOPO in DAMO": (damo, mopo.state_dict()),
        "MOBILE in DAMO": (damo, mobile().state_dict()),
        "DAMO in MOPO's": (make(with_maximin_objective(MOPOPolicy)), damo.state_dict()),
        "DAMO in MOBILE's": (mobile(with_maximin_objective(MOBILEPolicy)), damo.state_dict()),
        "other sizes": (damo, wider(damo.state_dict())),
        "a key less": (damo, {key: value for key, value in damo.state_dict().items() if key != "data_alignment.centre"}),
        "a checkpoint": (damo, {"state": damo.state_dict(), "about": {}}),
    }


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("MOPO in DAMO", "it looks like the state of MOPO, COMBO or RAMBO without data alignment, and this is DAMO "),
        ("MOBILE in DAMO", "it looks like the state of MOBILE, and this is DAMO "),
        ("DAMO in MOPO's", "the state of DAMO (or MOPO, COMBO or RAMBO with data alignment), and this is MOPO, COMBO or RAMBO without"),
        ("DAMO in MOBILE's", "the state of DAMO (or MOPO, COMBO or RAMBO with data alignment), and this is MOBILE"),
        ("other sizes", "its sizes differ, (16, 6) and not (16, 5) in actor.backbone.model.0.weight"),
        ("a key less", "it lacks data_alignment.centre"),
        ("a checkpoint", "it looks like the state of no policy with an actor and critics, and this is DAMO "),
    ],
)
def test_a_state_that_does_not_fit_says_why_in_one_sentence(case: str, message: str) -> None:
    policy, state = states()[case]
    with pytest.raises(RuntimeError, match=re.escape(message)) as caught:
        policy.load_state_dict(state)
    text = str(caught.value)
    assert text.startswith(f"{type(policy).__name__} cannot load this state: ") and "\n" not in text
    assert caught.value.__suppress_context__  # torch's many lines are not shown above it


def test_a_part_of_a_state_loads_where_it_is_asked_for() -> None:
    """strict=False is torch's: missing and unexpected keys come back, other sizes are an error all the same."""
    policy, state = states()["MOPO in DAMO"]
    found = policy.load_state_dict(state, strict=False)
    assert found.unexpected_keys == [] and all(key.startswith("data_alignment.") for key in found.missing_keys)
    assert torch.equal(policy.critic2.last.weight, state["critic2.last.weight"])
    with pytest.raises(RuntimeError, match="its sizes differ"):
        policy.load_state_dict(wider(state), strict=False)
    assert str(policy.load_state_dict(policy.state_dict())) == "<All keys matched successfully>"
