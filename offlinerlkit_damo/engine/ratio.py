"""FlatRatio: the data-alignment classifier on flat storage, its loss and gradient penalty with gradients by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from offlinerlkit_damo.damo.alignment import DataAlignment
from offlinerlkit_damo.engine.adam import fused_step
from offlinerlkit_damo.engine.gradients import classifier_gradient
from offlinerlkit_damo.engine.mlp import StackedMLP


class FlatRatio:
    """`DataAlignment.logits` and `descend` on a StackedMLP, whose only member is the classifier."""

    def __init__(self, alignment: DataAlignment, network: StackedMLP) -> None:
        self._config, self._optim, self._network = alignment.config, alignment.optim, network

    def logits(self, inputs: Tensor) -> Tensor:
        """Standardised inputs [n, in] -> logits [n], without a graph."""
        return self._network.forward(inputs)[-1][0, :, 0]

    @torch.no_grad()
    def descend(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """One optimiser step on inputs [n, in] of either kind; returns the logits that it was computed from."""
        network, smoothing = self._network, self._config.classifier_label_smoothing
        *inputs, outputs = network.forward(torch.cat([fake, real]))
        logits = outputs[0, :, 0].split([len(fake), len(real)])
        grad = classifier_gradient(*logits, label_smoothing=smoothing)
        network.backward(inputs, grad[None, :, None], frozen=False, want_input=False, accumulate=False)
        if self._config.classifier_gradient_penalty > 0:
            self._penalise(fake, real)
        fused_step(self._optim)
        fake_logits, real_logits = logits
        return fake_logits, real_logits

    def _penalise(self, fake: Tensor, real: Tensor) -> None:
        """Add the gradient of `damo.classifier.gradient_penalty`, times its weight.

        With ReLU the slope grad_x d is a product of weights and of masks that do not change, so the penalty's gradient for a layer
        pairs what the backward pass brings to it with what a forward pass makes of the penalty's gradient for the slope.
        """
        network = self._network
        n = min(len(fake), len(real))
        mix = torch.rand(n, 1, device=fake.device, dtype=fake.dtype)
        inputs = network.forward(mix * fake[:n] + (1 - mix) * real[:n])[:-1]
        masks = [(x > 0).to(x.dtype) for x in inputs[1:]]
        behind = [torch.ones_like(mix)[None]]  # grad of d for every layer's output, the last first
        for weight, mask in zip(reversed(network.weights[1:]), reversed(masks), strict=True):
            behind.append(torch.bmm(behind[-1], weight) * mask)
        slope = torch.bmm(behind[-1], network.weights[0])
        norm = torch.linalg.vector_norm(slope, dim=-1, keepdim=True)
        direction = slope / norm.clamp(min=torch.finfo(norm.dtype).tiny)  # none where the network is flat
        ahead = self._config.classifier_gradient_penalty * 2 / n * (norm - 1) * direction
        for depth, grad in enumerate(reversed(behind)):
            network.weight_grads[depth].baddbmm_(grad.mT, ahead)
            if depth < len(masks):
                ahead = torch.bmm(ahead, network.weights[depth].mT) * masks[depth]
