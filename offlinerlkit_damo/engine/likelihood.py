"""EnsembleLikelihood: the loss of the dynamics ensemble with its gradient by hand, without a graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Layer(NamedTuple):
    """A layer of some of the members: weight [M, in, out], bias [M, 1, out], and where their gradients go."""

    weight: Tensor
    bias: Tensor
    weight_grad: Tensor
    bias_grad: Tensor


class EnsembleLikelihood:
    """Gaussian negative log-likelihood of the host's ensemble on rows of each member's own, without the weight decay.

        sum over members of mean ((mean - y)^2 exp(-logvar) + logvar)  +  logvar_loss_coef sum (max_logvar - min_logvar)

    On a processor the members take their turns, forward and backward, each within the cache: all at once is slower by a half. The
    parameters must stay where they are (an optimiser steps them in place).

    Shapes: E members, B rows each, d + a inputs, o = d + 1 outputs; M members in a turn.
    """

    def __init__(self, model: Any, logvar_loss_coef: float) -> None:
        self._model, self._coef = model, logvar_loss_coef
        layers = [*model.backbones, model.output_layer]
        # the host's model has other parameters too: elites and saved weights, which no gradient reaches
        for parameter in (model.max_logvar, model.min_logvar, *(p for layer in layers for p in (layer.weight, layer.bias))):
            parameter.grad = torch.zeros_like(parameter)
        self._max_logvar, self._min_logvar = model.max_logvar.detach(), model.min_logvar.detach()
        together = 1 if self._max_logvar.device.type == "cpu" else model.num_ensemble
        self._turns = [slice(start, start + together) for start in range(0, model.num_ensemble, together)]
        self._layers = [
            [Layer(*(x.detach()[turn] for x in (p.weight, p.bias, p.weight.grad, p.bias.grad))) for p in layers] for turn in self._turns
        ]

    @torch.no_grad()
    def backward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss on x [E, B, d + a] and y [E, B, o], a scalar; its gradient is left in every parameter's `grad`."""
        parts = [self._backward(layers, x[turn], y[turn]) for turn, layers in zip(self._turns, self._layers, strict=True)]
        costs, logvar_grad, below, above = (torch.cat(values) for values in zip(*parts, strict=True))
        torch.sum(logvar_grad - below, (0, 1), out=self._model.min_logvar.grad).sub_(self._coef)
        torch.sum(below - above, (0, 1), out=self._model.max_logvar.grad).add_(self._coef)
        loss: Tensor = costs.sum() / y[0].numel() + self._coef * (self._max_logvar - self._min_logvar).sum()
        return loss

    def _backward(self, layers: list[Layer], x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """The gradients of some members' parameters from x, y [M, B, .]; returns what `_likelihood` does but for the outputs' gradient."""
        inputs, before = [x], []
        for layer in layers[:-1]:
            before.append(torch.baddbmm(layer.bias, inputs[-1], layer.weight))
            inputs.append(functional.silu(before[-1]))
        grad, *bounds = self._likelihood(torch.baddbmm(layers[-1].bias, inputs[-1], layers[-1].weight), y)
        for depth in reversed(range(len(layers))):
            layer = layers[depth]
            torch.bmm(inputs[depth].mT, grad, out=layer.weight_grad)
            torch.sum(grad, 1, keepdim=True, out=layer.bias_grad)
            if depth > 0:
                grad = torch.bmm(grad, layer.weight.mT)
                torch.ops.aten.silu_backward.grad_input(grad, before[depth - 1], grad_input=grad)
        return tuple(bounds)

    def _likelihood(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """The loss's gradient for the outputs [M, B, 2o]; then of [M, B, o] each: the loss of every number, and its gradients for the
        log-variance, for that under its upper bound alone, and for the free one.
        """
        mean, free = outputs.chunk(2, -1)
        room_above = self._max_logvar - free
        room_below = self._max_logvar - self._min_logvar - functional.softplus(room_above)
        logvar = self._min_logvar + functional.softplus(room_below)
        error = mean - y
        scale = 1 / y[0].numel()
        weighted = error * torch.exp(-logvar)
        cost = weighted * error
        logvar_grad = (1 - cost) * scale
        below = logvar_grad * room_below.sigmoid()
        above = below * room_above.sigmoid()
        return torch.cat([weighted * (2 * scale), above], -1), cost + logvar, logvar_grad, below, above
