"""Networks, actor and critic: names, shapes, dtypes and the maths of the tanh-Gaussian."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch

PARAMETERS = {
    "SACPolicy": "actor critic1 critic2 actor_optim critic1_optim critic2_optim tau gamma alpha",
    "MOPOPolicy": "dynamics actor critic1 critic2 actor_optim critic1_optim critic2_optim tau gamma alpha",
    "MBPolicyTrainer": "policy eval_env real_buffer fake_buffer logger rollout_setting epoch step_per_epoch batch_size "
    "real_ratio eval_episodes lr_scheduler dynamics_update_freq",
    "EnsembleDynamics": "model optim scaler terminal_fn penalty_coef uncertainty_mode",
    "EnsembleDynamicsModel": "obs_dim action_dim hidden_dims num_ensemble num_elites activation weight_decays "
    "with_reward device",
    "ReplayBuffer": "buffer_size obs_shape obs_dtype action_dim action_dtype device",
    "StandardScaler": "mu std",
    "MLP": "input_dim hidden_dims output_dim activation dropout_rate",
    "ActorProb": "backbone dist_net device",
    "Critic": "backbone device",
    "TanhDiagGaussian": "latent_dim output_dim unbounded conditioned_sigma max_mu sigma_min sigma_max",
    "Logger": "dir ouput_config",
    "get_termination_fn": "task",
    "qlearning_dataset": "env dataset terminate_on_end kwargs",
    "make_log_dirs": "task_name algo_name seed args record_params",
}
METHODS = {
    "SACPolicy": "train eval select_action learn actforward _sync_weight",
    "MOPOPolicy": "rollout learn",
    "MBPolicyTrainer": "train _evaluate",
    "EnsembleDynamics": "step sample_next_obss format_samples_for_training train learn validate select_elites "
    "save load",
    "EnsembleDynamicsModel": "forward load_save update_save get_decay_loss set_elites random_elite_idxs",
    "ReplayBuffer": "add add_batch load_dataset normalize_obs sample sample_all",
    "StandardScaler": "fit transform inverse_transform save_scaler load_scaler transform_tensor",
    "Logger": "log_hyperparameters logkv logkv_mean dumpkvs log set_timestep set_level close "
    "record_dir checkpoint_dir model_dir result_dir",
}
DEFAULTS = {
    "SACPolicy": {"tau": 0.005, "gamma": 0.99, "alpha": 0.2},
    "MBPolicyTrainer": {
        "epoch": 1000,
        "step_per_epoch": 1000,
        "batch_size": 256,
        "real_ratio": 0.05,
        "eval_episodes": 10,
        "lr_scheduler": None,
        "dynamics_update_freq": 0,
    },
    "EnsembleDynamics": {"penalty_coef": 0.0, "uncertainty_mode": "aleatoric"},
    "EnsembleDynamicsModel": {"num_ensemble": 7, "num_elites": 5, "weight_decays": None, "with_reward": True},
    "TanhDiagGaussian": {"unbounded": False, "conditioned_sigma": False, "sigma_min": -5, "sigma_max": 2},
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_signature(host: Any, name: str) -> None:
    parameters = inspect.signature(getattr(host, name)).parameters
    assert list(parameters) == PARAMETERS[name].split()
    for parameter, default in DEFAULTS.get(name, {}).items():
        assert parameters[parameter].default == default


@pytest.mark.parametrize("name", METHODS)
def test_methods(host: Any, name: str) -> None:
    assert [m for m in METHODS[name].split() if not hasattr(getattr(host, name), m)] == []


def test_training_arguments_of_the_dynamics(host: Any) -> None:
    parameters = list(inspect.signature(host.EnsembleDynamics.train).parameters.values())[1:]
    names = "data logger max_epochs max_epochs_since_update batch_size holdout_ratio logvar_loss_coef"
    assert [p.name for p in parameters] == names.split()
    assert [p.default for p in parameters[2:]] == [None, 5, 256, 0.2, 0.01]


def test_class_tree(host: Any) -> None:
    assert issubclass(host.MOPOPolicy, host.SACPolicy)
    assert issubclass(host.SACPolicy, host.BasePolicy)
    assert issubclass(host.BasePolicy, torch.nn.Module)
    assert issubclass(host.EnsembleDynamicsModel, torch.nn.Module)


@pytest.mark.parametrize(("output_dim", "expected"), [(None, 5), (2, 2)])
def test_mlp(host: Any, output_dim: int | None, expected: int) -> None:
    mlp = host.MLP(3, [4, 5], output_dim, activation=torch.nn.Tanh)
    assert mlp.output_dim == expected
    assert mlp(torch.zeros(6, 3)).shape == (6, expected)
    assert sum(isinstance(m, torch.nn.Tanh) for m in mlp.modules()) == 2
    assert set(mlp.state_dict()) >= {"model.0.weight", "model.0.bias", "model.2.weight", "model.2.bias"}


def test_mlp_dropout(host: Any) -> None:
    mlp = host.MLP(3, [64], dropout_rate=0.5)
    x = torch.ones(1, 3)
    assert not torch.equal(mlp(x), mlp(x))
    mlp.eval()
    assert torch.equal(mlp(x), mlp(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_actor_takes_arrays_and_tensors(build: Any, dtype: type) -> None:
    actor = build.actor()
    obs = np.ones((4, 3), dtype=dtype)
    action, raw = actor(obs).mode()
    assert action.shape == raw.shape == (4, 2)
    assert action.dtype == torch.float32
    torch.testing.assert_close(actor(torch.from_numpy(obs).float()).mode()[0], action)


@pytest.mark.parametrize("max_mu", [1.0, 2.0])
def test_samples_are_squashed_and_keep_their_gradient(build: Any, max_mu: float) -> None:
    dist = build.actor(max_mu=max_mu)(np.ones((400, 3)))
    action, raw = dist.rsample()
    torch.testing.assert_close(action, max_mu * torch.tanh(raw))
    assert action.abs().max() <= max_mu
    assert action.requires_grad
    mode, mean = dist.mode()
    torch.testing.assert_close(mode, max_mu * torch.tanh(mean))


@pytest.mark.parametrize("max_mu", [1.0, 2.0])
def test_log_prob_is_that_of_the_squashed_action(build: Any, max_mu: float) -> None:
    """Against torch's own transformed distribution in float64."""
    dist = build.actor(max_mu=max_mu)(np.ones((200, 3)))
    action, raw = dist.rsample()
    transforms = [torch.distributions.TanhTransform(), torch.distributions.AffineTransform(0.0, max_mu)]
    normal = torch.distributions.Normal(dist.mean.double(), dist.stddev.double())
    reference = torch.distributions.TransformedDistribution(normal, transforms)
    inside = raw.abs().amax(1) < 2.5  # beyond, the 1e-6 in the logarithm shows
    expected = reference.log_prob(max_mu * torch.tanh(raw.double())).sum(1, keepdim=True)
    assert dist.log_prob(action, raw).shape == (200, 1)
    torch.testing.assert_close(dist.log_prob(action, raw)[inside].double(), expected[inside], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(dist.log_prob(action)[inside], dist.log_prob(action, raw)[inside], atol=1e-3, rtol=1e-3)


def test_log_prob_is_finite_at_the_bound(build: Any) -> None:
    dist = build.actor()(np.ones((1, 3)))
    assert torch.isfinite(dist.log_prob(torch.ones(1, 2))).all()


def test_sigma_is_clamped(host: Any) -> None:
    net = host.TanhDiagGaussian(1, 1, unbounded=True, conditioned_sigma=True, sigma_min=-1.0, sigma_max=0.5)
    with torch.no_grad():
        net.sigma.weight.fill_(1.0)
        net.sigma.bias.zero_()
    scale = net(torch.tensor([[-50.0], [0.0], [50.0]])).stddev.flatten()
    torch.testing.assert_close(scale, torch.tensor([math.exp(-1), 1.0, math.exp(0.5)]))


def test_bounded_mean(host: Any) -> None:
    net = host.TanhDiagGaussian(1, 1, max_mu=2.0)
    assert set(net.state_dict()) == {"mu.weight", "mu.bias", "sigma_param"}
    assert net(torch.tensor([[1e6]])).mean.abs().item() == pytest.approx(2.0)


def test_critic(build: Any) -> None:
    critic = build.critic()
    obs, act = np.ones((4, 3)), np.zeros((4, 2))
    q = critic(obs, act)
    assert q.shape == (4, 1)
    torch.testing.assert_close(q, critic(torch.from_numpy(obs).float(), torch.from_numpy(act).float()))
    value = build.host.Critic(build.host.MLP(3, [4]))
    assert value(obs).shape == (4, 1)
    with pytest.raises(RuntimeError):
        critic(obs)  # the actions are missing
