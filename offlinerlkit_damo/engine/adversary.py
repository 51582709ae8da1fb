"""Adversary: RAMBO's training of the model against the policy, with one pass of the ensemble a step and its gradient by hand."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from offlinerlkit_damo.damo.alignment import Batch
from offlinerlkit_damo.engine.adam import fused_step
from offlinerlkit_damo.engine.dynamics import decay_by
from offlinerlkit_damo.engine.likelihood import EnsembleLikelihood, Prediction, negative_log_likelihood
from offlinerlkit_damo.kit import ReplayBuffer

LOGVAR_LOSS_COEF = 0.001  # the host's, here


class Adversary:
    """The host's `update_dynamics` (Rigter et al. 2022, proposition 2): adv_weight adv_loss + sl_loss descended along imagined rollouts.

        adv_loss = mean log T(s', r|s, a) A,  T the elites' mixture, A the standardised advantage of a sample (s', r) of one of them
        sl_loss  = the ensemble's likelihood of recorded transitions

    Imagined and recorded rows go through the ensemble together, without a graph. With a weight of 0 the imagined ones decide nothing: they
    are looked at in one of the policy's `diagnose_every` rollouts. The logged losses have the weight decay of the end, not its mean.

    Shapes: E members of which n are elites, B rows of either kind, d and a the sizes of observation and action.
    """

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        # the kit's name is a letter short
        self._optim = policy.dynamics_adv_optim if hasattr(policy, "dynamics_adv_optim") else policy._dynmics_adv_optim

    @torch.no_grad()
    def __call__(self, real_buffer: ReplayBuffer) -> dict[str, float]:
        """`adv_train_steps` steps of the model; returns the host's figures, means over the steps that computed them."""
        policy = self._policy
        model, rows, length = policy.dynamics.model, policy._adv_rollout_batch_size, policy._adv_rollout_length
        supervised: list[Tensor] = []
        imagined: list[tuple[Tensor, Tensor, Tensor]] = []
        model.train()
        likelihood = EnsembleLikelihood(model, LOGVAR_LOSS_COEF)
        with decay_by(self._optim, model):
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
                    fused_step(self._optim)
        model.eval()
        sl_loss = torch.stack(supervised).mean() + model.get_decay_loss()
        adv_loss, advantage, log_prob = (torch.stack(values).mean() for values in zip(*imagined, strict=True))
        all_loss = policy._adv_weight * adv_loss + sl_loss
        shown = {"all_loss": all_loss, "sl_loss": sl_loss, "adv_loss": adv_loss, "adv_advantage": advantage, "adv_log_prob": log_prob}
        return {f"adv_dynamics_update/{name}": float(value) for name, value in shown.items()}

    def _recorded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The ensemble's inputs [E, B, d + a] and targets [E, B, d + 1] for recorded transitions, the same for every member."""
        obss = batch["observations"]
        targets = torch.cat([batch["next_observations"] - obss, batch["rewards"]], -1)
        return self._inputs(obss, batch["actions"]), targets.expand(self._policy.dynamics.model.num_ensemble, -1, -1)

    def _inputs(self, obss: Tensor, actions: Tensor) -> Tensor:
        dynamics = self._policy.dynamics
        # a scaler may be of float64
        inputs: Tensor = dynamics.scaler.transform_tensor(torch.cat([obss, actions], -1)).to(obss.dtype)
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
        both = likelihood.forward(x)
        own, of_record = (Prediction(*columns) for columns in zip(*(value.split(size, 1) for value in both), strict=True))
        sample = self._sampled(own)
        next_obss = obss + sample[:, :-1]
        advantage = self._advantage(obss, actions, next_obss, sample[:, -1:])
        log_prob, mean_grad, logvar_grad = self._log_density(own, sample, policy._adv_weight / size * advantage)
        loss, *supervised_grads = negative_log_likelihood(of_record.mean, of_record.logvar, targets)
        grads = (torch.cat(pair, 1) for pair in zip((mean_grad, logvar_grad), supervised_grads, strict=True))
        sl_loss = loss + likelihood.spread()
        likelihood.propagate_back(x, both, *grads)
        return sl_loss, ((log_prob * advantage).mean(), advantage.mean(), log_prob.mean()), next_obss

    def _sampled(self, predicted: Prediction) -> Tensor:
        """The change of s, and r, by a random elite for each row: [B, d + 1]."""
        member = torch.as_tensor(self._policy.dynamics.model.random_elite_idxs(predicted.mean.shape[1]), device=predicted.mean.device)
        rows = torch.arange(len(member), device=member.device)
        mean, logvar = predicted.mean[member, rows], predicted.logvar[member, rows]
        return mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)

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

    def _log_density(self, predicted: Prediction, sample: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log T(sample) [B, 1], and the gradients of sum weight log T, weight [B, 1], for every member's mean and logvar [E, B, d + 1]."""
        elites = self._policy.dynamics.model.elites.to(sample.device)
        mean, logvar = predicted.mean[elites], predicted.logvar[elites]
        precision = torch.exp(-0.5 * logvar)
        error = (sample - mean) * precision
        each = (-0.5 * (error.square() + logvar + math.log(2 * math.pi))).sum(-1, keepdim=True)  # [n, B, 1]
        share = weight * each.softmax(0)
        mean_grad, logvar_grad = torch.zeros_like(predicted.mean), torch.zeros_like(predicted.logvar)
        mean_grad[elites] = share * error * precision
        logvar_grad[elites] = 0.5 * share * (error.square() - 1)
        return each.logsumexp(0) - math.log(len(elites)), mean_grad, logvar_grad
