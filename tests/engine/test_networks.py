"""The fast engine's learning step equals the reference's: losses, gradients, weights and targets, in float64 and in float32."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from small_policy import ACT, OBS, ROWS, make_batch, make_policy, run_steps
from torch import Tensor, nn

from offlinerlkit_damo.config import DAMOConfig, resolve
from offlinerlkit_damo.damo.networks import Networks
from offlinerlkit_damo.engine import inconsistency
from offlinerlkit_damo.engine.accelerate import accelerate
from offlinerlkit_damo.engine.adam import fused_step
from offlinerlkit_damo.engine.mlp import StackedMLP
from offlinerlkit_damo.engine.networks import FlatNetworks
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import MOBILEPolicy, MOPOPolicy
from offlinerlkit_damo.training.dynamics import build_dynamics
from offlinerlkit_damo.training.policies import build_policy

VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "full": {"grad_mode": "full", "divergence": "cubic", "q_next": "own", "init_coef": "1-gamma", "entropy_backup": True},
    "mix": {"grad_mode": "mix", "divergence": "soft_chi2", "init_coef": "1-eta*gamma"},
    "floor": {"grad_mode": "full", "divergence": "kl", "target_floor": 0.3, "w_max": 1.0, "init_coef": "1-gamma"},
    "own next values on a floor": {"grad_mode": "mix", "divergence": "chi2", "q_next": "own", "target_floor": 0.3, "actor_mode": "sac"},
    "orthogonal": {"grad_mode": "orthogonal", "divergence": "soft_chi2"},
    "w/o ir": {"behavior_alignment": False},
    "sac actor": {"actor_mode": "sac"},
    "gradient penalty": {"classifier_gradient_penalty": 10.0, "classifier_input_noise": 0.1, "classifier_updates_per_step": 1.0},
    "deep penalised classifier": {
        "classifier_gradient_penalty": 3.0,
        "classifier_label_smoothing": 0.1,
        "classifier_updates_per_step": 1.0,
        "classifier_hidden_dims": (16, 8),
    },
}


class DoubleNetworks(Networks):
    """The host's modules in float64, which their own `forward` would round to float32."""

    def act(self, obss: Tensor) -> tuple[Tensor, Tensor]:
        actor: Any = self.policy.actor
        dist = actor.dist_net(actor.backbone(obss))
        squashed, raw = dist.rsample()
        return squashed, dist.log_prob(squashed, raw).squeeze(-1)

    def q(self, obss: Tensor, actions: Tensor) -> Tensor:
        return self._all(("critic1", "critic2"), obss, actions)

    @torch.no_grad()
    def old_q(self, obss: Tensor, actions: Tensor) -> Tensor:
        return self._all(("critic1_old", "critic2_old"), obss, actions)

    def _all(self, names: tuple[str, str], obss: Tensor, actions: Tensor) -> Tensor:
        critics: list[Any] = [getattr(self.policy, name) for name in names]
        return torch.stack([critic.last(critic.backbone(torch.cat([obss, actions], -1))).squeeze(-1) for critic in critics])


def assert_same_state(first: nn.Module, second: nn.Module, atol: float) -> None:
    states = first.state_dict(), second.state_dict()
    assert list(states[0]) == list(states[1])
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=0, atol=atol, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_fast_equals_reference_in_float64(variant: str) -> None:
    config = DAMOConfig(**{"classifier_hidden_dims": (16,), **VARIANTS[variant]})
    reference, fast = make_policy(config), make_policy(config)
    reference.networks = DoubleNetworks(reference)
    accelerate(fast)
    figures = run_steps(reference, 10), run_steps(fast, 10)
    for want, have in zip(*figures, strict=True):
        assert have == pytest.approx(want, rel=1e-5, abs=1e-6)  # figures are reported in float32
    # the density's arctanh-free form differs from the host's in the last digits
    assert_same_state(reference, fast, atol=1e-9)
    for name in ("critic1", "critic2", "actor"):
        for p, q in zip(getattr(reference, name).parameters(), getattr(fast, name).parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad, rtol=0, atol=1e-9)


@pytest.mark.parametrize("variant", ["defaults", "full", "w/o ir"])
def test_fast_equals_the_hosts_modules_in_float32(variant: str) -> None:
    config = DAMOConfig(**{"classifier_hidden_dims": (16,), **VARIANTS[variant]})
    reference, fast = (make_policy(config, torch.float32) for _ in range(2))
    accelerate(fast)
    run_steps(reference, 10, torch.float32)
    run_steps(fast, 10, torch.float32)
    assert_same_state(reference, fast, atol=2e-4)  # Adam turns rounding of tiny gradients into steps of its rate


def test_without_either_alignment_the_step_is_the_hosts_mopo() -> None:
    """What `--algo mopo` runs on the fast engine, beside the host's own policy on the same batches and noise."""
    config = DAMOConfig(data_alignment=False, behavior_alignment=False, entropy_backup=True)
    host, fast = make_policy(None, torch.float32, MOPOPolicy), make_policy(config, torch.float32)
    accelerate(fast)
    assert_same_steps(host, fast)


def assert_same_steps(host: Any, fast: Any) -> None:
    """Ten steps of a host policy and of ours on the same batches and noise: figures and weights."""
    for step in range(10):
        batch = make_batch(step, torch.float32)
        del batch["init"]
        noise = torch.Generator().manual_seed(step)
        # the two draw their noise in different shapes: each gets the same normal numbers for next states and for states
        draws = [torch.randn(ROWS, ACT, generator=noise) for _ in range(2)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randn_like", _serve([torch.cat([torch.zeros(4, ACT), draws[0]]), draws[1]]))
            have = fast.learn(batch)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.distributions.normal, "_standard_normal", _serve(draws))
            want = host.learn(batch)
        assert {key: have[key] for key in want} == pytest.approx(want, rel=1e-3, abs=1e-4)
    have_state = {k: v for k, v in fast.state_dict().items() if not k.startswith("data_alignment")}
    for key, value in host.state_dict().items():
        torch.testing.assert_close(have_state[key], value, rtol=0, atol=2e-4)


def _serve(values: list[Tensor]) -> Any:
    queue = list(values)
    return lambda *args, **kwargs: queue.pop(0)


def test_state_dict_loads_across_engines() -> None:
    config = DAMOConfig(classifier_hidden_dims=(16,))
    reference, fast = (make_policy(config, torch.float32) for _ in range(2))
    accelerate(fast)
    run_steps(fast, 3, torch.float32)
    reference.load_state_dict(fast.state_dict())
    obss = np.random.default_rng(0).normal(size=(6, OBS)).astype("f4")
    np.testing.assert_array_equal(reference.select_action(obss, True), fast.select_action(obss, True))
    # the flat storage is what a loaded state arrives in
    fresh = make_policy(config, torch.float32)
    accelerate(fresh)
    fresh.load_state_dict(fast.state_dict())
    torch.testing.assert_close(fresh.networks.critics.block, fast.networks.critics.block)


def test_figures_come_with_the_first_of_as_many_steps() -> None:
    policy = make_policy(DAMOConfig(), torch.float32)
    accelerate(policy, diagnose_every=3)
    seen = run_steps(policy, 9, torch.float32)
    for key in ("damo/phi", "loss/actor", "alpha"):
        assert [key in figures for figures in seen] == [True, False, False] * 3
    # the classifier is updated in every second step: its next figures after such a step
    assert ["damo/classifier_accuracy" in figures for figures in seen] == [False, True, False, True, False, False, False, True, False]


@pytest.mark.parametrize("frozen", [False, True])
def test_stacked_mlp_equals_autograd_through_the_modules(frozen: bool) -> None:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)).double() for _ in range(3)]
    plain = copy.deepcopy(nets)
    stacked = StackedMLP([[[net[0]], [net[2]]] for net in nets])  # type: ignore[list-item]
    x = torch.randn(6, 3, dtype=torch.float64)
    outs, gradients = [], []
    for function in (lambda x: torch.stack([net(x) for net in plain]), lambda x: stacked(x, frozen=frozen)):
        point = x.clone().requires_grad_()
        out = function(point)
        (out.sin() * torch.arange(4)).sum().backward()
        outs.append(out.detach())
        gradients.append(point.grad)
    torch.testing.assert_close(outs[1], outs[0])
    torch.testing.assert_close(gradients[1], gradients[0])
    for net, copied in zip(nets, plain, strict=True):
        for p, q in zip(net.parameters(), copied.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None
            torch.testing.assert_close(p.grad, torch.zeros_like(q.grad) if frozen else q.grad)


def test_members_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        StackedMLP([[[nn.Linear(3, 2)]], [[nn.Linear(3, 4)]]])


def test_a_copy_that_would_not_learn_is_refused() -> None:
    policy = make_policy(DAMOConfig(), torch.float32)
    accelerate(policy)
    with pytest.raises(TypeError, match="load its state_dict"):
        copy.deepcopy(policy)


@pytest.mark.parametrize("what", ["bounded mean", "activation", "stepped optimiser", "bare backbone"])
def test_a_policy_it_cannot_run_is_a_user_error(what: str) -> None:
    policy = make_policy(DAMOConfig(), torch.float32)
    if what == "bounded mean":
        policy.actor.dist_net._unbounded = False
    elif what == "activation":
        policy.critic1.backbone.model[1] = nn.Tanh()
    elif what == "bare backbone":
        policy.critic1.backbone.model = policy.critic1.backbone.model[:-1]
    else:
        run_steps(policy, 1, torch.float32)
    with pytest.raises(UserError, match="--engine reference"):
        accelerate(policy)


@pytest.mark.parametrize("maximise", [False, True])
def test_the_direct_adam_is_the_optimisers_own(maximise: bool) -> None:
    """Rates that change, two groups, and a state that either can go on from."""
    torch.manual_seed(0)
    start = [torch.randn(4, 3), torch.randn(7)]
    outcomes = []
    for directly in (False, True):
        params = [nn.Parameter(x.clone()) for x in start]
        groups = [{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:], "betas": (0.8, 0.95)}]
        optim = torch.optim.Adam(groups, lr=0.01, fused=True, amsgrad=True, maximize=maximise)
        for i in range(6):
            for p in params:
                p.grad = torch.sin(p.detach() + i)
            optim.param_groups[0]["lr"] = 0.01 / (i + 1)
            step = fused_step if directly and i < 5 else torch.optim.Adam.step
            step(optim)
        outcomes.append((params, optim.state_dict()["state"]))
    torch.testing.assert_close(outcomes[1], outcomes[0], rtol=0, atol=0)


def test_another_optimiser_takes_its_own_step() -> None:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    fused_step(torch.optim.SGD([p], lr=0.5))
    torch.testing.assert_close(p.detach(), torch.full((2,), 0.5))


def mobile_policies(**options: Any) -> list[Any]:
    """MOBILE on the host's modules and on the engine, of the same weights."""
    policies = []
    for engine in ("reference", "fast"):
        torch.manual_seed(1)
        config = resolve({"algo_name": "mobile", "task": "hopper-medium", "engine": engine, "hidden_dims": (16, 16), **options})
        dynamics = build_dynamics(config, OBS, ACT)
        dynamics.scaler.fit(np.random.default_rng(0).normal(size=(20, OBS + ACT)).astype("f4"))
        policies.append(build_policy(config, dynamics, OBS, ACT)[0])
    policies[1].diagnose_every = 1
    return policies


def test_mobiles_penalty_is_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In several pieces, from the same noise."""
    monkeypatch.setattr(inconsistency, "CHUNK", 32)  # whole blocks of the generator's sixteen numbers
    batch = make_batch(0, torch.float32)
    penalties = []
    for policy in mobile_policies():
        torch.manual_seed(2)
        penalties.append(policy.compute_lcb(batch["fake"]["observations"], batch["fake"]["actions"]))
    assert penalties[0].shape == (ROWS - 4, 1) and penalties[0].min() > 0
    torch.testing.assert_close(penalties[1], penalties[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"deterministic_backup": False, "auto_alpha": True, "num_q_ensemble": 3}])
def test_mobiles_step_is_the_hosts(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    reference, fast = mobile_policies(**options)
    assert isinstance(reference, MOBILEPolicy) and isinstance(fast.networks, FlatNetworks)
    for policy in (reference, fast):
        monkeypatch.setattr(policy, "compute_lcb", lambda obss, actions: obss[:, :1].abs() + actions[:, :1])
    assert_same_steps(reference, fast)


def test_an_option_of_others_in_a_shared_file_does_not_change_mopo() -> None:
    config = resolve({"algo_name": "mopo", "task": "hopper-medium"}, defaults={"max_q_backup": True})
    policy, _ = build_policy(config, build_dynamics(config, OBS, ACT), OBS, ACT)
    assert isinstance(policy.networks, FlatNetworks) and policy.config.entropy_backup


def test_engine_option_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {}
    for algo in ("damo", "mopo", "rambo"):
        for engine in ("fast", "reference"):
            config = resolve({"algo_name": algo, "task": "hopper-medium", "engine": engine})
            policy, _ = build_policy(config, build_dynamics(config, OBS, ACT), OBS, ACT)
            kinds[algo, engine] = type(policy).__name__, type(getattr(policy, "networks", None)).__name__
    assert kinds == {
        ("damo", "fast"): ("DAMOPolicy", "FlatNetworks"),
        ("damo", "reference"): ("DAMOPolicy", "Networks"),
        ("mopo", "fast"): ("MaximinObjectiveMOPOPolicy", "FlatNetworks"),
        ("mopo", "reference"): ("MOPOPolicy", "NoneType"),
        ("rambo", "fast"): ("MaximinObjectiveRAMBOPolicy", "FlatNetworks"),
        ("rambo", "reference"): ("RAMBOPolicy", "NoneType"),
    }
