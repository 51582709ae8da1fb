"""RoutedDynamics: the host's ensemble, trained without copies of the data and rolled out one elite per row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from offlinerlkit_damo.engine.adam import fused_step
from offlinerlkit_damo.engine.likelihood import EnsembleLikelihood
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import EnsembleDynamics, Logger

MAX_HOLDOUT = 1000  # rows, as the host's
MIN_IMPROVEMENT = 0.01  # of the best holdout loss so far, for a member's weights to be saved, as the host's
CHUNK = 1024  # rows of a member in a rollout's forward pass: their activations stay in the processor's cache
WARMUP_STEPS = 1000  # of the cosine schedule; a tenth of the training where that is shorter


class RoutedDynamics(EnsembleDynamics):
    """The host's dynamics, faster.

    `train` computes what the host's does, but gathers each member's rows from one copy of the data, adds the weight decay to the gradient
    directly and keeps its figures on the device until an epoch ends; the learning rate may follow a schedule. `step` is routed: rows are
    dealt at random and evenly to the elites, one forward pass each. The host evaluates all members on all rows and then picks one elite
    per row; without an uncertainty penalty the rest is thrown away. Every row's elite is uniform here too; only the group sizes,
    multinomial there, are equal. MOPO's penalty needs all members, in pieces that fit the cache; the host's step is used for its other
    uncertainties.
    """

    def train(
        self,
        data: dict[str, np.ndarray],
        logger: Logger | None = None,
        max_epochs: int | None = None,
        max_epochs_since_update: int = 5,
        batch_size: int = 256,
        holdout_ratio: float = 0.2,
        logvar_loss_coef: float = 0.01,
        *,
        lr_schedule: str = "constant",
    ) -> None:
        """Fit the ensemble by maximum likelihood: bootstraps, early stop per member and elites are the host's (MBPO: Janner et al. 2019).

        `lr_schedule`: "constant", or "cosine" from the optimiser's rate to 0 over `max_epochs`, after a linear warm-up. The logged
        training loss has the weight decay of the epoch's end, not its mean. Raises FloatingPointError if fewer than num_elites members
        have a finite holdout loss, ValueError for too few rows or a cosine without `max_epochs`.
        """
        x, y, training, held = self._tensors(data, holdout_ratio)
        held_inputs, held_targets = x[held].cpu().numpy(), y[held].cpu().numpy()
        members = self.model.num_ensemble
        rows = training[torch.randint(len(training), (members, len(training)), device=x.device)]  # [E, N] a bootstrap per member
        steps = max_epochs and max_epochs * math.ceil(len(training) / batch_size)
        rates = map(learning_rate(lr_schedule, steps), count())
        best, stale = [1e10] * members, 0
        if logger is not None:
            logger.log("Training dynamics:")
        for epoch in count(1):
            for row in rows:
                row.copy_(row[torch.randperm(len(row), device=row.device)])
            train_loss = self._epoch(x, y, rows.split(batch_size, 1), logvar_loss_coef, rates)
            losses = self.validate(held_inputs, held_targets)
            if logger is not None:
                logger.logkv("loss/dynamics_train_loss", train_loss)
                logger.logkv("loss/dynamics_holdout_loss", float(np.sort(losses)[: self.model.num_elites].mean()))
                logger.set_timestep(epoch)
                logger.dumpkvs(exclude=["policy_training_progress"])
            improved = [i for i, loss in enumerate(losses) if (best[i] - loss) / best[i] > MIN_IMPROVEMENT]
            for i in improved:
                best[i] = losses[i]
            self.model.update_save(improved)
            stale = 0 if improved else stale + 1
            if stale >= max_epochs_since_update or epoch == max_epochs:
                break
        self._keep_best(best, logger)

    def _tensors(self, data: dict[str, np.ndarray], holdout_ratio: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Standardised inputs [N, d + a] and targets [N, d + 1] on the device, and the row numbers to train on and to hold out."""
        inputs, targets = self.format_samples_for_training(data)
        held = min(int(len(inputs) * holdout_ratio), MAX_HOLDOUT)
        if not 0 < held < len(inputs):
            raise ValueError(f"holdout_ratio={holdout_ratio} of {len(inputs)} rows leaves {held} to hold out")
        order = torch.randperm(len(inputs)).int()
        self._fit_scaler(inputs, order[held:].numpy(), obs_dim=targets.shape[1] - 1)
        inputs -= self.scaler.mu
        inputs /= self.scaler.std
        # not the elites' own device: the host's set_elites leaves them on the CPU
        device = self.model.max_logvar.device
        x, y = (torch.as_tensor(array, dtype=torch.float32, device=device) for array in (inputs, targets))
        order = order.to(device)
        return x, y, order[held:], order[:held]

    def _fit_scaler(self, inputs: np.ndarray, rows: np.ndarray, obs_dim: int) -> None:
        """The scaler's fit on these rows, a column at a time: on all at once it takes twice their memory.

        A column of observations that never varies has an infinite deviation, so that the model, and a classifier that standardises by it,
        see nothing of it: the model's noise there, which no recorded row has, would tell imagined rows from recorded ones. One of actions
        has a deviation of 1, as the host's; the host's own fit takes the rounding error of a constant such as 0.1 for its deviation.
        """
        statistics = []
        for column in range(inputs.shape[1]):
            values = inputs[rows, column : column + 1]
            self.scaler.fit(values)
            if np.ptp(values) == 0:
                self.scaler.std = np.full_like(self.scaler.std, np.inf if column < obs_dim else 1)
            statistics.append((self.scaler.mu, self.scaler.std))
        self.scaler.mu, self.scaler.std = (np.concatenate(values, 1) for values in zip(*statistics, strict=True))

    def _epoch(self, x: Tensor, y: Tensor, batches: tuple[Tensor, ...], logvar_loss_coef: float, rates: Iterator[float]) -> float:
        """One pass over `batches` of row numbers [E, B], each at its factor of the learning rate; returns the mean loss."""
        model: Any = self.model
        model.train()
        likelihood = EnsembleLikelihood(model, logvar_loss_coef)
        total = torch.zeros((), device=x.device)
        with decay_by(self.optim, model):
            base = [group["lr"] for group in self.optim.param_groups]
            for rows, factor in zip(batches, rates, strict=False):
                for group, rate in zip(self.optim.param_groups, base, strict=True):
                    group["lr"] = factor * rate
                inputs, targets = (z.index_select(0, rows.flatten()).unflatten(0, rows.shape) for z in (x, y))
                total += likelihood.backward(inputs, targets)
                fused_step(self.optim)
        return float(total / len(batches) + model.get_decay_loss().detach())

    def _keep_best(self, best: list[float], logger: Logger | None) -> None:
        """Put every member's saved weights back in use, name the elites and save the model beside the log."""
        elites = self.select_elites(best)
        self.model.load_save()
        self.model.set_elites(elites)
        self.model.eval()
        if best[elites[-1]] >= 1e10:
            raise FloatingPointError("the dynamics diverged: too few finite holdout losses; lower the learning rate")
        if logger is not None:
            each = ", ".join(f"{best[i]:.6g}" for i in elites)
            logger.log(f"elites:{elites} , holdout loss: {np.mean([best[i] for i in elites])} ({each})")
            self.save(logger.model_dir)

    @torch.no_grad()
    def step(self, obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """obs [B, d], action [B, a] -> next_obs f32 [B, d], reward f32 [B, 1], terminal bool [B, 1], info of [B, 1] each.

        The info has "raw_reward" and, where there is one, "penalty".
        """
        if self._penalty_coef and self._uncertainty_mode != "aleatoric":
            result: tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]] = super().step(obs, action)
            return result
        inputs = self.scaler.transform(np.concatenate([obs, action], -1))
        device = self.model.max_logvar.device
        elites = self.model.elites.long().to(device)
        elites = elites[torch.as_tensor(np.random.permutation(len(elites)), device=device)]  # the last of them may get a row less
        order = np.random.permutation(len(obs))
        padded = np.resize(order, -(-len(obs) // len(elites)) * len(elites))
        x = torch.as_tensor(inputs[padded], dtype=torch.float32, device=device).reshape(len(elites), -1, inputs.shape[-1])
        parts = [self.sample(rows, elites) for rows in x.split(CHUNK, 1)]
        outputs, penalty = (torch.cat(values, 1).flatten(0, 1).cpu().numpy() for values in zip(*parts, strict=True))
        sample, info = np.empty((len(obs), outputs.shape[-1]), np.float32), {}
        sample[order] = outputs[: len(obs)]
        next_obs, reward = obs + sample[:, :-1], sample[:, -1:]
        terminal = self.terminal_fn(obs, action, next_obs)
        info["raw_reward"] = reward
        if self._penalty_coef:
            info["penalty"] = np.empty((len(obs), 1), np.float32)
            info["penalty"][order] = penalty[: len(obs)]
            reward = reward - np.float32(self._penalty_coef) * info["penalty"]
        return next_obs.astype(np.float32), reward, terminal, info

    def sample(self, x: Tensor, elites: Tensor) -> tuple[Tensor, Tensor]:
        """A sample [M, n, d + 1] of each elite on its own rows x [M, n, d + a], and MOPO's penalty of these rows [M, n, 1].

        The penalty is the largest norm of any member's deviation (Yu et al. 2020, as in the host), and 0 where none is asked for.
        """
        if not self._penalty_coef:
            mean, logvar = self._forward(x, elites)
            penalty = torch.zeros_like(mean[..., :1])
        else:
            means, logvars = self._forward(x.flatten(0, 1).expand(self.model.num_ensemble, -1, -1))
            penalty = torch.linalg.vector_norm(torch.exp(0.5 * logvars), dim=-1, keepdim=True).amax(0).unflatten(0, x.shape[:2])
            each = torch.arange(len(elites), device=x.device)
            mean, logvar = (values.unflatten(1, x.shape[:2])[elites, each] for values in (means, logvars))
        return mean + torch.exp(0.5 * logvar) * torch.randn_like(mean), penalty

    def _forward(self, x: Tensor, members: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance [M, n, d + 1] of all or the given members, each on its own rows x [M, n, d + a]."""
        model: Any = self.model
        *hidden, out = (
            (layer.weight, layer.bias) if members is None else (layer.weight[members], layer.bias[members])
            for layer in (*model.backbones, model.output_layer)
        )
        for weight, bias in hidden:
            x = torch.baddbmm(bias, x, weight)
            x = functional.silu(x, inplace=not x.requires_grad)
        mean, logvar = torch.baddbmm(out[1], x, out[0]).chunk(2, -1)
        logvar = model.max_logvar - functional.softplus(model.max_logvar - logvar)
        return mean, model.min_logvar + functional.softplus(logvar - model.min_logvar)


@contextmanager
def decay_by(optim: torch.optim.Optimizer, model: Any) -> Iterator[None]:
    """Let `optim` add the decay of the model's weights, the gradient of decay |weight|^2 / 2, and put its groups back in the end."""
    if type(optim) is not torch.optim.Adam:
        raise UserError(f"the dynamics train with torch.optim.Adam, whose decay is part of the gradient; this is {optim}")
    groups = optim.param_groups
    decays = {layer.weight: layer.weight_decay for layer in (*model.backbones, model.output_layer)}
    by_decay: list[dict[str, Any]] = []
    for group in groups:
        for decay in {decays.get(p, 0.0) for p in group["params"]}:
            params = [p for p in group["params"] if decays.get(p, 0.0) == decay]
            by_decay.append({**group, "params": params, "weight_decay": group["weight_decay"] + decay})
    optim.param_groups = by_decay
    try:
        yield
    finally:
        optim.param_groups = groups


def learning_rate(schedule: str, steps: int | None) -> Callable[[int], float]:
    """The factor of the learning rate at each step of a training of `steps`."""
    if schedule == "constant":
        return lambda step: 1.0
    if steps is None:
        raise ValueError(f"the schedule {schedule!r} needs max_epochs, the epochs it falls to 0 over")
    warmup = min(WARMUP_STEPS, steps // 10)
    return lambda step: min(1.0, (step + 1) / (warmup + 1)) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
