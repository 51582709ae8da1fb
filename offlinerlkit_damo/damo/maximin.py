"""Behaviour alignment: DAMO's critic and actor on one maximin objective, in place of a host policy's SAC step."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from offlinerlkit_damo.damo import objective
from offlinerlkit_damo.damo.alignment import Batch
from offlinerlkit_damo.damo.divergences import get_divergence
from offlinerlkit_damo.damo.misfits import require
from offlinerlkit_damo.damo.networks import Networks, attributes
from offlinerlkit_damo.damo.temperature import temperature_step
from offlinerlkit_damo.damo.terms import Terms


class MaximinObjective(Terms):
    """Mixed into a host policy with an actor and several critics: `learn` descends and ascends `damo.objective` on its batches.

    The host policy keeps its rollouts, its dynamics and its own penalty of synthetic rewards: MOPO's is in them already, MOBILE's is
    subtracted here, before anything else: that of any policy with `compute_lcb` (obss [n, d], actions [n, a] -> [n, 1]) and
    `_penalty_coef`. Raises UserError for a host policy that lacks what the step is computed with (`networks.attributes`).

    Shapes below: B rows in a batch (real first, then fake), E critics, d and a the sizes of observation and action.
    """

    ATTRIBUTES: ClassVar = ("divergence", "init_coef", "networks")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require(self, *attributes(self))
        self.divergence = get_divergence(self.config.divergence, self.config.divergence_k)
        self.init_coef = self.config.init_coefficient(self._gamma)
        self.networks = Networks(self)

    def learn(self, batch: dict[str, Any]) -> dict[str, float]:
        """One step of critics, actor and entropy temperature; returns every figure of docs/metrics.md that they have.

        `batch`: the host trainer's {"real", "fake"} and, when `DAMOTrainer` provides it, "init" (initial observations [B0, d]).
        """
        real, fake = self._parts(batch)
        num_real = len(real["rewards"])
        mix = {key: torch.cat([real[key], fake[key]]) for key in real}
        rewards, terminals = mix["rewards"].squeeze(-1), mix["terminals"].squeeze(-1)
        if hasattr(self, "compute_lcb"):
            rewards = torch.cat([rewards[:num_real], rewards[num_real:] - self._own_penalty(fake)])
        init_obss = batch.get("init", real["observations"])
        discounts = self._gamma * (1 - terminals)
        figures: dict[str, Tensor] = {"damo/refined_reward_real": rewards[:num_real], "damo/refined_reward_fake": rewards[num_real:]}

        phi = self._critic_step(mix, rewards, discounts, init_obss, figures)
        if self.config.behavior_alignment:
            weights = self._actor_weights(phi)
            if self._diagnoses:
                figures |= self._weight_figures(phi, weights, discounts)
        if self.config.behavior_alignment and self.config.actor_mode == "damo":
            log_prob = self._actor_step(weights, discounts, init_obss, mix["next_observations"], figures)
        else:
            log_prob = self._soft_actor_step(mix["observations"], figures)
        if self._is_auto_alpha:
            temperature_step(self, log_prob, figures)
        self.networks.sync()
        shown = self._shown(figures)
        self._steps += 1
        return shown

    @torch.no_grad()
    def _own_penalty(self, fake: Batch) -> Tensor:
        """A policy's own penalty of synthetic rows [n]; MOBILE's is its coefficient times the Model-Bellman inconsistency."""
        policy: Any = self
        penalty: Tensor = policy._penalty_coef * policy.compute_lcb(fake["observations"], fake["actions"]).squeeze(-1)
        return penalty

    # ---- critics -------------------------------------------------------------------------------------------------------------------

    def _critic_step(
        self, mix: Batch, refined: Tensor, discounts: Tensor, init_obss: Tensor, figures: dict[str, Tensor]
    ) -> Tensor:
        """Minimise L_Q; returns the residuals Phi [E, B] it was computed from, detached."""
        obss, actions, next_obss = mix["observations"], mix["actions"], mix["next_observations"]
        size, num_init, config = len(obss), len(init_obss), self.config
        mode = config.grad_mode if config.behavior_alignment else "semi"
        with torch.no_grad():
            policy_actions, log_prob = self.networks.act(torch.cat([init_obss, next_obss]))
            init_actions, next_actions = policy_actions.split([num_init, size])
            entropy = self._alpha * log_prob[num_init:] if config.entropy_backup else torch.zeros_like(refined)

        # one forward pass for all the pairs each network is asked about
        online_obss, online_actions = [obss, init_obss], [actions, init_actions]
        if mode != "semi":
            online_obss.append(next_obss)
            online_actions.append(next_actions)
        online = self.networks.q(torch.cat(online_obss), torch.cat(online_actions))
        q, init_q = online[:, :size], online[:, size : size + num_init]
        online_next = online[:, size + num_init :]
        target_q = target_next = online_next
        if mode != "full":
            pairs = (next_obss, next_actions)
            if mode == "orthogonal":
                pairs = torch.cat([next_obss, obss]), torch.cat([next_actions, actions])
            target = self.networks.old_q(*pairs)
            target_next, target_q = target[:, :size], target[:, size:]

        def residual(next_q: Tensor, q: Tensor) -> Tensor:
            if config.q_next == "min" or not config.behavior_alignment:
                next_q = next_q.min(0, keepdim=True).values.expand_as(q)
            return objective.bellman_residual(refined, discounts, next_q - entropy, q, target_floor=config.target_floor)

        if mode == "orthogonal":
            phi = residual(target_next, q)
            losses = self._orthogonal_step(phi, residual(online_next, target_q), init_q)
        else:
            share = config.next_share
            phi = residual(share * online_next + (1 - share) * target_next if mode == "mix" else target_next, q)
            losses = self._critic_losses(phi, init_q) if config.behavior_alignment else objective.td_loss(phi)
            self.networks.zero_critics()
            (losses.sum() if config.behavior_alignment else self.networks.td_weight * losses.sum()).backward()
            self._apply_critics()
        figures |= self.networks.named(losses)
        figures["damo/q_batch"], figures["damo/q_init"], figures["damo/phi"] = q, init_q, phi
        return phi.detach()

    def _critic_losses(self, phi: Tensor, init_q: Tensor) -> Tensor:
        alpha = self.config.damo_alpha
        return objective.critic_loss(self.divergence.conjugate, phi, init_q, alpha=alpha, init_coef=self.init_coef)

    def _orthogonal_step(self, forward_phi: Tensor, backward_phi: Tensor, init_q: Tensor) -> Tensor:
        """ODICE's update: the term in Q(s0) as it is, the residual's backward gradient projected off its forward gradient."""
        losses = self._critic_losses(forward_phi, init_q)
        parts = (
            self.init_coef * init_q.mean(-1).sum(),
            self._critic_losses(forward_phi, torch.zeros_like(init_q)).sum(),
            self._critic_losses(backward_phi, torch.zeros_like(init_q)).sum(),
        )
        initial, forward, backward = (self._critic_gradients(part) for part in parts)
        for critic, *gradients in zip(self.networks.online, initial, forward, backward, strict=True):
            projected = objective.orthogonal_gradient(*gradients[1:])
            for parameter, first, second in zip(critic.parameters(), gradients[0], projected, strict=True):
                torch.add(first, second, out=parameter.grad)
        self._apply_critics()
        return losses

    def _critic_gradients(self, loss: Tensor) -> list[list[Tensor]]:
        """The loss's gradient for every parameter of either critic."""
        self.networks.zero_critics()
        loss.backward(retain_graph=True)
        return [[cast(Tensor, p.grad).clone() for p in critic.parameters()] for critic in self.networks.online]

    def _apply_critics(self) -> None:
        self.networks.step(*self.networks.critic_optims)

    # ---- actor ---------------------------------------------------------------------------------------------------------------------

    def _actor_weights(self, phi: Tensor) -> Tensor:
        """w = min(f*'(Phi / alpha_actor), w_max): [E, B]."""
        alpha = self.config.actor_alpha if self.config.actor_alpha is not None else self.config.damo_alpha
        weights = self.divergence.actor_weight(phi / alpha)
        return weights if self.config.w_max is None else weights.clamp(max=self.config.w_max)

    def _actor_step(
        self, weights: Tensor, discounts: Tensor, init_obss: Tensor, next_obss: Tensor, figures: dict[str, Tensor]
    ) -> Tensor:
        """Ascend the critics' objective; returns log pi(a'|s') [B]."""
        obss, num_init = torch.cat([init_obss, next_obss]), len(init_obss)
        actions, log_prob = self.networks.act(obss)
        q = self.networks.frozen_q(obss, actions)
        next_log_prob = log_prob[num_init:]
        next_q = q[:, num_init:] - self._alpha * next_log_prob
        loss = objective.actor_loss(weights, discounts, next_q, q[:, :num_init], init_coef=self.init_coef).mean()
        self._apply_actor(loss, figures)
        return next_log_prob

    def _soft_actor_step(self, obss: Tensor, figures: dict[str, Tensor]) -> Tensor:
        """The ordinary SAC actor on the batch's states; returns log pi(a|s) [B]."""
        actions, log_prob = self.networks.act(obss)
        q = self.networks.frozen_q(obss, actions)
        self._apply_actor(objective.soft_actor_loss(log_prob, q, temperature=self._alpha), figures)
        return log_prob

    def _apply_actor(self, loss: Tensor, figures: dict[str, Tensor]) -> None:
        self.networks.zero_actor()
        loss.backward()
        self.networks.step(self.actor_optim)
        figures["loss/actor"] = loss

    # ---- diagnostics ---------------------------------------------------------------------------------------------------------------

    def _weight_figures(self, phi: Tensor, actor_weights: Tensor, discounts: Tensor) -> dict[str, Tensor]:
        """E[w] and the shift identity's residual for the critic's w = f*'(Phi / alpha); the effective sample size for the actor's."""
        weights = self.divergence.weight(phi / self.config.damo_alpha)
        figures = {"damo/weight": weights, "damo/effective_sample_size": objective.effective_sample_size(actor_weights)}
        # the projected update of ODICE is no loss's gradient, so it has no such identity
        if self.config.grad_mode != "orthogonal":
            share = self.config.next_share
            residual = objective.shift_residual(weights, discounts, next_share=share, init_coef=self.init_coef)
            figures["damo/shift_residual"] = residual
        return figures
