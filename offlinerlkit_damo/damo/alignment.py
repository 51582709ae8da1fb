"""Data alignment as one part: owns the classifier, trains it, and turns transitions into ell."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from offlinerlkit_damo.config import DAMOConfig
from offlinerlkit_damo.damo.classifier import Logits, RatioClassifier, classifier_loss, gradient_penalty, log_ratio

Batch = Mapping[str, Tensor]
"""A sample of the host's replay buffer: observations, actions, next_observations, rewards, terminals."""

CENTRE_RATE = 1e-2
"""Least step of the running mean of ell on fake data: about the last hundred batches."""
COUNT_DECAY = 1e-4
"""Share of the terminal counts forgotten a batch: terminals are rare, one in a few hundred transitions."""
TERMINAL_PRIOR = 1.0, 1000.0
"""Terminals and transitions that both kinds of data start with, so that their ratio starts at one."""


class DataAlignment(nn.Module):
    """log(rho_M / rho_T) of transitions, learned beside the policy, and what the objective derives from the two kinds of data.

    Its `state_dict` holds the classifier and the running statistics; the optimiser is its own (`optim`).
    """

    centre: Tensor
    centre_batches: Tensor
    terminal_counts: Tensor

    def __init__(self, config: DAMOConfig, obs_dim: int, action_dim: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.config, self.obs_dim, self.action_dim = config, obs_dim, action_dim
        self.classifier = RatioClassifier(2 * obs_dim + action_dim, config.classifier_hidden_dims)
        self.logits: Logits = self.classifier.__call__
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("centre_batches", torch.zeros(()))
        self.register_buffer("terminal_counts", torch.tensor([TERMINAL_PRIOR, TERMINAL_PRIOR]))  # fake, real: (terminals, transitions)
        self.to(device)
        self.optim = torch.optim.Adam(self.classifier.parameters(), lr=config.classifier_lr, fused=True)
        self._credit = 0.0

    def get_extra_state(self) -> Tensor:
        """The fraction of a classifier update owed, for `state_dict`; a number, since reading a device's buffer waits for it."""
        return torch.tensor(self._credit, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what `get_extra_state` gave."""
        self._credit = float(state)

    def set_statistics(self, obs_stats: tuple[Tensor, Tensor], action_stats: tuple[Tensor, Tensor]) -> None:
        """(mean, std) of the dataset's observations [d] and actions [a], by which the classifier's inputs are standardised."""
        mean, std = (torch.cat([obs, action, obs]) for obs, action in zip(obs_stats, action_stats, strict=True))
        self.classifier.set_statistics(mean, std)

    def updates_due(self) -> int:
        """How many classifier updates the next policy step owes: `classifier_updates_per_step` may be a fraction."""
        if not self.config.data_alignment:
            return 0
        return int(self._credit + self.config.classifier_updates_per_step)

    def advance(self) -> None:
        """Count one policy step."""
        self._credit += self.config.classifier_updates_per_step - self.updates_due()

    def update(self, real: Batch, fake: Batch, *, diagnose: bool = True) -> dict[str, Tensor]:
        """One optimiser step on transitions of both kinds (n_R and n_M may differ); returns loss and accuracy if it is to `diagnose`."""
        noise = self.config.classifier_input_noise
        inputs = [self.classifier.standardise(b["observations"], b["actions"], b["next_observations"]) for b in (fake, real)]
        if noise > 0:
            inputs = [x + noise * torch.randn_like(x) for x in inputs]
        fake_logits, real_logits = self.descend(*inputs)
        if not diagnose:
            return {}
        with torch.no_grad():
            loss = classifier_loss(fake_logits, real_logits, label_smoothing=self.config.classifier_label_smoothing)
            # balanced over the two kinds, so that an uneven batch does not make a constant guess look good
            accuracy = ((fake_logits > 0).float().mean() + (real_logits <= 0).float().mean()) / 2
        return {"loss/classifier": loss, "damo/classifier_accuracy": accuracy}

    def descend(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """One optimiser step on standardised inputs [n, 2d + a] of either kind; returns the logits that it was computed from."""
        config = self.config
        fake_logits, real_logits = self.logits(torch.cat([fake, real])).split([len(fake), len(real)])
        objective = classifier_loss(fake_logits, real_logits, label_smoothing=config.classifier_label_smoothing)
        if config.classifier_gradient_penalty > 0:
            objective = objective + config.classifier_gradient_penalty * gradient_penalty(self.classifier, fake, real)
        self.optim.zero_grad(set_to_none=False)
        objective.backward()
        self.optim.step()
        return fake_logits, real_logits

    @torch.no_grad()
    def log_ratio(self, obss: Tensor, actions: Tensor, next_obss: Tensor, *, real_share: float) -> Tensor:
        """ell [B]; `real_share` is the share of real data in the objective's batches, read in ratio mode "mixture"."""
        return self._ell(self.logits(self.classifier.standardise(obss, actions, next_obss)), real_share)

    def _ell(self, logits: Tensor, real_share: float) -> Tensor:
        mixed = real_share if self.config.ratio_mode == "mixture" else 0.0
        return log_ratio(logits, real_share=mixed, logit_clip=self.config.logit_clip)

    def centred(self, ell: Tensor, num_real: int) -> Tensor:
        """ell minus its running mean on fake data (rows from `num_real` on): drops the offset that no action can change."""
        if not self.config.ratio_centering:
            return ell
        self.centre_batches.add_(1)
        # a plain mean of all batches until there are a hundred
        self.centre.lerp_(ell[num_real:].mean(), (1 / self.centre_batches).clamp(min=CENTRE_RATE))
        return ell - self.centre

    def absorbing_value(self, real: Batch, fake: Batch, gamma: float, *, real_share: float) -> Tensor:
        """V_abs = -alpha ell_abs / (1 - gamma), the refined return of staying terminated for ever, a scalar.

        ell_abs is the log-ratio of the absorbing state's share gamma p / (1 - gamma + gamma p) of the discounted occupancy under the
        model and in the data, p being each one's terminal rate; mixed, clipped and centred like every other ell (`log_ratio`).
        """
        seen = torch.stack([torch.stack([x["terminals"].sum(), torch.ones_like(x["terminals"]).sum()]) for x in (fake, real)])
        self.terminal_counts.mul_(1 - COUNT_DECAY).add_(seen)
        flow = gamma * self.terminal_counts[:, 0] / self.terminal_counts[:, 1]
        share = flow / (1 - gamma + flow)
        ell = self._ell((share[0] / share[1]).log(), real_share)
        return -self.config.damo_alpha * (ell - self.centre) / (1 - gamma)
