"""Data alignment in front of a host policy's learning: the reward becomes r - alpha ell."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from offlinerlkit_damo.damo.alignment import Batch, DataAlignment
from offlinerlkit_damo.damo.misfits import require, sizes
from offlinerlkit_damo.damo.terms import Terms
from offlinerlkit_damo.errors import UserError


class DataAligned(Terms):
    """Mixed into any host policy whose `learn` takes {"real", "fake"}: trains the classifier, refines the rewards, then lets it learn.

    `DAMOTrainer` provides the classifier's own samples as batch["classifier"]; without them it learns from the batch itself.

    Raises UserError for a host policy without the networks that tell the sizes (`misfits.sizes`), without `dynamics`, whose scaler
    standardises the classifier's inputs, or without `_gamma` where an absorbing state is valued; and in a step for a batch of other sizes.
    """

    ATTRIBUTES: ClassVar = ("data_alignment", "_standardised", "_ratio_due")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.config
        needed = {"actor": True, "dynamics": config.data_alignment and config.classifier_normalize, "_gamma": config.absorbing}
        require(self, *(name for name, needs in needed.items() if needs))
        self.data_alignment = DataAlignment(self.config, *sizes(self), next(self.actor.parameters()).device)
        self._standardised = False
        self._ratio_due = False

    def learn(self, batch: dict[str, Any]) -> dict[str, float]:
        """One step of the classifier and of the host policy on refined rewards; returns both's figures (docs/metrics.md)."""
        if not self.config.data_alignment:
            return super().learn(batch)
        real, fake = self._parts(batch)
        self._check_sizes(real)
        # not every step updates the classifier: after a step that diagnoses its next figures are due
        self._ratio_due = self._ratio_due or self._diagnoses
        shown = self._shown(self._learn_ratio(batch), due=self._ratio_due)
        if shown:
            self._ratio_due = False
        figures: dict[str, Tensor] = {}
        refined = self._refined(real, fake, figures)
        shown |= self._shown(figures)
        return {**shown, **super().learn({**batch, **refined})}

    def _learn_ratio(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        if self.config.classifier_normalize and not self._standardised:
            self._standardise()
        figures: dict[str, Tensor] = {}
        for sample in batch.get("classifier", [batch] * self.data_alignment.updates_due()):
            figures = self.data_alignment.update(sample["real"], sample["fake"], diagnose=self._ratio_due)
        self.data_alignment.advance()
        return figures

    def _check_sizes(self, rows: Batch) -> None:
        made = self.data_alignment.obs_dim, self.data_alignment.action_dim
        found = rows["observations"].shape[-1], rows["actions"].shape[-1]
        if found != made:
            raise UserError(
                f"{type(self).__name__}'s networks are for observations and actions of sizes {made}, its batches have {found}; if "
                "the networks were misread, give the policy the attributes obs_dim and action_dim"
            )

    def _standardise(self) -> None:
        # the dynamics' scaler knows the dataset's statistics; it is fitted after the policy is built, so this waits for the first step
        scaler: Any = getattr(self.dynamics, "scaler", None)
        if getattr(scaler, "mu", None) is None:
            raise UserError(
                f"{type(self).__name__} standardises the classifier's inputs by its dynamics' scaler, which has no statistics yet; "
                "train or load the dynamics first"
            )
        device, obs_dim = self.data_alignment.centre.device, self.data_alignment.obs_dim
        mean, std = (torch.as_tensor(x, dtype=torch.float32, device=device).flatten() for x in (scaler.mu, scaler.std))
        self.data_alignment.set_statistics((mean[:obs_dim], std[:obs_dim]), (mean[obs_dim:], std[obs_dim:]))
        self._standardised = True

    def _refined(self, real: Batch, fake: Batch, figures: dict[str, Tensor]) -> dict[str, Batch]:
        """Both parts of the batch with rewards r - alpha ell, plus gamma V_abs at terminals where the absorbing state is valued."""
        config, num_real = self.config, len(real["rewards"])
        rewards = torch.cat([real["rewards"], fake["rewards"]])
        real_share = num_real / len(rewards)
        ell = self.data_alignment.log_ratio(
            *(torch.cat([real[key], fake[key]]) for key in ("observations", "actions", "next_observations")),
            real_share=real_share,
        )
        figures["damo/ell_real"], figures["damo/ell_fake"] = ell[:num_real], ell[num_real:]
        refined = rewards - config.damo_alpha * self.data_alignment.centred(ell, num_real).unsqueeze(-1)
        if config.absorbing:
            value = self.data_alignment.absorbing_value(real, fake, self._gamma, real_share=real_share)
            figures["damo/absorbing_value"] = value
            refined = refined + self._gamma * torch.cat([real["terminals"], fake["terminals"]]) * value
        figures["damo/refined_reward_real"], figures["damo/refined_reward_fake"] = refined[:num_real], refined[num_real:]
        return {"real": {**real, "rewards": refined[:num_real]}, "fake": {**fake, "rewards": refined[num_real:]}}
