"""StackedMLP: equal networks as one batched product per layer, on flat storage, with a backward pass written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from offlinerlkit_damo.engine.layers import Layer

NARROW = 64
"""Inputs of a layer whose gradients make a small product."""


class StackedMLP:
    """M networks of equal shape, linear layers with ReLU between them.

    `members[m][l]` are the linear layers of member m at depth l. Their parameters move into one block [M, P] and become views of it, as
    their gradients become views of `grads` [M, P]: modules, `state_dict` and autograd see what they always saw, while an optimiser that
    steps `rows[m]`, member m's row of the block, touches one tensor. Moving the modules (`.to(device)`) would break the tie.
    """

    def __init__(self, members: Sequence[Sequence[Layer]]) -> None:
        first = members[0][0][0].weight
        sizes = [[tuple(linear.weight.shape) for linear in layer] for layer in members[0]]
        if any([[tuple(linear.weight.shape) for linear in layer] for layer in member] != sizes for member in members[1:]):
            raise ValueError("the members differ in shape")
        total = sum((inputs + 1) * outputs for layer in sizes for outputs, inputs in layer)
        self.block = torch.empty(len(members), total, dtype=first.dtype, device=first.device)
        self.grads = torch.zeros_like(self.block)
        self.rows = [nn.Parameter(row) for row in self.block]
        for row, grad in zip(self.rows, self.grads, strict=True):
            row.grad = grad
        self._sizes = sizes
        views, grad_views = [self._views(block) for block in (self.block, self.grads)]
        self.weights, self.biases = views
        self.weight_grads, self.bias_grads = grad_views
        for m, member in enumerate(members):
            for depth, layer in enumerate(member):
                self._adopt(layer, m, depth)

    def __deepcopy__(self, memo: dict[int, object]) -> NoReturn:
        # a copy's modules would no longer be views of the copied block, and would not learn
        raise TypeError("a policy on the fast engine cannot be copied; build another and load its state_dict")

    def _views(self, block: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        weights, biases, start = [], [], 0
        for layer in self._sizes:
            outputs, inputs = sum(size[0] for size in layer), layer[0][1]
            end = start + outputs * inputs
            weights.append(block[:, start:end].unflatten(1, (outputs, inputs)))
            biases.append(block[:, None, end : end + outputs])
            start = end + outputs
        return weights, biases

    @torch.no_grad()
    def _adopt(self, layer: Layer, m: int, depth: int) -> None:
        start = 0
        for linear in layer:
            rows = slice(start, start + linear.out_features)
            for parameter, home, grad in (
                (linear.weight, self.weights[depth][m, rows], self.weight_grads[depth][m, rows]),
                (linear.bias, self.biases[depth][m, 0, rows], self.bias_grads[depth][m, 0, rows]),
            ):
                home.copy_(parameter)
                parameter.data = home
                parameter.grad = grad
            start = rows.stop

    def __call__(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """[B, in] -> [M, B, out]. `frozen`: gradients for x only."""
        # the rows are handed over so that autograd knows of them; their gradients are added in place
        rows = [] if frozen else self.rows
        out: Tensor = _Apply.apply(x, self, frozen, *rows)  # type: ignore[no-untyped-call]
        return out

    def forward(self, x: Tensor) -> list[Tensor]:
        """The input of every layer, and the output [M, B, out]."""
        return propagate(self._spread(x), self.weights, self.biases)

    def backward(
        self,
        inputs: list[Tensor],
        grad: Tensor,
        *,
        frozen: bool,
        want_input: bool,
        accumulate: bool = True,
        columns: slice = slice(None),
    ) -> Tensor | None:
        """Put the parameters' gradients (unless `frozen`) into `grads`, added to what is there or, without `accumulate`, in its place.

        `inputs` is what `forward` gave but for the output, whose gradient is `grad` [M, B, out]. Returns the gradient of x's `columns`
        where it is wanted.
        """
        for depth in reversed(range(len(inputs))):
            if not frozen:
                weight_grad = self.weight_grads[depth]
                if len(weight_grad) > 1 and inputs[depth].shape[-1] <= NARROW:
                    # into rows of the block the members' products go one by one, which is slow for small ones
                    product = torch.bmm(grad.mT, inputs[depth])
                    weight_grad.add_(product) if accumulate else weight_grad.copy_(product)
                else:
                    # beta=0 ignores what was there, NaN included
                    weight_grad.baddbmm_(grad.mT, inputs[depth], beta=int(accumulate))
                bias_grad = self.bias_grads[depth]
                if accumulate:
                    bias_grad.add_(grad.sum(1, keepdim=True))
                else:
                    torch.sum(grad, 1, keepdim=True, out=bias_grad)
            weight = self.weights[depth]
            if depth > 0:
                grad = torch.bmm(grad, weight)
                torch.ops.aten.threshold_backward.grad_input(grad, inputs[depth], 0, grad_input=grad)
        return self._gathered(torch.bmm(grad, weight[..., columns])) if want_input else None

    def _spread(self, x: Tensor) -> Tensor:
        """The rows of every member, [M, B, in]."""
        return x.expand(len(self.block), *x.shape)

    def _gathered(self, grad: Tensor) -> Tensor:
        """The gradient of x from those of every member's rows."""
        return grad.sum(0)


def propagate(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """The inputs of M networks' layers, x [M, B, in] first, and their output: weights [M, out, in], biases [M, 1, out], ReLU between."""
    layers = [x]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        layers.append(torch.baddbmm(bias, layers[-1], weight.mT).relu_())
    weight, bias = weights[-1], biases[-1]
    # one column takes a third of the time as one row
    narrow = weight.shape[1] == 1
    layers.append(torch.baddbmm(bias, weight, layers[-1].mT).mT if narrow else torch.baddbmm(bias, layers[-1], weight.mT))
    return layers


class _Apply(torch.autograd.Function):
    """StackedMLP as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, network: StackedMLP, frozen: bool, *rows: Tensor) -> Tensor:
        *ctx.inputs, out = network.forward(x)
        ctx.network, ctx.frozen, ctx.num_rows = network, frozen, len(rows)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x_grad = ctx.network.backward(ctx.inputs, grad, frozen=ctx.frozen, want_input=ctx.needs_input_grad[0])
        return x_grad, None, None, *(None for _ in range(ctx.num_rows))
