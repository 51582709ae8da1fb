"""Fleet: the learning step of DAMO for R runs at once, on stacked networks and one table of all their transitions.

The losses are `damo.objective`'s and `damo.classifier`'s, over a leading dimension of runs, and their gradients `engine.gradients`', as
those of a single run; what differs between the runs is a tensor [R]. The step reads its random numbers from static tensors, leaves
nothing behind but what it updates, and never waits for the device: on CUDA it is captured as a graph. Each run's numbers are drawn apart
from the others', so it does not depend on who trains beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offlinerlkit_damo.config import DAMOConfig
from offlinerlkit_damo.damo import objective
from offlinerlkit_damo.damo.classifier import classifier_loss, gradient_penalty, log_ratio
from offlinerlkit_damo.damo.divergences import get_divergence
from offlinerlkit_damo.engine.buffer import DeviceReplayBuffer
from offlinerlkit_damo.engine.fleet_networks import FleetAdam, FleetNetworks
from offlinerlkit_damo.engine.gradients import actor_gradient, classifier_gradient, critic_gradient
from offlinerlkit_damo.engine.graph import Captured

Draws = dict[str, Tensor]
"""Random numbers of one run's steps: "rows" (integers that choose transitions), "normal", and for a gradient penalty "mix" (uniform)."""

LARGE = 2**62
"""Rows are chosen by an integer below this, modulo their number, which may change between the draw and the step."""

PER_RUN = ("damo_alpha", "actor_alpha", "init_coef")
"""DAMO's options that may differ between the runs of a fleet."""

MISSING: dict[str, Any] = {
    "data_alignment": False, "behavior_alignment": False, "actor_mode": "sac", "grad_mode": "orthogonal", "absorbing": True,
    "ratio_centering": True,
}  # fmt: skip
"""Values of DAMO's options that a fleet does not have, beside noise on the classifier's inputs."""


@dataclass(frozen=True)
class Member:
    """One run of a fleet: its policy (a DAMOPolicy on the host's modules) and its data, as its trainer holds them.

    Two runs may share the real buffer. `init_obss` [n, d] are the states s0 is drawn from, None for those of the real buffer.
    """

    policy: Any
    real: DeviceReplayBuffer
    fake: DeviceReplayBuffer
    init_obss: Tensor | None = None


@dataclass(frozen=True)
class Batches:
    """Rows in a step of one run: of the batch's two parts, initial states, and of either kind in a classifier update."""

    real: int
    fake: int
    init: int
    ratio: int

    @property
    def size(self) -> int:
        """Rows of the batch."""
        return self.real + self.fake


def unsupported(config: DAMOConfig) -> str | None:
    """The first option of DAMO that a fleet does not have, with its value; None if it can train all of this."""
    for name, value in MISSING.items():
        if getattr(config, name) == value:
            return f"{name} {str(value).lower()}"
    return "classifier_input_noise" if config.classifier_input_noise > 0 else None


class Fleet:
    """R policies that learn in one step; `hand_back` brings the policies themselves up to date.

    The policies' modules and optimisers are theirs throughout; a policy is restored, if need be, after `networks` is made and before this.
    Shapes: R runs, B rows of a batch (real first, then fake), E critics, d and a the sizes of observation and action.

    Args:
        members: the runs, which have one DAMOConfig but for `PER_RUN`.
        networks: the policies' networks, stacked.
        batches: rows in a step.
        average: horizon of the actors' running means (`training.averaging`), 0 for none.
        diagnose_every: figures are computed in the first of so many steps.
        capture: whether a CUDA device runs the step as a graph.

    Attributes:
        inputs: the random numbers of the next step, [R, ...] each, to be filled before it (`keep` and `take`).
    """

    def __init__(
        self,
        members: Sequence[Member],
        networks: FleetNetworks,
        batches: Batches,
        *,
        average: int = 0,
        diagnose_every: int = 1,
        capture: bool = True,
    ) -> None:
        self._policies = [member.policy for member in members]
        self._fakes = [member.fake for member in members]
        self._networks, self._batches, self._diagnose_every = networks, batches, diagnose_every
        first = self._policies[0]
        self.config: DAMOConfig = first.config
        self._divergence = get_divergence(self.config.divergence, self.config.divergence_k)
        self._device, self._dtype = networks.actors.block.device, networks.actors.block.dtype
        self._max_updates = math.ceil(self.config.classifier_updates_per_step)
        self._steps, self._ratio_due, self._clock = first._steps, first._ratio_due, first.data_alignment
        self._action_dim = first.actor.dist_net.mu.out_features
        self._obs_dim = networks.actors.weights[0].shape[-1]
        self._read_constants()
        self._make_optimisers()
        self._make_table(members)
        self._horizon = average
        self._means, self._averaged = networks.actors.block.clone(), torch.zeros((), device=self._device)
        self.inputs = {name: draw.expand(len(members), *draw.shape[1:]).clone() for name, draw in self.draw(1).items()}
        self._sums: dict[str, Tensor] = {}  # of figures so far, f64 [F, R], by the part of the step that has them
        self._names: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}
        self._ahead: Draws = {}  # of all runs, [steps, R, ...] each
        self._captured = Captured(self._learn, self._device, enabled=capture)
        self.refresh()

    # ---- what is there before the first step -----------------------------------------------------------------------------------------

    def _read_constants(self) -> None:
        policies = self._policies

        def per_run(value: Callable[[Any], float]) -> Tensor:
            return torch.tensor([float(value(policy)) for policy in policies], dtype=self._dtype, device=self._device)

        self._alpha = per_run(lambda policy: policy.config.damo_alpha)
        self._actor_alpha = per_run(
            lambda policy: policy.config.damo_alpha if policy.config.actor_alpha is None else policy.config.actor_alpha
        )
        self._init_coef = per_run(lambda policy: policy.init_coef)
        self._gamma = per_run(lambda policy: policy._gamma)
        self._tau = per_run(lambda policy: policy._tau).repeat_interleave(2).unsqueeze(-1)
        self._temperature = per_run(lambda policy: policy._alpha)
        self._auto_alpha = bool(policies[0]._is_auto_alpha)
        if self._auto_alpha:
            self._target_entropy = per_run(lambda policy: policy._target_entropy)
            self._log_alpha = torch.stack([policy._log_alpha.detach() for policy in policies])  # [R, 1]
            self._log_alpha_grad = torch.zeros_like(self._log_alpha)
            for policy, value, grad in zip(policies, self._log_alpha, self._log_alpha_grad, strict=True):
                policy._log_alpha.data, policy._log_alpha.grad = value, grad
        for policy in policies:
            if self.config.classifier_normalize and not policy._standardised:
                policy._standardise()
        classifiers = [policy.data_alignment.classifier for policy in policies]
        self._centre, self._scale = (
            torch.stack([getattr(classifier, name) for classifier in classifiers]).unsqueeze(1) for name in ("input_mean", "input_std")
        )

    def _make_optimisers(self) -> None:
        policies = self._policies
        self._adam = {
            "actor": FleetAdam([policy.actor_optim for policy in policies]),
            "critics": FleetAdam([optim for policy in policies for optim in (policy.critic1_optim, policy.critic2_optim)]),
            "classifier": FleetAdam([policy.data_alignment.optim for policy in policies]),
        }
        if self._auto_alpha:
            self._adam["temperature"] = FleetAdam([policy.alpha_optim for policy in policies])

    def _make_table(self, members: Sequence[Member]) -> None:
        """One table of all rows, which the buffers' own become parts of, and for every row of a step where it may be drawn from."""
        buffers = list(dict.fromkeys(buffer for member in members for buffer in (member.real, member.fake)))
        starts = [member.init_obss for member in members if member.init_obss is not None]
        total = sum(buffer.capacity for buffer in buffers) + sum(map(len, starts))
        self._table = torch.zeros(total, buffers[0].width, device=self._device)
        places, end = {}, 0
        for buffer in buffers:
            places[buffer], begin, end = end, end, end + buffer.capacity
            buffer.move_to(self._table[begin:end])
        batches = self._batches
        kinds = [("real", batches.real), ("fake", batches.fake), ("init", batches.init)]
        kinds += [("real", batches.ratio), ("fake", batches.ratio)] * self._max_updates
        self._fake_rows = torch.tensor([kind == "fake" for kind, rows in kinds for _ in range(rows)], device=self._device)
        offsets: list[list[int]] = []
        numbers: list[list[int]] = []
        for member in members:
            place = {"real": (places[member.real], member.real.size), "fake": (places[member.fake], 1)}
            place["init"] = place["real"]
            if member.init_obss is not None:
                begin, end = end, end + len(member.init_obss)
                self._table[begin:end, : self._obs_dim] = member.init_obss
                place["init"] = begin, len(member.init_obss)
            for column, values in ((0, offsets), (1, numbers)):
                values.append([place[kind][column] for kind, rows in kinds for _ in range(rows)])
        self._offsets, self._numbers = (torch.tensor(values, device=self._device) for values in (offsets, numbers))

    # ---- between steps ---------------------------------------------------------------------------------------------------------------

    def draw(self, steps: int) -> Draws:
        """The random numbers of one run's next steps, [steps, ...] each, from torch's generator of the device."""
        batches, device = self._batches, self._device
        shape = steps, 2, batches.init + batches.size, self._action_dim
        draws = {
            "rows": torch.randint(LARGE, (steps, len(self._fake_rows)), device=device),
            "normal": torch.randn(shape, dtype=self._dtype, device=device),
        }
        if self.config.classifier_gradient_penalty > 0:
            draws["mix"] = torch.rand((steps, self._max_updates, batches.ratio, 1), dtype=self._dtype, device=device)
        return draws

    def keep(self, draws: Sequence[Draws]) -> None:
        """Hold every run's draws of some steps ready."""
        self._ahead = {name: torch.stack([of_run[name] for of_run in draws], 1) for name in self.inputs}

    def take(self, step: int) -> None:
        """Make those of the given one of these steps the next step's."""
        for name, numbers in self.inputs.items():
            numbers.copy_(self._ahead[name][step])

    def refresh(self) -> None:
        """Take note of the synthetic buffers' sizes, after rollouts, and of the optimisers' learning rates."""
        sizes = torch.tensor([[max(buffer.size, 1)] for buffer in self._fakes], device=self._device)
        self._numbers.copy_(torch.where(self._fake_rows, sizes, self._numbers))
        for adam in self._adam.values():
            adam.follow_rates()

    def forget(self, run: int) -> None:
        """Let the others' learning rates be theirs, not those of this run, which has ended."""
        optims = [x for module in self._policies[run].modules() for x in vars(module).values() if isinstance(x, torch.optim.Optimizer)]
        for adam in self._adam.values():
            adam.forget(optims)

    def step(self) -> None:
        """One step of classifiers, critics, actors and temperatures on `inputs`."""
        updates, shows = self._clock.updates_due(), self._steps % self._diagnose_every == 0
        # not every step updates the classifier: after a step that shows figures its next are due
        self._ratio_due = self._ratio_due or shows
        shows_ratio = self._ratio_due and updates > 0
        self._captured(updates, shows, shows_ratio)
        for part, shown in (("step", shows), ("ratio", shows_ratio)):
            self._counts[part] = self._counts.get(part, 0) + shown
        self._ratio_due = self._ratio_due and not shows_ratio
        self._clock.advance()
        self._steps += 1

    def collect(self) -> list[dict[str, tuple[float, int]]]:
        """The figures since the last call, of every run: the sum over the steps that had them, and how many those were."""
        found: list[dict[str, tuple[float, int]]] = [{} for _ in self._policies]
        for part, sums in self._sums.items():
            count = self._counts.pop(part, 0)
            if count:
                for name, values in zip(self._names[part], sums.tolist(), strict=True):
                    for figures, value in zip(found, values, strict=True):
                        figures[name] = value, count
            sums.zero_()
        return found

    def hand_back(self) -> None:
        """Bring what the policies keep beside weights and optimisers up to date: temperatures and counters."""
        for policy, temperature in zip(self._policies, self._temperature, strict=True):
            if self._auto_alpha:
                policy._alpha = temperature.reshape(1).clone()
            policy._steps, policy._ratio_due = self._steps, self._ratio_due
            policy.data_alignment.set_extra_state(self._clock.get_extra_state())

    def mean_actor(self, run: int, updates: int) -> list[Tensor]:
        """Where the mean of a run's actor is kept, parameter by parameter; `updates` have gone into it, into all runs' as many."""
        self._averaged.fill_(updates)
        return [self._means.as_strided(p.size(), p.stride(), p.storage_offset()) for p in self._policies[run].actor.parameters()]

    # ---- the step --------------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _learn(self, updates: int, shows: bool, shows_ratio: bool) -> None:
        batches, obs_dim = self._batches, self._obs_dim
        drawn = self._rows(batches.size + batches.init + 2 * batches.ratio * updates)
        mix, init_obss = drawn[:, : batches.size], drawn[:, batches.size : batches.size + batches.init, :obs_dim]
        ratio_rows = drawn[:, batches.size + batches.init :].unflatten(1, (updates, 2, batches.ratio)) if updates else drawn
        for update in range(updates):
            real, fake = ratio_rows[:, update].unbind(1)
            logits = self._classifier_step(real, fake, update)
            if shows_ratio and update == updates - 1:
                self._add_up("ratio", self._ratio_figures(*logits))

        obss, next_obss, actions, rewards, terminals = mix.split([obs_dim, obs_dim, self._action_dim, 1, 1], -1)
        figures: dict[str, Tensor] = {}
        ell = self._ell(mix, figures)
        refined = rewards.squeeze(-1) - self._alpha[:, None] * ell
        discounts = self._gamma[:, None] * (1 - terminals.squeeze(-1))
        figures["damo/refined_reward_real"], figures["damo/refined_reward_fake"] = refined[:, : batches.real], refined[:, batches.real :]
        # the actors are the same in both steps: one forward pass serves them, only the noise is drawn anew
        asked = torch.cat([init_obss, next_obss], 1)
        *inputs, outputs = self._networks.actors.forward(asked)
        phi = self._critic_step(obss, actions, next_obss, refined, discounts, init_obss, outputs, figures, shows)
        weights = self._divergence.actor_weight(phi / self._actor_alpha[:, None, None])
        if self.config.w_max is not None:
            weights = weights.clamp(max=self.config.w_max)
        if shows:
            self._weight_figures(phi, weights, discounts, figures)
        log_prob = self._actor_step(weights, discounts, asked, inputs, outputs, figures, shows)
        if self._auto_alpha:
            self._temperature_step(log_prob, figures)
        self._networks.old_critics.block.lerp_(self._networks.critics.block, self._tau)
        if self._horizon:
            self._averaged.add_(1)
            self._means.lerp_(self._networks.actors.block, (1 / self._averaged.clamp(max=self._horizon)).to(self._dtype))
        if shows:
            self._add_up("step", figures)

    def _rows(self, number: int) -> Tensor:
        """The step's first `number` transitions of every run, [R, number, 2d + a + 2]."""
        index = self.inputs["rows"][:, :number] % self._numbers[:, :number] + self._offsets[:, :number]
        rows: Tensor = self._table.index_select(0, index.flatten()).unflatten(0, index.shape)
        return rows.to(self._dtype)

    def _standardised(self, rows: Tensor) -> Tensor:
        """Rows [R, n, 2d + a + 2] as the classifiers see them, (s, a, s') [R, n, 2d + a]."""
        obss, next_obss, actions, _ = rows.split([self._obs_dim, self._obs_dim, self._action_dim, 2], -1)
        return (torch.cat([obss, actions, next_obss], -1) - self._centre) / self._scale

    def _classifier_step(self, real: Tensor, fake: Tensor, update: int) -> tuple[Tensor, Tensor]:
        """One step of the classifiers; returns the logits [R, n] of fake and real rows that it was computed from."""
        config, network = self.config, self._networks.classifiers
        kinds = [self._standardised(rows) for rows in (fake, real)]
        *inputs, outputs = network.forward(torch.cat(kinds, 1))
        fake_logits, real_logits = outputs.squeeze(-1).chunk(2, 1)
        grad = classifier_gradient(fake_logits, real_logits, label_smoothing=config.classifier_label_smoothing)
        network.backward(inputs, grad.unsqueeze(-1), frozen=False, want_input=False, accumulate=False)
        if config.classifier_gradient_penalty > 0:
            with torch.enable_grad():
                block, logits = network.differentiable()
                penalty = gradient_penalty(logits, *kinds, mix=self.inputs["mix"][:, update])
                (gradient,) = torch.autograd.grad(config.classifier_gradient_penalty * penalty.sum(), block)
            network.grads.add_(gradient)
        self._adam["classifier"].step()
        return fake_logits, real_logits

    def _ell(self, mix: Tensor, figures: dict[str, Tensor]) -> Tensor:
        batches, config = self._batches, self.config
        share = batches.real / batches.size if config.ratio_mode == "mixture" else 0.0
        logits = self._networks.classifiers.forward(self._standardised(mix))[-1].squeeze(-1)
        ell = log_ratio(logits, real_share=share, logit_clip=config.logit_clip)
        figures["damo/ell_real"], figures["damo/ell_fake"] = ell[:, : batches.real], ell[:, batches.real :]
        return ell

    def _critic_step(
        self,
        obss: Tensor,
        actions: Tensor,
        next_obss: Tensor,
        refined: Tensor,
        discounts: Tensor,
        init_obss: Tensor,
        outputs: Tensor,
        figures: dict[str, Tensor],
        shows: bool,
    ) -> Tensor:
        """Minimise L_Q; `outputs` are the actors' for s0 and s'. Returns the residuals Phi [R, E, B] it was computed from."""
        config, networks = self.config, self._networks
        num_init, size, share = init_obss.shape[1], obss.shape[1], config.next_share
        sample = networks.sample(outputs, self.inputs["normal"][:, 0])
        init_actions, next_actions = sample.actions.split([num_init, size], 1)
        # one forward pass for all the pairs the critics are asked about
        pairs = [(obss, actions), (init_obss, init_actions)]
        if share > 0:
            pairs.append((next_obss, next_actions))
        inputs, online = networks.q(*(torch.cat(parts, 1) for parts in zip(*pairs, strict=True)))
        q, init_q, next_q = online[..., :size], online[..., size : size + num_init], online[..., size + num_init :]
        if share < 1:
            target = networks.old_q(next_obss, next_actions)
            next_q = share * next_q + (1 - share) * target if share > 0 else target
        least = None
        if config.q_next == "min":
            next_q, least = next_q.min(-2, keepdim=True)
        if config.entropy_backup:
            next_q = next_q - (self._temperature[:, None] * sample.log_prob()[:, num_init:]).unsqueeze(1)
        refined, discounts, init_coef = refined.unsqueeze(1), discounts.unsqueeze(1), self._init_coef[:, None]
        phi = objective.bellman_residual(refined, discounts, next_q, q, target_floor=config.target_floor)
        slope = self._divergence.weight(phi / self._alpha[:, None, None])
        above = None if config.target_floor is None else refined + discounts * next_q >= config.target_floor
        grad = critic_gradient(slope, discounts, num_init=num_init, init_coef=init_coef[..., None], share=share, above=above, least=least)
        networks.critics_backward(inputs, grad)
        self._adam["critics"].step()
        if shows:
            losses = objective.critic_loss(self._divergence.conjugate, phi, init_q, alpha=self._alpha[:, None], init_coef=init_coef)
            figures |= {f"loss/critic{i}": loss for i, loss in enumerate(losses.unbind(1), 1)}
            figures |= {"damo/q_batch": q, "damo/q_init": init_q, "damo/phi": phi}
        return phi

    def _actor_step(
        self,
        weights: Tensor,
        discounts: Tensor,
        obss: Tensor,
        inputs: list[Tensor],
        outputs: Tensor,
        figures: dict[str, Tensor],
        shows: bool,
    ) -> Tensor:
        """Ascend the critics' objective; `obss` are s0 and s', the actors' pass is theirs. Returns log pi(a'|s') [R, B]."""
        networks, num_init = self._networks, self._batches.init
        sample = networks.sample(outputs, self.inputs["normal"][:, 1])
        log_prob = sample.log_prob()
        q_inputs, q = networks.q(obss, sample.actions)
        discounts, init_coef = discounts.unsqueeze(1), self._init_coef[:, None]
        grad = actor_gradient(weights, discounts, num_init=num_init, init_coef=init_coef[..., None])
        log_prob_grad = -self._temperature[:, None] * grad.sum(1)
        log_prob_grad[:, :num_init].zero_()  # no entropy in Q(s0)
        outputs_grad = sample.backward(networks.actions_backward(q_inputs, grad), log_prob_grad)
        networks.actors.backward(inputs, outputs_grad, frozen=False, want_input=False, accumulate=False)
        self._adam["actor"].step()
        next_log_prob = log_prob[:, num_init:]
        if shows:
            next_q = q[..., num_init:] - (self._temperature[:, None] * next_log_prob).unsqueeze(1)
            figures["loss/actor"] = objective.actor_loss(weights, discounts, next_q, q[..., :num_init], init_coef=init_coef).mean(-1)
        return next_log_prob

    def _temperature_step(self, log_prob: Tensor, figures: dict[str, Tensor]) -> None:
        """Minimise -log lambda (log pi + target entropy) for every run."""
        gap = (log_prob + self._target_entropy[:, None]).mean(-1)
        figures["loss/alpha"] = -self._log_alpha.squeeze(-1) * gap
        self._log_alpha_grad.copy_(-gap[:, None])  # the loss is linear: its gradient needs no graph
        self._adam["temperature"].step()
        self._temperature.copy_(self._log_alpha.squeeze(-1).exp().clamp(0.0, 1.0))  # the host's bound
        figures["alpha"] = self._temperature

    # ---- figures ---------------------------------------------------------------------------------------------------------------------

    def _ratio_figures(self, fake_logits: Tensor, real_logits: Tensor) -> dict[str, Tensor]:
        loss = classifier_loss(fake_logits, real_logits, label_smoothing=self.config.classifier_label_smoothing)
        accuracy = ((fake_logits > 0).to(self._dtype).mean(-1) + (real_logits <= 0).to(self._dtype).mean(-1)) / 2
        return {"loss/classifier": loss, "damo/classifier_accuracy": accuracy}

    def _weight_figures(self, phi: Tensor, actor_weights: Tensor, discounts: Tensor, figures: dict[str, Tensor]) -> None:
        weights = self._divergence.weight(phi / self._alpha[:, None, None])
        figures["damo/weight"], figures["damo/effective_sample_size"] = weights, objective.effective_sample_size(actor_weights)
        figures["damo/shift_residual"] = objective.shift_residual(
            weights, discounts.unsqueeze(1), next_share=self.config.next_share, init_coef=self._init_coef[:, None]
        )

    def _add_up(self, part: str, figures: dict[str, Tensor]) -> None:
        """Add each figure's mean of every run to the sums: they are read once an epoch, because reading them waits for the device."""
        if part not in self._sums:
            self._names[part] = list(figures)
            self._sums[part] = torch.zeros(len(figures), len(self._policies), dtype=torch.float64, device=self._device)
        means = [values.detach().reshape(len(self._policies), -1).mean(1) for values in figures.values()]
        self._sums[part].add_(torch.stack(means))
