"""Routing rows to their elite changes neither what an elite predicts nor how often it is asked."""

from __future__ import annotations

import numpy as np
import torch

from offlinerlkit_damo.engine.dynamics import RoutedDynamics
from offlinerlkit_damo.kit import EnsembleDynamics, EnsembleDynamicsModel, StandardScaler

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


def test_with_a_penalty_the_hosts_step_is_used() -> None:
    obs, act = rows(20)
    results = []
    for cls in (RoutedDynamics, EnsembleDynamics):
        dynamics = make(cls, penalty_coef=2.0)
        np.random.seed(3)
        torch.manual_seed(3)
        results.append(dynamics.step(obs, act))
    np.testing.assert_array_equal(results[0][1], results[1][1])
    assert "penalty" in results[0][3]
