"""Adversary: RAMBO's training of the model against the policy, with one pass of the ensemble a step and its gradient by hand."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from offlinerlkit_damo.damo.alignment import Batch
from offlinerlkit_damo.engine.adam import fused_step
from offlinerlkit_damo.engine.dynamics import decay_by
from offlinerlkit_damo.engine.likelihood import EnsembleLikelihood, negative_log_likelihood
from offlinerlkit_damo.kit import ReplayBuffer
from offlinerlkit_damo.kit.contract import spelt

LOGVAR_LOSS_COEF = 0.001  # the host's, here


class Adversary:
    """The host's `update_dynamics` (Rigter et al. 2022, proposition 2): adv_weight adv_loss + sl_loss descended along imagined rollouts.

        adv_loss = mean log T(s', r|s, a) A,  T the elites' mixture, A the standardised advantage of a sample (s', r) of one of them
        sl_loss  = the ensemble's likelihood of recorded transitions

    Imagined and recorded rows go through the ensemble together, without a graph. With a weight of 0 the imagined ones decide nothing: they
    are looked at in one of the policy's `diagnose_every` rollouts. The logged losses have the weight decay of the end, not its mean.
    There are `adv_train_steps` steps, where the kit finishes its last rollout. The model's activation is Swish, its optimiser Adam.

    Shapes: E members of which n are elites, B rows of either kind, d and a the sizes of observation and action.
    """

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        if type(self._optim) is not torch.optim.Adam:
            raise ValueError(f"its model trains against the policy with torch.optim.Adam; this is {type(self._optim).__name__}")

    @property
    def _optim(self) -> torch.optim.Optimizer:
        optim: torch.optim.Optimizer = getattr(self._policy, spelt(self._policy, "dynamics_adv_optim"))
        return optim

    @torch.no_grad()
    def __call__(self, real_buffer: ReplayBuffer) -> dict[str, float]:
        """`adv_train_steps` steps of the model; returns the host's figures, means over the steps that computed them."""
        policy = self._policy
        model, rows, length = policy.dynamics.model, policy._adv_rollout_batch_size, policy._adv_rollout_length
        supervised: list[Tensor] = []
        imagined: list[tuple[Tensor, Tensor, Tensor]] = []
        model.train()
        likelihood = EnsembleLikelihood(model, LOGVAR_LOSS_COEF)
        optim = self._optim
        with decay_by(optim, model):
            for start in range(0, policy._adv_train_steps, length):
                looks = policy._adv_weight != 0 or start // length % policy.diagnose_every == 0
                obss = real_buffer.sample(rows)["observations"] if looks else None
                for _ in range(min(length, policy._adv_train_steps - start)):
                    if obss is None:
                        x, y = self._recorded(real_buffer.sample(rows))
                        supervised.append(likelihood.backward(x, y))
                    else:
                        loss, figures, obss = self._adversarial(likelihood, obss, real_buffer)
                        supervised.append(loss)
                        imagined.append(figures)
                    fused_step(optim)
        model.eval()
        sl_loss = torch.stack(supervised).mean() + model.get_decay_loss()
        adv_loss, advantage, log_prob = (torch.stack(values).mean() for values in zip(*imagined, strict=True))
        all_loss = policy._adv_weight * adv_loss + sl_loss
        shown = {"all_loss": all_loss, "sl_loss": sl_loss, "adv_loss": adv_loss, "adv_advantage": advantage, "adv_log_prob": log_prob}
        return {f"adv_dynamics_update/{name}": float(value) for name, value in shown.items()}

    def _recorded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The ensemble's inputs [E, B, d + a] and targets [E, B, d + 1] for recorded transitions, the same for every member."""
        obss, model = batch["observations"], self._policy.dynamics.model
        targets = torch.cat([batch["next_observations"] - obss, batch["rewards"]], -1).to(model.max_logvar.dtype)
        return self._inputs(obss, batch["actions"]), targets.expand(model.num_ensemble, -1, -1)

    def _inputs(self, obss: Tensor, actions: Tensor) -> Tensor:
        dynamics = self._policy.dynamics
        inputs: Tensor = dynamics.scaler.transform_tensor(torch.cat([obss, actions], -1)).to(dynamics.model.max_logvar.dtype)
        return inputs.expand(dynamics.model.num_ensemble, -1, -1)

    def _adversarial(
        self, likelihood: EnsembleLikelihood, obss: Tensor, real_buffer: ReplayBuffer
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:
        """Gradients of one step that imagines from obss [B, d].

        Returns:
            sl_loss without the weights' decay; adv_loss, mean advantage and mean log-probability; s' [B, d].
        """
        policy, size = self._policy, len(obss)
        actions, _ = policy.actforward(obss)
        recorded, targets = self._recorded(real_buffer.sample(size))
        x = torch.cat([self._inputs(obss, actions), recorded], 1)
        predicted = likelihood.forward(x)
        (mean, of_mean), (logvar, of_logvar) = predicted.mean.split(size, 1), predicted.logvar.split(size, 1)
        sample = self._sampled(mean, logvar)
        next_obss = obss + sample[:, :-1]
        advantage = self._advantage(obss, actions, next_obss, sample[:, -1:])
        log_prob, *adversarial_grads = self._log_density(mean, logvar, sample, policy._adv_weight / size * advantage)
        loss, *supervised_grads = negative_log_likelihood(of_mean, of_logvar, targets)
        grads = (torch.cat(pair, 1) for pair in zip(adversarial_grads, supervised_grads, strict=True))
        likelihood.propagate_back(x, predicted, *grads)
        return loss + likelihood.spread(), ((log_prob * advantage).mean(), advantage.mean(), log_prob.mean()), next_obss

    def _sampled(self, mean: Tensor, logvar: Tensor) -> Tensor:
        """The change of s, and r, by a random elite for each row, of every member's [E, B, d + 1]: [B, d + 1]."""
        member = torch.as_tensor(self._policy.dynamics.model.random_elite_idxs(mean.shape[1]), device=mean.device)
        rows = torch.arange(len(member), device=mean.device)
        return mean[member, rows] + torch.exp(0.5 * logvar[member, rows]) * torch.randn_like(mean[0])

    def _advantage(self, obss: Tensor, actions: Tensor, next_obss: Tensor, rewards: Tensor) -> Tensor:
        """r + gamma (1 - terminal) V(s') - min_i Q_i(s, a), standardised: [B, 1]. V is at the policy's mode, as in the host."""
        policy = self._policy
        done = policy.dynamics.terminal_fn(*(x.cpu().numpy() for x in (obss, actions, next_obss)))
        next_actions, log_prob = policy.actforward(next_obss, deterministic=True)
        value = torch.min(policy.critic1(next_obss, next_actions), policy.critic2(next_obss, next_actions))
        if policy._include_ent_in_adv:
            value = value - policy._alpha * log_prob
        goes_on = ~torch.as_tensor(done, device=obss.device).view(-1, 1)
        advantage = rewards + policy._gamma * goes_on * value - torch.min(policy.critic1(obss, actions), policy.critic2(obss, actions))
        standardised: Tensor = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
        return standardised

    def _log_density(self, mean: Tensor, logvar: Tensor, sample: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log T(sample) [B, 1], and the gradients of sum weight log T, weight [B, 1], for every member's mean and logvar [E, B, d + 1]."""
        elites = self._policy.dynamics.model.elites.to(sample.device)
        inverse_std = torch.exp(-0.5 * logvar[elites])
        error = (sample - mean[elites]) * inverse_std
        each = (-0.5 * (error.square() + logvar[elites] + math.log(2 * math.pi))).sum(-1, keepdim=True)  # [n, B, 1]
        mean_grad, logvar_grad = torch.zeros_like(mean), torch.zeros_like(logvar)
        if self._policy._adv_weight != 0:  # else not 0 times what may be infinite
            share = weight * each.softmax(0)
            mean_grad[elites] = share * error * inverse_std
            logvar_grad[elites] = 0.5 * share * (error.square() - 1)
        return each.logsumexp(0) - math.log(len(elites)), mean_grad, logvar_grad
