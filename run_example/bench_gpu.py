"""Gradient steps a second on a GPU: as the kit makes them, on this package's engine, and as a fleet, eager and as a CUDA graph.

    python run_example/bench_gpu.py --json bench_gpu.json

First the graph is checked, in float64: runs that step eagerly and runs that replay the graph must end with the same weights, and so must
the same runs on the CPU. Takes a few minutes. `--device cpu --quick` tries the script itself on a machine without a GPU.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from offlinerlkit_damo.config import Config, resolve
from offlinerlkit_damo.engine.buffer import KEYS, DeviceReplayBuffer
from offlinerlkit_damo.engine.fleet import Batches, Draws, Fleet, Member
from offlinerlkit_damo.engine.fleet_networks import FleetNetworks
from offlinerlkit_damo.engine.rollout import ends_of, imagine
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import check_writable, save_json
from offlinerlkit_damo.flags import Parser, run_command
from offlinerlkit_damo.kit import HOST, ReplayBuffer
from offlinerlkit_damo.training.averaging import AveragedActor
from offlinerlkit_damo.training.bench_stages import ACTION_DIM, BATCH, NOTHING, OBS_DIM, made_up
from offlinerlkit_damo.training.dynamics import build_dynamics, seed_everything
from offlinerlkit_damo.training.fleet import STEPS_AT_ONCE
from offlinerlkit_damo.training.policies import DIAGNOSE_EVERY, build_policy
from offlinerlkit_damo.training.trainer import DAMOTrainer

ROWS = 100_000
CHECKED_STEPS = 60  # every form of the step comes often enough to be captured and replayed
TOLERANCE = 1e-7  # of weights after these steps, in float64
KIT_STYLE, ENGINE = "kit-style step, DAMO", "engine, one run"
Step = Callable[[], object]


class Bench:
    """Builds what is timed, all on one device and on the same made-up data of Hopper's sizes."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.data = made_up(ROWS)

    def policy(self, engine: str, algo_name: str = "damo") -> tuple[Config, Any]:
        """An untrained policy."""
        config = resolve({"task": "hopper-medium-expert", "algo_name": algo_name, "engine": engine, "device": self.device})
        dynamics = build_dynamics(config, OBS_DIM, ACTION_DIM)
        dynamics.scaler.fit(np.concatenate([self.data["observations"], self.data["actions"]], 1))
        return config, build_policy(config, dynamics, OBS_DIM, ACTION_DIM)[0]

    def buffers(self, kind: type[ReplayBuffer]) -> list[Any]:
        """A real and a synthetic buffer, full."""
        found = [kind(ROWS, (OBS_DIM,), np.float32, ACTION_DIM, np.float32, self.device) for _ in range(2)]
        for buffer in found:
            buffer.add_batch(*(self.data[key] for key in KEYS))
        return found

    def solo(self, engine: str, kind: type[ReplayBuffer], algo_name: str = "damo") -> Step:
        """One run's step, batch and mean of the actor's weights included."""
        config, policy = self.policy(engine, algo_name)
        real, fake = self.buffers(kind)
        trainer = DAMOTrainer(
            policy, NOTHING, real, fake, NOTHING, rollout_setting=(1000, 1, 1), batch_size=BATCH, real_ratio=config.real_ratio
        )
        average = AveragedActor(policy.actor, config.actor_average) if config.actor_average else None
        policy.train()

        def step() -> None:
            policy.learn(trainer.sample_batch())
            if average is not None:
                average.update()

        return step

    def fleet(self, runs: int, *, capture: bool, dtype: torch.dtype = torch.float32) -> tuple[Fleet, list[Member]]:
        """Runs with weights of their own."""
        members = []
        for _ in range(runs):
            config, policy = self.policy("reference")
            policy.to(dtype)
            policy._log_alpha.data = policy._log_alpha.data.to(dtype)
            members.append(Member(policy, *self.buffers(DeviceReplayBuffer)))
        real = int(BATCH * config.real_ratio)
        networks = FleetNetworks([member.policy for member in members])
        batches = Batches(real, BATCH - real, init=64, ratio=256)
        average = config.actor_average
        return Fleet(members, networks, batches, average=average, diagnose_every=DIAGNOSE_EVERY, capture=capture), members

    def stepping(self, runs: int, *, capture: bool) -> Step:
        """A fleet's step, random numbers included; what it learns is read once in a thousand, as in an epoch."""
        fleet, _ = self.fleet(runs, capture=capture)
        count = 0

        def step() -> None:
            nonlocal count
            if count % STEPS_AT_ONCE == 0:
                fleet.keep([fleet.draw(STEPS_AT_ONCE) for _ in range(runs)])
            fleet.take(count % STEPS_AT_ONCE)
            fleet.step()
            count += 1
            if count % 1000 == 0:
                fleet.collect()

        return step

    def rollout(self, rows: int) -> Step:
        """A run's rollout of 5 model steps on the device."""
        _, policy = self.policy("reference")
        starts = torch.as_tensor(self.data["observations"], device=self.device)[torch.arange(rows) % ROWS]

        def act(obss: torch.Tensor) -> torch.Tensor:
            actions: torch.Tensor = policy.actforward(obss)[0]
            return actions

        return lambda: imagine(policy.dynamics, act, ends_of(None), starts, 5)


def difference(first: Bench, second: Bench, *, steps: int, capture: tuple[bool, bool]) -> float:
    """The largest difference of any weight between two fleets of two after the same steps."""
    states: list[list[torch.Tensor]] = []
    seed_everything(0)
    beginning: list[dict[str, torch.Tensor]] = []  # the same for both, whatever their devices' generators
    draws: list[Draws] = []
    for bench, captured in zip((first, second), capture, strict=True):
        fleet, members = bench.fleet(2, capture=captured, dtype=torch.float64)
        policies = [member.policy for member in members]
        if not beginning:
            beginning = [{name: value.clone() for name, value in policy.state_dict().items()} for policy in policies]
            draws = [fleet.draw(steps) for _ in policies]
        for policy, weights in zip(policies, beginning, strict=True):
            policy.load_state_dict(weights)
        fleet.keep([{name: value.to(bench.device) for name, value in draw.items()} for draw in draws])
        for step in range(steps):
            fleet.take(step)
            fleet.step()
        states.append([value.cpu() for policy in policies for value in policy.state_dict().values()])
    return max(float((ours - theirs).abs().max()) for ours, theirs in zip(*states, strict=True))


def rate(step: Step, device: str, seconds: float) -> float:
    """Calls a second."""
    _wait(device)
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(10):
            step()
        _wait(device)
        calls += 10
    return calls / (time.perf_counter() - start)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def _precision(tf32: bool) -> None:
    torch.set_float32_matmul_precision("high" if tf32 else "highest")


def main(argv: Sequence[str]) -> None:
    """Check, time and print."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or, to try the script, cpu [cuda]")
    parser.add_argument("--runs", type=int, nargs="+", metavar="N", help="sizes of the fleets [1 4 16; with --quick 1 2]")
    parser.add_argument("--threads", type=int, default=1, help="torch threads [1]")
    parser.add_argument("--quick", action="store_true", help="a glance at each line, for a smoke test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table and what it was measured on")
    arguments = parser.parse_args(argv)
    device = arguments.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("torch sees no CUDA device on this machine, so there is nothing to measure; --device cpu --quick tries the script")
    if arguments.json is not None:
        check_writable(arguments.json.parent)
    torch.set_num_threads(arguments.threads)
    runs = arguments.runs or ([1, 2] if arguments.quick else [1, 4, 16])
    seconds, warm, rounds = (0.1, 4, 1) if arguments.quick else (3.0, 200, 3)
    on_gpu = device != "cpu"
    bench = Bench(device)
    checked = 8 if arguments.quick else CHECKED_STEPS
    checks = {"cpu": difference(Bench("cpu"), bench, steps=checked, capture=(False, False))}
    if on_gpu:
        checks["graph"] = difference(bench, bench, steps=checked, capture=(False, True))
    for name, value in checks.items():
        print(f"largest difference of a weight after {checked} steps, eager against {name}: {value:.1e}", flush=True)
        if not value <= TOLERANCE:
            raise UserError(f"the {name} path does not compute what the eager one does (difference {value:.1e}); no times are given")
    stages: list[tuple[str, int, Callable[[], Step], bool]] = [
        ("kit-style step, MOPO", 1, lambda: bench.solo("reference", ReplayBuffer, "mopo"), False),
        (KIT_STYLE, 1, lambda: bench.solo("reference", ReplayBuffer), False),
        (ENGINE, 1, lambda: bench.solo("fast", DeviceReplayBuffer), False),
    ]
    for number in runs:
        stages.append((f"fleet of {number}, eager", number, lambda number=number: bench.stepping(number, capture=False), False))  # type: ignore[misc]
        for tf32 in (False, True) if on_gpu else ():
            name = f"fleet of {number}, graph" + (", TF32" if tf32 else "")
            stages.append((name, number, lambda number=number: bench.stepping(number, capture=True), tf32))  # type: ignore[misc]
    what = torch.cuda.get_device_name(device) if on_gpu else platform.machine()
    print(f"{what}, torch {torch.__version__}, CUDA {torch.version.cuda}, host {HOST.name} {HOST.version}, {time.strftime('%Y-%m-%d')}")
    ready = []
    for name, number, build, tf32 in stages:
        _precision(tf32)
        ready.append((name, number, step := build(), tf32))
        for _ in range(warm):
            step()
    measured: dict[str, list[float]] = {}
    for _ in range(rounds):  # in turns: a machine's speed drifts
        for name, _, step, tf32 in ready:
            _precision(tf32)
            measured.setdefault(name, []).append(rate(step, device, seconds))
    _precision(False)
    print(f"{'Hopper sizes, batch 256':24s} {'steps/s':>9s} {'x runs':>9s} {'/ kit-style DAMO':>17s} {'/ engine':>9s}")
    rows: list[dict[str, Any]] = []
    total = {name: number * median(measured[name]) for name, number, _, _ in ready}
    for name, number, _, _ in ready:
        ratios = {"kit_style_ratio": total[name] / total[KIT_STYLE], "engine_ratio": total[name] / total[ENGINE]}
        rows.append({"stage": name, "runs": number, "steps_per_second": total[name] / number, **ratios})
        beside = f"{ratios['kit_style_ratio']:16.2f}x {ratios['engine_ratio']:8.2f}x"
        print(f"{name:24s} {total[name] / number:9.1f} {total[name]:9.1f} {beside}")
    size = 1000 if arguments.quick else 50_000
    work = bench.rollout(size)
    work()
    rollout = 1 / rate(work, device, seconds)
    print(f"a run's rollout of {size} x 5: {rollout:.3f} s")
    if arguments.json is not None:
        about = {"device": what, "torch": str(torch.__version__), "cuda": torch.version.cuda, "date": time.strftime("%Y-%m-%d")}
        extra = {"threads": arguments.threads, "quick": arguments.quick, "differences": checks, "rollout_seconds": rollout}
        save_json({**about, **extra, "host": HOST.name, "stages": rows}, arguments.json)


if __name__ == "__main__":
    run_command(main)
