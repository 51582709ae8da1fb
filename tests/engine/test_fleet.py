"""Runs that learn as a fleet equal the same runs alone on the same batches and noise; nothing in the step waits for the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_policy import ACT, OBS, make_policy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from offlinerlkit_damo.config import DAMOConfig
from offlinerlkit_damo.engine.accelerate import accelerate
from offlinerlkit_damo.engine.buffer import DeviceReplayBuffer
from offlinerlkit_damo.engine.fleet import Batches, Fleet, Member
from offlinerlkit_damo.engine.fleet_networks import FleetNetworks
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.training.averaging import AveragedActor

RUNS, STEPS = 3, 12
BATCHES = Batches(real=4, fake=20, init=7, ratio=9)
ALPHAS = (0.5, 2.0, 3.0)
HORIZON = 5
VARIANTS: dict[str, dict[str, Any]] = {
    "stable": {},
    "paper": {"grad_mode": "full", "divergence": "cubic", "q_next": "own", "init_coef": "1-gamma", "entropy_backup": True},
    "ompo": {"classifier_gradient_penalty": 10.0},
    "mix": {
        "grad_mode": "mix", "divergence": "soft_chi2", "actor_alpha": None, "ratio_mode": "mixture", "logit_clip": 2.0, "w_max": 1.5,
        "target_floor": 0.0, "classifier_label_smoothing": 0.1, "classifier_updates_per_step": 1.5,
    },
}  # fmt: skip


def make_run(run: int, variant: str, dtype: torch.dtype) -> tuple[Any, DeviceReplayBuffer, DeviceReplayBuffer, Tensor | None]:
    """A policy with weights, alpha and actor's rate of its own, its buffers and its initial states."""
    config = DAMOConfig(**{"classifier_hidden_dims": (16,), "damo_alpha": ALPHAS[run], **VARIANTS[variant]})
    policy = make_policy(config, dtype)
    generator = torch.Generator().manual_seed(100 + run)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator, dtype=dtype))
    policy.actor_optim.param_groups[0]["lr"] *= 1 if run < 2 else 0.1
    rng = np.random.default_rng(run)
    buffers = []
    for rows in (30 + run, 40):
        buffer = DeviceReplayBuffer(50, (OBS,), np.float32, ACT, np.float32, "cpu")
        obss, next_obss = rng.normal(size=(2, rows, OBS))
        buffer.add_batch(obss, next_obss, rng.uniform(-1, 1, (rows, ACT)), rng.normal(size=rows), rng.random(rows) < 0.1)
        buffers.append(buffer)
    starts = torch.as_tensor(rng.normal(size=(5, OBS)), dtype=torch.float32) if run == 1 else None
    return policy, *buffers, starts


def make_fleet(variant: str, dtype: torch.dtype = torch.float64, **extra: Any) -> tuple[Fleet, list[Member]]:
    members = [Member(*make_run(run, variant, dtype)) for run in range(RUNS)]
    networks = FleetNetworks([member.policy for member in members])
    return Fleet(members, networks, BATCHES, **extra), members


def solo_step(
    policy: Any, real: DeviceReplayBuffer, fake: DeviceReplayBuffer, starts: Any, draw: dict[str, Tensor], step: int
) -> dict[str, float]:
    """A policy's own `learn` on the batches and the noise that a fleet would get by `draw`."""
    rows, dtype = draw["rows"][step], draw["normal"].dtype
    data = {
        kind: {key: torch.as_tensor(value, dtype=dtype) for key, value in buffer.sample_all().items()}
        for kind, buffer in (("real", real), ("fake", fake))
    }
    used = 0

    def take(kind: str, number: int) -> dict[str, Tensor]:
        nonlocal used
        size = len(data[kind]["rewards"])
        index = rows[used : used + number] % size
        used += number
        return {key: value[index] for key, value in data[kind].items()}

    batch: dict[str, Any] = {"real": take("real", BATCHES.real), "fake": take("fake", BATCHES.fake)}
    if starts is None:
        batch["init"] = take("real", BATCHES.init)["observations"]
    else:
        batch["init"] = starts[rows[used : used + BATCHES.init] % len(starts)].to(dtype)
        used += BATCHES.init
    due = policy.data_alignment.updates_due()
    batch["classifier"] = [{"real": take("real", BATCHES.ratio), "fake": take("fake", BATCHES.ratio)} for _ in range(due)]
    noises, mixes = list(draw["normal"][step]), list(draw["mix"][step]) if "mix" in draw else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda x: noises.pop(0))
        patch.setattr(torch, "rand", lambda *shape, **options: mixes.pop(0))
        return policy.learn(batch)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_every_run_equals_its_solo_run(variant: str, dtype: torch.dtype, tolerance: float) -> None:
    fleet, members = make_fleet(variant, dtype, average=HORIZON, diagnose_every=3)
    averages = [AveragedActor(member.policy.actor, HORIZON) for member in members]
    for run, average in enumerate(averages):
        average.move_to(fleet.mean_actor(run, 0))
    torch.manual_seed(8)
    draws = [fleet.draw(STEPS) for _ in range(RUNS)]
    fleet.keep(draws)
    for step in range(STEPS):
        fleet.take(step)
        fleet.step()
    fleet.hand_back()
    figures = fleet.collect()
    for run, member in enumerate(members):
        policy, *data = make_run(run, variant, dtype)
        accelerate(policy, diagnose_every=3)
        average = AveragedActor(policy.actor, HORIZON)
        seen: dict[str, list[float]] = {}
        for step in range(STEPS):
            for name, value in solo_step(policy, *data, draws[run], step).items():
                seen.setdefault(name, []).append(value)
            average.update()
        ours, solo = member.policy.state_dict(), policy.state_dict()
        assert list(ours) == list(solo)
        for name, value in solo.items():
            torch.testing.assert_close(ours[name], value, rtol=0, atol=tolerance, msg=lambda m, what=f"run {run}, {name}": f"{what}: {m}")
        torch.testing.assert_close(member.policy._alpha, policy._alpha, rtol=0, atol=tolerance)
        torch.testing.assert_close(member.policy._log_alpha, policy._log_alpha, rtol=0, atol=tolerance)
        for have, want in zip(averages[run].state_dict()["mean"], average.state_dict()["mean"], strict=True):
            torch.testing.assert_close(have, want, rtol=0, atol=tolerance)
        assert member.policy._steps == policy._steps and member.policy._ratio_due == policy._ratio_due
        assert {name: count for name, (_, count) in figures[run].items()} == {name: len(values) for name, values in seen.items()}
        for name, (total, _) in figures[run].items():
            assert total == pytest.approx(sum(seen[name]), rel=1e-4, abs=1e-3 if dtype == torch.float32 else 1e-5), name
        optims = [(p.actor_optim, p.critic2_optim, p.data_alignment.optim, p.alpha_optim) for p in (member.policy, policy)]
        for have, want in zip(*optims, strict=True):
            (have_state,), (want_state,) = have.state_dict()["state"].values(), want.state_dict()["state"].values()
            assert set(have_state) == set(want_state)
            for key, value in want_state.items():
                torch.testing.assert_close(have_state[key].flatten(), value.flatten(), rtol=0, atol=tolerance * 10)
    assert fleet.collect() == [{} for _ in range(RUNS)]


class Watch(TorchDispatchMode):
    """Remembers the operations that would wait for a device, or bring it numbers from the host."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "lift_fresh")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.all: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.all.add(name)
        boolean = name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1])
        if any(name.startswith(word) for word in self.WAITING) or boolean:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_in_a_step_waits_for_the_device(variant: str) -> None:
    fleet, _ = make_fleet(variant, torch.float32, average=HORIZON)
    fleet.keep([fleet.draw(4) for _ in range(RUNS)])
    for step in range(4):
        fleet.take(step)
        with Watch() as watch:
            fleet.step()
        assert watch.seen == [] and {"baddbmm", "_fused_adam_", "index_select"} <= watch.all
    with Watch() as watch:
        torch.tensor([1.0]).item()
    assert len(watch.seen) == 2  # it sees what it is looking for


def test_static_tensors_stay_where_they_are() -> None:
    """What a captured graph needs: every step reads and writes the same memory, and so does what lies between steps."""
    fleet, members = make_fleet("stable", torch.float32, average=HORIZON)

    def places() -> list[int]:
        networks = fleet._networks
        stacks = (networks.actors, networks.critics, networks.old_critics, networks.classifiers)
        found = [tensor.data_ptr() for stack in stacks for tensor in (stack.block, stack.grads)]
        found += [tensor.data_ptr() for tensor in (*fleet.inputs.values(), *vars(fleet).values()) if isinstance(tensor, Tensor)]
        found += [p.data_ptr() for member in members for p in member.policy.parameters()]
        states = [state for adam in fleet._adam.values() for state in adam._optim.state.values()]
        return found + [value.data_ptr() for state in states for value in state.values()]

    before = places()
    for step in range(3):
        fleet.keep([fleet.draw(3) for _ in range(RUNS)])
        fleet.take(step)
        fleet.step()
        members[step].fake.add_batch(*(torch.randn(3, n) for n in (OBS, OBS, ACT, 1, 1)))
        fleet.refresh()
        fleet.hand_back()
        fleet.collect()
    assert places() == before
    assert fleet._numbers[2][4] == 43  # the third run's synthetic rows


def test_rates_follow_the_runs_own_schedules() -> None:
    fleet, members = make_fleet("stable", torch.float32)
    before = [member.policy.actor.backbone.model[0].weight.clone() for member in members]
    for member in members:
        member.policy.actor_optim.param_groups[0]["lr"] = 0.0
    fleet.refresh()
    fleet.keep([fleet.draw(1) for _ in range(RUNS)])
    fleet.take(0)
    fleet.step()
    for member, weight in zip(members, before, strict=True):
        assert torch.equal(member.policy.actor.backbone.model[0].weight, weight)


def test_networks_of_different_shapes_are_refused() -> None:
    first, second = (make_policy(DAMOConfig(classifier_hidden_dims=(width,)), torch.float32) for width in (16, 8))
    with pytest.raises(UserError, match="cannot train as a fleet: the members differ in shape; train them one by one"):
        FleetNetworks([first, second])


def test_each_run_draws_by_itself() -> None:
    """The same generator gives a run the same numbers, however many train beside it."""
    fleet, _ = make_fleet("stable", torch.float32)
    member = Member(*make_run(0, "stable", torch.float32))
    alone = Fleet([member], FleetNetworks([member.policy]), BATCHES)
    draws = []
    for each in (fleet, alone):
        torch.manual_seed(1)
        draws.append(each.draw(3))
    assert all(torch.equal(draws[0][name], draws[1][name]) for name in draws[0])
