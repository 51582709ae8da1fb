"""FlatCOMBO: the host's COMBO with gradients by hand, its thirty actions a state in pieces that fit the processor's cache."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from offlinerlkit_damo.damo.alignment import Batch
from offlinerlkit_damo.damo.temperature import temperature_step
from offlinerlkit_damo.damo.terms import Terms
from offlinerlkit_damo.engine.inconsistency import CHUNK
from offlinerlkit_damo.engine.networks import FlatNetworks
from offlinerlkit_damo.engine.step import FlatStep
from offlinerlkit_damo.kit import COMBOPolicy


class FlatCOMBO(Terms, COMBOPolicy):
    """COMBO (Yu et al. 2021) whose `learn` is the host's, computed on `FlatNetworks`.

    The actor is asked once a state and not once an action, since its copies differ in the noise alone. Not for a learned multiplier
    (`with_lagrange`) nor for `max_q_backup`. `accelerate` must be called before the first step.

    Shapes: B rows in a batch, P states at which the critics are pushed down, n actions of each of three kinds, E critics, d and a the
    sizes of observation and action.
    """

    networks: FlatNetworks
    steps: FlatStep

    def learn(self, batch: dict[str, Any]) -> dict[str, float]:
        """One step of the actor, the temperature, the critics and the copies, in the host's order; returns its figures when due."""
        real, fake = batch["real"], batch["fake"]
        mix = {key: torch.cat([real[key], fake[key]]) for key in real}
        figures: dict[str, Tensor] = {}
        log_prob = self.steps.soft_actor(mix["observations"], figures)
        if self._is_auto_alpha:
            temperature_step(self, log_prob, figures, bound=math.inf)  # the host's CQL has none
        self._critic_step(mix, mix if self._rho_s == "mix" else fake, len(real["rewards"]), figures)
        self.networks.sync()
        shown = self._shown(figures)
        self._steps += 1
        return shown

    @torch.no_grad()
    def _critic_step(self, mix: Batch, pushed: Batch, recorded: int, figures: dict[str, Tensor]) -> None:
        """mean (Q_i - y)^2 + w [mean_s t log sum_a exp(Q_i(s, a) / t) / p(a) - mean Q_i over the first `recorded` rows of `mix`]."""
        networks, weight = self.networks, self._cql_weight
        target = self._regression_target(mix)
        *inputs, q = networks.critics.forward(torch.cat([mix["observations"], mix["actions"]], -1))
        q = q.squeeze(-1)
        grad = (q - target) * (2 / len(target))
        grad[:, :recorded] -= weight / recorded
        networks.critics.backward(inputs, grad.unsqueeze(-1), frozen=False, want_input=False, accumulate=False)
        maxima = self._push_down(pushed)
        networks.step(*networks.critic_optims)
        if self._diagnoses:
            losses = (q - target).square().mean(-1) + weight * (maxima - q[:, :recorded].mean(-1))
            figures |= networks.named(losses)

    def _regression_target(self, mix: Batch) -> Tensor:
        """y [B]."""
        next_obss = mix["next_observations"]
        sample = self.networks.sample(self.networks.actor.forward(next_obss)[-1][0])
        value = self.networks.old_q(next_obss, sample.actions).amin(0)
        if not self._deterministic_backup:
            value = value - self._alpha * sample.log_prob()
        target: Tensor = mix["rewards"].squeeze(-1) + self._gamma * (1 - mix["terminals"].squeeze(-1)) * value
        return target

    def _push_down(self, pushed: Batch) -> Tensor:
        """Add the soft maxima's gradient to the critics', and return the soft maxima's means, without w: [E]."""
        obss, critics, t = pushed["observations"], self.networks.critics, self._temperature
        actions, log_p = self._three_kinds(obss, pushed["next_observations"])
        per_state = log_p[0].numel()
        # the kit's term is the mean of n soft maxima over one action of each kind (docs/compatibility.md); the stand-in's is one over all
        legacy = getattr(self, "_legacy_logsumexp", True)
        total = torch.zeros(len(critics.block), dtype=obss.dtype, device=obss.device)
        step = max(1, CHUNK // per_state)
        for some_obss, some_actions, some_log_p in zip(obss.split(step), actions.split(step), log_p.split(step), strict=True):
            repeated = some_obss.repeat_interleave(per_state, 0)
            *inputs, q = critics.forward(torch.cat([repeated, some_actions.flatten(0, 2)], -1))
            corrected = (q.view(-1, *some_log_p.shape) - some_log_p) / t
            if not legacy:
                corrected = corrected.flatten(2).unsqueeze(-1)  # [E, states, 3n, 1]; legacy [E, states, 3, n]
            share = self._cql_weight / (len(obss) * corrected.shape[-1])
            critics.backward(inputs, (corrected.softmax(2) * share).view_as(q), frozen=False, want_input=False)
            if self._diagnoses:
                total += t * corrected.logsumexp(2).mean(-1).sum(-1) / len(obss)
        return total

    def _three_kinds(self, obss: Tensor, next_obss: Tensor) -> tuple[Tensor, Tensor]:
        """Uniform actions, those of pi(s) and of pi(s') for states [P, d]: [P, 3, n, a], and their log-densities [P, 3, n]."""
        n, space = self._num_repeat_actions, self.action_space
        low, high = (torch.as_tensor(bound, device=obss.device, dtype=obss.dtype) for bound in (space.low, space.high))
        uniform = low + (high - low) * torch.rand(len(obss) * n, low.numel(), dtype=obss.dtype, device=obss.device)
        kinds = [(uniform, (-(high - low).log().sum()).expand(len(uniform)))]
        for outputs in self.networks.actor.forward(torch.cat([obss, next_obss]))[-1][0].chunk(2):
            sample = self.networks.sample(outputs.repeat_interleave(n, 0))
            kinds.append((sample.actions, sample.log_prob()))
        actions, log_p = (torch.stack([values.unflatten(0, (len(obss), n)) for values in kind], 1) for kind in zip(*kinds, strict=True))
        return actions, log_p
