"""Routing rows to their elite changes neither what an elite predicts nor how often it is asked."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from offlinerlkit_damo.engine.dynamics import CHUNK, WARMUP_STEPS, RoutedDynamics, learning_rate
from offlinerlkit_damo.engine.likelihood import EnsembleLikelihood, shares
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import HOST, EnsembleDynamics, EnsembleDynamicsModel, StandardScaler

OBS, ACT, ELITES = 3, 2, [5, 1, 2]


def never(obs: np.ndarray, act: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
    return next_obs[:, :1] > 1e9


def make(cls: type[EnsembleDynamics], *, penalty_coef: float = 0.0) -> EnsembleDynamics:
    torch.manual_seed(0)
    model = EnsembleDynamicsModel(OBS, ACT, [8, 8], 6, 3, weight_decays=[0.0] * 3)
    model.set_elites(ELITES)
    with torch.no_grad():
        # a bound this low makes the predictions deterministic
        model.max_logvar.fill_(-40.0)
        model.min_logvar.fill_(-41.0)
    scaler = StandardScaler()
    scaler.fit(np.random.default_rng(1).normal(2, 3, (100, OBS + ACT)).astype(np.float32))
    return cls(model, torch.optim.Adam(model.parameters()), scaler, never, penalty_coef=penalty_coef)


def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    return rng.normal(size=(n, OBS)).astype(np.float32), rng.uniform(-1, 1, (n, ACT)).astype(np.float32)


def test_every_row_is_one_elites_prediction_and_elites_share_evenly() -> None:
    dynamics, (obs, act) = make(RoutedDynamics), rows(302)
    next_obs, reward, terminal, info = dynamics.step(obs, act)
    with torch.no_grad():
        mean, _ = dynamics.model(dynamics.scaler.transform(np.concatenate([obs, act], 1)))
    mean = mean.numpy()
    candidates = np.concatenate([obs + mean[..., :-1], mean[..., -1:]], -1)  # [6, B, d+1]
    error = np.abs(candidates - np.concatenate([next_obs, reward], 1)).max(-1)  # [6, B]
    chosen = error.argmin(0)
    assert error.min(0).max() < 1e-4
    assert set(chosen) == set(ELITES)
    assert np.bincount(chosen)[ELITES].min() >= 302 // 3 - 1
    assert next_obs.dtype == reward.dtype == np.float32 and terminal.dtype == bool and reward.shape == terminal.shape == (302, 1)
    np.testing.assert_array_equal(info["raw_reward"], reward)


def test_assignment_is_random() -> None:
    dynamics, (obs, act) = make(RoutedDynamics), rows(60)
    first, second = dynamics.step(obs, act)[1], dynamics.step(obs, act)[1]
    assert 0.3 < (np.abs(first - second) > 1e-6).mean() < 1.0  # two thirds change their elite


def test_fewer_rows_than_elites_and_none() -> None:
    dynamics = make(RoutedDynamics)
    for n in (0, 1, 2):
        next_obs, reward, terminal, _ = dynamics.step(*rows(n))
        assert next_obs.shape == (n, OBS) and reward.shape == terminal.shape == (n, 1)


def test_few_rows_too_ask_every_elite_equally_often() -> None:
    """The last of four rows' three groups gets none: no elite may always be that one."""
    dynamics = make(RoutedDynamics)
    obs, act = rows(4)
    with torch.no_grad():
        mean = dynamics.model(dynamics.scaler.transform(np.concatenate([obs, act], 1)))[0].numpy()[ELITES]  # [3, 4, d + 1]
    for n in (1, 4):
        rewards = np.array([dynamics.step(obs[:n], act[:n])[1][:, 0] for _ in range(600)])  # [600, n]
        asked = np.abs(rewards[None] - mean[:, None, :n, -1]).argmin(0)
        assert (np.abs(np.bincount(asked.ravel(), minlength=3) / asked.size - 1 / 3) < 0.08).all()


def test_mopos_penalty_is_the_hosts_and_goes_with_its_row() -> None:
    routed, host = (make(cls, penalty_coef=2.0) for cls in (RoutedDynamics, EnsembleDynamics))
    for dynamics in (routed, host):
        with torch.no_grad():  # deviations that differ from row to row, and are small beside the means
            dynamics.model.max_logvar.fill_(0.5)
            dynamics.model.min_logvar.fill_(-30.0)
            dynamics.model.output_layer.weight[..., OBS + 1 :] *= 30
            dynamics.model.output_layer.bias[..., OBS + 1 :] -= 8
    obs, act = rows(2 * CHUNK * len(ELITES) + 7)
    *_, expected = host.step(obs, act)
    next_obs, reward, _, info = routed.step(obs, act)
    assert expected["penalty"].std() > 0.001
    np.testing.assert_allclose(info["penalty"], expected["penalty"], rtol=1e-4)
    np.testing.assert_allclose(reward, info["raw_reward"] - 2 * expected["penalty"], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        mean = routed.model(routed.scaler.transform(np.concatenate([obs, act], 1)))[0].numpy()
    candidates = np.concatenate([obs + mean[..., :-1], mean[..., -1:]], -1)
    error = np.abs(candidates - np.concatenate([next_obs, info["raw_reward"]], 1)).max(-1)  # [6, B]
    assert np.median(error.min(0)) < 0.5 and set(error.argmin(0)) >= set(ELITES)


def test_other_uncertainties_are_left_to_the_host() -> None:
    obs, act = rows(20)
    results = []
    for cls in (RoutedDynamics, EnsembleDynamics):
        dynamics = make(cls, penalty_coef=2.0)
        dynamics._uncertainty_mode = "ensemble_std"
        np.random.seed(3)
        torch.manual_seed(3)
        results.append(dynamics.step(obs, act))
    np.testing.assert_array_equal(results[0][1], results[1][1])


WIDTHS = [16, 16, 16]


def toy(n: int = 600) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    obs, act = rng.normal(size=(n, OBS)).astype(np.float32), rng.uniform(-1, 1, (n, ACT)).astype(np.float32)
    return {
        "observations": obs,
        "actions": act,
        "next_observations": obs + np.tanh(obs[:, ::-1]) * act[:, :1],
        "rewards": obs[:, :1] ** 2,
        "terminals": np.zeros((n, 1), np.float32),
    }


def trainable(cls: type[EnsembleDynamics], decay: float = 1e-5) -> EnsembleDynamics:
    torch.manual_seed(0)
    np.random.seed(0)
    model = EnsembleDynamicsModel(OBS, ACT, WIDTHS, 5, 3, weight_decays=[decay, 2 * decay, 3 * decay, 4 * decay])
    return cls(model, torch.optim.Adam(model.parameters(), lr=4e-3), StandardScaler(), never)


def test_an_epoch_is_the_hosts() -> None:
    host, routed = trainable(EnsembleDynamics, 0.01), trainable(RoutedDynamics, 0.01)
    routed.model.load_state_dict(host.model.state_dict())
    assert isinstance(routed, RoutedDynamics)
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(90, OBS + ACT)).astype(np.float32), rng.normal(size=(90, OBS + 1)).astype(np.float32)
    rows = torch.from_numpy(rng.integers(90, size=(5, 130)).astype(np.int32))
    host_loss = host.learn(x[rows.numpy()], y[rows.numpy()], 32, 0.02)
    routed_loss = routed._epoch(torch.from_numpy(x), torch.from_numpy(y), rows.split(32, 1), 0.02, repeat(1.0))
    assert routed_loss == pytest.approx(host_loss, rel=2e-2)  # the weight decay's part is that of the epoch's end
    for (name, ours), theirs in zip(routed.model.named_parameters(), host.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_by_hand_are_autograds(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)  # two take four of the members together, and the fifth apart
    assert [len(range(5)[members]) for members in shares(5, threads)] == ([5] if threads == 1 else [4, 1])
    model = trainable(RoutedDynamics).model.double()
    torch.manual_seed(1)
    with torch.no_grad():  # log-variances between their bounds and beyond
        model.output_layer.weight *= 20
    x, y = torch.randn(5, 9, OBS + ACT, dtype=torch.float64), torch.randn(5, 9, OBS + 1, dtype=torch.float64)
    hidden = x
    for layer in model.backbones:
        hidden = functional.silu(torch.baddbmm(layer.bias, hidden, layer.weight))
    mean, logvar = torch.baddbmm(model.output_layer.bias, hidden, model.output_layer.weight).chunk(2, -1)
    logvar = model.max_logvar - functional.softplus(model.max_logvar - logvar)
    logvar = model.min_logvar + functional.softplus(logvar - model.min_logvar)
    loss = ((mean - y).square() * torch.exp(-logvar) + logvar).mean((1, 2)).sum() + 0.1 * (model.max_logvar - model.min_logvar).sum()
    loss.backward()
    parameters = {name: p for name, p in model.named_parameters() if p.grad is not None}
    want = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
    likelihood = EnsembleLikelihood(model, 0.1)
    for rows in (9, 4, 9):  # memory that is kept for each size leaves nothing behind
        got = likelihood.backward(x[:, :rows], y[:, :rows])
    torch.testing.assert_close(got, loss.detach(), rtol=1e-12, atol=0)
    assert len(want) == 2 * len(WIDTHS) + 4
    for name, p in parameters.items():
        torch.testing.assert_close(p.grad, want[name], rtol=1e-7, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


def test_an_optimiser_that_decays_otherwise_is_refused() -> None:
    dynamics = trainable(RoutedDynamics)
    dynamics.optim = torch.optim.AdamW(dynamics.model.parameters())
    with pytest.raises(UserError, match="Adam, whose decay is part of the gradient"):
        dynamics.train(toy(), max_epochs=1)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_training_learns_and_keeps_the_best_weights(schedule: str) -> None:
    dynamics, data = trainable(RoutedDynamics), toy(2000)
    assert isinstance(dynamics, RoutedDynamics)
    dynamics.optim.param_groups[0]["lr"] = 1e-2
    losses: list[list[float]] = []
    validate = dynamics.validate

    def spy(inputs: np.ndarray, targets: np.ndarray) -> list[float]:
        losses.append(validate(inputs, targets))
        spy.args = inputs, targets  # type: ignore[attr-defined]
        return losses[-1]

    dynamics.validate = spy  # type: ignore[method-assign]
    dynamics.train(data, None, max_epochs=100, max_epochs_since_update=100, lr_schedule=schedule)
    targets = np.concatenate([data["next_observations"] - data["observations"], data["rewards"]], 1)
    assert len(losses) == 100 and max(losses[-1]) < 0.3 * targets.var(0).mean()
    assert len(spy.args[0]) == 400  # type: ignore[attr-defined]
    elites = dynamics.model.elites.tolist()
    best = np.min(losses, 0)
    final = np.array(validate(*spy.args))  # type: ignore[attr-defined]
    assert (final <= best / 0.99 + 1e-9).all()  # a fall of less than one per cent is not saved
    assert set(elites) == set(np.argsort(final)[:3].tolist())
    assert [group["lr"] for group in dynamics.optim.param_groups] == [1e-2]
    assert [group["weight_decay"] for group in dynamics.optim.param_groups] == [0]


@pytest.mark.parametrize("value", [0.0, 0.1, 3.0])
def test_constant_columns_are_not_looked_at(value: float) -> None:
    """Of 0.1 float32's deviation is 1e-8, by which the model's own noise would become a million deviations."""
    data = toy(3000)
    for name in ("observations", "next_observations"):
        data[name][:, 1] = value
    data["actions"][:, 0] = 0.1
    dynamics = trainable(RoutedDynamics)
    dynamics.train(data, None, max_epochs=1)
    std = dynamics.scaler.std[0]
    assert np.isinf(std[1]) and std[OBS] == 1 and np.isfinite(np.delete(std, 1)).all() and (np.delete(std, [1, OBS]) > 0.1).all()
    obs, act = data["observations"][:60].copy(), data["actions"][:60]
    results = []
    for shift in (0.0, 5.0):
        torch.manual_seed(1)
        np.random.seed(1)
        obs[:, 1] = value + shift
        results.append(dynamics.step(obs, act))
    (ours, reward, *_), (shifted, other, *_) = results
    assert np.isfinite(ours).all() and np.abs(ours).max() < 100
    np.testing.assert_array_equal(reward, other)
    np.testing.assert_array_equal(np.delete(ours, 1, 1), np.delete(shifted, 1, 1))
    scaler = StandardScaler()
    scaler.fit(np.full((3000, 1), value, np.float32))
    assert scaler.std is not None and (HOST.name != "standin" or scaler.std[0, 0] == 1)


def test_training_is_fixed_by_the_seed_and_stops_early() -> None:
    models = []
    for _ in range(2):
        dynamics = trainable(RoutedDynamics)
        dynamics.train(toy(), None, max_epochs=3)
        models.append(dynamics.model.state_dict())
    for key, value in models[0].items():
        torch.testing.assert_close(models[1][key], value, rtol=0, atol=0)
    hopeless = trainable(RoutedDynamics)
    hopeless.optim.param_groups[0]["lr"] = 0.0
    epochs: list[float] = []
    hopeless._epoch = lambda *args: epochs.append(0.0) or 0.0  # type: ignore[method-assign,assignment,func-returns-value]
    hopeless.train(toy(), None, max_epochs_since_update=4)
    assert len(epochs) == 5


def test_bootstraps_differ_and_never_hold_a_held_out_row() -> None:
    dynamics, data = trainable(RoutedDynamics), toy()
    data["rewards"] = np.arange(600, dtype=np.float32)[:, None]
    seen: dict[str, Any] = {}

    def epoch(x: torch.Tensor, y: torch.Tensor, batches: tuple[torch.Tensor, ...], *rest: object) -> float:
        seen.update(rows=torch.cat(batches, 1), y=y)
        return 0.0

    dynamics._epoch = epoch  # type: ignore[method-assign,assignment]
    held: list[np.ndarray] = []
    dynamics.validate = lambda inputs, targets: held.append(targets) or [1.0] * 5  # type: ignore[method-assign,func-returns-value]
    dynamics.train(data, None, max_epochs=1)
    rewards = seen["y"][seen["rows"].long()][..., -1].numpy()  # [5, N] names the rows
    assert rewards.shape == (5, 480) and not set(rewards.ravel()) & set(held[0][:, -1])
    shares = [len(set(row)) / 480 for row in rewards]
    assert all(0.55 < share < 0.71 for share in shares)  # 1 - 1/e of the rows each
    assert len({tuple(row) for row in rewards}) == 5


def test_schedule_warms_up_and_falls_to_zero() -> None:
    factor = learning_rate("cosine", 20_000)
    values = np.array([factor(step) for step in range(20_001)])
    assert values[0] < 0.002 and values.argmax() == pytest.approx(WARMUP_STEPS, abs=1) and values[-1] == 0
    np.testing.assert_allclose(values[2000:], 0.5 * (1 + np.cos(np.pi * np.arange(2000, 20_001) / 20_000)))
    assert (np.diff(values[:1000]) > 0).all() and (np.diff(values[1001:]) < 0).all()
    assert learning_rate("constant", None)(12345) == 1


def test_too_few_rows_a_cosine_without_an_end_and_divergence_are_errors() -> None:
    dynamics = trainable(RoutedDynamics)
    with pytest.raises(ValueError, match="leaves 0 to hold out"):
        dynamics.train(toy(4))
    with pytest.raises(ValueError, match="max_epochs"):
        dynamics.train(toy(), lr_schedule="cosine")
    data = toy()
    data["rewards"][:] = np.nan
    with pytest.raises(FloatingPointError, match="diverged"):
        dynamics.train(data, max_epochs=2)
