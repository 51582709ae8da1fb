"""EnsembleLikelihood: the loss of the dynamics ensemble with its gradient by hand, without a graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Layer(NamedTuple):
    """A layer of every member: weight [E, in, out], bias [E, 1, out], and where their gradients go."""

    weight: Tensor
    bias: Tensor
    weight_grad: Tensor
    bias_grad: Tensor


class Space(NamedTuple):
    """What a forward pass on batches of one size writes: before and after each activation [E, B, hidden], and the outputs [E, B, 2o]."""

    before: list[Tensor]
    after: list[Tensor]
    outputs: Tensor


class Prediction(NamedTuple):
    """Every member's Gaussian of every row, [E, B, o] each: mean, log-variance, and its distances to its bounds before they bend it."""

    mean: Tensor
    logvar: Tensor
    room_above: Tensor
    room_below: Tensor


class EnsembleLikelihood:
    """Gaussian negative log-likelihood of the host's ensemble on rows of each member's own, without the weight decay.

        sum over members of mean ((mean - y)^2 exp(-logvar) + logvar)  +  logvar_loss_coef sum (max_logvar - min_logvar)

    All members go through a layer at once, into memory that is kept from call to call: a pass wants 15 MB, and where the allocator gives
    them back to the system they are cleared anew for each, which costs a third. The parameters must stay where they are (an optimiser
    steps them in place).

    Shapes: E members, B rows each, d + a inputs, o = d + 1 outputs.
    """

    def __init__(self, model: Any, logvar_loss_coef: float) -> None:
        self._coef = logvar_loss_coef
        layers = [*model.backbones, model.output_layer]
        # the host's model has other parameters too: elites and saved weights, which no gradient reaches
        for parameter in (model.max_logvar, model.min_logvar, *(p for layer in layers for p in (layer.weight, layer.bias))):
            parameter.grad = torch.zeros_like(parameter)
        self._max_logvar, self._min_logvar = model.max_logvar.detach(), model.min_logvar.detach()
        self._max_grad, self._min_grad = model.max_logvar.grad, model.min_logvar.grad
        self._layers = [Layer(p.weight.detach(), p.bias.detach(), p.weight.grad, p.bias.grad) for p in layers]
        self._shares = shares(model.num_ensemble, torch.get_num_threads() if self._max_logvar.device.type == "cpu" else 1)
        self._spaces: dict[int, Space] = {}  # by B

    @torch.no_grad()
    def backward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss on x [E, B, d + a] and y [E, B, o], a scalar; its gradient is left in every parameter's `grad`."""
        predicted = self.forward(x)
        loss, mean_grad, logvar_grad = negative_log_likelihood(predicted.mean, predicted.logvar, y)
        self.propagate_back(x, predicted, mean_grad, logvar_grad)
        return loss + self.spread()

    def spread(self) -> Tensor:
        """The part of the loss that the bounds of the log-variance have, a scalar."""
        spread: Tensor = self._coef * (self._max_logvar - self._min_logvar).sum()
        return spread

    def forward(self, x: Tensor) -> Prediction:
        """What every member predicts for its rows x [E, B, d + a]; valid until `propagate_back` or the next call for as many rows."""
        layers, space = self._layers, self._space(x)
        inputs = [x, *space.after]
        for layer, layer_inputs, before, after in zip(layers, inputs, space.before, space.after, strict=False):
            self._affine(layer_inputs, layer, before)
            torch.ops.aten.silu.out(before, out=after)
        self._affine(inputs[-1], layers[-1], space.outputs)
        mean, free = space.outputs.chunk(2, -1)
        room_above = self._max_logvar - free
        room_below = self._max_logvar - self._min_logvar - functional.softplus(room_above)
        return Prediction(mean, self._min_logvar + functional.softplus(room_below), room_above, room_below)

    def propagate_back(self, x: Tensor, predicted: Prediction, mean_grad: Tensor, logvar_grad: Tensor) -> None:
        """Leave in every parameter's `grad` that of `spread` plus a loss whose gradients for `predicted`, `forward(x)`, are given.

        `predicted` is lost.
        """
        layers, space = self._layers, self._space(x)
        # the log-variance's gradient for what is under its upper bound alone, and for the free one
        below = logvar_grad * predicted.room_below.sigmoid()
        above = below * predicted.room_above.sigmoid()
        in_all, in_below, in_above = (grad.sum((0, 1)) for grad in (logvar_grad, below, above))
        torch.sub(in_all, in_below, out=self._min_grad).sub_(self._coef)
        torch.sub(in_below, in_above, out=self._max_grad).add_(self._coef)
        grad = torch.cat([mean_grad, above], -1, out=space.outputs)
        inputs = [x, *space.after]
        for depth in reversed(range(len(layers))):
            layer = layers[depth]
            self._product(inputs[depth].mT, grad, layer.weight_grad)
            torch.sum(grad, 1, keepdim=True, out=layer.bias_grad)
            if depth > 0:
                # the gradient for a layer's inputs takes their place, when they have been used for the last time
                grad = self._product(grad, layer.weight.mT, inputs[depth])
                torch.ops.aten.silu_backward.grad_input(grad, space.before[depth - 1], grad_input=grad)

    def _space(self, x: Tensor) -> Space:
        rows = x.shape[1]
        if rows not in self._spaces:
            *hidden, outputs = (x.new_empty(*x.shape[:2], layer.bias.shape[-1]) for layer in self._layers)
            self._spaces[rows] = Space(hidden, [torch.empty_like(tensor) for tensor in hidden], outputs)
        return self._spaces[rows]

    def _affine(self, x: Tensor, layer: Layer, out: Tensor) -> None:
        """x [E, B, in] through a layer, into `out`."""
        for members in self._shares:
            torch.baddbmm(layer.bias[members], x[members], layer.weight[members], out=out[members])

    def _product(self, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        """The products of every member's two matrices, into `out`, which is returned."""
        for members in self._shares:
            torch.bmm(a[members], b[members], out=out[members])
        return out


def negative_log_likelihood(mean: Tensor, logvar: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sum over members of the mean of (mean - y)^2 exp(-logvar) + logvar, all [E, B, o], and its gradients for mean and logvar."""
    error = mean - y
    scale = 1 / mean[0].numel()
    weighted = error * torch.exp(-logvar)
    cost = weighted * error
    return (cost.sum() + logvar.sum()) * scale, weighted * (2 * scale), (1 - cost) * scale


def shares(members: int, threads: int) -> tuple[slice, ...]:
    """All members or, where threads would have equally many but for one member, that one apart: they share its product then."""
    even = members - 1
    return (slice(even), slice(even, members)) if threads > 1 and even and even % threads == 0 else (slice(members),)
