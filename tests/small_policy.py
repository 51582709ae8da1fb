"""Small policies on the host's own networks, with batches and noise that are the same each time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offlinerlkit_damo.config import DAMOConfig
from offlinerlkit_damo.damo.policy import DAMOPolicy
from offlinerlkit_damo.kit import MLP, ActorProb, Critic, TanhDiagGaussian

OBS, ACT, ROWS = 5, 2, 24
DYNAMICS: Any = SimpleNamespace(scaler=SimpleNamespace(mu=np.full((1, OBS + ACT), 0.1), std=np.full((1, OBS + ACT), 1.3)))


def make_parts(dtype: torch.dtype = torch.float64) -> list[Any]:
    """Dynamics (its scaler), actor, twin critics and their optimisers: the same ones each time."""
    torch.manual_seed(3)
    dist = TanhDiagGaussian(latent_dim=16, output_dim=ACT, unbounded=True, conditioned_sigma=True)
    actor = ActorProb(MLP(OBS, [16, 16]), dist, "cpu").to(dtype)
    critics = [Critic(MLP(OBS + ACT, [16, 16]), "cpu").to(dtype) for _ in range(2)]
    optims = [torch.optim.Adam(net.parameters(), lr) for net, lr in zip([actor, *critics], [1e-3, 2e-3, 3e-3], strict=True)]
    return [DYNAMICS, actor, *critics, *optims]


def make_policy(config: DAMOConfig | None, dtype: torch.dtype = torch.float64, policy_class: Any = DAMOPolicy) -> Any:
    """A policy of `policy_class` on these parts with a learned temperature; `config` is for DAMO's own."""
    parts = make_parts(dtype)
    log_alpha = torch.zeros(1, dtype=dtype, requires_grad=True)
    alpha = (-float(ACT), log_alpha, torch.optim.Adam([log_alpha], lr=1e-3))
    extra = {} if config is None else {"config": config}
    policy = policy_class(*parts, tau=0.05, gamma=0.95, alpha=alpha, **extra)
    return policy.to(dtype)


def make_batch(step: int, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """The batch of one step: the same one for the same step."""
    rng = np.random.default_rng(step)

    def rows(size: int) -> dict[str, Tensor]:
        columns = {
            "observations": rng.normal(size=(size, OBS)),
            "actions": rng.uniform(-1, 1, (size, ACT)),
            "next_observations": rng.normal(size=(size, OBS)),
            "rewards": rng.normal(size=(size, 1)),
            "terminals": (rng.random((size, 1)) < 0.1).astype(float),
        }
        return {key: torch.as_tensor(value, dtype=dtype) for key, value in columns.items()}

    return {"real": rows(4), "fake": rows(ROWS - 4), "init": torch.as_tensor(rng.normal(size=(7, OBS)), dtype=dtype)}


def run_steps(policy: Any, steps: int, dtype: torch.dtype = torch.float64) -> list[dict[str, float]]:
    """The figures of so many steps on the same batches and noise."""
    torch.manual_seed(5)
    return [policy.learn(make_batch(step, dtype)) for step in range(steps)]
