"""The network of the dynamics: an ensemble of probabilistic networks (PETS: Chua et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .modules import to_tensor
from .nets import EnsembleLinear, Swish


def soft_clamp(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x bent smoothly into (low, high), with a gradient everywhere (PETS, appendix A.1)."""
    x = high - F.softplus(high - x)
    return low + F.softplus(x - low)


class EnsembleDynamicsModel(nn.Module):
    """(obs, action) -> mean and log-variance of (next_obs - obs, reward), one Gaussian per member.

    Args:
        obs_dim: d.
        action_dim: A.
        hidden_dims: sizes of the hidden layers.
        num_ensemble: E.
        num_elites: how many members, the best on held-out data, are used for rollouts.
        activation: class of the activation.
        weight_decays: one per layer, the output layer included; None for no decay.
        with_reward: predict the reward as a last column.
        device: where the parameters live.
    """

    elites: Tensor  # [num_elites] int64, best first

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden_dims: list[int] | tuple[int, ...],
        num_ensemble: int = 7,
        num_elites: int = 5,
        activation: type[nn.Module] = Swish,
        weight_decays: list[float] | tuple[float, ...] | None = None,
        with_reward: bool = True,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        decays = [0.0] * (len(hidden_dims) + 1) if weight_decays is None else list(weight_decays)
        if len(decays) != len(hidden_dims) + 1:
            raise ValueError(f"weight_decays has {len(decays)} values for {len(hidden_dims) + 1} layers")
        if not 0 < num_elites <= num_ensemble:
            raise ValueError(f"num_elites={num_elites} is not in 1..num_ensemble={num_ensemble}")
        self.num_ensemble = num_ensemble
        self.num_elites = num_elites
        self._with_reward = with_reward
        self.device = torch.device(device)
        self.activation = activation()
        outputs = obs_dim + int(with_reward)
        sizes = [obs_dim + action_dim, *hidden_dims]
        self.backbones = nn.ModuleList(
            EnsembleLinear(size_in, size_out, num_ensemble, decay)
            for size_in, size_out, decay in zip(sizes[:-1], sizes[1:], decays[:-1], strict=True)
        )
        self.output_layer = EnsembleLinear(sizes[-1], 2 * outputs, num_ensemble, decays[-1])
        self.max_logvar = nn.Parameter(torch.full((outputs,), 0.5))
        self.min_logvar = nn.Parameter(torch.full((outputs,), -10.0))
        self.register_buffer("elites", torch.arange(num_elites))
        self.to(self.device)

    def forward(self, obs_action: NDArray[Any] | Tensor, members: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """[B, d+A], or [E, B, d+A] with rows of their own per member -> (mean, logvar), each [E, B, outputs].

        `members` restricts E to these members, in this order.
        """
        hidden = to_tensor(obs_action, self.device)
        for layer in self.backbones:
            hidden = self._activate(layer(hidden, members))
        mean, logvar = self.output_layer(hidden, members).chunk(2, dim=-1)
        return mean, soft_clamp(logvar, self.min_logvar, self.max_logvar)

    def _activate(self, hidden: Tensor) -> Tensor:
        if isinstance(self.activation, Swish) and not hidden.requires_grad:
            return F.silu(hidden, inplace=True)  # a fresh product that nothing else holds
        return cast(Tensor, self.activation(hidden))

    def load_save(self) -> None:
        """Put every member's saved weights back in use."""
        for layer in self._layers():
            layer.load_save()

    def update_save(self, indexes: Sequence[int]) -> None:
        """Save the present weights of these members."""
        for layer in self._layers():
            layer.update_save(indexes)

    def get_decay_loss(self) -> Tensor:
        """Sum over layers of weight_decay * |weight|^2 / 2, a scalar."""
        return torch.stack([layer.get_decay_loss() for layer in self._layers()]).sum()

    def set_elites(self, indexes: Sequence[int]) -> None:
        """Name the elite members.

        Raises:
            ValueError: more than E of them, or one that does not exist.
        """
        chosen = list(indexes)
        if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= set(range(self.num_ensemble)):
            raise ValueError(f"elites {chosen} are not distinct members of 0..{self.num_ensemble - 1}")
        self.elites = torch.as_tensor(chosen, dtype=torch.int64, device=self.elites.device)

    def random_elite_idxs(self, batch_size: int) -> NDArray[np.int64]:
        """An elite member for each of `batch_size` rows, uniformly (numpy's global generator)."""
        return np.random.choice(self.elites.cpu().numpy(), size=batch_size)

    def _layers(self) -> list[EnsembleLinear]:
        return [cast(EnsembleLinear, layer) for layer in (*self.backbones, self.output_layer)]
