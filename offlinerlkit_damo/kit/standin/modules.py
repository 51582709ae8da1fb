"""Actor, critic and the tanh-squashed Gaussian between them (SAC: Haarnoja et al. 2018, appendix C)."""

from __future__ import annotations

from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Normal


def to_tensor(x: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Array or tensor -> float32 tensor on `device`."""
    return torch.as_tensor(x, device=device, dtype=torch.float32)


class TanhNormal(Normal):
    """Normal(loc, scale) whose samples are squashed: action = max_action * tanh(raw). All shapes [B, A]."""

    def __init__(self, loc: Tensor, scale: Tensor, max_action: float) -> None:
        super().__init__(loc, scale, validate_args=False)
        self._max_action = max_action

    def log_prob(self, action: Tensor, raw_action: Tensor | None = None) -> Tensor:
        """log pi(action) summed over the action, [B, 1]. Without the raw action it is recovered by arctanh."""
        squashed = action / self._max_action
        if raw_action is None:
            raw_action = self.arctanh(squashed)
        density: Tensor = super().log_prob(raw_action)  # type: ignore[no-untyped-call]
        density = density - torch.log(self._max_action * (1 - squashed.square()) + 1e-6)
        return density.sum(-1, keepdim=True)

    def mode(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The squashed and the raw mean."""
        return self._max_action * torch.tanh(self.mean), self.mean

    def rsample(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """A reparameterised sample: (squashed, raw)."""
        raw = super().rsample(torch.Size(sample_shape))
        return self._max_action * torch.tanh(raw), raw

    @staticmethod
    def arctanh(x: Tensor) -> Tensor:
        """Inverse of tanh, finite (+-7.25) at +-1."""
        return 0.5 * ((1 + x).clamp(min=1e-6).log() - (1 - x).clamp(min=1e-6).log())


class TanhDiagGaussian(nn.Module):
    """Features -> TanhNormal.

    Args:
        latent_dim: size of the features.
        output_dim: A.
        unbounded: use the mean as it is, else max_mu * tanh(mean).
        conditioned_sigma: the deviation depends on the features (log sigma clamped to [sigma_min, sigma_max]),
            else it is one free parameter per action.
        max_mu: bound of the action, and of the mean where it is bounded.
    """

    def __init__(
        self,
        latent_dim: int,
        output_dim: int,
        unbounded: bool = False,
        conditioned_sigma: bool = False,
        max_mu: float = 1.0,
        sigma_min: float = -5.0,
        sigma_max: float = 2.0,
    ) -> None:
        super().__init__()
        self.mu = nn.Linear(latent_dim, output_dim)
        self._c_sigma = conditioned_sigma
        if conditioned_sigma:
            self.sigma = nn.Linear(latent_dim, output_dim)
        else:
            self.sigma_param = nn.Parameter(torch.zeros(output_dim, 1))
        self._unbounded = unbounded
        self._max = max_mu
        self._sigma_min = sigma_min
        self._sigma_max = sigma_max

    def forward(self, logits: Tensor) -> TanhNormal:
        """[B, latent_dim] -> a distribution over [B, A]."""
        mu = self.mu(logits)
        if not self._unbounded:
            mu = self._max * torch.tanh(mu)
        if self._c_sigma:
            sigma = self.sigma(logits).clamp(self._sigma_min, self._sigma_max).exp()
        else:
            sigma = self.sigma_param.squeeze(-1).expand_as(mu).exp()
        return TanhNormal(mu, sigma, self._max)


class ActorProb(nn.Module):
    """Stochastic actor: backbone, then `dist_net`."""

    def __init__(self, backbone: nn.Module, dist_net: nn.Module, device: str = "cpu") -> None:
        super().__init__()
        self.device = torch.device(device)
        self.backbone = backbone.to(device)
        self.dist_net = dist_net.to(device)

    def forward(self, obs: NDArray[Any] | Tensor) -> TanhNormal:
        """Array or tensor [B, d] -> a distribution over actions [B, A]."""
        return cast(TanhNormal, self.dist_net(self.backbone(to_tensor(obs, self.device))))


class Critic(nn.Module):
    """Q(obs, action), or V(obs) where no action is given."""

    def __init__(self, backbone: nn.Module, device: str = "cpu") -> None:
        super().__init__()
        self.device = torch.device(device)
        self.backbone = backbone.to(device)
        self.last = nn.Linear(cast(int, backbone.output_dim), 1).to(device)

    def forward(self, obs: NDArray[Any] | Tensor, actions: NDArray[Any] | Tensor | None = None) -> Tensor:
        """[B, d] and [B, A] -> [B, 1]."""
        x = to_tensor(obs, self.device)
        if actions is not None:
            x = torch.cat([x, to_tensor(actions, self.device)], dim=1)
        return cast(Tensor, self.last(self.backbone(x)))
