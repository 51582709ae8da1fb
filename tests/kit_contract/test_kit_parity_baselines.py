"""MOBILE, CQL, COMBO and RAMBO: the stand-in against the kit, from the same weights, batch and noise.

Where the kit was found, by running it, to differ from ours:
* MOBILE floors its targets at 0, CQL's logsumexp runs over 3 values: the stand-in is told to do the same (`like_the_kit`).
* MOBILE penalises imagined rows only (as the paper's algorithm), whatever "for all rows" a reading of it may suggest.
* CQL and COMBO take one bound of the action box for all dimensions and assume [-1, 1] in the density: the box is that here.
* COMBO's uniform rollouts are float64, ours float32.
* RAMBO's adversary finishes its last rollout, so that it takes more than adv_train_steps steps where the length does not divide
  them; ours stops. Here the length divides them.
* RAMBO's adversarial rollouts go on after a terminal state, and V(s') is at the policy's mode where the paper has an expectation
  over actions: ours follows.
* RAMBO's pretraining shuffles an index that it does not use: every epoch is in the order of the data. Ours shuffles. It divides the
  loss that it prints by one batch less than there were (so one batch alone is a ZeroDivisionError). Both leave out the last,
  shorter batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_kit_parity import random_model, seeded, twins

OBS, ACT = 3, 2
STEPS = 4


def worlds(both: Any, **options: Any) -> list[Any]:
    """Dynamics of both hosts with the same weights."""
    return [build.dynamics(model, **options) for build, model in zip(both, twins(both, random_model), strict=True)]


def policies(both: Any, kind: str, dynamics: Any = (None, None), **options: Any) -> tuple[Any, Any]:
    """The same policy of both hosts, with the kit's weights."""
    made = [getattr(build, kind)(dynamics=world, **options) for build, world in zip(both, dynamics, strict=True)]
    made[1].load_state_dict(made[0].state_dict())
    return made[0], made[1]


def draw_batch(both: Any, real: int = 6, fake: int = 26) -> dict[str, Any]:
    buffer = both[0].buffer(50, rows=50)
    return {"real": buffer.sample(real), "fake": buffer.sample(fake)}


def assert_same_steps(kit: Any, ours: Any, act: Any, noise: Any = None) -> None:
    """`STEPS` calls return the same numbers in the same order and leave the same weights."""
    for step in range(STEPS):
        infos = []
        for policy in (kit, ours):
            if noise is not None:
                noise.draws = 0
            infos.append(seeded(lambda policy=policy: act(policy), step))
        assert list(infos[0]) == list(infos[1])
        assert infos[1] == pytest.approx(infos[0], rel=1e-4, abs=1e-5)
    assert_same_weights(kit, ours)


def assert_same_weights(kit: Any, ours: Any) -> None:
    for key, value in kit.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.usefixtures("optimiser")
@pytest.mark.parametrize("auto_alpha", [True, False])
@pytest.mark.parametrize("deterministic_backup", [True, False])
@pytest.mark.parametrize("max_q_backup", [True, False])
def test_mobile_steps(both: Any, noise: Any, auto_alpha: bool, deterministic_backup: bool, max_q_backup: bool) -> None:
    options = {"auto_alpha": auto_alpha, "deterministic_backup": deterministic_backup, "max_q_backup": max_q_backup}
    kit, ours = policies(both, "mobile", worlds(both), penalty_coef=20.0, like_the_kit=True, **options)
    batch = draw_batch(both)
    assert batch["fake"]["rewards"].min() < -0.5  # the floor is met
    assert_same_steps(kit, ours, lambda policy: policy.learn(batch), noise)


def test_mobile_lcb(both: Any, noise: Any) -> None:
    kit, ours = policies(both, "mobile", worlds(both), num_samples=5)
    obss, actions = torch.tensor(np.random.randn(40, OBS)).float(), torch.tensor(np.random.rand(40, ACT)).float()
    results = []
    for policy in (kit, ours):
        noise.draws = 0
        results.append(seeded(lambda policy=policy: policy.compute_lcb(obss, actions)))
    assert results[0].mean() > 0.01  # large enough to be seen in the losses above, where its weight is 20
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("optimiser")
@pytest.mark.parametrize("with_lagrange", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.5}, {"deterministic_backup": False}, {"max_q_backup": True}, {"auto_alpha": False}]
)
def test_cql_steps(both: Any, with_lagrange: bool, options: dict[str, Any]) -> None:
    kit, ours = policies(both, "cql", with_lagrange=with_lagrange, like_the_kit=True, **options)
    batch = draw_batch(both)["fake"]
    assert_same_steps(kit, ours, lambda policy: policy.learn(batch))
    torch.testing.assert_close(ours.cql_log_alpha, kit.cql_log_alpha)


@pytest.mark.usefixtures("optimiser")
@pytest.mark.parametrize("rho_s", ["mix", "model"])
@pytest.mark.parametrize(
    "options", [{}, {"with_lagrange": False, "temperature": 2.0}, {"max_q_backup": True, "deterministic_backup": False}]
)
def test_combo_steps(both: Any, rho_s: str, options: dict[str, Any]) -> None:
    kit, ours = policies(both, "cql", worlds(both), rho_s=rho_s, like_the_kit=True, **options)
    batch = draw_batch(both)
    assert_same_steps(kit, ours, lambda policy: policy.learn(batch))


def test_the_kits_logsumexp_is_not_ours(both: Any) -> None:
    """What the defect costs: the kit's conservative term is another one than the paper's, and so are its losses."""
    kit, ours = policies(both, "cql", with_lagrange=False)
    batch = draw_batch(both)["fake"]
    infos = [seeded(lambda policy=policy: policy.learn(batch)) for policy in (kit, ours)]
    assert infos[1]["loss/actor"] == pytest.approx(infos[0]["loss/actor"], rel=1e-4)
    assert abs(infos[1]["loss/critic1"] - infos[0]["loss/critic1"]) > 1


@pytest.mark.parametrize(("kind", "uniform"), [("mobile", None), ("cql", False), ("cql", True), ("rambo", None)])
def test_rollouts(both: Any, noise: Any, kind: str, uniform: bool | None) -> None:
    """Noise is one number per row and output here, so that the steps' order of drawing does not matter."""
    ends = {"terminal_fn": lambda obs, act, next_obs: next_obs[:, :1] > 1.0}
    kit, ours = policies(both, kind, worlds(both, **ends), **({} if uniform is None else {"uniform_rollout": uniform}))
    start = np.random.randn(40, OBS).astype(np.float32)
    results = []
    for policy in (kit, ours):
        noise.draws = 0
        results.append(seeded(lambda policy=policy: policy.rollout(start, 1)))
    (a, info), (b, info_too) = results
    assert list(a) == list(b) and 0 < a["terminals"].mean() < 1
    assert info_too == pytest.approx(info, rel=1e-4)
    for key, value in a.items():
        np.testing.assert_allclose(b[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("optimiser")
@pytest.mark.parametrize("include_ent_in_adv", [True, False])
@pytest.mark.parametrize("ends", [True, False])
def test_rambo_adversarial_steps(both: Any, noise: Any, include_ent_in_adv: bool, ends: bool) -> None:
    """The numbers logged and the model after several calls of six adversarial steps each."""

    def terminal_fn(obs: np.ndarray, act: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
        return next_obs[:, :1] > 1.0 if ends else np.zeros((len(obs), 1), dtype=bool)

    dynamics = worlds(both, terminal_fn=terminal_fn, lr=1e-3)
    options = {"include_ent_in_adv": include_ent_in_adv, "adv_weight": 3.0, "adv_rollout_batch_size": 30}
    kit, ours = policies(both, "rambo", dynamics, **options)
    buffer = both[0].buffer(50, rows=50)
    before = {key: value.clone() for key, value in kit.dynamics.model.state_dict().items()}
    assert_same_steps(kit, ours, lambda policy: policy.update_dynamics(buffer), noise)
    assert_same_weights(kit.dynamics.model, ours.dynamics.model)
    assert not torch.equal(before["output_layer.weight"], kit.dynamics.model.state_dict()["output_layer.weight"])


@pytest.mark.usefixtures("optimiser")
def test_rambo_steps(both: Any) -> None:
    kit, ours = policies(both, "rambo")
    batch = draw_batch(both)
    assert_same_steps(kit, ours, lambda policy: policy.learn(batch))


@pytest.mark.usefixtures("optimiser")
def test_rambo_pretraining(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the data, which the kit does not leave; 50 rows in batches of 20, and 10 left out."""
    monkeypatch.setattr(np.random, "shuffle", lambda rows: None)
    kit, ours = policies(both, "rambo")
    data = both[0].buffer(50, rows=50).sample_all()
    for build, policy in zip(both, (kit, ours), strict=True):
        logger = build.logger(f"run_{build.host.HOST.name}")
        seeded(lambda policy=policy, logger=logger: policy.pretrain(data, 4, 20, 1e-2, logger))
    assert_same_weights(kit, ours)


def test_rambo_evaluates_alike(both: Any) -> None:
    scaler = both[0].host.StandardScaler(mu=np.full((1, OBS), 0.5, np.float32), std=np.full((1, OBS), 2.0, np.float32))
    made = [build.rambo(scaler=scaler) for build in both]
    made[1].load_state_dict(made[0].state_dict())  # the kit's has no scaler
    obs = np.random.randn(20, OBS).astype(np.float32)
    actions = [policy.select_action(obs, deterministic=True) for policy in made]
    np.testing.assert_allclose(actions[1], actions[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("direction", [(0, 1), (1, 0)])
@pytest.mark.parametrize("kind", ["mobile", "cql", "rambo"])
def test_checkpoints_interchange(both: Any, direction: tuple[int, int], kind: str) -> None:
    """Without a scaler in RAMBO: the kit has no place for one."""
    writer, reader = (getattr(both[i], kind)() for i in direction)
    torch.save(writer.state_dict(), "x.pth")
    reader.load_state_dict(torch.load("x.pth"))
    a, b = writer.state_dict(), reader.state_dict()
    assert set(a) == set(b)
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("direction", [(0, 1), (1, 0)])
def test_pretrained_policies_interchange(both: Any, direction: tuple[int, int]) -> None:
    writer, reader = (both[i].rambo() for i in direction)
    logger = both[direction[0]].logger("run")
    writer.pretrain(both[0].buffer(50, rows=50).sample_all(), 1, 20, 1e-2, logger)
    reader.load(logger.model_dir)
    assert all(torch.equal(reader.state_dict()[key], value) for key, value in writer.state_dict().items())
