"""What `bench` times: every stage of a run twice, as the host does it and as this package does, on the same made-up Hopper data."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from offlinerlkit_damo.config import Config, resolve
from offlinerlkit_damo.engine.buffer import DeviceReplayBuffer
from offlinerlkit_damo.kit import EnsembleDynamics, MBPolicyTrainer, ReplayBuffer, qlearning_dataset
from offlinerlkit_damo.tasks import load_dataset, make_env
from offlinerlkit_damo.training.dynamics import build_dynamics
from offlinerlkit_damo.training.policies import build_policy
from offlinerlkit_damo.training.trainer import DAMOTrainer, run_episodes

OBS_DIM, ACTION_DIM, BATCH = 11, 3, 256
NOTHING: Any = None  # neither environment nor logger is touched by what is timed
Work = Callable[[], object]


@dataclass(frozen=True)
class Size:
    """How much of each stage is timed: `steps` gradient steps a round, rollouts of `rollout` rows and so on."""

    rounds: int
    steps: int
    slow_steps: int  # of MOBILE and COMBO, and imagined rollouts of RAMBO's model
    rollout: tuple[int, int]  # rows, model steps
    dynamics_batches: int
    rows: int  # of the dataset loaded
    episodes: int
    memory_rows: int  # of the dataset whose peak memory is measured


FULL = Size(rounds=5, steps=100, slow_steps=10, rollout=(50_000, 5), dynamics_batches=100, rows=200_000, episodes=10, memory_rows=2_000_000)
QUICK = Size(rounds=3, steps=20, slow_steps=3, rollout=(10_000, 2), dynamics_batches=15, rows=50_000, episodes=2, memory_rows=50_000)


@dataclass(frozen=True)
class Stage:
    """One line of the table: `times` calls of either function are one round.

    Attributes:
        name: what is timed.
        host, ours: the two ways to do it.
        flops: of one call of `ours` in matrix products, 0 where they are not what it consists of.
    """

    name: str
    host: Work
    ours: Work
    times: int
    flops: float = 0.0


def made_up(rows: int, obs_dim: int = OBS_DIM, action_dim: int = ACTION_DIM) -> dict[str, np.ndarray]:
    """Transitions, by default of Hopper's sizes, in the host's keys."""
    rng = np.random.default_rng(0)
    obss = rng.standard_normal((rows, obs_dim), np.float32)
    return {
        "observations": obss,
        "next_observations": obss + 0.1 * rng.standard_normal((rows, obs_dim), np.float32),
        "actions": rng.uniform(-1, 1, (rows, action_dim)).astype(np.float32),
        "rewards": rng.standard_normal((rows, 1), np.float32),
        "terminals": (rng.random((rows, 1)) < 0.01).astype(np.float32),
    }


class Bench:
    """Builds the stages. The host's side has the host's classes throughout, ours this package's."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self._data = made_up(100_000)

    def _config(self, algo_name: str, engine: str) -> Config:
        return resolve({"algo_name": algo_name, "task": "hopper-medium-expert", "engine": engine})

    def _dynamics(self, config: Config, *, host: bool) -> EnsembleDynamics:
        dynamics: EnsembleDynamics = build_dynamics(config, OBS_DIM, ACTION_DIM)
        if host:
            penalty = dynamics._penalty_coef
            dynamics = EnsembleDynamics(dynamics.model, dynamics.optim, dynamics.scaler, dynamics.terminal_fn, penalty_coef=penalty)
        dynamics.scaler.fit(np.concatenate([self._data["observations"], self._data["actions"]], 1))
        return dynamics

    def trainer(self, algo_name: str, *, host: bool, engine: str = "fast") -> DAMOTrainer:
        """A trainer whose buffers are full; only its samples and its policy are used."""
        config = self._config(algo_name, "reference" if host else engine)
        policy, _ = build_policy(config, self._dynamics(config, host=host), OBS_DIM, ACTION_DIM)
        buffer_class: type[ReplayBuffer] = ReplayBuffer if host else DeviceReplayBuffer
        real, fake = (buffer_class(100_000, (OBS_DIM,), np.float32, ACTION_DIM, np.float32, "cpu") for _ in range(2))
        for buffer in (real, fake):
            buffer.add_batch(*(self._data[key] for key in ("observations", "next_observations", "actions", "rewards", "terminals")))
        trainer = DAMOTrainer(policy, NOTHING, real, fake, NOTHING, rollout_setting=(1000, 1, 1), batch_size=BATCH)
        policy.train()
        return trainer

    def sample(self) -> Stage:
        """One batch from both buffers."""
        host, ours = (self.trainer("mopo", host=host) for host in (True, False))
        return Stage("sample a batch", host.sample_batch, ours.sample_batch, 10 * self.size.steps)

    def step(self, algo_name: str, *, against: str) -> Stage:
        """One gradient step, sampling included, of `algo_name` on this package, beside the host's of `against`."""
        host, ours = self.trainer(against, host=True), self.trainer(algo_name, host=False)
        names = {"damo": "DAMO", "mopo": "MOPO", "mobile": "MOBILE", "combo": "COMBO"}
        name = f"gradient step, {names[algo_name]}" + ("" if algo_name == against else f" / host's {names[against]}")
        times = self.size.slow_steps if against in ("mobile", "combo") else self.size.steps
        flops = self._step_flops(algo_name)
        return Stage(name, _learning(host), _learning(ours), times, flops)

    def _step_flops(self, algo_name: str) -> float:
        """Of one step, counted on the host's modules but for COMBO, whose actor they ask once an action; the classifier's turn comes every
        second step, so two are counted.
        """
        step = _learning(self.trainer(algo_name, host=False, engine="fast" if algo_name == "combo" else "reference"))
        return counted(lambda: (step(), step())) / 2

    def adversary(self) -> Stage:
        """A round of steps of RAMBO's model against its policy, five an imagined rollout, with the weight of most tasks."""

        def work(*, host: bool) -> Work:
            trainer = self.trainer("rambo", host=host)
            policy = trainer.policy
            policy._adv_weight, policy._adv_train_steps = 3e-4, 5 * self.size.slow_steps
            return lambda: policy.update_dynamics(trainer.real_buffer)

        return Stage(f"{5 * self.size.slow_steps} steps of RAMBO's model", work(host=True), work(host=False), 1)

    def rollout(self, algo_name: str) -> Stage:
        """A whole rollout, the policy's actions included; DAMO's has no penalty, on the host's side neither."""
        rows, length = self.size.rollout
        starts = self._data["observations"][np.arange(rows) % len(self._data["observations"])]
        host, ours = (self.trainer(algo_name, host=host).policy for host in (True, False))
        penalty = "MOPO's penalty" if algo_name == "mopo" else "no penalty"
        name = f"rollout {rows} x {length}, {penalty}"
        return Stage(name, lambda: host.rollout(starts, length), lambda: ours.rollout(starts, length), 1)

    def dynamics_training(self, folder: Path) -> Stage:
        """An epoch of the ensemble's training, 7 x 256 rows a batch."""
        rows = self.size.dynamics_batches * 256
        data = made_up(rows + 1000)
        config = self._config("damo", "fast")
        host, ours = (self._dynamics(config, host=host) for host in (True, False))
        flops = counted(lambda: self._dynamics(config, host=False).train(made_up(256 + 64), NOTHING, max_epochs=1))
        logger: Any = Silence(folder)

        def run(dynamics: EnsembleDynamics) -> Work:
            return lambda: dynamics.train(data, logger, max_epochs=1)

        name = f"dynamics training, {self.size.dynamics_batches} batches"
        return Stage(name, run(host), run(ours), 1, flops * self.size.dynamics_batches)

    def dataset_load(self, path: Path) -> Stage:
        """From an HDF5 file without next observations to transitions."""
        data = made_up(self.size.rows)
        with h5py.File(path, "w") as file:
            for key in ("observations", "actions", "rewards", "terminals"):
                file[key] = data[key].squeeze(-1) if data[key].shape[1] == 1 else data[key]
            file["timeouts"] = np.arange(self.size.rows) % 1000 == 999

        def as_the_host() -> object:
            with h5py.File(path) as file:
                arrays = {key: file[key][()] for key in file}
            return qlearning_dataset(NOTHING, dataset=arrays)

        return Stage(f"load a dataset of {self.size.rows} rows", as_the_host, lambda: load_dataset(path), 1)

    @contextmanager
    def evaluation(self) -> Iterator[Stage]:
        """Episodes of 1000 steps: HalfCheetah, which never falls."""
        config = resolve({"task": "halfcheetah-medium", "engine": "reference"})
        env = make_env("halfcheetah-medium")
        policy, _ = build_policy(config, build_dynamics(config, 17, 6), 17, 6)
        host = MBPolicyTrainer(policy, env, NOTHING, NOTHING, NOTHING, (1, 1, 1), eval_episodes=self.size.episodes)
        try:
            name = f"evaluation, {self.size.episodes} episodes"
            yield Stage(name, host._evaluate, lambda: run_episodes(policy, env, self.size.episodes), 1)
        finally:
            env.close()


@contextmanager
def stages(size: Size) -> Iterator[Iterator[Stage]]:
    """All stages, each built when it is reached."""
    bench = Bench(size)
    with tempfile.TemporaryDirectory() as folder, bench.evaluation() as evaluation:

        def each() -> Iterator[Stage]:
            yield bench.sample()
            yield bench.step("mopo", against="mopo")
            yield bench.step("damo", against="mopo")
            yield bench.step("mobile", against="mobile")
            yield bench.step("damo", against="mobile")
            yield bench.step("combo", against="combo")
            yield bench.adversary()
            yield bench.rollout("damo")
            yield bench.rollout("mopo")
            yield bench.dynamics_training(Path(folder))
            yield bench.dataset_load(Path(folder) / "made_up.hdf5")
            yield evaluation

        yield each()


class Silence:
    """A logger that the host's training can write to."""

    def __init__(self, folder: Path) -> None:
        self.model_dir = str(folder)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def _learning(trainer: DAMOTrainer) -> Work:
    return lambda: trainer.policy.learn(trainer.sample_batch())


def counted(work: Work) -> float:
    """Floating-point operations of the matrix products in one call."""
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: _added_product}) as counter:
        work()
    return float(counter.get_total_flops())


def _added_product(added: object, a: tuple[int, int, int], b: tuple[int, int, int], **_: object) -> int:
    """Of a product that is added in place, which torch's counter does not know; it gives shapes."""
    return 2 * a[0] * a[1] * a[2] * b[2]


def product_rate() -> float:
    """Floating-point operations a second of 256 x 256 x 256 products, the size that all this consists of, with the present threads."""
    a, b = torch.randn(256, 256), torch.randn(256, 256)
    best = float("inf")
    for _ in range(5):
        start = perf_counter()
        for _ in range(200):
            torch.mm(a, b)
        best = min(best, (perf_counter() - start) / 200)
    return 2 * 256**3 / best
