"""What the policies of the DICE family share: reading a batch, acting, the entropy temperature, the figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from offlinerlkit_damo.kit import BasePolicy

Temperature = float | tuple[float, Tensor, Optimizer]
"""The host's `alpha`: the entropy's weight, or (target entropy, log alpha, its optimiser) to learn it."""

COLUMNS = ("observations", "actions", "next_observations", "rewards", "terminals")


@dataclass(frozen=True)
class Rows:
    """A checked batch: B transitions of the dataset and B0 initial observations."""

    obss: Tensor  # [B, d]
    actions: Tensor  # [B, a]
    next_obss: Tensor  # [B, d]
    rewards: Tensor  # [B] scaled
    discounts: Tensor  # [B] gamma (1 - terminal)
    init_obss: Tensor  # [B0, d]


class DICEPolicy(BasePolicy):
    """Base of AlgaeDICE, OptiDICE and ODICE; a subclass adds its critics and `learn`.

    Target networks are attributes whose names end in `_old`. The state dict holds all networks and the learned temperature.

    Args:
        actor: obs -> a distribution with `rsample`, `mode` and `log_prob` (the kit's ActorProb with TanhDiagGaussian).
        actor_optim: its optimiser.
        gamma: discount, in (0, 1).
        alpha: the host's entropy temperature, fixed or learned.
        reward_scale, reward_shift: `learn` takes scale * r + shift for the reward (see `rewards.reward_transform`).

    Raises:
        ValueError: gamma outside (0, 1), or a scale or shift that is not finite.
    """

    _steps: Tensor

    def __init__(
        self,
        actor: nn.Module,
        actor_optim: Optimizer,
        gamma: float,
        alpha: Temperature,
        *,
        reward_scale: float,
        reward_shift: float,
    ) -> None:
        super().__init__()
        if not 0 < gamma < 1:
            raise ValueError(f"gamma is {gamma}; it must be in (0, 1)")
        if not (math.isfinite(reward_scale) and math.isfinite(reward_shift)):
            raise ValueError(f"reward_scale is {reward_scale} and reward_shift {reward_shift}; both must be finite")
        self.actor = actor
        self.actor_optim = actor_optim
        self._gamma = gamma
        self._reward_scale, self._reward_shift = reward_scale, reward_shift
        self._is_auto_alpha = isinstance(alpha, tuple)
        self._fixed_alpha = 0.0
        if isinstance(alpha, tuple):
            self._target_entropy, self._log_alpha, self.alpha_optim = alpha
        else:
            self._fixed_alpha = alpha
        self.register_buffer("_steps", torch.zeros((), dtype=torch.int64))

    def get_extra_state(self) -> Tensor:
        """The learned log alpha [1] for the state dict, [0] where it is fixed; no buffer, `to` would part it from its optimiser."""
        return self._log_alpha.detach().clone() if self._is_auto_alpha else torch.empty(0)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over the log alpha of a state dict, where both are learned."""
        if self._is_auto_alpha and len(state):
            with torch.no_grad():
                self._log_alpha.copy_(state)

    def train(self) -> None:  # type: ignore[override]
        """Training mode for every network but the targets."""
        for name, module in self.named_children():
            if not name.endswith("_old"):
                module.train()

    def eval(self) -> None:  # type: ignore[override]
        """Evaluation mode for every network."""
        for module in self.children():
            module.eval()

    def actforward(self, obss: Tensor | NDArray[Any], deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """obss [B, d] -> actions [B, a] and their log-probability [B, 1], as the host's SACPolicy has it."""
        dist = self.actor(obss)
        actions, raw = dist.mode() if deterministic else dist.rsample()
        return actions, dist.log_prob(actions, raw)

    @torch.no_grad()
    def select_action(self, obs: NDArray[Any], deterministic: bool = False) -> NDArray[Any]:
        """obs [B, d] (or [d]) -> actions float32 [B, a] (or [a])."""
        actions, _ = self.actforward(obs, deterministic)
        return np.asarray(actions.cpu().numpy())

    @property
    def alpha(self) -> Tensor | float:
        """The entropy temperature in force, bounded by 1 as the host's is."""
        return self._log_alpha.detach().exp().clamp(0.0, 1.0) if self._is_auto_alpha else self._fixed_alpha

    def _read(self, batch: dict[str, Any]) -> Rows:
        """The real rows of a host batch, or of {"real": rows, "init": [B0, d]}; s0 defaults to the rows' own observations.

        Raises:
            ValueError: a missing column, an empty batch, or shapes other than [B, d], [B, a], [B, 1] and [B0, d].
        """
        real = batch.get("real", batch)
        missing = [name for name in COLUMNS if name not in real]
        if missing:
            raise ValueError(f"the batch lacks {', '.join(missing)}; it needs {', '.join(COLUMNS)}, itself or under 'real'")
        obss, actions, next_obss, rewards, terminals = (real[name] for name in COLUMNS)
        init_obss = batch.get("init", obss)
        size = len(obss)
        if size == 0 or len(init_obss) == 0:
            raise ValueError(f"the batch has {size} rows and {len(init_obss)} initial observations; it needs at least one of each")
        for name, column in (("rewards", rewards), ("terminals", terminals)):
            if column.shape != (size, 1):
                raise ValueError(f"{name} has shape {tuple(column.shape)}; the observations ask for ({size}, 1)")
        if actions.dim() != 2 or len(actions) != size:
            raise ValueError(f"actions has shape {tuple(actions.shape)}; the observations ask for ({size}, action dimensions)")
        for name, column, rows in (("next_observations", next_obss, size), ("init", init_obss, len(init_obss))):
            if obss.dim() != 2 or column.shape != (rows, obss.shape[1]):
                raise ValueError(f"{name} has shape {tuple(column.shape)} beside observations of shape {tuple(obss.shape)}; give [rows, d]")
        scaled = self._reward_scale * rewards.squeeze(-1) + self._reward_shift
        return Rows(obss, actions, next_obss, scaled, self._gamma * (1 - terminals.squeeze(-1)), init_obss)

    def _cloned_log_prob(self, actor: nn.Module, rows: Rows) -> Tensor:
        """log pi(a|s) of the data's actions, [B]."""
        log_prob: Tensor = actor(rows.obss).log_prob(rows.actions)
        return log_prob.squeeze(-1)

    def _learn_temperature(self, log_prob: Tensor, figures: dict[str, Tensor]) -> None:
        """One step down -mean log(alpha) (log pi + target entropy), the host's loss, where the temperature is learned."""
        if not self._is_auto_alpha:
            return
        loss = -(self._log_alpha * (log_prob.detach() + self._target_entropy)).mean()
        descend(loss, self.alpha_optim)
        figures["loss/alpha"], figures["alpha"] = loss, self._log_alpha.detach().exp().clamp(0.0, 1.0)

    def _count(self) -> int:
        """The number of this step, from 1."""
        self._steps += 1
        return int(self._steps)


def descend(loss: Tensor, *optims: Optimizer) -> None:
    """One step of every optimiser down `loss`."""
    for optim in optims:
        optim.zero_grad()
    loss.backward()
    for optim in optims:
        optim.step()


@torch.no_grad()
def follow(old: Sequence[nn.Module], new: Sequence[nn.Module], tau: float) -> None:
    """old <- (1 - tau) old + tau new, parameter by parameter."""
    for old_module, new_module in zip(old, new, strict=True):
        olds: list[Tensor] = list(old_module.parameters())
        torch._foreach_lerp_(olds, list[Tensor](new_module.parameters()), tau)


def check_tau(tau: float) -> None:
    """Raises ValueError unless tau is in (0, 1]."""
    if not 0 < tau <= 1:
        raise ValueError(f"tau is {tau}; it must be in (0, 1]")


def stack(networks: Sequence[nn.Module], *inputs: Tensor) -> Tensor:
    """The networks' values, each [B, 1], as one tensor [E, B]."""
    return torch.stack([network(*inputs).squeeze(-1) for network in networks])


def numbers(figures: dict[str, Tensor]) -> dict[str, float]:
    """Every figure's mean as a number, in one transfer from the device."""
    values = torch.stack([value.detach().float().mean() for value in figures.values()]).tolist()
    return dict(zip(figures, values, strict=True))
