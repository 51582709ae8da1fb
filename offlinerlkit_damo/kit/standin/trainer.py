"""The training loop of a model-based policy."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from offlinerlkit_damo.files import save_torch

from .buffer import ReplayBuffer
from .logger import Logger
from .policy import BasePolicy


class MBPolicyTrainer:
    """Alternates rollouts in the learned dynamics, gradient steps and evaluations.

    Args:
        policy: with `rollout`, `learn`, `select_action` and `dynamics.save` (see `MOPOPolicy`).
        eval_env: gym's old interface, `reset() -> obs` and `step(action) -> (obs, reward, done, info)`, and
            `get_normalized_score(return) -> float` (1 for an expert).
        real_buffer, fake_buffer: recorded and imagined transitions.
        logger: closed at the end of `train`.
        rollout_setting: (steps between rollouts, rows per rollout, length of a rollout).
        epoch, step_per_epoch: an evaluation and a checkpoint follow each epoch.
        batch_size: rows per step, of which int(batch_size * real_ratio) are recorded ones.
        lr_scheduler: stepped once per epoch.
        dynamics_update_freq: steps between calls of `policy.update_dynamics(real_buffer)`; 0 for none.
    """

    def __init__(
        self,
        policy: BasePolicy,
        eval_env: Any,
        real_buffer: ReplayBuffer,
        fake_buffer: ReplayBuffer,
        logger: Logger,
        rollout_setting: tuple[int, int, int],
        epoch: int = 1000,
        step_per_epoch: int = 1000,
        batch_size: int = 256,
        real_ratio: float = 0.05,
        eval_episodes: int = 10,
        lr_scheduler: LRScheduler | None = None,
        dynamics_update_freq: int = 0,
    ) -> None:
        self.policy: Any = policy  # a policy of any host, with a rollout and dynamics
        self.eval_env = eval_env
        self.real_buffer = real_buffer
        self.fake_buffer = fake_buffer
        self.logger = logger
        self._rollout_freq, self._rollout_batch_size, self._rollout_length = rollout_setting
        self._dynamics_update_freq = dynamics_update_freq
        self._epoch = epoch
        self._step_per_epoch = step_per_epoch
        self._batch_size = batch_size
        self._real_ratio = real_ratio
        self._eval_episodes = eval_episodes
        self.lr_scheduler = lr_scheduler

    def train(self) -> dict[str, float]:
        """Run all epochs; returns last_10_performance, the mean normalised score of the last 10 evaluations."""
        start = time.time()
        last_10: deque[float] = deque(maxlen=10)
        step = 0
        with tqdm(total=self._epoch * self._step_per_epoch, desc="Training", mininterval=1.0, disable=None) as bar:
            for _ in range(self._epoch):
                self.policy.train()
                for _ in range(self._step_per_epoch):
                    self._train_step(step)
                    step += 1
                    bar.update()
                if self.lr_scheduler is not None:
                    self.lr_scheduler.step()
                last_10.append(self._log_evaluation(self._evaluate()))
                self.logger.set_timestep(step)
                self.logger.dumpkvs(exclude=["dynamics_training_progress"])
                save_torch(self.policy.state_dict(), Path(self.logger.checkpoint_dir) / "policy.pth")
        self.logger.log(f"total time: {time.time() - start:.2f}s")
        save_torch(self.policy.state_dict(), Path(self.logger.model_dir) / "policy.pth")
        self.policy.dynamics.save(self.logger.model_dir)
        self.logger.close()
        return {"last_10_performance": float(np.mean(last_10))}

    def _train_step(self, step: int) -> None:
        """Rollout where due, one gradient step, dynamics update where due."""
        if step % self._rollout_freq == 0:
            init_obss = self.real_buffer.sample(self._rollout_batch_size)["observations"].cpu().numpy()
            transitions, info = self.policy.rollout(init_obss, self._rollout_length)
            self.fake_buffer.add_batch(**transitions)
            self.logger.log(
                f"num rollout transitions: {info['num_transitions']}, reward mean: {info['reward_mean']:.4f}"
            )
            self._log_mean({f"rollout_info/{key}": value for key, value in info.items()})
        real = int(self._batch_size * self._real_ratio)
        batch = {"real": self.real_buffer.sample(real), "fake": self.fake_buffer.sample(self._batch_size - real)}
        self._log_mean(self.policy.learn(batch))
        if self._dynamics_update_freq > 0 and (step + 1) % self._dynamics_update_freq == 0:
            self._log_mean(self.policy.update_dynamics(self.real_buffer))

    def _log_mean(self, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.logger.logkv_mean(key, value)

    def _log_evaluation(self, episodes: dict[str, list[float]]) -> float:
        """Log scores and lengths, mean and spread over episodes; returns the mean score.

        Each return is normalised before the spread is taken: the score is affine, not linear, in the return.
        """
        scores = [100 * self.eval_env.get_normalized_score(value) for value in episodes["eval/episode_reward"]]
        lengths = episodes["eval/episode_length"]
        mean = float(np.mean(scores))
        self.logger.logkv("eval/normalized_episode_reward", mean)
        self.logger.logkv("eval/normalized_episode_reward_std", float(np.std(scores)))
        self.logger.logkv("eval/episode_length", float(np.mean(lengths)))
        self.logger.logkv("eval/episode_length_std", float(np.std(lengths)))
        return mean

    def _evaluate(self) -> dict[str, list[float]]:
        """Run `eval_episodes` episodes of the deterministic policy: returns and lengths."""
        self.policy.eval()
        rewards: list[float] = []
        lengths: list[float] = []
        for _ in range(self._eval_episodes):
            obs, done, total, length = self.eval_env.reset(), False, 0.0, 0
            while not done:
                action = self.policy.select_action(np.asarray(obs).reshape(1, -1), deterministic=True)
                obs, reward, done, _ = self.eval_env.step(action.flatten())
                total += float(reward)
                length += 1
            rewards.append(total)
            lengths.append(length)
        return {"eval/episode_reward": rewards, "eval/episode_length": lengths}
