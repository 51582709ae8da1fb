"""FlatStep: the maximin objective's critic and actor steps with gradients by hand, without a graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from offlinerlkit_damo.damo import objective
from offlinerlkit_damo.damo.alignment import Batch
from offlinerlkit_damo.engine.gaussian import TanhGaussian
from offlinerlkit_damo.engine.gradients import actor_gradient, critic_gradient

Figures = dict[str, Tensor]


class ActorPass(NamedTuple):
    """A forward pass of the actor: every layer's input, and the output [rows, 2a]."""

    inputs: list[Tensor]
    outputs: Tensor


class FlatStep:
    """`MaximinObjective`'s `_critic_step`, `_actor_step` and `_soft_actor_step` on `FlatNetworks`.

    The objective is elementwise in Q and log pi, so its gradient there is a formula (for Q(s, a) it is -f*'(Phi / alpha) / B, "critic's
    weight"), and what is left are the networks' own backward passes. The actor is the same in both steps: one forward pass serves
    them, only the noise is drawn anew. The projected gradient (grad_mode orthogonal) is left to the reference's own critic step.

    Shapes as there: B rows in a batch, B0 initial observations, E critics, d and a the sizes of observation and action.
    """

    def __init__(self, policy: Any) -> None:
        self._policy, self._networks = policy, policy.networks
        self._pass: ActorPass | None = None

    def install(self) -> None:
        """Put these steps in the place of the policy's."""
        policy = self._policy
        self._projected_critics = policy._critic_step
        policy._critic_step, policy._actor_step, policy._soft_actor_step = self.critics, self.actor, self.soft_actor

    @torch.no_grad()
    def critics(self, mix: Batch, refined: Tensor, discounts: Tensor, init_obss: Tensor, figures: Figures) -> Tensor:
        """Minimise L_Q; returns the residuals Phi [E, B] it was computed from."""
        policy, networks, config = self._policy, self._networks, self._policy.config
        aligned = config.behavior_alignment
        mode = config.grad_mode if aligned else "semi"
        if mode == "orthogonal":
            with torch.enable_grad():
                phi: Tensor = self._projected_critics(mix, refined, discounts, init_obss, figures)
            return phi
        obss, actions, next_obss = mix["observations"], mix["actions"], mix["next_observations"]
        size, num_init, share = len(obss), len(init_obss), config.next_share if aligned else 0.0

        asked = [init_obss, next_obss] if aligned and config.actor_mode == "damo" else [init_obss, next_obss, obss]
        *inputs, outputs = networks.actor.forward(torch.cat(asked))
        self._pass = ActorPass(inputs, outputs[0])
        sample = networks.sample(outputs[0, : num_init + size])
        entropy = policy._alpha * sample.log_prob()[num_init:] if config.entropy_backup else 0.0
        init_actions, next_actions = sample.actions.split([num_init, size])

        online_obss, online_actions = [obss, init_obss], [actions, init_actions]
        if share > 0:
            online_obss.append(next_obss)
            online_actions.append(next_actions)
        *inputs, outputs = networks.critics.forward(torch.cat([torch.cat(online_obss), torch.cat(online_actions)], -1))
        online = outputs.squeeze(-1)
        q, init_q, next_q = online[:, :size], online[:, size : size + num_init], online[:, size + num_init :]
        if share < 1:
            target = networks.old_q(next_obss, next_actions)
            next_q = share * next_q + (1 - share) * target if share > 0 else target
        least = None
        if config.q_next == "min" or not aligned:
            next_q, least = next_q.min(0, keepdim=True)
        next_q = next_q - entropy
        phi = objective.bellman_residual(refined, discounts, next_q, q, target_floor=config.target_floor)

        # dL/dPhi, but for the mean's 1 / B
        slope = policy.divergence.weight(phi / config.damo_alpha) if aligned else 2 * networks.td_weight * phi
        above = None if config.target_floor is None else refined + discounts * next_q >= config.target_floor
        init_coef = policy.init_coef if aligned else 0.0
        grad = critic_gradient(slope, discounts, num_init=num_init, init_coef=init_coef, share=share, above=above, least=least)
        networks.critics.backward(inputs, grad.unsqueeze(-1), frozen=False, want_input=False, accumulate=False)
        networks.step(*networks.critic_optims)
        if policy._diagnoses:
            losses = policy._critic_losses(phi, init_q) if aligned else objective.td_loss(phi)
            figures |= networks.named(losses)
            figures |= {"damo/q_batch": q, "damo/q_init": init_q, "damo/phi": phi}
        return phi

    @torch.no_grad()
    def actor(self, weights: Tensor, discounts: Tensor, init_obss: Tensor, next_obss: Tensor, figures: Figures) -> Tensor:
        """Ascend the critics' objective; returns log pi(a'|s') [B]."""
        policy, obss = self._policy, torch.cat([init_obss, next_obss])
        num_init, temperature = len(init_obss), policy._alpha
        inputs, outputs = self._actor_pass(obss)
        sample = self._networks.sample(outputs)
        log_prob = sample.log_prob()
        *q_inputs, q = self._networks.critics.forward(torch.cat([obss, sample.actions], -1))
        q = q.squeeze(-1)
        grad = actor_gradient(weights, discounts, num_init=num_init, init_coef=policy.init_coef)
        log_prob_grad = -temperature * grad.sum(0)
        log_prob_grad[:num_init] = 0  # no entropy in Q(s0)
        self._descend_actor(inputs, sample, log_prob_grad, q_inputs, grad)
        next_log_prob: Tensor = log_prob[num_init:]
        if policy._diagnoses:
            next_q = q[:, num_init:] - temperature * next_log_prob
            figures["loss/actor"] = objective.actor_loss(weights, discounts, next_q, q[:, :num_init], init_coef=policy.init_coef).mean()
        return next_log_prob

    @torch.no_grad()
    def soft_actor(self, obss: Tensor, figures: Figures) -> Tensor:
        """The ordinary SAC actor on the batch's states; returns log pi(a|s) [B]."""
        temperature, size = self._policy._alpha, len(obss)
        inputs, outputs = self._actor_pass(obss)
        sample: TanhGaussian = self._networks.sample(outputs)
        log_prob = sample.log_prob()
        *q_inputs, q = self._networks.critics.forward(torch.cat([obss, sample.actions], -1))
        q = q.squeeze(-1)
        grad = torch.zeros_like(q).scatter_(0, q.argmin(0, keepdim=True), -1 / size)
        self._descend_actor(inputs, sample, torch.zeros_like(log_prob) + temperature / size, q_inputs, grad)
        if self._policy._diagnoses:
            figures["loss/actor"] = objective.soft_actor_loss(log_prob, q, temperature=temperature)
        return log_prob

    def _actor_pass(self, obss: Tensor) -> ActorPass:
        """The actor's forward pass on the last rows that the critics' step asked about, which are `obss` [B, d], or a new one."""
        if self._pass is None:
            *inputs, outputs = self._networks.actor.forward(obss)
            return ActorPass(inputs, outputs[0])
        (inputs, outputs), self._pass = self._pass, None
        return ActorPass([x[:, -len(obss) :] for x in inputs], outputs[-len(obss) :])

    def _descend_actor(
        self, inputs: list[Tensor], sample: TanhGaussian, log_prob_grad: Tensor, q_inputs: list[Tensor], q_grad: Tensor
    ) -> None:
        """The actor's step, given the loss's gradient for log pi [B] and for Q [E, B]."""
        networks = self._networks
        columns = slice(inputs[0].shape[-1], None)
        action_grad = networks.critics.backward(q_inputs, q_grad.unsqueeze(-1), frozen=True, want_input=True, columns=columns)
        outputs_grad = sample.backward(action_grad, log_prob_grad).unsqueeze(0)
        networks.actor.backward(inputs, outputs_grad, frozen=False, want_input=False, accumulate=False)
        networks.step(self._policy.actor_optim)
