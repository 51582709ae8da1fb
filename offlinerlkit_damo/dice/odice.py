"""ODICEPolicy: distribution correction with an orthogonal gradient (Mao et al. 2024, arXiv 2402.00348)."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from offlinerlkit_damo.damo import objective
from offlinerlkit_damo.damo.divergences import get_divergence
from offlinerlkit_damo.dice import losses
from offlinerlkit_damo.dice.config import ODICEConfig
from offlinerlkit_damo.dice.policy import DICEPolicy, Rows, check_tau, descend, follow, numbers, stack


class ODICEPolicy(DICEPolicy):
    """min_V (1 - lambda) E[V(s)] + lambda E_D[f*(e)], e = r + gamma m V(s') - V(s), f = Pearson's chi2; then weighted cloning.

    The gradient through V(s') (backward) keeps only its part orthogonal to the one through V(s) (forward), so it cannot undo it.
    Twin values; each has its own forward and backward gradient, both take the smaller of the two target values.

    Args:
        value1, value2: obs -> V [B, 1] (the kit's Critic without actions); slowly moving copies are kept as value1_old, value2_old.
        value1_optim, value2_optim: their optimisers.
        tau: share by which the copies move towards the values each step.
        config: the method's options; the other arguments are DICEPolicy's.

    Raises:
        ValueError: gamma outside (0, 1), tau outside (0, 1], a reward scale or shift that is not finite.
    """

    def __init__(
        self,
        actor: nn.Module,
        value1: nn.Module,
        value2: nn.Module,
        actor_optim: Optimizer,
        value1_optim: Optimizer,
        value2_optim: Optimizer,
        tau: float = 0.005,
        gamma: float = 0.99,
        *,
        config: ODICEConfig | None = None,
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
    ) -> None:
        super().__init__(actor, actor_optim, gamma, 0.0, reward_scale=reward_scale, reward_shift=reward_shift)
        check_tau(tau)
        self.config = config if config is not None else ODICEConfig()
        self.divergence = get_divergence("chi2")
        self.value1, self.value1_old = value1, deepcopy(value1).requires_grad_(False).eval()
        self.value2, self.value2_old = value2, deepcopy(value2).requires_grad_(False).eval()
        self.value1_optim, self.value2_optim = value1_optim, value2_optim
        self._tau = tau

    def learn(self, batch: dict[str, Any]) -> dict[str, float]:
        """One step of the values, their copies and the actor (docs/dice.md: the figures).

        Args:
            batch: {"real": rows, "init": observations [B0, d]} or a host batch; "fake" rows are not used. The paper's term in V(s) is
                over the data's states, so "init" should be a sample of those.

        Raises:
            ValueError: a batch that lacks a column or has a wrong shape.
        """
        rows = self._read(batch)
        figures: dict[str, Tensor] = {}
        residuals = self._learn_values(rows, figures)
        follow((self.value1_old, self.value2_old), (self.value1, self.value2), self._tau)
        self._learn_actor(rows, residuals, figures)
        self._count()
        return numbers(figures)

    def _learn_values(self, rows: Rows, figures: dict[str, Tensor]) -> Tensor:
        """Step the values; returns the forward (for `full` the true) residuals e [E, B], detached."""
        online, targets = (self.value1, self.value2), (self.value1_old, self.value2_old)
        mode, weight = self.config.odice_grad_mode, self.config.odice_lambda
        sizes = [len(rows.obss), len(rows.next_obss), len(rows.init_obss)]
        values, next_values, init_values = stack(online, torch.cat([rows.obss, rows.next_obss, rows.init_obss])).split(sizes, -1)
        target_values, target_next = stack(targets, torch.cat([rows.obss, rows.next_obss])).min(0).values.split(sizes[:2])

        residuals = objective.bellman_residual(
            rows.rewards, rows.discounts, next_values if mode == "full" else target_next, values
        )
        states = losses.state_term(init_values, weight=weight)
        forward = losses.residual_term(self.divergence.conjugate, residuals, weight=weight)
        if mode == "orthogonal":
            backward_residuals = objective.bellman_residual(rows.rewards, rows.discounts, next_values, target_values)
            backward = losses.residual_term(self.divergence.conjugate, backward_residuals, weight=weight)
            figures["odice/gradient_cosine"] = self._orthogonal_step(states, forward, self.config.odice_eta * backward)
        else:
            descend((states + forward).sum(), self.value1_optim, self.value2_optim)
        figures["loss/value1"], figures["loss/value2"] = states + forward
        figures["odice/v_batch"], figures["odice/residual"] = values, residuals
        return residuals.detach()

    def _orthogonal_step(self, states: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
        """The update from the three terms [E]; returns the cosine between forward and backward gradient [E]."""
        cosines = []
        for i, (value, optim) in enumerate(((self.value1, self.value1_optim), (self.value2, self.value2_optim))):
            parameters = list(value.parameters())
            plain, ahead, behind = (
                torch.autograd.grad(term[i], parameters, retain_graph=True, materialize_grads=True) for term in (states, forward, backward)
            )
            for parameter, first, second in zip(parameters, plain, objective.orthogonal_gradient(ahead, behind), strict=True):
                parameter.grad = first + second
            optim.step()
            cosines.append(nn.functional.cosine_similarity(_flat(ahead), _flat(behind), dim=0))
        return torch.stack(cosines)

    def _learn_actor(self, rows: Rows, residuals: Tensor, figures: dict[str, Tensor]) -> None:
        ratio = self.config.odice_actor_weight == "ratio"
        weights = (self.divergence.weight(residuals) if ratio else torch.relu(residuals)).clamp(max=self.config.odice_w_max)
        loss = losses.cloning_loss(self._cloned_log_prob(self.actor, rows), weights).mean()
        descend(loss, self.actor_optim)
        figures["loss/actor"], figures["odice/weight"] = loss, weights
        figures["odice/effective_sample_size"] = objective.effective_sample_size(weights)


def _flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])
