"""Maximum-likelihood training of the ensemble with early stopping per member (MBPO: Janner et al. 2019, appendix)."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .dynamics_model import EnsembleDynamicsModel
from .logger import Logger
from .scaler import StandardScaler

Array = NDArray[Any]
MAX_HOLDOUT = 1000  # rows
MIN_IMPROVEMENT = 0.01  # of the best holdout loss so far, for a member's weights to be saved
HOLDOUT_CHUNK = 4096  # rows per forward pass of the holdout


class DynamicsTraining:
    """The training half of `EnsembleDynamics`.

    Attributes:
        holdout_losses: after `train`, the holdout mean squared error of every member's weights in use, [E].
    """

    def __init__(self, model: EnsembleDynamicsModel, optim: torch.optim.Optimizer, scaler: StandardScaler) -> None:
        self.model = model
        self.optim = optim
        self.scaler = scaler
        self.holdout_losses: list[float] = []

    def format_samples_for_training(self, data: dict[str, Array]) -> tuple[Array, Array]:
        """Buffer columns -> inputs (obs, action) [N, d+A] and targets (next_obs - obs, reward) [N, d+1]."""
        rewards = data["rewards"].reshape(len(data["rewards"]), 1)
        inputs = np.concatenate([data["observations"], data["actions"]], axis=-1)
        targets = np.concatenate([data["next_observations"] - data["observations"], rewards], axis=-1)
        return inputs, targets

    def train(
        self,
        data: dict[str, Array],
        logger: Logger | None = None,
        max_epochs: int | None = None,
        max_epochs_since_update: int = 5,
        batch_size: int = 256,
        holdout_ratio: float = 0.2,
        logvar_loss_coef: float = 0.01,
    ) -> None:
        """Fit the ensemble: each member on its own bootstrap of the data, until no holdout loss improves.

        A member's weights are saved when its holdout loss falls by 1%. Training ends after `max_epochs`, or after
        `max_epochs_since_update` epochs without such a fall; the saved weights are then put back, and the members with
        the lowest holdout losses become the elites.

        Args:
            data: as `ReplayBuffer.sample_all` returns it.
            logger: takes `loss/dynamics_train_loss` and `loss/dynamics_holdout_loss` (mean over the best num_elites)
                per epoch; its model_dir receives the result (`save`).
            holdout_ratio: share of the data held out, at most 1000 rows.
            logvar_loss_coef: weight of the spread between the bounds of the log-variance in the loss.

        Raises:
            ValueError: too few rows to hold any out.
            FloatingPointError: the holdout loss of fewer than num_elites members is finite.
        """
        inputs, targets, holdout_inputs, holdout_targets = self._split(data, holdout_ratio)
        rows = torch.randint(len(inputs), (self.model.num_ensemble, len(inputs)))  # [E, N] a bootstrap per member
        best = [1e10] * self.model.num_ensemble
        stale = 0
        if logger is not None:
            logger.log("Training dynamics:")
        for epoch in count(1):
            shuffled = torch.stack([row[torch.randperm(len(row))] for row in rows])
            train_loss = self.learn(inputs, targets, batch_size, logvar_loss_coef, index=shuffled)
            losses = self.validate(holdout_inputs, holdout_targets)
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
            if stale >= max_epochs_since_update or (max_epochs is not None and epoch >= max_epochs):
                break
        self._finish(best, logger)
        if logger is not None:
            self.save(logger.model_dir)

    def save(self, save_path: str) -> None:
        """Write the model and the scaler into the folder `save_path`."""
        raise NotImplementedError

    def _finish(self, best: list[float], logger: Logger | None) -> None:
        elites = self.select_elites(best)
        if best[elites[-1]] >= 1e10:
            raise FloatingPointError("the dynamics diverged: too few finite holdout losses; lower the learning rate")
        self.model.load_save()
        self.model.set_elites(elites)
        self.holdout_losses = best
        self.model.eval()
        if logger is not None:
            each = ", ".join(f"{best[i]:.6g}" for i in elites)
            logger.log(f"elites:{elites} , holdout loss: {np.mean([best[i] for i in elites])} ({each})")

    def _split(self, data: dict[str, Array], holdout_ratio: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training and holdout tensors on the model's device; the scaler is fitted on the training inputs."""
        inputs, targets = self.format_samples_for_training(data)
        held = min(int(len(inputs) * holdout_ratio), MAX_HOLDOUT)
        if held < 1 or held >= len(inputs):
            raise ValueError(f"holdout_ratio={holdout_ratio} of {len(inputs)} rows leaves {held} to hold out")
        order = torch.randperm(len(inputs)).numpy()
        training, holdout = order[held:], order[:held]
        self.scaler.fit(inputs[training])
        arrays = (
            self.scaler.transform(inputs[training]),
            targets[training],
            self.scaler.transform(inputs[holdout]),
            targets[holdout],
        )
        a, b, c, d = (torch.as_tensor(x, dtype=torch.float32, device=self.model.device) for x in arrays)
        return a, b, c, d

    def learn(
        self,
        inputs: Array | Tensor,
        targets: Array | Tensor,
        batch_size: int = 256,
        logvar_loss_coef: float = 0.01,
        *,
        index: Tensor | None = None,
    ) -> float:
        """One pass over the data in mini-batches; returns the mean loss.

        Args:
            inputs, targets: [E, n, .], rows of their own per member; or [N, .] with `index`.
            index: [E, n], the rows of each member.
        """
        self.model.train()
        x, y = (torch.as_tensor(z, dtype=torch.float32, device=self.model.device) for z in (inputs, targets))
        length = x.shape[1] if index is None else index.shape[1]
        losses = []
        for start in range(0, length, batch_size):
            batch = slice(start, start + batch_size)
            if index is None:
                loss = self._loss(x[:, batch], y[:, batch], logvar_loss_coef)
            else:
                rows = index[:, batch].to(x.device)
                loss = self._loss(x[rows], y[rows], logvar_loss_coef)
            self.optim.zero_grad()
            loss.backward()
            self.optim.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def _loss(self, inputs: Tensor, targets: Tensor, logvar_loss_coef: float) -> Tensor:
        """Gaussian negative log-likelihood (without constants) summed over members, decay, and the bounds' spread."""
        mean, logvar = self.model(inputs)
        nll = ((mean - targets).square() * torch.exp(-logvar) + logvar).mean(dim=(1, 2)).sum()
        spread = self.model.max_logvar.sum() - self.model.min_logvar.sum()
        loss: Tensor = nll + self.model.get_decay_loss() + logvar_loss_coef * spread
        return loss

    @torch.no_grad()
    def validate(self, inputs: Array | Tensor, targets: Array | Tensor) -> list[float]:
        """Mean squared error of every member on inputs [n, d+A] and targets [n, outputs]: E values."""
        self.model.eval()
        x, y = (torch.as_tensor(z, dtype=torch.float32, device=self.model.device) for z in (inputs, targets))
        total = torch.zeros(self.model.num_ensemble, dtype=torch.float64, device=x.device)
        for xs, ys in zip(torch.split(x, HOLDOUT_CHUNK), torch.split(y, HOLDOUT_CHUNK), strict=True):
            mean, _ = self.model(xs)
            total += (mean - ys).square().sum(dim=(1, 2), dtype=torch.float64)
        return [float(value) for value in total / y.numel()]

    def select_elites(self, metrics: list[float]) -> list[int]:
        """The num_elites members with the lowest holdout losses, best first."""
        order = np.argsort(metrics, kind="stable")
        return [int(i) for i in order[: self.model.num_elites]]
