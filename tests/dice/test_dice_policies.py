"""The policies' learning step: against a numpy reference, what moves and what must not, terminals, state, interface, bad input."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from dice_toys import (
    ACT,
    ALGORITHMS,
    ENTROPY,
    GAMMA,
    INIT,
    LR,
    OBS,
    SCALE,
    SHIFT,
    SIZE,
    TAU,
    Batch,
    LinearActor,
    LinearCritic,
    line,
    log_prob,
    make_batch,
    make_kit_policy,
    make_toy,
    mean_action,
    sgd,
    slow_gradient,
    weights_of,
)

from offlinerlkit_damo.dice.algaedice import AlgaeDICEPolicy
from offlinerlkit_damo.dice.config import AlgaeDICEConfig, OptiDICEConfig
from offlinerlkit_damo.dice.odice import ODICEPolicy
from offlinerlkit_damo.dice.optidice import OptiDICEPolicy
from offlinerlkit_damo.dice.policy import DICEPolicy
from offlinerlkit_damo.kit import BasePolicy

TOLERANCE = {"rtol": 1e-6, "atol": 1e-8}
EVERY_STEP = {"algaedice": {"algae_actor_every": 1}}
NETWORKS = {
    "algaedice": {"actor", "critic1", "critic2", "critic1_old", "critic2_old"},
    "optidice-projection": {"actor", "nu", "advantage", "multiplier", "behavior_actor"},
    "optidice-cloning": {"actor", "nu", "advantage", "multiplier"},
    "odice": {"actor", "value1", "value2", "value1_old", "value2_old"},
}


class Data:
    """A batch as numpy columns, with the scaled reward."""

    def __init__(self, batch: Batch) -> None:
        real = {key: value.numpy() for key, value in batch["real"].items()}
        self.s, self.a, self.s2 = real["observations"], real["actions"], real["next_observations"]
        self.r = SCALE * real["rewards"][:, 0] + SHIFT
        self.m = 1 - real["terminals"][:, 0]
        self.s0 = batch["init"].numpy()


def step(policy: DICEPolicy, batch: Batch) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, float]]:
    """Weights before and after one learning step, and its figures."""
    before = weights_of(policy)
    figures = policy.learn(batch)
    return before, weights_of(policy), figures


def moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


# ---- AlgaeDICE against numpy -----------------------------------------------------------------------------------------------------------


def algae_phi(weights: dict[str, np.ndarray], i: int, theta: np.ndarray, actor: np.ndarray, data: Data, mix: float) -> np.ndarray:
    """Phi_i [B]; the reference's one equation."""
    a2 = mean_action(actor, data.s2)
    target = np.minimum(*(line(weights[f"critic{j}_old"], data.s2, a2) for j in (1, 2)))
    next_q = mix * line(theta, data.s2, a2) + (1 - mix) * target - ENTROPY * log_prob(actor, data.s2, a2)
    return data.r + GAMMA * data.m * next_q - line(theta, data.s, data.a)


@pytest.mark.parametrize(("mix", "alpha"), [(0.05, 0.5), (1.0, 2.0), (0.0, 1.0)])
def test_algaedice_step(mix: float, alpha: float) -> None:
    policy, batch = make_toy("algaedice", algae_mix=mix, algae_alpha=alpha, algae_actor_every=1), make_batch()
    before, after, figures = step(policy, batch)
    data, actor = Data(batch), before["actor"]
    a0 = mean_action(actor, data.s0)
    for i in (1, 2):

        def loss(theta: np.ndarray, i: int = i) -> float:
            phi = algae_phi(before, i, theta, actor, data, mix)
            return float((1 - GAMMA) * line(theta, data.s0, a0).mean() + alpha * (np.abs(phi / alpha) ** 1.5 / 1.5).mean())

        theta = before[f"critic{i}"]
        assert figures[f"loss/critic{i}"] == pytest.approx(loss(theta), rel=1e-5)
        np.testing.assert_allclose((theta - after[f"critic{i}"]) / LR, slow_gradient(loss, theta), **TOLERANCE)
        old = before[f"critic{i}_old"]
        np.testing.assert_allclose(after[f"critic{i}_old"], old + TAU * (after[f"critic{i}"] - old), **TOLERANCE)

    # the actor ascends with the critics as they are after their step and the targets as they were
    weights = {
        i: np.sqrt(np.maximum(algae_phi(before, i, after[f"critic{i}"], actor, data, mix) / alpha, 0)) for i in (1, 2)
    }

    def actor_loss(candidate: np.ndarray) -> float:
        total = 0.0
        for i in (1, 2):
            theta = after[f"critic{i}"]
            phi = algae_phi(before, i, theta, candidate, data, mix)
            init_q = line(theta, data.s0, mean_action(candidate, data.s0))
            total -= float((1 - GAMMA) * init_q.mean() + (weights[i] * phi).mean()) / 2
        return total

    np.testing.assert_allclose((actor - after["actor"]) / LR, slow_gradient(actor_loss, actor), **TOLERANCE)
    assert all(np.abs(w).max() > 0 for w in weights.values())


def test_algaedice_figures() -> None:
    policy, batch = make_toy("algaedice", algae_alpha=0.5, algae_actor_every=1), make_batch()
    before, after, figures = step(policy, batch)
    data, actor = Data(batch), before["actor"]
    phi = np.stack([algae_phi(before, i, before[f"critic{i}"], actor, data, 0.05) for i in (1, 2)])
    w = np.sign(phi) * np.sqrt(np.abs(phi) / 0.5)
    phi_then = np.stack([algae_phi(before, i, after[f"critic{i}"], actor, data, 0.05) for i in (1, 2)])
    v = np.sqrt(np.maximum(phi_then / 0.5, 0))
    want = {
        "algaedice/phi": phi.mean(),
        "algaedice/weight": w.mean(),
        "algaedice/shift_residual": (w * (1 - 0.05 * GAMMA * data.m)).mean() - (1 - GAMMA),
        "algaedice/q_batch": np.mean([line(before[f"critic{i}"], data.s, data.a) for i in (1, 2)]),
        "algaedice/q_init": np.mean([line(before[f"critic{i}"], data.s0, mean_action(actor, data.s0)) for i in (1, 2)]),
        "algaedice/effective_sample_size": (v.sum(-1) ** 2 / (SIZE * (v**2).sum(-1))).mean(),
    }
    assert {key: figures[key] for key in want} == pytest.approx(want, rel=1e-5)


def test_algaedice_actor_rests_between_its_steps() -> None:
    policy = make_toy("algaedice", algae_actor_every=3)
    for i in range(1, 7):
        before, after, figures = step(policy, make_batch(i))
        due = i % 3 == 0
        assert moved(before, after) == (NETWORKS["algaedice"] if due else {"critic1", "critic2"})
        assert ("loss/actor" in figures) == due


# ---- OptiDICE against numpy ------------------------------------------------------------------------------------------------------------


def slope(y: np.ndarray) -> np.ndarray:
    """f*' of the soft chi2."""
    return np.where(y < 0, np.exp(np.minimum(y, 0)), 1 + y)


def conjugate(y: np.ndarray) -> np.ndarray:
    return np.where(y < 0, np.exp(np.minimum(y, 0)) - 1, y + y**2 / 2)


@pytest.mark.parametrize("multiplier", [0.0, 0.4])
@pytest.mark.parametrize("name", ["optidice-projection", "optidice-cloning"])
def test_optidice_step(name: str, multiplier: float) -> None:
    alpha, mu = 0.6, multiplier
    policy, batch = make_toy(name, optidice_alpha=alpha, optidice_multiplier_lr=1e-3), make_batch()
    assert isinstance(policy, OptiDICEPolicy)
    with torch.no_grad():
        policy.multiplier.fill_(mu)
    before, after, figures = step(policy, batch)
    data, actor = Data(batch), before["actor"]

    def residuals(theta: np.ndarray) -> np.ndarray:
        return np.asarray(data.r + GAMMA * data.m * line(theta, data.s2) - line(theta, data.s))

    def nu_loss(theta: np.ndarray) -> float:
        return float((1 - GAMMA) * line(theta, data.s0).mean() + alpha * conjugate((residuals(theta) - mu) / alpha).mean() + mu)

    e = residuals(before["nu"])
    assert figures["loss/nu"] == pytest.approx(nu_loss(before["nu"]), rel=1e-5)
    np.testing.assert_allclose((before["nu"] - after["nu"]) / LR, slow_gradient(nu_loss, before["nu"]), **TOLERANCE)
    # Adam's first step is as long as its rate, against the gradient 1 - E[w]
    excess = slope((e - mu) / alpha).mean() - 1
    assert after["multiplier"][0] - mu == pytest.approx(math.copysign(1e-3, excess), rel=1e-4)

    def advantage_loss(theta: np.ndarray) -> float:
        return float(((e - line(theta, data.s, data.a)) ** 2).mean())

    advantage = before["advantage"]
    np.testing.assert_allclose((advantage - after["advantage"]) / LR, slow_gradient(advantage_loss, advantage), **TOLERANCE)

    mu = float(after["multiplier"][0])
    ratio = slope((line(advantage, data.s, data.a) - mu) / alpha)
    assert figures["optidice/weight"] == pytest.approx(ratio.mean(), rel=1e-5)

    def actor_loss(candidate: np.ndarray) -> float:
        own = mean_action(candidate, data.s)
        entropy = ENTROPY * log_prob(candidate, data.s, own).mean()
        if name == "optidice-cloning":
            return float(-(ratio * log_prob(candidate, data.s, data.a)).mean() + entropy)
        weight = slope((line(after["advantage"], data.s, own) - mu) / alpha)
        behavior = log_prob(after["behavior_actor"], data.s, own)
        return float((log_prob(candidate, data.s, own) - behavior - np.log(weight)).mean() + entropy)

    assert figures["loss/actor"] == pytest.approx(actor_loss(actor), rel=1e-5)
    np.testing.assert_allclose((actor - after["actor"]) / LR, slow_gradient(actor_loss, actor), **TOLERANCE)
    if name == "optidice-projection":
        behavior = before["behavior_actor"]

        def behavior_loss(candidate: np.ndarray) -> float:
            return float(-log_prob(candidate, data.s, data.a).mean())

        np.testing.assert_allclose((behavior - after["behavior_actor"]) / LR, slow_gradient(behavior_loss, behavior), **TOLERANCE)


def test_optidice_warmup_and_fixed_multiplier() -> None:
    policy = make_toy("optidice-projection", optidice_warmup_steps=2, optidice_normalize=False)
    for i in range(1, 5):
        before, after, figures = step(policy, make_batch(i))
        rest = {"actor", "multiplier"} if i <= 2 else {"multiplier"}
        assert moved(before, after) == NETWORKS["optidice-projection"] - rest
        assert ("loss/actor" in figures) == (i > 2)
        assert figures["optidice/multiplier"] == 0


# ---- ODICE against numpy ---------------------------------------------------------------------------------------------------------------


def chi2_conjugate(y: np.ndarray) -> np.ndarray:
    return np.maximum(1 + y / 2, 0) ** 2 - 1


@pytest.mark.parametrize("mode", ["orthogonal", "full", "semi"])
@pytest.mark.parametrize("actor_weight", ["residual", "ratio"])
def test_odice_step(mode: str, actor_weight: str) -> None:
    lam, eta = 0.7, 0.5
    policy, batch = make_toy("odice", odice_lambda=lam, odice_eta=eta, odice_grad_mode=mode, odice_actor_weight=actor_weight), make_batch()
    before, after, figures = step(policy, batch)
    data, actor = Data(batch), before["actor"]
    old, old_next = (np.minimum(*(line(before[f"value{j}_old"], s) for j in (1, 2))) for s in (data.s, data.s2))
    all_residuals = []
    for i in (1, 2):
        theta = before[f"value{i}"]

        def states(v: np.ndarray) -> float:
            return float((1 - lam) * line(v, data.s0).mean())

        def ahead(v: np.ndarray, theta: np.ndarray = theta) -> np.ndarray:
            next_value = line(v, data.s2) if mode == "full" else old_next
            return np.asarray(data.r + GAMMA * data.m * next_value - line(v, data.s))

        def behind(v: np.ndarray) -> np.ndarray:
            return np.asarray(data.r + GAMMA * data.m * line(v, data.s2) - old)

        plain = slow_gradient(states, theta)
        forward = slow_gradient(lambda v: float(lam * chi2_conjugate(ahead(v)).mean()), theta)
        update = plain + forward
        if mode == "orthogonal":
            backward = slow_gradient(lambda v: float(lam * chi2_conjugate(behind(v)).mean()), theta)
            update = update + eta * (backward - (backward @ forward) / (forward @ forward) * forward)
            # what the update adds to the forward part has nothing along it
            applied = (theta - after[f"value{i}"]) / LR
            assert (applied - plain - forward) @ forward == pytest.approx(0, abs=1e-7)
            assert abs(backward @ forward) > 1e-3
        np.testing.assert_allclose((theta - after[f"value{i}"]) / LR, update, **TOLERANCE)
        assert figures[f"loss/value{i}"] == pytest.approx(states(theta) + lam * chi2_conjugate(ahead(theta)).mean(), rel=1e-5)
        followed = before[f"value{i}_old"] + TAU * (after[f"value{i}"] - before[f"value{i}_old"])
        np.testing.assert_allclose(after[f"value{i}_old"], followed, **TOLERANCE)
        all_residuals.append(ahead(theta))

    e = np.stack(all_residuals)
    weights = np.minimum(np.maximum(e if actor_weight == "residual" else 1 + e / 2, 0), 100)

    def actor_loss(candidate: np.ndarray) -> float:
        return float(-(weights * log_prob(candidate, data.s, data.a)).mean())

    np.testing.assert_allclose((actor - after["actor"]) / LR, slow_gradient(actor_loss, actor), **TOLERANCE)
    assert figures["odice/weight"] == pytest.approx(weights.mean(), rel=1e-5)
    assert ("odice/gradient_cosine" in figures) == (mode == "orthogonal")


def test_odice_caps_the_actors_weight() -> None:
    policy, batch = make_toy("odice", odice_w_max=0.05), make_batch()
    batch["real"]["rewards"] += 100
    assert policy.learn(batch)["odice/weight"] == pytest.approx(0.05)


# ---- all of them -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_step_moves_every_network(name: str) -> None:
    before, after, _ = step(make_toy(name, **EVERY_STEP.get(name, {})), make_batch())
    assert set(before) == NETWORKS[name]
    assert moved(before, after) == NETWORKS[name]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_gradient_is_left_behind(name: str) -> None:
    """After a step each network holds the gradient it has descended: no other network's loss has added to it."""
    policy = make_toy(name, **EVERY_STEP.get(name, {}))
    before, after, _ = step(policy, make_batch())
    for network in NETWORKS[name] - {"multiplier"}:
        gradients = [p.grad for p in getattr(policy, network).parameters()]
        if network.endswith("_old"):
            assert gradients == [None, None]
        else:
            held = torch.cat([g.flatten() for g in gradients if g is not None]).numpy()
            np.testing.assert_allclose(before[network] - after[network], LR * held, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("rate", ["actor", "other"])
def test_losses_do_not_leak(name: str, rate: str) -> None:
    """Without the actor's step the other networks end where they do with it, and the actor's gradient reaches none of theirs."""
    policies = [make_toy(name, **EVERY_STEP.get(name, {})) for _ in range(2)]
    optims = {k: v for k, v in vars(policies[1]).items() if k.endswith("_optim") and v is not None}
    for key, optim in optims.items():
        if (key == "actor_optim") == (rate == "actor"):
            for group in optim.param_groups:
                group["lr"] = 0.0
    (before, after, _), (_, frozen_after, _) = (step(policy, make_batch()) for policy in policies)
    if rate == "actor":
        assert {n for n in before if not np.array_equal(after[n], frozen_after[n])} == {"actor"}
    else:
        followers = {n for n in before if not n.endswith("_old")} - {"actor"}
        assert all(np.array_equal(before[n], frozen_after[n]) for n in followers)
        assert not np.array_equal(before["actor"], frozen_after["actor"])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_terminal_rows_do_not_see_the_next_state(name: str) -> None:
    """Another next observation on terminal rows changes no weight; on the other rows it does."""
    results = []
    for rows in (slice(0), slice(0, 2), slice(2, 3)):
        batch = make_batch()
        batch["real"]["next_observations"][rows] += 5
        results.append(step(make_toy(name, **EVERY_STEP.get(name, {})), batch)[1])
    plain, terminal, other = results
    assert all(np.array_equal(plain[n], terminal[n]) for n in plain)
    assert any(not np.array_equal(plain[n], other[n]) for n in plain)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_fake_rows_are_not_used_and_plain_batches_are_taken(name: str) -> None:
    """{"real", "fake", "init": the rows' observations} equals the host's plain batch; the fake rows are all NaN."""
    batch = make_batch()
    batch["init"] = batch["real"]["observations"]
    a, b = make_toy(name, **EVERY_STEP.get(name, {})), make_toy(name, **EVERY_STEP.get(name, {}))
    figures, plain_figures = a.learn(batch), b.learn(batch["real"])
    assert figures == plain_figures
    assert all(np.array_equal(weights_of(a)[n], weights_of(b)[n]) for n in weights_of(a))
    assert all(type(value) is float and math.isfinite(value) for value in figures.values())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_state_dict_holds_everything(name: str) -> None:
    """Loaded into another policy it gives the same networks, targets, temperature and count of steps."""
    policy, other = (make_kit_policy(name, OBS, ACT, lr=1e-2, seed=seed) for seed in (0, 1))
    batch = make_batch(dtype=torch.float32)
    for _ in range(3):
        policy.learn(batch)
    state = policy.state_dict()
    assert {key.split(".")[0] for key in state} >= NETWORKS[name]
    other.load_state_dict(state)
    assert all(np.array_equal(weights_of(policy)[n], weights_of(other)[n]) for n in weights_of(policy))
    assert float(other.alpha) == float(policy.alpha)
    obss = np.random.default_rng(0).normal(size=(5, OBS)).astype("f4")
    np.testing.assert_array_equal(policy.select_action(obss, True), other.select_action(obss, True))
    figures = []
    for key, optim in vars(policy).items():  # these are saved on their own
        if key.endswith("_optim") and optim is not None:
            getattr(other, key).load_state_dict(deepcopy(optim.state_dict()))
    for p in (policy, other):
        torch.manual_seed(3)
        figures.append(p.learn(batch))
    assert figures[0] == figures[1]
    if name != "odice":
        assert float(policy.alpha) != pytest.approx(math.exp(-3.0), abs=1e-6)  # it was learned
    if name == "algaedice":
        assert "loss/actor" in figures[1]  # the fourth step, by the count that was loaded


@pytest.mark.parametrize("name", ALGORITHMS)
def test_interface(name: str) -> None:
    policy = make_kit_policy(name, OBS, ACT, lr=1e-2)
    assert isinstance(policy, BasePolicy)
    obs = np.zeros((4, OBS), dtype="f4")
    for obss, shape in ((obs, (4, ACT)), (obs[0], (ACT,))):
        action = policy.select_action(obss)
        assert action.shape == shape and action.dtype == np.float32 and np.abs(action).max() <= 1
    np.testing.assert_array_equal(policy.select_action(obs, deterministic=True), policy.select_action(obs, deterministic=True))
    assert not np.array_equal(policy.select_action(obs), policy.select_action(obs))
    for mode, training in ((policy.eval, False), (policy.train, True)):
        mode()
        assert {n: m.training for n, m in policy.named_children()} == {
            n: training and not n.endswith("_old") for n, _ in policy.named_children()
        }


@pytest.mark.parametrize("name", ["algaedice", "optidice-projection", "optidice-cloning"])
def test_temperature_rises_below_the_target_entropy(name: str) -> None:
    """A target that no policy reaches raises it, one that every policy exceeds lowers it, up to the host's bound of 1."""
    ends = {}
    for target in (50.0, -50.0):
        policy = make_kit_policy(name, OBS, ACT, lr=0.05, **EVERY_STEP.get(name, {}))
        policy._target_entropy = target
        batch, start = make_batch(dtype=torch.float32), float(policy.alpha)
        for _ in range(20):
            figures = policy.learn(batch)
        ends[target] = float(policy.alpha) - start
        assert figures["alpha"] == pytest.approx(float(policy.alpha))
    assert ends[50.0] > 0.01 > -0.001 > ends[-50.0]


# ---- bad input -------------------------------------------------------------------------------------------------------------------------


def _without(key: str) -> Any:
    return lambda batch: batch["real"].pop(key)


def _replace(key: str, shape: tuple[int, ...]) -> Any:
    return lambda batch: batch["real"].update({key: torch.zeros(shape, dtype=torch.float64)})


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without("rewards"), "the batch lacks rewards"),
        (_without("terminals"), "the batch lacks terminals"),
        (_replace("rewards", (SIZE,)), r"rewards has shape \(6,\); the observations ask for \(6, 1\)"),
        (_replace("terminals", (SIZE - 1, 1)), r"terminals has shape \(5, 1\)"),
        (_replace("actions", (SIZE - 2, ACT)), r"actions has shape \(4, 2\)"),
        (_replace("next_observations", (SIZE, OBS + 1)), r"next_observations has shape \(6, 4\)"),
        (lambda batch: batch.update(init=torch.zeros(INIT, OBS + 2)), r"init has shape \(4, 5\)"),
        (lambda batch: batch.update(init=torch.zeros(0, OBS)), "0 initial observations"),
        (lambda batch: batch.update(real={k: v[:0] for k, v in batch["real"].items()}), "the batch has 0 rows"),
    ],
)
def test_bad_batches(name: str, spoil: Any, message: str) -> None:
    batch, policy = make_batch(), make_toy(name)
    before = weights_of(policy)
    spoil(batch)
    with pytest.raises(ValueError, match=message):
        policy.learn(batch)
    assert moved(before, weights_of(policy)) == set()


def test_bad_arguments() -> None:
    actor, critics, values = LinearActor(), [LinearCritic(OBS + ACT) for _ in range(2)], [LinearCritic(OBS) for _ in range(2)]
    algae = (actor, *critics, sgd(actor), *map(sgd, critics))
    odice = (actor, *values, sgd(actor), *map(sgd, values))
    opti = (actor, values[0], critics[0], sgd(actor), sgd(values[0]), sgd(critics[0]))
    for gamma in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="gamma is"):
            AlgaeDICEPolicy(*algae, gamma=gamma)
    for tau in (0.0, 1.5):
        with pytest.raises(ValueError, match="tau is"):
            AlgaeDICEPolicy(*algae, tau=tau)
        with pytest.raises(ValueError, match="tau is"):
            ODICEPolicy(*odice, tau=tau)
    with pytest.raises(ValueError, match="reward_scale is inf"):
        ODICEPolicy(*odice, reward_scale=math.inf)
    with pytest.raises(ValueError, match="'projection' needs behavior_actor"):
        OptiDICEPolicy(*opti)
    behavior = LinearActor()
    with pytest.raises(ValueError, match="'projection' needs behavior_actor"):
        OptiDICEPolicy(*opti, behavior_actor=behavior)
    with pytest.raises(ValueError, match="'cloning' takes neither"):
        OptiDICEPolicy(
            *opti, behavior_actor=behavior, behavior_actor_optim=sgd(behavior), config=OptiDICEConfig(optidice_extraction="cloning")
        )
    assert AlgaeDICEPolicy(*algae).config == AlgaeDICEConfig()
