"""COMBO by hand is the host's COMBO: the critics' gradients in float64, and whole steps from the same noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from small_policy import ACT, OBS, make_batch, make_parts, run_steps
from torch import Tensor

from offlinerlkit_damo.config import resolve
from offlinerlkit_damo.engine import conservative
from offlinerlkit_damo.engine.accelerate import accelerate
from offlinerlkit_damo.engine.conservative import FlatCOMBO
from offlinerlkit_damo.kit import COMBOPolicy
from offlinerlkit_damo.training.dynamics import build_dynamics
from offlinerlkit_damo.training.policies import build_policy

BOX = Box(np.array([-1.0, -0.5]), np.array([1.0, 0.5]), dtype=np.float64)
CUBE = Box(-1.0, 1.0, (ACT,))  # the kit knows no other
VARIANTS: dict[str, dict[str, Any]] = {
    "all rows": {},
    "imagined rows": {"rho_s": "model"},
    "a temperature above 1": {"log_alpha": 0.5, "deterministic_backup": False},
    "entropy, a hard maximum": {"deterministic_backup": False, "temperature": 0.3},
}


def combo(policy_class: Any, dtype: torch.dtype, space: Box = BOX, log_alpha: float = 0.0, **options: Any) -> Any:
    parts = make_parts(dtype)
    logarithm = torch.full((1,), log_alpha, dtype=dtype, requires_grad=True)
    alpha = (-float(ACT), logarithm, torch.optim.Adam([logarithm], lr=1e-3))
    common = {"tau": 0.05, "gamma": 0.95, "cql_weight": 2.5, "with_lagrange": False, "num_repeart_actions": 4}
    return policy_class(*parts, space, alpha=alpha, **common, **options).to(dtype)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_critics_gradient_is_that_of_the_loss(variant: str, legacy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conservative, "CHUNK", 30)  # several pieces, the last one smaller
    policy: Any = combo(FlatCOMBO, torch.float64, **VARIANTS[variant])
    policy._legacy_logsumexp = legacy
    accelerate(policy)
    policy.networks.critics.grads.fill_(torch.nan)  # whatever was there is overwritten
    monkeypatch.setattr(policy.networks, "step", lambda *optims: None)
    seen: dict[str, Any] = {}
    for name in ("_regression_target", "_three_kinds"):
        monkeypatch.setattr(policy, name, _keep(seen, name, getattr(policy, name)))
    batch = make_batch(0)
    mix = {key: torch.cat([batch["real"][key], batch["fake"][key]]) for key in batch["real"]}
    pushed = mix if VARIANTS[variant].get("rho_s", "mix") == "mix" else batch["fake"]
    figures: dict[str, Tensor] = {}
    policy._critic_step(mix, pushed, 4, figures)

    target, (actions, log_p) = seen["_regression_target"], seen["_three_kinds"]
    t = policy._temperature
    for i, critic in enumerate((policy.critic1, policy.critic2), 1):

        def q(obss: Tensor, actions: Tensor, critic: Any = critic) -> Tensor:
            return critic.last(critic.backbone(torch.cat([obss, actions], -1))).squeeze(-1)  # type: ignore[no-any-return]

        soft = torch.zeros((), dtype=torch.float64)
        for s in range(len(actions)):
            corrected = torch.stack(
                [(q(pushed["observations"][s], actions[s, k, j]) - log_p[s, k, j]) / t for k in range(3) for j in range(4)]
            )
            term = corrected.view(3, 4).exp().sum(0).log().mean() if legacy else corrected.exp().sum().log()
            soft = soft + t * term / len(actions)
        value = q(mix["observations"], mix["actions"])
        loss = (value - target).square().mean() + 2.5 * (soft - value[:4].mean())
        for p, want in zip(critic.parameters(), torch.autograd.grad(loss, list(critic.parameters())), strict=True):
            torch.testing.assert_close(p.grad, want, rtol=0, atol=1e-10)
        assert figures[f"loss/critic{i}"].item() == pytest.approx(loss.item(), rel=1e-9)


def _keep(seen: dict[str, Any], name: str, method: Any) -> Any:
    def call(*args: Any) -> Any:
        seen[name] = method(*args)
        return seen[name]

    return call


def test_the_three_kinds_of_actions_have_their_densities() -> None:
    policy: Any = combo(FlatCOMBO, torch.float64)
    accelerate(policy)
    batch = make_batch(0)["fake"]
    with torch.no_grad():
        actions, log_p = policy._three_kinds(batch["observations"], batch["next_observations"])
        assert actions.shape == (20, 3, 4, ACT) and log_p.shape == (20, 3, 4)
        assert (actions[:, 0].abs() <= torch.as_tensor(BOX.high)).all()
        torch.testing.assert_close(log_p[:, 0], torch.full_like(log_p[:, 0], -np.log(2.0 * 1.0)))
        for kind, obss in ((1, batch["observations"]), (2, batch["next_observations"])):
            dist = policy.actor.dist_net(policy.actor.backbone(obss.repeat_interleave(4, 0)))
            own = actions[:, kind].flatten(0, 1)
            torch.testing.assert_close(log_p[:, kind].reshape(-1, 1), dist.log_prob(own, torch.atanh(own)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_equal_the_hosts(variant: str) -> None:
    host, fast = (combo(kind, torch.float32, CUBE, **VARIANTS[variant]) for kind in (COMBOPolicy, FlatCOMBO))
    accelerate(fast)
    wanted, had = run_steps(host, 10, torch.float32), run_steps(fast, 10, torch.float32)
    for want, have in zip(wanted, had, strict=True):
        assert have == pytest.approx(want, rel=1e-3, abs=1e-4)
    for key, value in host.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[key], value, rtol=0, atol=2e-4, msg=lambda m, key=key: f"{key}: {m}")


def test_what_is_not_by_hand_stays_the_hosts() -> None:
    kinds = {}
    for option in ({}, {"engine": "reference"}, {"with_lagrange": True}, {"max_q_backup": True}, {"data_alignment": 0.5}):
        config = resolve({"algo_name": "combo", "task": "hopper-medium", "hidden_dims": (16, 16), **option})
        policy, _ = build_policy(config, build_dynamics(config, OBS, ACT), OBS, ACT)
        kinds[tuple(option)] = isinstance(policy, FlatCOMBO)
    assert kinds == {(): True, ("engine",): False, ("with_lagrange",): False, ("max_q_backup",): False, ("data_alignment",): True}
