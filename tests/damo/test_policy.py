"""DAMOPolicy.learn: every option's step against a reference by hand, and which parameters move (checks 9, 11, 12 of docs/method.md)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy_policy import (
    ACT,
    ACTOR_LR,
    CRITIC_LR,
    FAKE,
    GAMMA,
    LAMBDA,
    OBS,
    REAL,
    SCALER,
    TAU,
    actor_gradient,
    actor_loss,
    critic_step,
    flat,
    flat_gradient,
    make_batch,
    make_policy,
    make_rows,
    snapshot,
)

from offlinerlkit_damo.config import DAMOConfig
from offlinerlkit_damo.damo.policy import DAMOPolicy
from offlinerlkit_damo.kit import MLP, ActorProb, Critic, ReplayBuffer, TanhDiagGaussian

Options = dict[str, Any]
FULL: Options = {"divergence": "cubic", "grad_mode": "full", "init_coef": "1-gamma", "q_next": "own"}

# every loss the options can make; the reference computes each from docs/method.md
VARIANTS: dict[str, Options] = {
    "defaults": {},
    "full": FULL,
    "full, entropy in the backup": {**FULL, "entropy_backup": True},
    "full, k = 2": {**FULL, "divergence_k": 2.0},
    "full, smaller twin": {**FULL, "q_next": "min"},
    "full, chi2, alpha": {**FULL, "divergence": "chi2", "damo_alpha": 2.5},
    "full, target floor": {**FULL, "target_floor": 0.0},
    "semi": {**FULL, "grad_mode": "semi"},
    "semi, smaller twin, entropy, floor": {"entropy_backup": True, "target_floor": 0.1},
    "mix": {**FULL, "grad_mode": "mix", "init_coef": "1-eta*gamma"},
    "mix, smaller twin, soft_chi2": {**FULL, "grad_mode": "mix", "q_next": "min", "divergence": "soft_chi2"},
    "mix, smaller twin, floor": {**FULL, "grad_mode": "mix", "q_next": "min", "target_floor": 0.0},
    "orthogonal": {**FULL, "grad_mode": "orthogonal"},
    "orthogonal, smaller twin, entropy, soft_chi2": {
        **FULL, "grad_mode": "orthogonal", "q_next": "min", "divergence": "soft_chi2", "entropy_backup": True,
    },
    "orthogonal, target floor": {**FULL, "grad_mode": "orthogonal", "target_floor": 0.0},
    "ompo coefficient, alpha": {"damo_alpha": 2.5},
    "numeric coefficient": {**FULL, "init_coef": "0.7"},
    "w/o er": {**FULL, "data_alignment": False},
    "w/o ir": {"behavior_alignment": False},
    "w/o ir, full": {**FULL, "behavior_alignment": False, "entropy_backup": True},
    "w/o er and ir": {"behavior_alignment": False, "data_alignment": False, "damo_alpha": 2.5},
    "inconsistent actor": {**FULL, "actor_mode": "sac"},
    "un-fixed actor": {**FULL, "damo_alpha": 2.5, "actor_alpha": None},
    "fixed actor": {**FULL, "damo_alpha": 2.5, "actor_alpha": 1.0},
    "weights capped": {**FULL, "w_max": 0.8},
    "mixture ratio": {**FULL, "ratio_mode": "mixture"},
    "ratio clipped": {**FULL, "logit_clip": 0.2},
    "ratio clipped in the mixture": {**FULL, "ratio_mode": "mixture", "logit_clip": 0.2},
    "ratio centred": {**FULL, "ratio_centering": True},
    "absorbing state": {**FULL, "absorbing": True, "damo_alpha": 1.5},
    "absorbing state, mixture": {**FULL, "absorbing": True, "ratio_mode": "mixture", "ratio_centering": True},
    "raw classifier inputs": {**FULL, "classifier_normalize": False},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_step_equals_the_reference(variant: str) -> None:
    policy, batch = make_policy(1, **VARIANTS[variant]), make_batch(2)
    before = snapshot(policy)
    figures = policy.learn(batch)
    after = snapshot(policy)

    want = critic_step(before, batch, policy.config)
    assert [figures["loss/critic1"], figures["loss/critic2"]] == pytest.approx(want.losses.tolist(), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(before.theta - after.theta, CRITIC_LR * want.gradients, atol=1e-12)
    # the actor's loss passed through the critics and left nothing in them
    np.testing.assert_allclose([flat_gradient(policy.critic1), flat_gradient(policy.critic2)], want.gradients, atol=1e-10)
    np.testing.assert_allclose(after.old, (1 - TAU) * before.old + TAU * after.theta, atol=1e-12)

    # the actor ascends through the critics just updated, with the weights of the residuals before it
    assert figures["loss/actor"] == pytest.approx(actor_loss(before.actor, after.theta, want.phis, batch, policy.config), rel=1e-5)
    gradient = actor_gradient(before.actor, after.theta, want.phis, batch, policy.config)
    np.testing.assert_allclose(before.actor - after.actor, ACTOR_LR * gradient, atol=1e-9)
    np.testing.assert_array_equal(before.classifier, after.classifier)


def test_variants_reach_what_they_are_about() -> None:
    """The toy batch makes floor, clip, cap and clamp bind for some rows and not for others, or the variants would prove nothing."""

    def phis(**options: Any) -> np.ndarray:
        policy, batch = make_policy(1, **options), make_batch(2)
        return critic_step(snapshot(policy), batch, policy.config).phis

    plain = phis(**FULL)
    for options in ({"target_floor": 0.0}, {"logit_clip": 0.2}):
        changed = phis(**FULL, **options) != plain
        assert changed.any() and not changed.all()
    for kink in (-1, 0.8**2 - 1):  # where the cubic's weight is clamped at 0, and where w_max = .8 caps it
        assert (plain < kink).any() and (plain > kink).any()
    online = snapshot(make_policy(1)).theta
    assert not np.allclose(online[0], online[1])


@pytest.mark.parametrize("mode", ["full", "semi", "mix"])
@pytest.mark.parametrize("divergence", ["cubic", "soft_chi2", "power", "square"])
def test_shift_identity_in_the_bias(mode: str, divergence: str) -> None:
    """Check 9: the gradient of both biases together is c0 - E[w (1 - eta gamma m)] each, and the logged figure is its negative."""
    policy = make_policy(3, grad_mode=mode, divergence=divergence, init_coef="0.4", q_next="own")
    figures = policy.learn(make_batch(4))
    biases = [critic.line.bias.grad.item() for critic in (policy.critic1, policy.critic2)]
    assert figures["damo/shift_residual"] == pytest.approx(-sum(biases) / 2, abs=1e-6)


def test_logged_figures() -> None:
    policy, batch = make_policy(5, **FULL, damo_alpha=1.5), make_batch(6)
    before = snapshot(policy)
    figures = policy.learn(batch)
    phis = critic_step(before, batch, policy.config).phis
    weights = np.sqrt(np.maximum(phis / 1.5 + 1, 0))
    assert figures["damo/weight"] == pytest.approx(weights.mean(), rel=1e-5)
    assert figures["damo/phi"] == pytest.approx(phis.mean(), rel=1e-5)
    weights = np.sqrt(np.maximum(phis + 1, 0))  # the actor's: alpha is 1 there
    sizes = weights.sum(1) ** 2 / (weights.shape[1] * (weights**2).sum(1))
    assert figures["damo/effective_sample_size"] == pytest.approx(sizes.mean(), rel=1e-5)
    assert all(isinstance(value, float) and math.isfinite(value) for value in figures.values())


def test_terminal_next_states_get_no_gradient() -> None:
    """Check 10: if every transition ends, what lies behind does not matter to critics or actor."""
    steps = []
    for replaced in (False, True):
        policy, batch = make_policy(7, **FULL, data_alignment=False), make_batch(8)
        for kind in ("real", "fake"):
            batch[kind]["terminals"] = torch.ones_like(batch[kind]["terminals"])
            if replaced:
                batch[kind]["next_observations"] = 100 * batch[kind]["next_observations"]
        policy.learn(batch)
        steps.append(snapshot(policy))
    np.testing.assert_array_equal(steps[0].theta, steps[1].theta)
    np.testing.assert_array_equal(steps[0].actor, steps[1].actor)


def test_semi_does_not_differentiate_the_next_value() -> None:
    """Check 11: in semi mode Q(s') enters by value only: making the targets' copies the same, full and semi differ by eta gamma w x'."""
    gradients = {}
    for mode in ("semi", "full"):
        policy, batch = make_policy(9, **{**FULL, "grad_mode": mode}), make_batch(10)
        policy.critic1_old.load_state_dict(policy.critic1.state_dict())
        policy.critic2_old.load_state_dict(policy.critic2.state_dict())
        before = snapshot(policy)
        policy.learn(batch)
        gradients[mode] = np.stack([flat_gradient(policy.critic1), flat_gradient(policy.critic2)])
    phis = critic_step(before, batch, policy.config).phis
    for i in range(2):
        through_next = np.zeros(6)
        for kind, offset in (("real", 0), ("fake", REAL)):
            nexts = batch[kind]["next_observations"].numpy()
            for j, s2 in enumerate(nexts):
                a2 = before.actor[: OBS * ACT].reshape(ACT, OBS) @ s2 + before.actor[OBS * ACT :]
                w = math.sqrt(max(phis[i, offset + j] + 1, 0))
                m = 1 - batch[kind]["terminals"][j, 0].item()
                through_next += w * GAMMA * m * np.array([*s2, *a2, 1]) / (REAL + FAKE)
        np.testing.assert_allclose(gradients["full"][i] - gradients["semi"][i], through_next, atol=1e-12)


@pytest.mark.parametrize("divergence", ["cubic", "soft_chi2"])
def test_actor_alpha(divergence: str) -> None:
    """Check 12: actor_alpha = damo_alpha is the un-fixed actor, bit by bit; another value changes the actor's weights and no critic."""
    options = {**FULL, "divergence": divergence, "damo_alpha": 2.5}
    states = {}
    for actor_alpha in (None, 2.5, 1.0):
        policy = make_policy(11, **options, actor_alpha=actor_alpha)
        policy.learn(make_batch(12))
        states[actor_alpha] = snapshot(policy)
    np.testing.assert_array_equal(states[None].actor, states[2.5].actor)
    np.testing.assert_array_equal(states[None].theta, states[1.0].theta)
    assert not np.allclose(states[None].actor, states[1.0].actor)


# ---- which parameters move -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, FULL, {**FULL, "grad_mode": "orthogonal"}, {"actor_mode": "sac"}, {"behavior_alignment": False}])
def test_the_actor_step_leaves_the_critics(options: Options) -> None:
    policy = make_policy(13, critic_lr=0.0, **options)
    before = snapshot(policy)
    policy.learn(make_batch(14))
    after = snapshot(policy)
    np.testing.assert_array_equal(before.theta, after.theta)
    assert not np.allclose(before.actor, after.actor)
    assert all(p.requires_grad for critic in (policy.critic1, policy.critic2) for p in critic.parameters())


@pytest.mark.parametrize("options", [{}, FULL, {**FULL, "grad_mode": "orthogonal"}, {"actor_mode": "sac"}, {"behavior_alignment": False}])
def test_the_critic_step_leaves_the_actor(options: Options) -> None:
    policy = make_policy(13, actor_lr=0.0, **options)
    before = snapshot(policy)
    policy.learn(make_batch(14))
    after = snapshot(policy)
    np.testing.assert_array_equal(before.actor, after.actor)
    for i in range(2):
        assert not np.allclose(before.theta[i], after.theta[i])


@pytest.mark.parametrize("tau", [0.0, 0.25, 1.0])
def test_targets_move_by_tau(tau: float) -> None:
    policy = make_policy(15, tau=tau)
    before = snapshot(policy)
    policy.learn(make_batch(16))
    after = snapshot(policy)
    np.testing.assert_allclose(after.old, before.old + tau * (after.theta - before.old), atol=1e-12)


def _classifier_moves(batch: dict[str, Any], steps: int = 4, **options: Any) -> list[bool]:
    policy, moves = make_policy(17, classifier_hidden_dims=(4,), **options), []
    for _ in range(steps):
        before = flat(policy.data_alignment.classifier)
        policy.learn(batch)
        moves.append(not np.array_equal(before, flat(policy.data_alignment.classifier)))
    return moves


@pytest.mark.parametrize(
    ("options", "moves"),
    [
        ({"classifier_updates_per_step": 0.5}, [False, True, False, True]),
        ({"classifier_updates_per_step": 1}, [True] * 4),
        ({"classifier_updates_per_step": 0}, [False] * 4),
        ({"classifier_updates_per_step": 1, "data_alignment": False}, [False] * 4),
        ({"classifier_updates_per_step": 1, "behavior_alignment": False}, [True] * 4),
    ],
)
def test_the_classifier_moves_when_due(options: Options, moves: list[bool]) -> None:
    assert _classifier_moves(make_batch(18), **options) == moves


def test_the_classifier_takes_as_many_steps_as_asked() -> None:
    policy = make_policy(17, classifier_updates_per_step=3)
    steps = []
    original = policy.data_alignment.update
    policy.data_alignment.update = lambda *sample, **how: steps.append(1) or original(*sample, **how)  # type: ignore[method-assign, func-returns-value]
    policy.learn(make_batch(18))
    assert len(steps) == 3


def test_temperature() -> None:
    """-mean log lambda (log pi + target entropy), log pi at the states the actor was asked about."""
    for options in (FULL, {"actor_mode": "sac"}):
        log_alpha = torch.tensor([-0.5], dtype=torch.float64, requires_grad=True)
        policy = make_policy(19, alpha=(-2.0, log_alpha, torch.optim.SGD([log_alpha], 0.1)), **options)
        batch, key = make_batch(20), "next_observations" if options is FULL else "observations"
        actions = policy.actor(torch.cat([batch["real"][key], batch["fake"][key]])).detach()
        gap = (-actions.square().sum(-1) / 2 - 2.0).mean().item()
        figures = policy.learn(batch)
        assert log_alpha.item() == pytest.approx(-0.5 + 0.1 * gap)
        assert figures["alpha"] == pytest.approx(math.exp(log_alpha.item()), rel=1e-6)
        assert float(policy._alpha) == pytest.approx(math.exp(log_alpha.item()))


# ---- every option ----------------------------------------------------------------------------------------------------------------------

LEARNING: Options = {"classifier_updates_per_step": 1, "classifier_hidden_dims": (4,), "classifier_lr": 0.05}
# each option: what else must be set for it to matter, and a value other than the default
EFFECTS: dict[str, tuple[Options, Any]] = {
    "damo_alpha": ({}, 2.0),
    "actor_alpha": ({}, 2.0),
    "divergence": ({}, "cubic"),
    "divergence_k": ({"divergence": "cubic"}, 1.0),
    "grad_mode": ({}, "full"),
    "init_coef": ({}, "0.5"),
    "actor_mode": ({}, "sac"),
    "data_alignment": ({}, False),
    "behavior_alignment": ({}, False),
    "ratio_mode": ({}, "mixture"),
    "ratio_centering": ({}, True),
    "logit_clip": ({}, 0.1),
    "entropy_backup": ({}, True),
    "q_next": ({}, "own"),
    "w_max": ({}, 0.3),
    "target_floor": ({}, 0.0),
    "absorbing": ({}, True),
    "classifier_hidden_dims": ({}, (3, 3)),
    "classifier_lr": ({}, 0.2),
    "classifier_updates_per_step": ({}, 2.0),
    "classifier_gradient_penalty": ({}, 10.0),
    "classifier_input_noise": ({}, 1.0),
    "classifier_label_smoothing": ({}, 0.2),
    "classifier_normalize": ({}, False),
}


def test_every_option_is_covered() -> None:
    # init_states is the trainer's and has a test of its own below
    assert {*EFFECTS, "init_states"} == {field.name for field in dataclasses.fields(DAMOConfig)}


@pytest.mark.parametrize("option", EFFECTS)
def test_every_option_has_an_effect(option: str) -> None:
    needed, value = EFFECTS[option]
    states = []
    for extra in ({}, {}, {option: value}):
        policy = make_policy(21, **{**LEARNING, **needed, **extra})
        torch.manual_seed(22)
        for step in range(3):
            policy.learn(make_batch(23 + step))
        states.append(np.concatenate([flat(policy.actor), flat(policy.critic1), flat(policy.critic2)]))
    np.testing.assert_array_equal(states[0], states[1])  # the same seeds give the same run
    assert np.abs(states[0] - states[2]).max() > 1e-9


@pytest.mark.parametrize(("choice", "from_starts"), [("episode_start", True), ("dataset", False)])
def test_init_states_reach_the_trainer(choice: str, from_starts: bool) -> None:
    run = pytest.importorskip("offlinerlkit_damo.training.run")
    from offlinerlkit_damo.config import Config

    starts = np.ones((2, OBS), "f4")
    columns = {key: value.float().numpy() for key, value in make_rows(np.random.default_rng(0), 12).items()}
    dataset: Any = SimpleNamespace(rewards=np.zeros(12), obs_dim=OBS, action_dim=ACT, episode_starts=starts, transitions=lambda: columns)
    seen: list[Any] = []
    trainer: Any = lambda *_, init_obss, **__: seen.append(init_obss)  # noqa: E731
    nothing: Any = None
    config = Config(hidden_dims=(4,), damo=DAMOConfig(init_states=choice))
    run.make_trainer(config, dataset, nothing, nothing, nothing, nothing, fresh=True, trainer_class=trainer)
    assert (seen[0] is starts) == from_starts and (seen[0] is None) != from_starts


# ---- what a batch may hold -------------------------------------------------------------------------------------------------------------


def test_plain_batch_of_the_host_takes_the_real_states_as_initial() -> None:
    states = []
    for given in (False, True):
        policy, batch = make_policy(25), make_batch(26, init=False)
        if given:
            batch["init"] = batch["real"]["observations"]
        policy.learn(batch)
        states.append(snapshot(policy))
    np.testing.assert_array_equal(states[0].theta, states[1].theta)
    np.testing.assert_array_equal(states[0].actor, states[1].actor)


def test_classifier_sample_trains_the_classifier_alone() -> None:
    """With "classifier" rows the objective's own rows do not train it."""
    extra = {"real": make_rows(np.random.default_rng(1), 8), "fake": make_rows(np.random.default_rng(2), 8)}
    weights = []
    for seed in (29, 30):
        policy = make_policy(27, classifier_updates_per_step=1)
        policy.learn({**make_batch(seed), "classifier": [extra]})
        weights.append(flat(policy.data_alignment.classifier))
    np.testing.assert_array_equal(weights[0], weights[1])


def test_classifier_tells_the_kinds_apart() -> None:
    """label model = 1: ell ends up positive on fake rows and negative on real ones, and lowers the refined reward of fake ones."""
    policy = make_policy(31, classifier_updates_per_step=1, classifier_lr=0.05, critic_lr=0.0, actor_lr=0.0)
    batch = make_batch(32)
    batch["fake"]["next_observations"] = batch["fake"]["next_observations"] + 2
    for _ in range(200):
        figures = policy.learn(batch)
    assert figures["damo/ell_fake"] > 1 and figures["damo/ell_real"] < -1
    assert figures["damo/classifier_accuracy"] == 1
    assert figures["damo/refined_reward_fake"] == pytest.approx(batch["fake"]["rewards"].mean().item() - figures["damo/ell_fake"], rel=1e-4)


# ---- numbers out of bounds -------------------------------------------------------------------------------------------------------------


def _finite(policy: nn.Module) -> bool:
    return all(p.isfinite().all() for p in policy.parameters())


@pytest.mark.parametrize("mode", ["full", "semi", "mix", "orthogonal"])
@pytest.mark.parametrize("divergence", ["cubic", "chi2", "half_chi2", "soft_chi2", "kl", "cubic_kl", "power", "square"])
def test_huge_and_zero_residuals_stay_finite(divergence: str, mode: str) -> None:
    policy, batch = make_policy(33, divergence=divergence, grad_mode=mode, critic_lr=1e-12, actor_lr=1e-12), make_batch(34)
    for scale in (-1e6, 0.0, 1e6):
        with torch.no_grad():
            for critic in (policy.critic1, policy.critic2, policy.critic1_old, policy.critic2_old):
                critic.line.weight.zero_()
                critic.line.bias.zero_()
            policy.data_alignment.classifier.network[0].weight.zero_()  # type: ignore[union-attr, operator]
            policy.data_alignment.classifier.network[0].bias.zero_()  # type: ignore[union-attr, operator]
        for kind in ("real", "fake"):
            batch[kind]["rewards"] = torch.full_like(batch[kind]["rewards"], scale)  # Phi = scale, in every row
        figures = policy.learn(batch)
        assert all(math.isfinite(value) for value in figures.values()), figures
        assert _finite(policy)


@pytest.mark.parametrize("ratio_mode", ["model", "mixture"])
@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_extreme_logits_stay_finite(logit: float, ratio_mode: str) -> None:
    policy = make_policy(35, ratio_mode=ratio_mode, classifier_updates_per_step=1, critic_lr=1e-6, actor_lr=1e-6)
    with torch.no_grad():
        policy.data_alignment.classifier.network[0].bias.fill_(logit)  # type: ignore[union-attr, operator]
    figures = policy.learn(make_batch(36))
    assert all(math.isfinite(value) for value in figures.values())
    assert _finite(policy)


# ---- on the host's own parts -----------------------------------------------------------------------------------------------------------


def _host_policy(options: Options) -> DAMOPolicy:
    actor = ActorProb(
        MLP(input_dim=OBS, hidden_dims=[8]), TanhDiagGaussian(latent_dim=8, output_dim=ACT, unbounded=True, conditioned_sigma=True), "cpu"
    )
    critics = [Critic(MLP(input_dim=OBS + ACT, hidden_dims=[8]), "cpu") for _ in range(2)]
    optims = [torch.optim.Adam(net.parameters(), 1e-3) for net in (actor, *critics)]
    log_alpha = torch.zeros(1, requires_grad=True)
    dynamics: Any = SimpleNamespace(scaler=SCALER)
    alpha = (-float(ACT), log_alpha, torch.optim.Adam([log_alpha], 1e-3))
    return DAMOPolicy(dynamics, actor, *critics, *optims, gamma=GAMMA, alpha=alpha, config=DAMOConfig(**options))


def _host_sampler(seed: int) -> Callable[[int], dict[str, torch.Tensor]]:
    buffer = ReplayBuffer(32, (OBS,), np.float32, ACT, np.float32, "cpu")
    columns = make_rows(np.random.default_rng(seed), 32, terminals=8)
    names = {"obss": "observations", "next_obss": "next_observations", "actions": "actions", "rewards": "rewards", "terminals": "terminals"}
    buffer.add_batch(**{ours: columns[theirs].float().numpy() for ours, theirs in names.items()})
    return buffer.sample  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", ["full", "semi", "mix", "orthogonal"])
@pytest.mark.parametrize("extra", [{}, {"behavior_alignment": False}, {"data_alignment": False}])
def test_learns_on_the_hosts_networks_and_buffers(mode: str, extra: Options) -> None:
    torch.manual_seed(0)
    policy = _host_policy({"grad_mode": mode, "classifier_hidden_dims": (8,), **extra})
    real, fake = _host_sampler(1), _host_sampler(2)
    policy.train()
    before = flat(policy)
    for _ in range(4):
        figures = policy.learn({"real": real(2), "fake": fake(14)})
        assert all(math.isfinite(value) for value in figures.values())
    assert not np.array_equal(before, flat(policy)) and _finite(policy)
    assert {"loss/actor", "loss/critic1", "loss/critic2", "loss/alpha", "alpha"} <= set(figures)
    assert policy.select_action(np.zeros((3, OBS), "f4"), deterministic=True).shape == (3, ACT)
    assert float(policy._alpha) != pytest.approx(LAMBDA)  # the temperature is tuned


def test_state_dict_holds_the_classifier_and_its_statistics() -> None:
    torch.manual_seed(1)
    policy = _host_policy({"classifier_updates_per_step": 1, "ratio_centering": True, "absorbing": True})
    policy.learn({"real": _host_sampler(1)(8), "fake": _host_sampler(2)(8)})
    other = _host_policy({"classifier_updates_per_step": 1, "ratio_centering": True, "absorbing": True})
    other.load_state_dict(policy.state_dict())
    for key, value in policy.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value)
    saved = ("centre", "centre_batches", "terminal_counts", "classifier.input_mean")
    assert {f"data_alignment.{name}" for name in saved} <= set(policy.state_dict())
