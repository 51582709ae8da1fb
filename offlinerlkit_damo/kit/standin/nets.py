"""Networks: the multilayer perceptron and the layer of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Linear layers with an activation (and dropout) after each hidden one; `output_dim` adds a last linear layer.

    Attributes:
        output_dim: size of the output: `output_dim` where given, else that of the last hidden layer.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dims: list[int] | tuple[int, ...],
        output_dim: int | None = None,
        activation: type[nn.Module] = nn.ReLU,
        dropout_rate: float | None = None,
    ) -> None:
        super().__init__()
        sizes = [input_dim, *hidden_dims]
        layers: list[nn.Module] = []
        for size_in, size_out in pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), activation()]
            if dropout_rate is not None:
                layers.append(nn.Dropout(p=dropout_rate))
        self.output_dim = sizes[-1]
        if output_dim is not None:
            layers.append(nn.Linear(sizes[-1], output_dim))
            self.output_dim = output_dim
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[..., input_dim] -> [..., output_dim]."""
        return cast(Tensor, self.model(x))


class Swish(nn.Module):
    """x * sigmoid(x), the activation of PETS."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


class EnsembleLinear(nn.Module):
    """E linear layers as one batched product; each member also keeps its best weights so far (`saved_*`)."""

    weight: nn.Parameter  # [E, in, out]
    bias: nn.Parameter  # [E, 1, out]
    saved_weight: Tensor
    saved_bias: Tensor

    def __init__(self, input_dim: int, output_dim: int, num_ensemble: int, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.num_ensemble = num_ensemble
        self.weight_decay = weight_decay
        self.weight = nn.Parameter(torch.empty(num_ensemble, input_dim, output_dim))
        self.bias = nn.Parameter(torch.zeros(num_ensemble, 1, output_dim))
        nn.init.trunc_normal_(self.weight, std=1 / (2 * np.sqrt(input_dim)))  # PETS, appendix
        self.register_buffer("saved_weight", self.weight.detach().clone())
        self.register_buffer("saved_bias", self.bias.detach().clone())

    def forward(self, x: Tensor, members: Sequence[int] | None = None) -> Tensor:
        """[B, in] (shared) or [E, B, in] -> [E, B, out]; `members` restricts E to these, in this order."""
        chosen = slice(None) if members is None else list(members)
        weight, bias = self.weight[chosen], self.bias[chosen]
        if x.dim() == 2:
            x = x.expand(len(weight), -1, -1)
        return torch.baddbmm(bias, x, weight)

    @torch.no_grad()
    def load_save(self) -> None:
        """Put the saved weights back in use."""
        self.weight.copy_(self.saved_weight)
        self.bias.copy_(self.saved_bias)

    @torch.no_grad()
    def update_save(self, indexes: Sequence[int]) -> None:
        """Save the present weights of these members."""
        chosen = list(indexes)
        self.saved_weight[chosen] = self.weight[chosen]
        self.saved_bias[chosen] = self.bias[chosen]

    def get_decay_loss(self) -> Tensor:
        """weight_decay * |weight|^2 / 2, a scalar."""
        return self.weight_decay * 0.5 * self.weight.square().sum()
