"""EnsembleLikelihood: the loss of the dynamics ensemble with its gradient by hand, without a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class EnsembleLikelihood:
    """Gaussian negative log-likelihood of the host's ensemble on rows of each member's own, without the weight decay.

        sum over members of mean ((mean - y)^2 exp(-logvar) + logvar)  +  logvar_loss_coef sum (max_logvar - min_logvar)

    Shapes: E members, B rows each, d + a inputs, o = d + 1 outputs.
    """

    def __init__(self, model: Any, logvar_loss_coef: float) -> None:
        self._model, self._coef = model, logvar_loss_coef
        self._layers = [*model.backbones, model.output_layer]
        # the host's model has other parameters too: elites and saved weights, which no gradient reaches
        for parameter in (model.max_logvar, model.min_logvar, *(p for layer in self._layers for p in (layer.weight, layer.bias))):
            parameter.grad = torch.zeros_like(parameter)

    @torch.no_grad()
    def backward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss on x [E, B, d + a] and y [E, B, o], a scalar; its gradient is left in every parameter's `grad`."""
        *hidden, last = self._layers
        inputs, before = [x], []
        for layer in hidden:
            before.append(torch.baddbmm(layer.bias, inputs[-1], layer.weight))
            inputs.append(functional.silu(before[-1]))
        loss, grad = self._likelihood(torch.baddbmm(last.bias, inputs[-1], last.weight), y)
        for depth in reversed(range(len(self._layers))):
            layer = self._layers[depth]
            torch.bmm(inputs[depth].mT, grad, out=layer.weight.grad)
            torch.sum(grad, 1, keepdim=True, out=layer.bias.grad)
            if depth > 0:
                grad = torch.bmm(grad, layer.weight.mT)
                torch.ops.aten.silu_backward.grad_input(grad, before[depth - 1], grad_input=grad)
        return loss

    def _likelihood(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and its gradient for the outputs [E, B, 2o]; those of the log-variance's bounds are left in their `grad`."""
        model, size = self._model, y[0].numel()
        mean, free = outputs.chunk(2, -1)
        room_above = model.max_logvar - free
        room_below = model.max_logvar - functional.softplus(room_above) - model.min_logvar
        logvar = model.min_logvar + functional.softplus(room_below)
        error = mean - y
        weighted = error * torch.exp(-logvar)
        cost = weighted * error
        loss = (cost + logvar).sum() / size + self._coef * (model.max_logvar.sum() - model.min_logvar.sum())
        logvar_grad = (1 - cost) / size
        below = logvar_grad * room_below.sigmoid()
        above = below * room_above.sigmoid()
        torch.sum(logvar_grad - below, (0, 1), out=model.min_logvar.grad).sub_(self._coef)
        torch.sum(below - above, (0, 1), out=model.max_logvar.grad).add_(self._coef)
        return loss, torch.cat([weighted * (2 / size), above], -1)
