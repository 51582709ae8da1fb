"""RAMBO: behaviour cloning, the adversarial model, and the scaler of observations."""

from __future__ import annotations

import csv
import math
import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

OBS, ACT, E = 3, 2, 7
GAMMA = 0.9
LOGGED = [f"adv_dynamics_update/{name}" for name in ("all_loss", "sl_loss", "adv_loss", "adv_advantage", "adv_log_prob")]


def scaler_of(build: Any) -> Any:
    return build.host.StandardScaler(mu=np.array([[1.0, -2.0, 3.0]], np.float32), std=np.array([[2.0, 0.5, 1.5]], np.float32))


def snapshot(module: Any) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def moved(before: dict[str, torch.Tensor], module: Any) -> set[str]:
    return {key for key, value in module.state_dict().items() if not torch.equal(before[key], value)}


def test_inheritance(host: Any) -> None:
    assert issubclass(host.RAMBOPolicy, host.MOPOPolicy)


def test_checkpoint_keys_without_a_scaler_are_those_of_sac(build: Any) -> None:
    assert list(build.rambo().state_dict()) == list(build.sac().state_dict())


def test_learn_is_that_of_mopo(build: Any) -> None:
    buffer = build.buffer(50, rows=50)
    batch = {"real": buffer.sample(5), "fake": buffer.sample(5)}
    policy, twin = build.rambo(), build.sac(dynamics=build.dynamics())
    twin.load_state_dict(policy.state_dict())
    infos = []
    for each in (policy, twin):
        torch.manual_seed(1)
        infos.append(each.learn(batch))
    assert infos[0] == infos[1]


def test_update_dynamics_moves_the_model_and_nothing_else(build: Any) -> None:
    policy, buffer = build.rambo(), build.buffer(50, rows=50)
    policy_before, model_before = snapshot(policy), snapshot(policy.dynamics.model)
    info = policy.update_dynamics(buffer)
    assert sorted(info) == sorted(LOGGED)
    assert all(isinstance(value, float) and math.isfinite(value) for value in info.values())
    assert info["adv_dynamics_update/adv_advantage"] == pytest.approx(0, abs=1e-5)
    assert not moved(policy_before, policy)
    still = {key for key in model_before if "saved" in key or key == "elites"}
    assert moved(model_before, policy.dynamics.model) == set(model_before) - still
    assert not policy.dynamics.model.training
    assert all(p.grad is None for p in (*policy.actor.parameters(), *policy.critic1.parameters(), *policy.critic2.parameters()))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_loss_is_the_weighted_sum(build: Any, weight: float) -> None:
    info = build.rambo(adv_weight=weight).update_dynamics(build.buffer(50, rows=50))
    total = weight * info["adv_dynamics_update/adv_loss"] + info["adv_dynamics_update/sl_loss"]
    assert info["adv_dynamics_update/all_loss"] == pytest.approx(total, rel=1e-5)


def test_without_the_adversary_the_model_fits_the_data(build: Any) -> None:
    dynamics, buffer = build.dynamics(build.model(weight_decays=[0.0] * 3)), build.buffer(50, rows=50)
    policy = build.rambo(dynamics=dynamics, adv_weight=0.0, adv_train_steps=150, adv_rollout_batch_size=50)
    data = policy.dynamics.format_samples_for_training(buffer.sample_all())
    errors = []
    for _ in range(2):
        errors.append(np.mean(policy.dynamics.validate(policy.dynamics.scaler.transform(data[0]), data[1])))
        policy.update_dynamics(buffer)
    assert errors[1] < 0.5 * errors[0]


class Linear(nn.Module):
    """Q(s, a) = v.s."""

    v = torch.tensor([[2.0], [-1.0], [0.5]])

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return obs @ self.v


@pytest.mark.parametrize("ends", [False, True])
def test_the_adversarial_gradient_is_that_of_the_value(build: Any, ends: bool) -> None:
    """An analytic case. The model ignores its input: member i predicts N(m_i, sigma^2), s' = s + change, value r + gamma v.s'.

    For the mixture of n elites d E[value] / d m_i = (gamma v, 1) / n, 0 for the others, and 0 for sigma. One step of gradient descent on a
    weight so large that the data do not matter must be that vector divided by the deviation of the value (the advantage is standardised);
    where every state ends, only the reward counts.
    """
    sigma, rows, scale = 0.6, 40000, 1e6
    model = build.model()
    with torch.no_grad():
        for layer in (*model.backbones, model.output_layer):
            layer.weight.zero_()
        model.output_layer.bias.zero_()
        means = torch.randn(E, OBS + 1)
        model.output_layer.bias[:, 0, : OBS + 1] = means
        model.min_logvar.fill_(2 * math.log(sigma) - 1e-3)  # clamped between two bounds to this deviation
        model.max_logvar.fill_(2 * math.log(sigma) + 1e-3)
    model.set_elites([5, 1, 2])
    bias = model.output_layer.bias
    optim = torch.optim.SGD([bias], lr=1 / scale)
    dynamics = build.dynamics(model, terminal_fn=lambda obs, act, next_obs: np.full((len(obs), 1), ends))
    once = {"adv_train_steps": 1, "adv_rollout_length": 1, "adv_rollout_batch_size": rows}
    policy = build.rambo(dynamics=dynamics, adversary=optim, adv_weight=scale, **once)
    policy.critic1, policy.critic2 = Linear(), Linear()
    buffer = build.buffer(1, rows=1)  # one state: no spread of its own
    before = bias.detach().clone()
    policy.update_dynamics(buffer)
    step = (before - bias.detach())[:, 0].double().numpy()

    gradient = np.append((0.0 if ends else GAMMA) * Linear.v.numpy()[:, 0], 1.0)  # of r + gamma v.s' by (s', r)
    elites = means[[5, 1, 2]].double().numpy()
    with torch.no_grad():
        deviation = torch.exp(0.5 * model(torch.zeros(1, OBS + ACT))[1]).double().numpy()[0, 0]
    spread = np.sqrt((gradient**2 * deviation**2).sum() + (elites @ gradient).var())
    expected = np.zeros((E, 2 * (OBS + 1)))
    expected[[5, 1, 2], : OBS + 1] = gradient / 3 / spread
    np.testing.assert_allclose(step, expected, atol=0.02)
    assert np.abs(expected).max() > 0.1


def test_select_action_standardises_and_rollouts_do_not(build: Any) -> None:
    """The simulator's observations are raw, those of the buffers are standardised already."""
    policy, plain = build.rambo(scaler=scaler_of(build)), build.rambo()
    plain.load_state_dict({key: value for key, value in policy.state_dict().items() if not key.startswith("obs_")})
    obs = np.random.randn(4, OBS).astype(np.float32)
    expected = plain.select_action((obs - [[1, -2, 3]]) / [[2, 0.5, 1.5]], deterministic=True)
    np.testing.assert_allclose(policy.select_action(obs, deterministic=True), expected, rtol=1e-5)
    actions = []
    for each in (policy, plain):
        torch.manual_seed(0)
        actions.append(each.rollout(obs, 1)[0]["actions"])
    np.testing.assert_array_equal(*actions)


def test_pretraining_clones_the_behaviour(build: Any) -> None:
    """Only the actor moves; the policy is saved where the logger keeps models, and `load` reads it."""
    policy, data = build.rambo(scaler=scaler_of(build)), build.buffer(64, rows=64).sample_all()
    data["actions"] = np.tanh(data["observations"][:, :ACT])
    before = snapshot(policy)

    def error() -> float:
        with torch.no_grad():
            mode, _ = policy.actforward(data["observations"], deterministic=True)
        return float((mode - torch.as_tensor(data["actions"])).square().mean())

    first = error()
    logger = build.logger("run")
    assert policy.pretrain(data, 40, 16, 1e-2, logger) is None
    assert error() < 0.3 * first
    assert moved(before, policy) == {key for key in before if key.startswith("actor.")}
    assert os.listdir(logger.model_dir) == ["rambo_pretrain.pth"]
    other = build.rambo(scaler=scaler_of(build))
    other.load(logger.model_dir)
    assert not moved(snapshot(policy), other)


def test_pretraining_needs_a_batch(standin: Any) -> None:
    with pytest.raises(ValueError, match="batch_size=65 is more than the 64 rows"):
        standin.rambo().pretrain(standin.buffer(64, rows=64).sample_all(), 1, 65, 1e-2, standin.logger("run"))


def test_states_have_the_same_keys_on_every_host(build: Any) -> None:
    """No statistics among them: they would not load into the kit's class. Whoever saves a policy keeps them beside it."""
    policy = build.rambo(scaler=scaler_of(build))
    assert set(policy.state_dict()) == set(build.sac().state_dict())
    policy.load_state_dict(build.rambo().state_dict())
    np.testing.assert_array_equal(policy.scaler.mu, [[1, -2, 3]])
    with pytest.raises(RuntimeError, match="actor"):
        policy.load_state_dict({})


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_the_number_of_adversarial_steps(standin: Any, steps: int) -> None:
    """As many as asked for, also where the rollouts' length does not divide it: the kit finishes its last rollout."""
    policy, taken = standin.rambo(adv_train_steps=steps), []
    policy.dynamics_adv_optim.register_step_post_hook(lambda *_: taken.append(1))
    policy.update_dynamics(standin.buffer(50, rows=50))
    assert len(taken) == steps


def test_the_advantage_needs_two_rows(standin: Any) -> None:
    with pytest.raises(ValueError, match="adv_rollout_batch_size=1 is too small"):
        standin.rambo(adv_rollout_batch_size=1)


def test_under_the_hosts_trainer(build: Any, fake_env: Any) -> None:
    """The trainer calls update_dynamics and logs what it returns."""
    policy, buffers = build.rambo(scaler=scaler_of(build)), (build.buffer(50, rows=50), build.buffer(60))
    options = {"epoch": 2, "step_per_epoch": 4, "batch_size": 16, "real_ratio": 0.5, "eval_episodes": 2, "dynamics_update_freq": 2}
    build.host.MBPolicyTrainer(policy, fake_env, *buffers, build.logger("run"), (2, 10, 3), **options).train()
    with open("run/record/policy_training_progress.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and set(LOGGED) < set(rows[0])
    assert all(math.isfinite(float(row[name])) for row in rows for name in LOGGED)
