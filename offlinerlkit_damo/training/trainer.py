"""DAMOTrainer: the host's model-based trainer with what DAMO needs from it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from offlinerlkit_damo.damo.aligned import DataAligned
from offlinerlkit_damo.damo.maximin import MaximinObjective
from offlinerlkit_damo.engine.buffer import DeviceReplayBuffer
from offlinerlkit_damo.errors import Stopped, UserError
from offlinerlkit_damo.files import save_torch
from offlinerlkit_damo.kit import Logger, MBPolicyTrainer, ReplayBuffer
from offlinerlkit_damo.training.averaging import AveragedActor
from offlinerlkit_damo.training.checkpoint import Checkpoints
from offlinerlkit_damo.training.guards import Finding, Guards
from offlinerlkit_damo.training.logs import append_episodes
from offlinerlkit_damo.training.state import (
    numbers,
    optimisers,
    policy_state,
    random_state,
    restore_policy,
    restore_random,
    set_number,
)

EVAL_SEED = 1_000_000
"""Episodes are seeded EVAL_SEED + i in every evaluation, so that curves differ by their policies and not by their starts."""


class DAMOTrainer(MBPolicyTrainer):
    """The host's loop for any model-based policy, and for DAMO's terms also the classifier's and the initial states' samples.

    A model-free policy (the DICE family) has no `fake_buffer` (None): then there are no rollouts, and `learn` gets {"real", "init"}.

    Additional keyword arguments: `init_obss` [n, d], the states s0 is drawn from (None: states of the real buffer); `rollout_starts`, n ->
    observations [n, d] that rollouts start from (None: states of the real buffer, as the host); `eval_every` epochs
    between evaluations, each on the same fixed seeds; `ratio_batch_size`, rows of either kind in a classifier update; `init_batch_size`,
    initial states in a step: a quarter of the batch, because c0 makes their term small and every one costs as much as a transition.
    With `actor_average` > 0 the evaluated and saved actor is the mean of the iterates over about as many steps (`AveragedActor`).
    The policy's weights are checkpointed at every evaluation. With the attribute `checkpoints` set the whole state is, when it says so,
    and `load_state_dict` continues from it as if nothing had happened (the synthetic buffer must then be a DeviceReplayBuffer). The
    attribute `stop`, asked after every step, may give a reason to stop: `train` then saves a checkpoint and raises it. A figure or a
    weight that is not finite stops the run with a UserError, after the figures are written; the last good checkpoint is kept. With the
    attribute `guards` set their findings are logged, and with `stop_on_warning` they stop the run in the same way.
    """

    def __init__(
        self,
        policy: Any,
        eval_env: Any,
        real_buffer: ReplayBuffer,
        fake_buffer: ReplayBuffer | None,
        logger: Logger,
        rollout_setting: tuple[int, int, int],
        epoch: int = 1000,
        step_per_epoch: int = 1000,
        batch_size: int = 256,
        real_ratio: float = 0.05,
        eval_episodes: int = 10,
        lr_scheduler: Any = None,
        dynamics_update_freq: int = 0,
        *,
        init_obss: np.ndarray | None = None,
        eval_every: int = 1,
        ratio_batch_size: int = 256,
        init_batch_size: int = 64,
        actor_average: int = 0,
        rollout_starts: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self._model_free = fake_buffer is None
        synthetic: Any = fake_buffer  # the host only keeps it
        super().__init__(
            policy, eval_env, real_buffer, synthetic, logger, rollout_setting, epoch, step_per_epoch, batch_size, real_ratio,
            eval_episodes, lr_scheduler, dynamics_update_freq,
        )
        self._init_obss = None if init_obss is None else torch.as_tensor(init_obss, dtype=torch.float32, device=real_buffer.device)
        self._eval_every = eval_every
        self._ratio_batch_size = ratio_batch_size
        self._init_batch_size = init_batch_size
        self._rollout_starts = rollout_starts or self._uniform_starts
        self._average = AveragedActor(policy.actor, actor_average) if actor_average else None
        self.checkpoints: Checkpoints | None = None
        self.stop: Callable[[], Stopped | None] = lambda: None
        self.guards: Guards | None = None
        self.stop_on_warning = False
        self.warnings: list[dict[str, Any]] = []
        """The guards' findings so far: "timestep", "name" and "text" each."""
        self._size_told = False
        self._numbers = numbers(policy)  # at the start, to tell the policy's options from its counters
        self._timestep = 0
        self._seconds = 0.0  # of training before this process
        self._started = time.time()
        self._means: dict[str, list[float]] = {}  # figure -> its sum and number in the present epoch
        self.evaluations: dict[str, list[float]] = {"timestep": [], "score": [], "std": []}
        """Every evaluation so far, in normalised points."""

    def train(self) -> dict[str, float]:
        """Run all epochs; returns the mean of the last ten evaluations, "last_10_performance", in normalised score points.

        Without a simulator (`eval_env` None) there are no evaluations and nothing is returned.
        """
        self._started = time.time()
        steps = self._epoch * self._step_per_epoch
        with (
            closing(self.logger),
            tqdm(total=steps, initial=self._timestep, unit="step", mininterval=2, dynamic_ncols=True) as bar,
        ):
            self.policy.train()
            while self._timestep < steps:
                self._step()
                bar.update()
                epoch, within = divmod(self._timestep, self._step_per_epoch)
                if within == 0:
                    self._end_epoch(epoch, bar)
                    self.policy.train()
                reason = self.stop()
                ended = epoch if within == 0 else None
                if self.checkpoints is not None and (reason or (ended and self._is_due(self.checkpoints, ended))):
                    self._checkpoint(self.checkpoints, ended)
                if reason:
                    raise reason
        return self._finish()

    def _weights(self) -> dict[str, Any]:
        """The policy's weights and buffers, as they are saved."""
        weights: dict[str, Any] = self.policy.state_dict()
        return weights

    def _finish(self) -> dict[str, float]:
        """Save what the run leaves behind; returns its performance."""
        with self._evaluated_actor():
            save_torch(self._weights(), Path(self.logger.model_dir) / "policy.pth")
        if not self._model_free:
            self.policy.dynamics.save(self.logger.model_dir)
        scores = self.evaluations["score"]
        return {"last_10_performance": float(np.mean(scores[-10:]))} if scores else {}

    def _is_due(self, checkpoints: Checkpoints, epoch: int) -> bool:
        return checkpoints.due(epoch, best=self._is_best(), last=epoch == self._epoch)

    def _checkpoint(self, checkpoints: Checkpoints, epoch: int | None) -> None:
        """Save the state; `epoch`: the one that has just ended, if so."""
        self._stop_if(self._broken_weights())  # a stop comes between figures, and the last good checkpoint must stay
        path = checkpoints.save(self.state_dict(), epoch, best=epoch is not None and checkpoints.keeps_best and self._is_best())
        if not self._size_told:
            self._size_told = True
            self.logger.log(f"a checkpoint of this run has {path.stat().st_size / 1e6:.1f} MB; {path.parent} keeps the last and the best")

    def _is_best(self, timestep: int | None = None) -> bool:
        """Whether this step (or `timestep`, the last that may have been) was evaluated, with a better score than any before it."""
        steps, scores = self.evaluations["timestep"], self.evaluations["score"]
        evaluated = bool(steps) and steps[-1] == (self._timestep if timestep is None else timestep)
        return evaluated and scores[-1] > max(scores[:-1], default=-math.inf)

    def _step(self) -> None:
        """One gradient step, and before it the rollout that is due."""
        if self._rollout_is_due():
            self._rollout()
        losses = self.policy.learn(self.sample_batch())
        if self._average is not None:
            self._average.update()
        self._timestep += 1
        self._count(losses)
        if self._dynamics_update_freq > 0 and self._timestep % self._dynamics_update_freq == 0:
            self._count(self.policy.update_dynamics(self.real_buffer))

    def _rollout_is_due(self) -> bool:
        # the best checkpoint of a run of a fleet comes without synthetic data
        return not self._model_free and (self._timestep % self._rollout_freq == 0 or self.fake_buffer._size == 0)

    def _end_epoch(self, epoch: int, bar: Any) -> None:
        """Write the epoch's figures, and evaluate where it is due."""
        figures = self._close_epoch()
        if self._evaluates_after(epoch):
            with self._evaluated_actor():
                if self.eval_env is not None:
                    bar.set_postfix_str(f"score {self._log_scores():.1f}", refresh=False)
                save_torch(self._weights(), Path(self.logger.checkpoint_dir) / "policy.pth")
        findings = self._report(self._timestep, figures)
        if findings and self.stop_on_warning:
            if self.checkpoints is not None:
                self._checkpoint(self.checkpoints, epoch)
            raise UserError(f"stopped at step {self._timestep}: {'; '.join(f'{x.name}: {x.text}' for x in findings)}")

    def _close_epoch(self) -> dict[str, float]:
        """Count the epoch as ended; returns its figures, but for the evaluation's."""
        # losses are computed before their step, so the last step of an epoch can spoil weights that no loss has seen
        self._stop_if(self._broken_weights())
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        figures = {"eval/seconds": self.seconds}
        q = self._q_of_data()
        if q is not None:
            self._count({"eval/q_data": q})
        figures |= self._epoch_means()
        self._means = {}
        return figures

    def _evaluates_after(self, epoch: int) -> bool:
        return epoch % self._eval_every == 0 or epoch == self._epoch

    def _report(self, timestep: int, figures: dict[str, float]) -> list[Finding]:
        """Write the row of the epoch that ended at `timestep`, beside what is logged already; returns the guards' findings."""
        findings = self.guards.check(figures) if self.guards is not None else []
        self._dump(timestep, figures)
        for finding in findings:
            self.logger.log(str(finding))
            self.warnings.append({"timestep": timestep, "name": finding.name, "text": finding.text})
        return findings

    @torch.no_grad()
    def _q_of_data(self) -> float | None:
        """The first critic's mean value of a batch of rows, evenly spread over the dataset; None without critics of that kind."""
        critic = getattr(self.policy, "critic1", None) or next(iter(getattr(self.policy, "critics", None) or ()), None)
        if critic is None:
            return None
        size = self.real_buffer._size
        # not drawn, which would change what training draws; not the first, which are an episode's start and of one half of a mixture
        rows = np.linspace(0, size - 1, min(self._batch_size, size)).astype(np.int64)
        value: torch.Tensor = critic(self.real_buffer.observations[rows], self.real_buffer.actions[rows])
        return float(value.mean())

    def _broken_weights(self) -> list[str]:
        return [f"weight {name}" for name, weight in self.policy.named_parameters() if not bool(weight.isfinite().all())]

    @property
    def seconds(self) -> float:
        """Wall-clock time of the training so far, in all its parts."""
        return self._seconds + time.time() - self._started

    def state_dict(self, *, synthetic: bool = True) -> dict[str, Any]:
        """Everything the rest of the training depends on, beside the arguments of the constructor, the dataset and the dynamics model.

        Without the `synthetic` data a run that goes on from it begins with a rollout.
        """
        state: dict[str, Any] = {
            "timestep": self._timestep,
            "seconds": self.seconds,
            "means": self._means,
            "evaluations": self.evaluations,
            "warnings": self.warnings,
            "policy": {**policy_state(self.policy), "weights": self._weights()},
            "numbers": self._numbers,
            "random": random_state(),
        }
        if self.lr_scheduler is not None:
            state["lr_scheduler"] = self.lr_scheduler.state_dict()
        if self._average is not None:
            state["average"] = self._average.state_dict()
        if self.guards is not None:
            state["guards"] = self.guards.state_dict()
        if not self._model_free:
            state["fake_buffer"] = self._device_buffer().state_dict(rows=synthetic)
        if self._dynamics_update_freq > 0:  # only then does training change the model
            state["dynamics"] = self.policy.dynamics.model.state_dict()
        return state

    def _device_buffer(self) -> DeviceReplayBuffer:
        if not isinstance(self.fake_buffer, DeviceReplayBuffer):
            raise UserError(f"checkpoints need a DeviceReplayBuffer as fake_buffer, this is a {type(self.fake_buffer).__name__}")
        return self.fake_buffer

    def load_state_dict(self, state: dict[str, Any], *, reconfigured: bool = False) -> None:
        """Put back what `state_dict` gave; `train` then continues. Raises as `restore_policy` does.

        `reconfigured`: this trainer's options are not those of the one that gave it, and count: learning rates, their schedule, the
        policy's numbers.
        """
        ours = self._options() if reconfigured else None
        restore_policy(self.policy, state["policy"])
        if self.lr_scheduler is not None and "lr_scheduler" in state:
            self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        if ours is not None:
            self._reconfigure(*ours, state)
        if self._average is not None and "average" in state:  # else it begins here
            self._average.load_state_dict(state["average"])
        if self.guards is not None:
            self.guards.load_state_dict(state["guards"])
        if not self._model_free:
            self._device_buffer().load_state_dict(state["fake_buffer"])
        if self._dynamics_update_freq > 0 and "dynamics" in state:
            self.policy.dynamics.model.load_state_dict(state["dynamics"])
        self._timestep, self._seconds = state["timestep"], state["seconds"]
        self._means, self.evaluations, self.warnings = state["means"], state["evaluations"], state["warnings"]
        restore_random(state["random"])

    def _options(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """The policy's numbers, its optimisers' settings and the schedule's, as they were configured."""
        groups = {
            name: [{key: value for key, value in group.items() if key != "params"} for group in optim.param_groups]
            for name, optim in optimisers(self.policy).items()
        }
        schedule = {} if self.lr_scheduler is None else dict(self.lr_scheduler.state_dict())
        return numbers(self.policy), groups, {name: schedule[name] for name in ("T_max", "base_lrs", "eta_min") if name in schedule}

    def _reconfigure(self, ours: dict[str, Any], groups: dict[str, Any], schedule: dict[str, Any], state: dict[str, Any]) -> None:
        then, before = state["policy"]["values"], state["numbers"]
        for name, value in ours.items():
            # it has not moved since the start, or was learned: an option, no counter
            if isinstance(then[name], torch.Tensor) or then[name] == before.get(name):
                set_number(self.policy, name, value)
        for name, optim in optimisers(self.policy).items():
            for group, configured in zip(optim.param_groups, groups[name], strict=True):
                group.update(configured)
        if "T_max" in schedule:
            scheduler: Any = self.lr_scheduler
            vars(scheduler).update(schedule)
            if "lr_scheduler" not in state:
                scheduler.last_epoch = state["timestep"] // self._step_per_epoch
            turn = (1 + math.cos(math.pi * scheduler.last_epoch / scheduler.T_max)) / 2
            scheduler._last_lr = [scheduler.eta_min + (base - scheduler.eta_min) * turn for base in scheduler.base_lrs]
            for group, rate in zip(scheduler.optimizer.param_groups, scheduler._last_lr, strict=True):
                group["lr"] = rate

    def _evaluated_actor(self) -> AbstractContextManager[None]:
        return nullcontext() if self._average is None else self._average

    def _rollout(self) -> None:
        transitions, info = self.policy.rollout(self._rollout_starts(self._rollout_batch_size), self._rollout_length)
        self.fake_buffer.add_batch(**transitions)
        self._count({"rollout_info/" + key: value for key, value in info.items()})

    def _uniform_starts(self, n: int) -> np.ndarray:
        observations: np.ndarray = self.real_buffer.sample(n)["observations"].cpu().numpy()
        return observations

    def sample_batch(self) -> dict[str, Any]:
        """What one `policy.learn` takes: the host's {"real", "fake"} and, where the policy takes them, "init" and "classifier"."""
        if self._model_free:
            return {"real": self.real_buffer.sample(self._batch_size), "init": self._sample_init_obss()}
        num_real = int(self._batch_size * self._real_ratio)
        batch: dict[str, Any] = {
            "real": self.real_buffer.sample(num_real),
            "fake": self.fake_buffer.sample(self._batch_size - num_real),
        }
        if isinstance(self.policy, MaximinObjective) and self.policy.config.behavior_alignment:  # only then Q(s0) is in a loss
            batch["init"] = self._sample_init_obss()
        if isinstance(self.policy, DataAligned):
            size, due = self._ratio_batch_size, self.policy.data_alignment.updates_due()
            batch["classifier"] = [{"real": self.real_buffer.sample(size), "fake": self.fake_buffer.sample(size)} for _ in range(due)]
        return batch

    def _sample_init_obss(self) -> torch.Tensor:
        if self._init_obss is None:
            observations: torch.Tensor = self.real_buffer.sample(self._init_batch_size)["observations"]
            return observations
        index = torch.randint(len(self._init_obss), (self._init_batch_size,), device=self._init_obss.device)
        return self._init_obss[index]

    def _count(self, figures: dict[str, float]) -> None:
        """Add to the epoch's means."""
        for key, value in figures.items():
            mean = self._means.setdefault(key, [0.0, 0])
            mean[0] += float(value)  # the host's may be numpy's
            mean[1] += 1
        self._stop_if([key for key, value in figures.items() if not math.isfinite(value)])

    def _epoch_means(self) -> dict[str, float]:
        return {key: total / number for key, (total, number) in self._means.items()}

    def _dump(self, timestep: int, figures: dict[str, float]) -> None:
        for key, value in figures.items():
            self.logger.logkv(key, value)
        self.logger.set_timestep(timestep)
        self.logger.dumpkvs(exclude=["dynamics_training_progress"])

    def _stop_if(self, broken: list[str]) -> None:
        if not broken:
            return
        self._dump(self._timestep, self._epoch_means())
        self._means = {}
        checkpoint = Path(self.logger.checkpoint_dir) / "policy.pth"
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint.exists() else "there was no checkpoint yet"
        raise UserError(
            f"{', '.join(broken[:3])} became non-finite at step {self._timestep}; {kept}, the figures are in {self.logger.record_dir}; "
            "try smaller learning rates, or for DAMO a smaller --damo-alpha"
        )

    def _log_scores(self) -> float:
        return self._log_episodes(self._timestep, *run_episodes(self.policy, self.eval_env, self._eval_episodes))

    def _log_episodes(self, timestep: int, returns: np.ndarray, lengths: np.ndarray) -> float:
        """Log the evaluation of the policy of `timestep`; returns its score."""
        # each return is normalised before its spread is taken: the score is affine, not linear
        scores = np.array([self.eval_env.get_normalized_score(x) for x in returns]) * 100
        self.logger.logkv("eval/normalized_episode_reward", scores.mean())
        self.logger.logkv("eval/normalized_episode_reward_std", scores.std())
        self.logger.logkv("eval/episode_length", lengths.mean())
        self.logger.logkv("eval/episode_length_std", lengths.std())
        for key, value in (("timestep", timestep), ("score", float(scores.mean())), ("std", float(scores.std()))):
            self.evaluations[key].append(value)
        append_episodes(Path(self.logger.record_dir), timestep, returns, scores, lengths)
        return float(scores.mean())


def run_episodes(policy: Any, env: Any, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Undiscounted returns f64 [n] and lengths [n] of the deterministic policy on fixed seeds."""
    policy.eval()

    def act(obss: np.ndarray) -> np.ndarray:
        actions: np.ndarray = policy.select_action(obss, deterministic=True)
        return actions

    return play_episodes(act, env, episodes)


def play_episodes(act: Callable[[np.ndarray], np.ndarray], env: Any, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Undiscounted returns f64 [n] and lengths [n] of acting by `act` (obss [B, d] -> actions [B, a]) on fixed seeds.

    Uses the environment's lock-step `run_episodes` where it has one, else the host's reset-and-step interface.
    """
    seeds = [EVAL_SEED + i for i in range(episodes)]
    if hasattr(env, "run_episodes"):
        returns, lengths = env.run_episodes(act, seeds)
        return returns, lengths
    results = [_run_episode(act, env, seed) for seed in seeds]
    return np.array([r for r, _ in results]), np.array([n for _, n in results])


def _run_episode(act: Callable[[np.ndarray], np.ndarray], env: Any, seed: int) -> tuple[float, int]:
    env.seed(seed)
    obs, total, length, done = env.reset(), 0.0, 0, False
    while not done:
        obs, reward, done, _ = env.step(act(np.asarray(obs).reshape(1, -1)).flatten())
        total, length = total + float(reward), length + 1
    return total, length
