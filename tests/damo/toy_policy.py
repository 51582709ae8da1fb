"""A DAMOPolicy small enough to redo by hand: linear critics, a linear deterministic actor, a linear classifier, all in float64.

The reference below follows docs/method.md transition by transition in numpy; it shares no code with the package.

    Q_i(s, a) = theta_i . (s, a, 1)      pi(s) = W (s, 1)      "log pi" = -|pi(s)|^2 / 2      d(s, a, s') = v . (z, 1)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offlinerlkit_damo.config import DAMOConfig
from offlinerlkit_damo.damo.policy import DAMOPolicy

OBS, ACT = 3, 2
REAL, FAKE, INIT = 4, 6, 5
GAMMA, LAMBDA, TAU = 0.9, 0.3, 0.1
CRITIC_LR, ACTOR_LR = 0.01, 0.02
SCALER = SimpleNamespace(mu=np.array([[0.3, -0.2, 0.1, 0.05, -0.1]]), std=np.array([[1.5, 0.7, 2.0, 0.5, 0.8]]))

Batch = dict[str, Any]


class LinearCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(OBS + ACT, 1)

    def forward(self, obss: Tensor, actions: Tensor) -> Tensor:
        out: Tensor = self.line(torch.cat([obss, actions], -1))
        return out


def make_policy(
    seed: int = 0, *, alpha: Any = LAMBDA, tau: float = TAU, actor_lr: float = ACTOR_LR, critic_lr: float = CRITIC_LR, **options: Any
) -> DAMOPolicy:
    """A toy policy whose optimisers are plain gradient descent; the classifier rests unless the options say otherwise."""
    torch.manual_seed(seed)
    actor, critics = nn.Linear(OBS, ACT), [LinearCritic(), LinearCritic()]
    optims = [torch.optim.SGD(net.parameters(), lr) for net, lr in zip([actor, *critics], [actor_lr, critic_lr, critic_lr], strict=True)]
    config = DAMOConfig(**{"classifier_hidden_dims": (), "classifier_updates_per_step": 0, **options})
    dynamics: Any = SimpleNamespace(scaler=SCALER)
    policy = DAMOPolicy(dynamics, actor, *critics, *optims, tau=tau, gamma=GAMMA, alpha=alpha, config=config).double()
    with torch.no_grad():  # the targets are to differ from the critics
        for p in [*policy.critic1_old.parameters(), *policy.critic2_old.parameters()]:
            p.add_(0.3 * torch.randn_like(p))
    policy.actforward = lambda obss, deterministic=False: _act(policy.actor, obss)  # type: ignore[method-assign]
    return policy


def _act(actor: nn.Module, obss: Tensor) -> tuple[Tensor, Tensor]:
    actions = actor(obss)
    return actions, -actions.square().sum(-1, keepdim=True) / 2


def make_rows(rng: np.random.Generator, size: int, terminals: int = 1) -> dict[str, Tensor]:
    columns = {
        "observations": rng.normal(size=(size, OBS)),
        "next_observations": rng.normal(size=(size, OBS)),
        "actions": rng.uniform(-1, 1, (size, ACT)),
        "rewards": rng.normal(size=(size, 1)),
        "terminals": (np.arange(size) < terminals).astype(float)[:, None],
    }
    return {key: torch.as_tensor(value) for key, value in columns.items()}


def make_batch(seed: int = 0, *, init: bool = True) -> Batch:
    rng = np.random.default_rng(seed)
    batch: Batch = {"real": make_rows(rng, REAL, terminals=1), "fake": make_rows(rng, FAKE, terminals=2)}
    if init:
        batch["init"] = torch.as_tensor(rng.normal(size=(INIT, OBS)))
    return batch


def flat(module: nn.Module) -> np.ndarray:
    """All parameters in one row."""
    return torch.cat([p.detach().flatten() for p in module.parameters()]).numpy().copy()


def flat_gradient(module: nn.Module) -> np.ndarray:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).numpy().copy()


def snapshot(policy: DAMOPolicy) -> SimpleNamespace:
    """The numbers the reference computes from."""
    return SimpleNamespace(
        theta=np.stack([flat(policy.critic1), flat(policy.critic2)]),
        old=np.stack([flat(policy.critic1_old), flat(policy.critic2_old)]),
        actor=flat(policy.actor),
        classifier=flat(policy.data_alignment.classifier),
    )


# ---- the reference ---------------------------------------------------------------------------------------------------------------------


def conjugate(name: str, k: float) -> Callable[[float], float]:
    return {
        "cubic": lambda y: 2 / 3 * max(y + 1 - k, 0) ** 1.5 + k - 2 / 3,
        "chi2": lambda y: y + y * y / 4 if y >= -2 else -1.0,
        "soft_chi2": lambda y: math.exp(y) - 1 if y < 0 else y + y * y / 2,
        "power": lambda y: abs(y) ** 1.5 / 1.5,
        "square": lambda y: y * y / 2,
    }[name]


def slope(name: str, k: float) -> Callable[[float], float]:
    return {
        "cubic": lambda y: math.sqrt(max(y + 1 - k, 0)),
        "chi2": lambda y: max(1 + y / 2, 0),
        "soft_chi2": lambda y: math.exp(y) if y < 0 else 1 + y,
        "power": lambda y: math.copysign(math.sqrt(abs(y)), y),
        "square": lambda y: y,
    }[name]


def features(obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.array([*obs, *action, 1.0])


def act(actor: np.ndarray, obs: np.ndarray) -> tuple[np.ndarray, float]:
    action = actor[: OBS * ACT].reshape(ACT, OBS) @ obs + actor[OBS * ACT :]
    return action, -float(action @ action) / 2


def rows(batch: Batch) -> list[SimpleNamespace]:
    """The transitions, real first."""
    out = []
    for kind in ("real", "fake"):
        data = {key: value.numpy() for key, value in batch[kind].items()}
        for j in range(len(data["rewards"])):
            out.append(
                SimpleNamespace(
                    s=data["observations"][j], a=data["actions"][j], s2=data["next_observations"][j], r=data["rewards"][j, 0],
                    m=1 - data["terminals"][j, 0], kind=kind,
                )
            )  # fmt: skip
    return out


def ell(state: SimpleNamespace, row: SimpleNamespace, config: DAMOConfig) -> float:
    z = np.array([*row.s, *row.a, *row.s2])
    if config.classifier_normalize:
        mean, std = SCALER.mu[0], SCALER.std[0]
        z = (z - np.array([*mean, *mean[:OBS]])) / np.array([*std, *std[:OBS]])
    return bounded(float(state.classifier @ np.array([*z, 1.0])), config)


def bounded(value: float, config: DAMOConfig) -> float:
    if config.logit_clip is not None:
        value = min(max(value, -config.logit_clip), config.logit_clip)
    if config.ratio_mode == "mixture":
        share = REAL / (REAL + FAKE)
        value = math.log(share + (1 - share) * math.exp(value))
    return value


def refined_rewards(state: SimpleNamespace, batch: Batch, config: DAMOConfig) -> list[float]:
    """r - alpha ell on a first step, with the running mean's and the absorbing state's corrections."""
    data = rows(batch)
    if not config.data_alignment:
        return [row.r for row in data]
    values = [ell(state, row, config) for row in data]
    centre = 0.0
    if config.ratio_centering:
        centre = sum(x for x, row in zip(values, data, strict=True) if row.kind == "fake") / FAKE
    absorbing = 0.0
    if config.absorbing:
        shares = []
        for kind in ("fake", "real"):
            ends = [1 - row.m for row in data if row.kind == kind]
            # one terminal in a thousand transitions beforehand, of which a ten-thousandth is forgotten
            p = (0.9999 * 1 + sum(ends)) / (0.9999 * 1000 + len(ends))
            shares.append(GAMMA * p / (1 - GAMMA + GAMMA * p))
        absorbing = -config.damo_alpha * (bounded(math.log(shares[0] / shares[1]), config) - centre) / (1 - GAMMA)
    return [
        row.r - config.damo_alpha * (x - centre) + GAMMA * (1 - row.m) * absorbing for x, row in zip(values, data, strict=True)
    ]


def init_coefficient(config: DAMOConfig) -> float:
    eta = {"full": 1.0, "semi": 0.0, "mix": 0.05, "orthogonal": 1.0}[config.grad_mode]
    named = {"1-gamma": 1 - GAMMA, "1-eta*gamma": 1 - eta * GAMMA, "ompo": (1 - GAMMA) * math.sqrt(config.damo_alpha)}
    return named.get(config.init_coef) or float(config.init_coef)


def critic_step(state: SimpleNamespace, batch: Batch, config: DAMOConfig) -> SimpleNamespace:
    """Losses [2], gradients [2, 6] and residuals Phi [2, B] of L_Q."""
    data, refined = rows(batch), refined_rewards(state, batch, config)
    mode = config.grad_mode if config.behavior_alignment else "semi"
    smaller = config.q_next == "min" or not config.behavior_alignment
    value, weight = conjugate(config.divergence, config.divergence_k), slope(config.divergence, config.divergence_k)
    alpha, n = config.damo_alpha, len(data)
    losses, forward, backward, phis = np.zeros(2), np.zeros((2, 6)), np.zeros((2, 6)), np.zeros((2, n))
    for j, (row, reward) in enumerate(zip(data, refined, strict=True)):
        x = features(row.s, row.a)
        next_action, log_prob = act(state.actor, row.s2)
        x2 = features(row.s2, next_action)
        entropy = LAMBDA * log_prob if config.entropy_backup else 0.0
        online, target = state.theta @ x2, state.old @ x2
        eta = {"full": 1.0, "mix": 0.05, "semi": 0.0, "orthogonal": 0.0}[mode]
        mixed = eta * online + (1 - eta) * target
        for i in range(2):
            who = int(np.argmin(mixed)) if smaller else i
            goal = reward + GAMMA * row.m * (mixed[who] - entropy)
            floored = config.target_floor is not None and goal < config.target_floor
            goal = config.target_floor if floored else goal
            phi = phis[i, j] = goal - state.theta[i] @ x
            if not config.behavior_alignment:
                losses[i] += phi**2 / n
                forward[i] -= 2 * phi * x / n
                continue
            w = weight(phi / alpha)
            losses[i] += alpha * value(phi / alpha) / n
            forward[i] -= w * x / n
            if not floored:
                forward[who] += eta * w * GAMMA * row.m * x2 / n
            if mode == "orthogonal":
                who = int(np.argmin(online)) if smaller else i
                goal = reward + GAMMA * row.m * (online[who] - entropy)
                if config.target_floor is None or goal > config.target_floor:
                    backward[who] += weight((goal - state.old[i] @ x) / alpha) * GAMMA * row.m * x2 / n
                # where the floor binds the goal is a constant and the backward gradient is zero
    gradients = forward.copy()
    if config.behavior_alignment:
        init = [features(s, act(state.actor, s)[0]) for s in batch["init"].numpy()]
        for i in range(2):
            if mode == "orthogonal":
                f, b = forward[i], backward[i]
                gradients[i] = f + b - (f @ b) / (f @ f) * f
            gradients[i] += init_coefficient(config) * np.mean(init, 0)
            losses[i] += init_coefficient(config) * np.mean([state.theta[i] @ x for x in init])
    return SimpleNamespace(losses=losses, gradients=gradients, phis=phis)


def actor_loss(actor: np.ndarray, theta: np.ndarray, phis: np.ndarray, batch: Batch, config: DAMOConfig) -> float:
    """L_pi of docs/method.md at the actor's parameters `actor`, or SAC's loss where the configuration asks for it."""
    data = rows(batch)
    if config.actor_mode == "sac" or not config.behavior_alignment:
        total = 0.0
        for row in data:
            action, log_prob = act(actor, row.s)
            total += (LAMBDA * log_prob - min(theta @ features(row.s, action))) / len(data)
        return total
    alpha = config.damo_alpha if config.actor_alpha is None else config.actor_alpha
    weight = slope(config.divergence, config.divergence_k)
    total = 0.0
    for i in range(2):
        for s in batch["init"].numpy():
            total += init_coefficient(config) * float(theta[i] @ features(s, act(actor, s)[0])) / INIT
        for j, row in enumerate(data):
            w = max(weight(phis[i, j] / alpha), 0.0)
            w = w if config.w_max is None else min(w, config.w_max)
            action, log_prob = act(actor, row.s2)
            total += w * GAMMA * row.m * (float(theta[i] @ features(row.s2, action)) - LAMBDA * log_prob) / len(data)
    return -total / 2


def actor_gradient(actor: np.ndarray, theta: np.ndarray, phis: np.ndarray, batch: Batch, config: DAMOConfig) -> np.ndarray:
    """By central differences; exact but for rounding, the loss being (piecewise) quadratic in the actor's parameters."""
    gradient = np.zeros_like(actor)
    for i in range(len(actor)):
        shift = np.zeros_like(actor)
        shift[i] = 1e-4
        ends = [actor_loss(actor + sign * shift, theta, phis, batch, config) for sign in (1, -1)]
        gradient[i] = (ends[0] - ends[1]) / 2e-4
    return gradient
