"""FleetTrainer: several DAMO runs in one loop, their gradient steps in one batch, everything else of each as its own trainer does it."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from offlinerlkit_damo.engine.fleet import Batches, Draws, Fleet, Member
from offlinerlkit_damo.engine.fleet_networks import FleetNetworks
from offlinerlkit_damo.engine.rollout import Ends, imagine
from offlinerlkit_damo.errors import Stopped, UserError
from offlinerlkit_damo.files import save_torch
from offlinerlkit_damo.tasks import Task
from offlinerlkit_damo.training.evaluation import KILLED, Episodes, Evaluators
from offlinerlkit_damo.training.policies import DIAGNOSE_EVERY
from offlinerlkit_damo.training.state import random_state, restore_random
from offlinerlkit_damo.training.trainer import DAMOTrainer

STEPS_AT_ONCE = 100
"""Steps whose random numbers a run draws in one go."""


@dataclass
class Closing:
    """An epoch of a run that has ended and is not reported yet, because its evaluation goes on."""

    epoch: int
    timestep: int
    figures: dict[str, float]
    episodes: Future[Episodes] | None
    state: dict[str, Any] | None  # to become the best checkpoint, without the synthetic data


@dataclass(frozen=True)
class Settings:
    """What the runs of a fleet have in common: epochs, gradient steps in one and between rollouts, horizon of the actors' means."""

    epoch: int
    step_per_epoch: int
    rollout_freq: int
    average: int


class FleetRun(DAMOTrainer):
    """One run of a fleet: a DAMOTrainer but for the gradient steps, which FleetTrainer makes.

    It has generators of its own, so that its random numbers are those that it would draw alone, and reports an epoch when the episodes that
    judge it have been played, while training goes on. Attributes to be set before the training: `ends`, `task` and `env_backend`.
    """

    ends: Ends
    task: Task
    env_backend: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._random = random_state()
        self._drawn: tuple[int, dict[str, Any]] | None = None  # the step and the generators of the last draw
        self._closings: deque[Closing] = deque()

    @property
    def timestep(self) -> int:
        """Gradient steps so far, at the last time it was told."""
        return self._timestep

    @property
    def lacks_synthetic_data(self) -> bool:
        """Whether there has been no rollout yet, or none since the checkpoint it went on from."""
        return self._device_buffer().size == 0

    def settings(self) -> Settings:
        """What all runs of a fleet have in common."""
        average = 0 if self._average is None else self._average.horizon
        return Settings(self._epoch, self._step_per_epoch, self._rollout_freq, average)

    def begin(self) -> None:
        """Start the clock."""
        self._started = time.time()
        self.policy.train()

    def keep_mean_in(self, home: Callable[[int], list[Tensor]]) -> None:
        """Let the fleet's step keep the mean of the actor's weights, if there is one: `home` of its updates so far."""
        if self._average is not None:
            self._average.move_to(home(self._average.updates))

    def member(self) -> Member:
        """What the fleet's step needs of it."""
        real: Any = self.real_buffer
        return Member(self.policy, real, self._device_buffer(), self._init_obss)

    def batches(self) -> Batches:
        """Rows in a step."""
        real = int(self._batch_size * self._real_ratio)
        return Batches(real, self._batch_size - real, self._init_batch_size, self._ratio_batch_size)

    def reach(self, timestep: int, figures: Mapping[str, tuple[float, int]]) -> None:
        """Be at `timestep`, with the sums and numbers of these figures since the last call. Raises UserError if one is not finite."""
        if self._average is not None:
            self._average.updates += timestep - self._timestep
        self._timestep = timestep
        for name, (total, number) in figures.items():
            mean = self._means.setdefault(name, [0.0, 0])
            mean[0] += total
            mean[1] += number
        self._stop_if([name for name, (total, _) in figures.items() if not math.isfinite(total)])

    def roll_out(self, timestep: int) -> None:
        """The rollout that is due at this step."""
        self.reach(timestep, {})
        with self._own_random():
            self._rollout()

    def _rollout(self) -> None:
        starts = torch.as_tensor(self._rollout_starts(self._rollout_batch_size), device=self.real_buffer.device)

        def act(obss: Tensor) -> Tensor:
            actions: Tensor = self.policy.actforward(obss)[0]
            return actions

        transitions, info = imagine(self.policy.dynamics, act, self.ends, starts, self._rollout_length)
        self._device_buffer().add_batch(**transitions)
        self._count({"rollout_info/" + key: value for key, value in info.items()})

    def draw(self, fleet: Fleet, timestep: int) -> Draws:
        """Random numbers for `STEPS_AT_ONCE` steps from `timestep` on."""
        self._drawn = timestep, self._random
        with self._own_random():
            return fleet.draw(STEPS_AT_ONCE)

    def draw_again(self, fleet: Fleet) -> tuple[int, Draws] | None:
        """After a checkpoint was loaded: the numbers that it was drawing from, and the step of their draw."""
        if self._drawn is None:
            return None
        timestep, then = self._drawn
        now, self._random = self._random, then
        with self._own_random():
            draws = fleet.draw(STEPS_AT_ONCE)
        self._random = now
        return timestep, draws

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        outside = random_state()
        restore_random(self._random)
        try:
            yield
        finally:
            self._random = random_state()
            restore_random(outside)

    # ---- the end of an epoch, in two halves ----------------------------------------------------------------------------------------------

    def close_epoch(self, epoch: int, evaluators: Evaluators) -> None:
        """Save the policy and have it evaluated; the rest follows in `settle`."""
        timestep, figures = self._timestep, self._close_epoch()
        episodes, state = None, None
        if self._evaluates_after(epoch):
            with self._evaluated_actor():
                weights = self._weights()
                save_torch(weights, Path(self.logger.checkpoint_dir) / "policy.pth")
                if self.eval_env is not None:
                    actor = {name: value for name, value in weights.items() if name.startswith("actor.")}
                    episodes = evaluators.submit(actor, self.task, self.env_backend, self._eval_episodes)
            if episodes is not None and self.checkpoints is not None and self.checkpoints.keeps_best:
                state = _copied(self.state_dict(synthetic=False))
        self._closings.append(Closing(epoch, timestep, figures, episodes, state))

    def settle(self, *, wait: bool) -> list[tuple[int, float]]:
        """Report the epochs whose episodes are played, or all of them; returns the epochs that were evaluated, with their scores."""
        scores = []
        while self._closings and (wait or self._closings[0].episodes is None or self._closings[0].episodes.done()):
            closing = self._closings.popleft()
            if closing.episodes is not None:
                try:
                    returns, lengths = closing.episodes.result()
                except BrokenProcessPool as error:
                    raise UserError(KILLED) from error
                scores.append((closing.epoch, self._log_episodes(closing.timestep, returns, lengths)))
            self._report(closing.timestep, closing.figures)
            if closing.state is not None and self.checkpoints is not None and self._is_best(closing.timestep):
                guards = {} if self.guards is None else {"guards": self.guards.state_dict()}
                so_far = {"evaluations": self.evaluations, "warnings": self.warnings, **guards}
                self.checkpoints.save_best({**closing.state, **so_far})
        return scores

    def _stop_if(self, broken: list[str]) -> None:
        if broken:
            self.settle(wait=True)  # what has been evaluated counts, and stands before what is broken
        super()._stop_if(broken)

    def save(self, epoch: int | None) -> None:
        """Save the state; all epochs must have been settled."""
        if self.checkpoints is not None:
            self._stop_if(self._broken_weights())
            self.checkpoints.save(self.state_dict(), epoch)

    def finish(self) -> dict[str, float]:
        """Save what the run leaves behind; returns its performance."""
        return self._finish()

    def _weights(self) -> dict[str, Any]:
        # they are parts of the whole fleet's storage, which would be saved with each of them
        return {name: value.clone() for name, value in self.policy.state_dict().items()}

    def state_dict(self, *, synthetic: bool = True) -> dict[str, Any]:
        """As a DAMOTrainer's, with which it may go on alone; and the draw that its next random numbers come from."""
        state = {**super().state_dict(synthetic=synthetic), "random": self._random}
        if self._drawn is not None:
            state["drawn"] = list(self._drawn)
        return state

    def load_state_dict(self, state: dict[str, Any], *, reconfigured: bool = False) -> None:
        super().load_state_dict(state, reconfigured=reconfigured)
        self._random = state["random"]
        if "drawn" in state:
            timestep, generators = state["drawn"]
            self._drawn = timestep, generators


def _copied(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list) else state


class FleetTrainer:
    """Trains runs of the same sizes, lengths and options of the step, by name; a run that fails leaves the others alone.

    The attribute `stop` is asked after every step, as a DAMOTrainer's. Every run is checkpointed in the same steps.

    Args:
        runs: by name, at the same step, with their checkpoints restored where there are any.
        networks: the policies' networks, stacked before that.
        evaluators: play the episodes.
        ended: told of every run that ends before the fleet does, and why.
        capture: whether a CUDA device runs the step as a graph.
    """

    def __init__(
        self,
        runs: Mapping[str, FleetRun],
        networks: FleetNetworks,
        evaluators: Evaluators,
        ended: Callable[[str, UserError], None],
        *,
        capture: bool = True,
    ) -> None:
        self.runs = dict(runs)
        self._every_run = list(runs.values())  # by slot, also those that have failed
        self._evaluators, self._ended = evaluators, ended
        first = self._every_run[0]
        self._settings = first.settings()
        self._checkpoints = first.checkpoints
        self._timestep = first.timestep
        self.fleet = Fleet(
            [run.member() for run in self._every_run],
            networks,
            first.batches(),
            average=self._settings.average,
            diagnose_every=min(DIAGNOSE_EVERY, self._settings.step_per_epoch),
            capture=capture,
        )
        for slot, run in enumerate(self._every_run):
            run.keep_mean_in(lambda updates, slot=slot: self.fleet.mean_actor(slot, updates))  # type: ignore[misc]
        self._drawn_at = self._timestep - STEPS_AT_ONCE
        again = [run.draw_again(self.fleet) for run in self._every_run]
        if None not in again and len({timestep for timestep, _ in filter(None, again)}) == 1:
            self._drawn_at = next(timestep for timestep, _ in filter(None, again))
            self.fleet.keep([draws for _, draws in filter(None, again)])
        self._scores: dict[int, dict[str, float]] = {}  # by epoch, until all runs have theirs
        self.stop: Callable[[], Stopped | None] = lambda: None

    def train(self) -> dict[str, dict[str, float]]:
        """Run all epochs; returns the performance of every run that got there. Raises Stopped as a DAMOTrainer."""
        settings = self._settings
        steps = settings.epoch * settings.step_per_epoch
        with ExitStack() as stack:
            for run in self._every_run:
                stack.callback(run.logger.close)
                run.begin()
            bar = stack.enter_context(tqdm(total=steps, initial=self._timestep, unit="step", mininterval=2, dynamic_ncols=True))
            while self._timestep < steps and self.runs:
                self._step()
                bar.update()
                epoch, within = divmod(self._timestep, settings.step_per_epoch)
                ended = epoch if within == 0 else None
                if ended:
                    self._end_epoch(ended)
                self._settle(bar)
                reason = self.stop()
                due = ended and self._checkpoints is not None and self._checkpoints.due(ended, last=self._timestep == steps)
                if reason or due or self._timestep == steps:
                    self._catch_up()
                    self._settle(bar, wait=True)
                if reason or due:
                    self._each(partial(FleetRun.save, epoch=ended))
                if reason:
                    raise reason
            return {name: run.finish() for name, run in self.runs.items()}

    def _step(self) -> None:
        if self._timestep % self._settings.rollout_freq == 0 or any(run.lacks_synthetic_data for run in self.runs.values()):
            self._each(partial(FleetRun.roll_out, timestep=self._timestep))
            self.fleet.refresh()
        if self._timestep - self._drawn_at == STEPS_AT_ONCE:
            self._drawn_at = self._timestep
            self.fleet.keep([run.draw(self.fleet, self._timestep) for run in self._every_run])
        self.fleet.take(self._timestep - self._drawn_at)
        self.fleet.step()
        self._timestep += 1

    def _catch_up(self) -> None:
        """Bring the runs to the present step, with all figures so far."""
        self.fleet.hand_back()
        figures = dict(zip(self._every_run, self.fleet.collect(), strict=True))
        self._each(lambda run: run.reach(self._timestep, figures[run]))

    def _end_epoch(self, epoch: int) -> None:
        self._catch_up()
        self._each(lambda run: run.close_epoch(epoch, self._evaluators))
        self.fleet.refresh()

    def _settle(self, bar: Any, *, wait: bool = False) -> None:
        """Report what has been evaluated; one line for every epoch that all runs have been evaluated after."""
        for name, run in self.runs.items():
            for epoch, score in run.settle(wait=wait):
                self._scores.setdefault(epoch, {})[name] = score
        judged = {name for name, run in self.runs.items() if run.eval_env is not None}
        for epoch in [epoch for epoch, scores in self._scores.items() if set(scores) >= judged]:
            scores = self._scores.pop(epoch)
            bar.write(f"epoch {epoch}: " + ", ".join(f"{name} {score:.1f}" for name, score in scores.items()), file=sys.stdout)

    def _each(self, work: Callable[[FleetRun], object]) -> None:
        """Do something with every run; one that fails is out."""
        for name, run in list(self.runs.items()):
            try:
                work(run)
            except UserError as error:
                del self.runs[name]
                self.fleet.forget(self._every_run.index(run))
                run.logger.log(str(error))
                self._ended(name, error)
