"""RAMBO (Rigter et al. 2022): MOPO's loop without its penalty, in a model that is trained against the policy."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from offlinerlkit_damo.files import save_torch

from .buffer import ReplayBuffer
from .dynamics import EnsembleDynamics
from .logger import Logger
from .mopo import MOPOPolicy, imagine
from .policy import Array, Batch, descend
from .scaler import StandardScaler

PRETRAINED = "rambo_pretrain.pth"
LOGVAR_LOSS_COEF = 0.001  # the kit's, of the supervised part of the adversary's loss


class RAMBOPolicy(MOPOPolicy):
    """Soft actor-critic in a model which `update_dynamics` makes pessimistic.

    The buffers hold standardised observations where there is a `scaler`: then only `select_action`, which the simulator asks, standardises.
    The scaler is no part of the state dict, whose keys are the kit's: keep its statistics beside a saved policy, which cannot be evaluated
    without them.

    Args:
        dynamics, actor, critic1, critic2, actor_optim, critic1_optim, critic2_optim, tau, gamma, alpha: as for `MOPOPolicy`.
        dynamics_adv_optim: of the parameters of dynamics.model, for the adversarial steps.
        adv_weight: lambda, the weight of the adversarial loss against the supervised one.
        adv_train_steps: gradient steps of one `update_dynamics`.
        adv_rollout_batch_size: rows of an adversarial step.
        adv_rollout_length: steps after which the adversarial rollout begins anew from recorded states.
        include_ent_in_adv: count the entropy in the value that the model minimises.
        scaler: of the simulator's observations, fitted; None for observations as they are.
        device: where `pretrain` puts its batches and `load` the weights.

    Raises:
        ValueError: adv_rollout_batch_size is below 2, so that the advantages have no deviation.
    """

    def __init__(
        self,
        dynamics: EnsembleDynamics,
        actor: nn.Module,
        critic1: nn.Module,
        critic2: nn.Module,
        actor_optim: Optimizer,
        critic1_optim: Optimizer,
        critic2_optim: Optimizer,
        dynamics_adv_optim: Optimizer,
        tau: float = 0.005,
        gamma: float = 0.99,
        alpha: float | tuple[float, Tensor, Optimizer] = 0.2,
        adv_weight: float = 0,
        adv_train_steps: int = 1000,
        adv_rollout_batch_size: int = 256,
        adv_rollout_length: int = 5,
        include_ent_in_adv: bool = False,
        scaler: StandardScaler | None = None,
        device: str = "cpu",
    ) -> None:
        if adv_rollout_batch_size < 2:
            raise ValueError(f"adv_rollout_batch_size={adv_rollout_batch_size} is too small to standardise the advantage; use 2 or more")
        super().__init__(dynamics, actor, critic1, critic2, actor_optim, critic1_optim, critic2_optim, tau, gamma, alpha)
        self.dynamics_adv_optim = dynamics_adv_optim
        self._adv_weight = adv_weight
        self._adv_train_steps = adv_train_steps
        self._adv_rollout_batch_size = adv_rollout_batch_size
        self._adv_rollout_length = adv_rollout_length
        self._include_ent_in_adv = include_ent_in_adv
        self.device = torch.device(device)
        self.scaler = scaler

    def select_action(self, obs: Array, deterministic: bool = False) -> Array:
        """The simulator's obs [B, d], not yet standardised, -> actions float32 [B, A]."""
        return super().select_action(obs if self.scaler is None else self.scaler.transform(obs), deterministic)

    def rollout(self, init_obss: Array, rollout_length: int) -> tuple[dict[str, Array], dict[str, float]]:
        """`imagine` with actions of the policy, from the buffer's observations."""
        return imagine(self.dynamics, super().select_action, init_obss, rollout_length)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read the policy that `pretrain` wrote into the folder `path`."""
        self.load_state_dict(torch.load(Path(path) / PRETRAINED, map_location=self.device, weights_only=True))

    def pretrain(self, data: dict[str, Array], n_epoch: int, batch_size: int, lr: float, logger: Logger) -> None:
        """Clone the behaviour: fit sampled actions of the actor to the recorded ones by squared error, and save the policy.

        Args:
            data: as `ReplayBuffer.sample_all` returns it.
            n_epoch: passes over the data, in shuffled (numpy's global generator), whole batches.
            lr: of an Adam of its own.
            logger: takes the loss of every epoch; its model_dir receives the policy.

        Raises:
            ValueError: fewer rows than a batch.
        """
        rows = np.arange(len(data["observations"]))
        if len(rows) < batch_size:
            raise ValueError(f"batch_size={batch_size} is more than the {len(rows)} rows to clone")
        obss, actions = (torch.as_tensor(data[key], dtype=torch.float32, device=self.device) for key in ("observations", "actions"))
        optim = Adam(self.actor.parameters(), lr=lr)
        logger.log("Pretraining policy")
        for epoch in range(n_epoch):
            np.random.shuffle(rows)
            losses = []
            for start in range(0, len(rows) - batch_size + 1, batch_size):
                batch = torch.from_numpy(rows[start : start + batch_size]).to(self.device)
                imitated, _ = self.actforward(obss[batch])
                losses.append(descend(F.mse_loss(imitated, actions[batch]), optim))
            logger.log(f"epoch {epoch}: behaviour cloning loss {float(torch.stack(losses).mean()):.6g}")
        save_torch(self.state_dict(), Path(logger.model_dir) / PRETRAINED)

    def update_dynamics(self, real_buffer: ReplayBuffer) -> dict[str, float]:
        """`adv_train_steps` steps of the model against the policy; returns the means of what `_adversarial_losses` computes.

        The model is made worse along rollouts of its own, adv_rollout_length steps from recorded states, and kept close to the
        data by as many recorded transitions per step. As in the kit, a row that has ended goes on: only its value there is cut.
        Keys: adv_dynamics_update/ all_loss, sl_loss, adv_loss, adv_advantage and adv_log_prob.
        """
        self.dynamics.model.train()
        logged: list[dict[str, Tensor]] = []
        while len(logged) < self._adv_train_steps:
            obss = real_buffer.sample(self._adv_rollout_batch_size)["observations"]
            for _ in range(min(self._adv_rollout_length, self._adv_train_steps - len(logged))):
                with torch.no_grad():
                    actions, _ = self.actforward(obss)
                losses, obss = self._adversarial_losses(obss, actions, real_buffer.sample(self._adv_rollout_batch_size))
                descend(losses["all_loss"], self.dynamics_adv_optim)
                logged.append({name: value.detach() for name, value in losses.items()})
        self.dynamics.model.eval()
        return {f"adv_dynamics_update/{name}": float(torch.stack([x[name] for x in logged]).mean()) for name in logged[0]}

    def _adversarial_losses(self, obss: Tensor, actions: Tensor, recorded: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The model's loss on one imagined step of obss [B, d], actions [B, A] and on a batch of recorded transitions.

        all_loss  = adv_weight adv_loss + sl_loss
        adv_loss  = mean log T(s', r|s, a) advantage,  (s', r) from a random elite member of T, T the mixture of the elites: its gradient is
                    that of the value, by the score function (RAMBO, proposition 2)
        advantage = r + gamma (1 - terminal) V(s') - min_i Q_i(s, a), standardised over the rows
        sl_loss   = see `_supervised_loss`

        Returns:
            the losses, with the means adv_advantage and adv_log_prob, and s' [B, d].
        """
        model, d = self.dynamics.model, obss.shape[1]
        with torch.set_grad_enabled(self._adv_weight != 0):  # else it is only to be logged
            mean, logvar = model(self.dynamics.scaler.transform_tensor(torch.cat([obss, actions], -1)))  # [E, B, d+1]
            std = torch.exp(0.5 * logvar)
        with torch.no_grad():
            member = torch.as_tensor(model.random_elite_idxs(len(obss)), device=mean.device)
            rows = torch.arange(len(obss), device=mean.device)
            sample = mean[member, rows] + std[member, rows] * torch.randn_like(mean[0])  # [B, d+1]: the change of s, and r
            next_obss, rewards = obss + sample[:, :d], sample[:, d:]
            done = self.dynamics.terminal_fn(*(x.cpu().numpy() for x in (obss, actions, next_obss)))
            terminals = torch.as_tensor(done, device=mean.device).view(-1, 1)
            value = rewards + self._gamma * ~terminals * self._value(next_obss)
            advantage = value - self._q(obss, actions)
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
        log_prob = mixture_log_prob(mean[model.elites], std[model.elites], sample)
        adv_loss, sl_loss = (log_prob * advantage).mean(), self._supervised_loss(recorded)
        losses = {"all_loss": self._adv_weight * adv_loss + sl_loss, "sl_loss": sl_loss, "adv_loss": adv_loss}
        return {**losses, "adv_advantage": advantage.mean(), "adv_log_prob": log_prob.mean()}, next_obss

    def _supervised_loss(self, recorded: Batch) -> Tensor:
        """The loss of `DynamicsTraining` on recorded transitions [B, .], the same for every member, but for its logvar_loss_coef."""
        obss = recorded["observations"]
        inputs = self.dynamics.scaler.transform_tensor(torch.cat([obss, recorded["actions"]], -1))
        targets = torch.cat([recorded["next_observations"] - obss, recorded["rewards"]], -1)
        return self.dynamics._loss(inputs, targets, LOGVAR_LOSS_COEF)

    def _q(self, obss: Tensor, actions: Tensor) -> Tensor:
        """min_i Q_i(s, a), [B, 1]."""
        q: Tensor = torch.min(self.critic1(obss, actions), self.critic2(obss, actions))
        return q

    def _value(self, obss: Tensor) -> Tensor:
        """V(s) = min_i Q_i(s, mode of pi(s)), [B, 1], with the entropy's term where include_ent_in_adv."""
        actions, log_prob = self.actforward(obss, deterministic=True)
        value = self._q(obss, actions)
        return value - self._alpha * log_prob if self._include_ent_in_adv else value


def mixture_log_prob(mean: Tensor, std: Tensor, sample: Tensor) -> Tensor:
    """log of the mean over members of Normal(mean, std)(sample): mean and std [members, B, outputs], sample [B, outputs] -> [B, 1]."""
    log_prob = Normal(mean, std).log_prob(sample).sum(-1, keepdim=True)
    return torch.logsumexp(log_prob, 0) - math.log(len(mean))
