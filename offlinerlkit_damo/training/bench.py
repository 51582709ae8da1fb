"""Timings that are only ever quoted as ratios within one run: absolute times drift with the machine's load."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from offlinerlkit_damo.config import resolve
from offlinerlkit_damo.engine.buffer import DeviceReplayBuffer
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import HOST, ReplayBuffer
from offlinerlkit_damo.training.dynamics import build_dynamics, seed_everything
from offlinerlkit_damo.training.policies import build_policy
from offlinerlkit_damo.training.trainer import DAMOTrainer

OBS_DIM, ACTION_DIM, ROWS, ROUNDS = 11, 3, 100_000, 5


def bench(*, steps: int, threads: int) -> None:
    """Print the time of one gradient step, sampling included, for the host's MOPO and, on either engine, for MOPO and the DAMO presets.

    The host's MOPO runs on the host's own replay buffer, as its script does, all others on this package's. Rounds of `steps` steps
    alternate between the candidates, and the median round counts.
    """
    if steps < 1 or threads < 1:
        raise UserError(f"steps is {steps} and threads {threads}; both must be at least 1")
    torch.set_num_threads(threads)
    seed_everything(0)
    candidates = {"MOPO, host's buffer": _stepper("mopo", None, "reference", ReplayBuffer)}
    for engine in ("reference", "fast"):
        candidates[f"MOPO, {engine}"] = _stepper("mopo", None, engine, DeviceReplayBuffer)
        for preset in ("stable", "ompo", "paper"):
            candidates[f"DAMO {preset}, {engine}"] = _stepper("damo", preset, engine, DeviceReplayBuffer)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(ROUNDS):
        for name, step in candidates.items():
            step()  # caches warm again after the other candidates' round
            start = time.perf_counter()
            for _ in range(steps):
                step()
            times[name].append((time.perf_counter() - start) / steps)
    print(f"host {HOST.name} {HOST.version}, torch {torch.__version__}, {threads} threads, hopper sizes, batch 256")
    bases = list(times)[:2]
    print(f"{'one gradient step':26s} {'ms':>8s}" + "".join(f"  / {name:20s}" for name in bases))
    for name, rounds in times.items():
        ratios = "".join(f"  {median(rounds) / median(times[base]):6.2f}x{'':15s}" for base in bases)
        print(f"{name:26s} {1e3 * median(rounds):8.2f}{ratios}")


def _stepper(algo_name: str, preset: str | None, engine: str, buffer_class: type[ReplayBuffer]) -> Callable[[], object]:
    config = resolve({"algo_name": algo_name, "task": "hopper-medium-expert", "preset": preset, "engine": engine})
    dynamics = build_dynamics(config, OBS_DIM, ACTION_DIM)
    policy, _ = build_policy(config, dynamics, OBS_DIM, ACTION_DIM)
    rng = np.random.default_rng(0)
    obss, next_obss = (rng.standard_normal((ROWS, OBS_DIM), np.float32) for _ in range(2))
    actions = rng.uniform(-1, 1, (ROWS, ACTION_DIM)).astype(np.float32)
    rewards, terminals = rng.standard_normal((ROWS, 1), np.float32), (rng.random((ROWS, 1)) < 0.01).astype(np.float32)
    dynamics.scaler.fit(np.concatenate([obss, actions], 1))
    real_buffer, fake_buffer = (buffer_class(ROWS, (OBS_DIM,), np.float32, ACTION_DIM, np.float32, "cpu") for _ in range(2))
    for buffer in (real_buffer, fake_buffer):
        buffer.add_batch(obss, next_obss, actions, rewards, terminals)
    # samples only: neither environment nor logger is ever touched
    nothing: Any = None
    trainer = DAMOTrainer(policy, nothing, real_buffer, fake_buffer, nothing, rollout_setting=(1000, 1, 1))
    policy.train()
    return lambda: policy.learn(trainer.sample_batch())
