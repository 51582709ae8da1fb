"""Policies of the DICE family small enough to redo by hand: every network is linear, in float64, its optimiser plain descent.

    Q(s, a) = theta . (s, a, 1)    V(s) = theta . (s, 1)    pi(s) = W (s, 1), deterministic
    log pi(a|s) = -(|a - pi(s)|^2 + |pi(s)|^2) / 2
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offlinerlkit_damo.dice.algaedice import AlgaeDICEPolicy
from offlinerlkit_damo.dice.config import AlgaeDICEConfig, ODICEConfig, OptiDICEConfig
from offlinerlkit_damo.dice.odice import ODICEPolicy
from offlinerlkit_damo.dice.optidice import OptiDICEPolicy
from offlinerlkit_damo.dice.policy import DICEPolicy
from offlinerlkit_damo.kit import MLP, ActorProb, Critic, TanhDiagGaussian

OBS, ACT, SIZE, INIT = 3, 2, 6, 4
GAMMA, TAU, LR, ENTROPY = 0.9, 0.1, 0.01, 0.3
SCALE, SHIFT = 0.7, 0.2
ALGORITHMS = ("algaedice", "optidice-projection", "optidice-cloning", "odice")

Batch = dict[str, Any]


class LinearCritic(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.line = nn.Linear(inputs, 1)

    def forward(self, *inputs: Tensor) -> Tensor:
        out: Tensor = self.line(torch.cat(inputs, -1))
        return out


class LinearDist:
    """What the kit's TanhNormal answers, deterministic and unsquashed."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    def rsample(self) -> tuple[Tensor, Tensor]:
        return self.mean, self.mean

    def mode(self) -> tuple[Tensor, Tensor]:
        return self.mean, self.mean

    def log_prob(self, actions: Tensor, raw_actions: Tensor | None = None) -> Tensor:
        return -((actions - self.mean).square() + self.mean.square()).sum(-1, keepdim=True) / 2


class LinearActor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(OBS, ACT)

    def forward(self, obss: Tensor) -> LinearDist:
        return LinearDist(self.line(obss))


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), LR)


def make_toy(name: str, seed: int = 0, **options: Any) -> DICEPolicy:
    """A toy policy; its target networks differ from the networks they follow."""
    torch.manual_seed(seed)
    actor = LinearActor().double()
    scaling = {"reward_scale": SCALE, "reward_shift": SHIFT}
    policy: DICEPolicy
    if name == "algaedice":
        critics = [LinearCritic(OBS + ACT).double() for _ in range(2)]
        policy = AlgaeDICEPolicy(
            actor, *critics, sgd(actor), *map(sgd, critics), tau=TAU, gamma=GAMMA, alpha=ENTROPY,
            config=AlgaeDICEConfig(**options), **scaling,
        )
    elif name == "odice":
        values = [LinearCritic(OBS).double() for _ in range(2)]
        policy = ODICEPolicy(
            actor, *values, sgd(actor), *map(sgd, values), tau=TAU, gamma=GAMMA, config=ODICEConfig(**options), **scaling
        )
    else:
        extraction = name.removeprefix("optidice-")
        nu, advantage, behavior = LinearCritic(OBS).double(), LinearCritic(OBS + ACT).double(), LinearActor().double()
        extra = {"behavior_actor": behavior, "behavior_actor_optim": sgd(behavior)} if extraction == "projection" else {}
        policy = OptiDICEPolicy(
            actor, nu, advantage, sgd(actor), sgd(nu), sgd(advantage), gamma=GAMMA, alpha=ENTROPY,
            config=OptiDICEConfig(optidice_extraction=extraction, **options), **extra, **scaling,
        )
    with torch.no_grad():
        for key, p in policy.named_parameters():
            if "_old" in key:
                p.add_(0.3 * torch.randn_like(p))
    return policy


def make_kit_policy(
    name: str, obs_dim: int, action_dim: int, *, lr: float, hidden: int = 32, seed: int = 0, reward_scale: float = 1.0, **options: Any
) -> DICEPolicy:
    """A policy on the kit's own networks with Adam and, where the algorithm has one, a learned entropy temperature."""
    torch.manual_seed(seed)

    def make_actor() -> ActorProb:
        dist = TanhDiagGaussian(latent_dim=hidden, output_dim=action_dim, unbounded=True, conditioned_sigma=True)
        return ActorProb(MLP(obs_dim, [hidden, hidden]), dist, "cpu")

    def make_critic(inputs: int) -> Critic:
        return Critic(MLP(inputs, [hidden, hidden]), "cpu")

    def adam(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(module.parameters(), lr)

    actor = make_actor()
    log_alpha = torch.full((1,), -3.0, requires_grad=True)
    alpha = (-float(action_dim), log_alpha, torch.optim.Adam([log_alpha], lr))
    if name == "algaedice":
        critics = [make_critic(obs_dim + action_dim) for _ in range(2)]
        return AlgaeDICEPolicy(
            actor, *critics, adam(actor), *map(adam, critics), gamma=GAMMA, alpha=alpha, config=AlgaeDICEConfig(**options),
            reward_scale=reward_scale,
        )
    if name == "odice":
        values = [make_critic(obs_dim) for _ in range(2)]
        return ODICEPolicy(
            actor, *values, adam(actor), *map(adam, values), gamma=GAMMA, config=ODICEConfig(**options), reward_scale=reward_scale
        )
    extraction = name.removeprefix("optidice-")
    nu, advantage = make_critic(obs_dim), make_critic(obs_dim + action_dim)
    behavior = make_actor()
    extra = {"behavior_actor": behavior, "behavior_actor_optim": adam(behavior)} if extraction == "projection" else {}
    return OptiDICEPolicy(
        actor, nu, advantage, adam(actor), adam(nu), adam(advantage), gamma=GAMMA, alpha=alpha,
        config=OptiDICEConfig(optidice_extraction=extraction, **options), **extra, reward_scale=reward_scale,
    )


def make_batch(seed: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    """Rows of which the first two are terminal, initial observations, and fake rows that no policy may look at."""
    rng = np.random.default_rng(seed)
    columns = {
        "observations": rng.normal(size=(SIZE, OBS)),
        "actions": rng.uniform(-1, 1, (SIZE, ACT)),
        "next_observations": rng.normal(size=(SIZE, OBS)),
        "rewards": rng.normal(size=(SIZE, 1)),
        "terminals": (np.arange(SIZE) < 2).astype(float)[:, None],
    }
    real = {key: torch.as_tensor(value, dtype=dtype) for key, value in columns.items()}
    fake = {key: torch.full_like(value, torch.nan) for key, value in real.items()}
    return {"real": real, "fake": fake, "init": torch.as_tensor(rng.normal(size=(INIT, OBS)), dtype=dtype)}


def weights_of(policy: nn.Module) -> dict[str, np.ndarray]:
    """Every network's parameters in one row, by the network's name."""
    found: dict[str, list[np.ndarray]] = {}
    for key, p in policy.named_parameters():
        found.setdefault(key.split(".")[0], []).append(p.detach().numpy().ravel().copy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def slow_gradient(function: Callable[[np.ndarray], float], point: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences in every coordinate."""
    gradient = np.zeros_like(point)
    for i in range(len(point)):
        shift = np.zeros_like(point)
        shift[i] = step
        gradient[i] = (function(point + shift) - function(point - shift)) / (2 * step)
    return gradient


# ---- the numpy side --------------------------------------------------------------------------------------------------------------------


def line(theta: np.ndarray, *inputs: np.ndarray) -> np.ndarray:
    """theta . (inputs, 1), [B]."""
    rows = np.concatenate([*inputs, np.ones((len(inputs[0]), 1))], -1)
    return np.asarray(rows @ theta)


def mean_action(actor: np.ndarray, obss: np.ndarray) -> np.ndarray:
    """pi(s) [B, a]."""
    return np.asarray(obss @ actor[: OBS * ACT].reshape(ACT, OBS).T + actor[OBS * ACT :])


def log_prob(actor: np.ndarray, obss: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The toy's log pi(a|s) [B]."""
    mean = mean_action(actor, obss)
    return np.asarray(-(((actions - mean) ** 2).sum(-1) + (mean**2).sum(-1)) / 2)
