"""The data-alignment classifier: ell(s, a, s') = log(rho_M / rho_T) from a logistic regression of model against data.

Binary cross-entropy on the raw logit d with label model = 1, real = 0 (arXiv 2502.00850, Eq. 3-4 with the signs put right: as printed
the loss is minimised at -infinity). The two expectations are means of their own, so that at the optimum d = log(rho_M / rho_T) whatever
the numbers of samples; a mean over the pooled batch would need d - log(n_M / n_R), which is exact only without regularisers. Never
computed from probabilities: log h - log(1 - h) overflows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Logits = Callable[[Tensor], Tensor]


def classifier_loss(fake_logits: Tensor, real_logits: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """-(E_M log sigmoid(d) + E_R log(1 - sigmoid(d))) / 2: [..., n_M], [..., n_R] -> [...]; log 2 for a classifier that knows nothing.

    With smoothing s the labels are 1 - s for fake and s for real, which bounds |d| at the optimum by log((1 - s) / s).
    """
    fake, real = (
        functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction="none").mean(-1)
        for logits, label in ((fake_logits, 1 - label_smoothing), (real_logits, label_smoothing))
    )
    loss: Tensor = (fake + real) / 2
    return loss


def gradient_penalty(logits: Logits, fake: Tensor, real: Tensor, *, mix: Tensor | None = None) -> Tensor:
    """mean (|grad_x d(x)| - 1)^2 at random points between fake and real inputs (Gulrajani et al. 2017): [..., n, in] each -> [...].

    The longer batch is cut to the shorter one's length. `mix` [..., n, 1] in [0, 1) says where between them, None: anywhere.
    """
    n = min(fake.shape[-2], real.shape[-2])
    if mix is None:
        mix = torch.rand(*fake.shape[:-2], n, 1, device=fake.device, dtype=fake.dtype)
    between = (mix * fake[..., :n, :] + (1 - mix) * real[..., :n, :]).requires_grad_()
    (slope,) = torch.autograd.grad(logits(between).sum(), between, create_graph=True)
    penalty: Tensor = (torch.linalg.vector_norm(slope, dim=-1) - 1).square().mean(-1)
    return penalty


def log_ratio(logits: Tensor, *, real_share: float = 0.0, logit_clip: float | None = None) -> Tensor:
    """ell from logits of any shape: d itself, clipped to +-`logit_clip`.

    With `real_share` > 0 the ratio of the mixture that the objective's batches come from, log(share + (1 - share) rho_M / rho_T), which is
    bounded below by log(share) and so caps the bonus on real data (ratio mode "mixture").
    """
    ell = logits if logit_clip is None else logits.clamp(-logit_clip, logit_clip)
    if real_share > 0:
        # logaddexp, because the exponential of a large logit overflows
        floor = torch.full_like(ell, math.log(real_share))
        ell = torch.logaddexp(floor, ell + math.log1p(-real_share))
    return ell


class RatioClassifier(nn.Module):
    """An MLP d(s, a, s') -> logit on standardised inputs of size `input_dim`.

    The statistics are buffers, saved with the policy: zero and one (raw inputs) until `set_statistics`.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(self, input_dim: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("input_mean", torch.zeros(input_dim))
        self.register_buffer("input_std", torch.ones(input_dim))
        sizes = [input_dim, *hidden_dims]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Standardise by `mean` and `std` [input_dim] from now on."""
        self.input_mean.copy_(mean)
        self.input_std.copy_(std)

    def standardise(self, obss: Tensor, actions: Tensor, next_obss: Tensor) -> Tensor:
        """[B, d], [B, a], [B, d] -> [B, 2d + a] in units of the data's standard deviation."""
        return (torch.cat([obss, actions, next_obss], -1) - self.input_mean) / self.input_std

    def forward(self, inputs: Tensor) -> Tensor:
        """Standardised inputs [B, 2d + a] -> logits [B]."""
        logits: Tensor = self.network(inputs).squeeze(-1)
        return logits
