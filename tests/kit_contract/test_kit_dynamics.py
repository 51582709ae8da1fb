"""The ensemble and its dynamics: shapes, routing to elites, penalties, training, files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

E, OBS, ACT = 7, 3, 2


def naming(model: Any, logvar: float = -40.0) -> Any:
    """Make member i predict i for every output, with a deviation that is nearly nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.zero_()
        model.min_logvar.fill_(logvar)
        model.max_logvar.fill_(logvar + 1)
        model.output_layer.bias[..., : OBS + 1] = torch.arange(E, dtype=torch.float32).view(E, 1, 1)
        model.output_layer.bias[..., OBS + 1 :] = logvar
    return model


@pytest.mark.parametrize("shape", [(4, 5), (E, 4, 5)])
@pytest.mark.parametrize("array", [np.zeros, torch.zeros])
def test_forward(build: Any, shape: tuple[int, ...], array: Any) -> None:
    mean, logvar = build.model()(array(shape))
    assert mean.shape == logvar.shape == (E, 4, OBS + 1)
    assert mean.dtype == logvar.dtype == torch.float32


def test_forward_keeps_members_apart(build: Any) -> None:
    model = build.model()
    x = torch.randn(E, 4, 5)
    changed = x.clone()
    changed[2] += 1
    different = (model(x)[0] != model(changed)[0]).flatten(1).any(1)
    assert different.tolist() == [i == 2 for i in range(E)]


def test_forward_leaves_its_input_alone(build: Any) -> None:
    x = torch.randn(4, 5)
    before = x.clone()
    with torch.no_grad():
        build.model()(x)
    assert torch.equal(x, before)


def test_logvar_is_between_its_bounds(build: Any) -> None:
    model = build.model()
    with torch.no_grad():
        model.output_layer.bias[..., OBS + 1 :] = 1e4
        assert (model(torch.zeros(1, 5))[1] <= model.max_logvar + 1e-4).all()
        model.output_layer.bias[..., OBS + 1 :] = -1e4
        assert (model(torch.zeros(1, 5))[1] >= model.min_logvar - 1e-4).all()


def test_with_and_without_reward(build: Any) -> None:
    assert build.model(with_reward=False)(torch.zeros(2, 5))[0].shape == (E, 2, OBS)


def test_decay_loss(build: Any) -> None:
    model = build.model(weight_decays=[0.1, 0.2, 0.3])
    layers = [*model.backbones, model.output_layer]
    halves = [0.5 * layer.weight.pow(2).sum() for layer in layers]
    expected = 0.1 * halves[0] + 0.2 * halves[1] + 0.3 * halves[2]
    torch.testing.assert_close(model.get_decay_loss(), expected)


def test_wrong_number_of_decays(build: Any) -> None:
    with pytest.raises((AssertionError, ValueError)):
        build.model(weight_decays=[0.1, 0.2])


def test_elites(build: Any) -> None:
    model = build.model()
    assert model.elites.tolist() == [0, 1, 2, 3, 4]
    model.set_elites([6, 1, 2, 3, 4])
    drawn = model.random_elite_idxs(500)
    assert isinstance(drawn, np.ndarray)
    assert set(drawn.tolist()) == {6, 1, 2, 3, 4}
    assert "elites" in model.state_dict()


def test_save_and_load_of_single_members(build: Any) -> None:
    model = naming(build.model())
    model.update_save([1, 3])
    with torch.no_grad():
        model.output_layer.bias.fill_(9)
    model.load_save()
    kept = model.output_layer.bias[:, 0, 0]
    assert kept[1] == 1 and kept[3] == 3
    assert not (kept == 9).any()


@pytest.mark.parametrize("coef", [0.0, 1.0])
def test_step_routes_every_row_to_one_elite(build: Any, coef: float) -> None:
    model = naming(build.model())
    model.set_elites([0, 2, 3, 5, 6])
    dynamics = build.dynamics(model, penalty_coef=coef)
    obs = np.full((300, OBS), 10.0, dtype=np.float32)
    next_obs, reward, terminal, info = dynamics.step(obs, np.zeros((300, ACT), dtype=np.float32))
    assert (next_obs.dtype, reward.dtype, terminal.dtype) == (np.float32, np.float32, np.bool_)
    assert (next_obs.shape, reward.shape, terminal.shape) == ((300, OBS), (300, 1), (300, 1))
    members = np.rint(info["raw_reward"]).astype(int)
    assert set(members.ravel().tolist()) == {0, 2, 3, 5, 6}
    np.testing.assert_allclose(next_obs, 10.0 + np.repeat(members, OBS, 1), atol=1e-3)
    assert set(info) == ({"raw_reward", "penalty"} if coef else {"raw_reward"})


def test_random_draws_follow_the_predicted_deviation(build: Any) -> None:
    model = naming(build.model(), logvar=-40.0)
    with torch.no_grad():
        model.min_logvar.fill_(-40)
        model.max_logvar.fill_(40)
        model.output_layer.bias[..., : OBS + 1] = 5.0
        model.output_layer.bias[..., OBS + 1 :] = 2 * np.log(0.5)
    rewards = build.dynamics(model).step(np.zeros((4000, OBS)), np.zeros((4000, ACT)))[1]
    assert rewards.mean() == pytest.approx(5.0, abs=0.05)
    assert rewards.std() == pytest.approx(0.5, abs=0.03)


def test_penalty_is_taken_from_the_reward(build: Any) -> None:
    dynamics = build.dynamics(naming(build.model()), penalty_coef=2.0, uncertainty_mode="pairwise-diff")
    _, reward, _, info = dynamics.step(np.zeros((5, OBS), np.float32), np.zeros((5, ACT), np.float32))
    np.testing.assert_allclose(reward, info["raw_reward"] - 2.0 * info["penalty"], rtol=1e-5)
    np.testing.assert_allclose(info["penalty"], 3 * np.sqrt(OBS), rtol=1e-5)  # members 0..6, their mean 3: 3 per column


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("aleatoric", np.sqrt(OBS + 1) * 0.5), ("pairwise-diff", 3 * np.sqrt(OBS)), ("ensemble_std", 2.0)],
)
def test_penalties(build: Any, mode: str, expected: float) -> None:
    """Means 0..6 (largest distance 3, population deviation 2); deviation 0.5 everywhere but 0.1 in one member."""
    model = naming(build.model())
    with torch.no_grad():
        model.min_logvar.fill_(-40)
        model.max_logvar.fill_(40)
        model.output_layer.bias[..., OBS + 1 :] = 2 * np.log(0.5)
        model.output_layer.bias[1, :, OBS + 1 :] = 2 * np.log(0.1)
    model.set_elites([1, 2, 3, 4, 5])  # the penalty is over all members, not the elites
    dynamics = build.dynamics(model, penalty_coef=1.0, uncertainty_mode=mode)
    penalty = dynamics.step(np.zeros((5, OBS), np.float32), np.zeros((5, ACT), np.float32))[3]["penalty"]
    assert penalty.shape == (5, 1)
    np.testing.assert_allclose(penalty, expected, rtol=1e-4)


def test_unknown_penalty(build: Any) -> None:
    with pytest.raises(ValueError):
        dynamics = build.dynamics(penalty_coef=1.0, uncertainty_mode="guess")
        dynamics.step(np.zeros((5, OBS), np.float32), np.zeros((5, ACT), np.float32))


def test_terminal_function_sees_the_transition(build: Any) -> None:
    seen: list[Any] = []

    def terminal_fn(obs: np.ndarray, act: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
        seen.extend([obs, act, next_obs])
        return np.arange(len(obs))[:, None] % 2 == 0

    dynamics = build.dynamics(terminal_fn=terminal_fn)
    obs, act = np.ones((4, OBS), np.float32), np.full((4, ACT), 0.5, np.float32)
    next_obs, _, terminal, _ = dynamics.step(obs, act)
    for array, expected in zip(seen, (obs, act, next_obs), strict=True):
        np.testing.assert_array_equal(array, expected)
    assert terminal.ravel().tolist() == [True, False, True, False]


def test_sample_next_obss(build: Any) -> None:
    model = naming(build.model())
    model.set_elites([6, 0, 2, 3, 5])
    samples = build.dynamics(model).sample_next_obss(torch.full((4, OBS), 10.0), torch.zeros(4, ACT), 3)
    assert samples.shape == (3, 5, 4, OBS)
    expected = 10 + torch.tensor([6.0, 0, 2, 3, 5]).view(1, 5, 1, 1).expand_as(samples)
    torch.testing.assert_close(samples, expected, atol=1e-3, rtol=0)
    assert not samples.requires_grad


def test_training_targets(build: Any, make_dataset: Any) -> None:
    buffer = build.buffer(20, rows=20)
    data = buffer.sample_all()
    inputs, targets = build.dynamics().format_samples_for_training(data)
    np.testing.assert_array_equal(inputs, np.hstack([data["observations"], data["actions"]]))
    delta = data["next_observations"] - data["observations"]
    np.testing.assert_allclose(targets, np.hstack([delta, data["rewards"]]), atol=1e-6)


def test_select_elites(build: Any) -> None:
    assert list(build.dynamics().select_elites([3.0, 1, 2, 7, 5, 4, 6])) == [1, 2, 0, 5, 4]


def test_loss_of_one_pass(build: Any) -> None:
    dynamics = build.dynamics(lr=0.0)
    x, y = (np.random.randn(E, 10, n).astype(np.float32) for n in (5, 4))
    with torch.no_grad():
        mean, logvar = dynamics.model(x)
        nll = ((mean - torch.from_numpy(y)) ** 2 * torch.exp(-logvar) + logvar).mean((1, 2)).sum()
        spread = (dynamics.model.max_logvar - dynamics.model.min_logvar).sum()
        expected = nll + dynamics.model.get_decay_loss() + 0.05 * spread
    assert dynamics.learn(x, y, 4, 0.05) == pytest.approx(float(expected), rel=0.2)
    assert dynamics.learn(x, y, 10, 0.05) == pytest.approx(float(expected), rel=1e-5)


def test_validate_is_the_squared_error_per_member(build: Any) -> None:
    errors = build.dynamics(naming(build.model())).validate(np.zeros((9, 5), np.float32), np.ones((9, 4), np.float32))
    np.testing.assert_allclose(errors, [(i - 1) ** 2 for i in range(E)], rtol=1e-5)


def test_training_learns_and_logs(build: Any, make_dataset: Any, capsys: Any) -> None:
    buffer = build.buffer(400, rows=400)
    dynamics = build.dynamics(build.model(weight_decays=[0.0] * 3), fitted=False, lr=1e-2)
    logger = build.logger("run")
    dynamics.train(buffer.sample_all(), logger, max_epochs=12, batch_size=32)
    inputs, targets = dynamics.format_samples_for_training(buffer.sample_all())
    errors = np.array(dynamics.validate(dynamics.scaler.transform(inputs), targets))
    elites = dynamics.model.elites.tolist()
    assert len(set(elites)) == 5
    assert errors[elites].mean() < 0.3 * (targets**2).mean()
    assert sorted(os.listdir("run/model")) == ["dynamics.pth", "mu.npy", "std.npy"]
    header, *rows = Path("run/record/dynamics_training_progress.csv").read_text().splitlines()
    assert header == "loss/dynamics_holdout_loss,loss/dynamics_train_loss,timestep"
    assert [row.split(",")[2] for row in rows] == [str(i) for i in range(1, 13)]
    holdout = [float(row.split(",")[0]) for row in rows]
    assert holdout[-1] < 0.5 * holdout[0]
    assert Path("run/record/policy_training_progress.csv").read_text() == ""
    np.testing.assert_allclose(dynamics.scaler.mu, inputs.mean(0, keepdims=True), atol=0.1)
    assert f"elites:{elites}" in Path("run/record/consoleout_backup.txt").read_text()
    assert f"elites:{elites}" in capsys.readouterr().out


def test_training_stops_without_progress_and_keeps_the_best(build: Any) -> None:
    buffer = build.buffer(100, rows=100)
    dynamics = build.dynamics(fitted=False, lr=0.0)
    before = {key: value.clone() for key, value in dynamics.model.state_dict().items() if "saved" not in key}
    dynamics.train(buffer.sample_all(), build.logger("run"), max_epochs_since_update=2)
    assert len(Path("run/record/dynamics_training_progress.csv").read_text().splitlines()) == 1 + 3
    after = dynamics.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items() if key != "elites")


def test_each_member_goes_back_to_its_own_best_epoch(build: Any) -> None:
    """Scripted: in epoch n every weight is n; member 3 is best in epoch 2, the others in epoch 1."""
    dynamics = build.dynamics(fitted=False)
    script = iter([[0.5] * E, [0.9] * 3 + [0.1] + [0.9] * 3, [0.899] * E])
    epoch = iter([1.0, 2.0, 3.0])

    def learn(*args: Any, **kwargs: Any) -> float:
        with torch.no_grad():
            dynamics.model.output_layer.bias.fill_(next(epoch))
        return 0.0

    dynamics.learn, dynamics.validate = learn, lambda *args: next(script)
    dynamics.train(build.buffer(50, rows=50).sample_all(), build.logger("run"), max_epochs=3)
    assert dynamics.model.output_layer.bias[:, 0, 0].tolist() == [1, 1, 1, 2, 1, 1, 1]
    assert dynamics.model.elites[0] == 3


@pytest.mark.parametrize(("rows", "held"), [(50, 10), (6000, 1000)])
def test_held_out_rows_are_not_trained_on(build: Any, rows: int, held: int) -> None:
    """The reward of row i is i. The scaler sees the training rows only."""
    data = build.buffer(rows, rows=rows).sample_all()
    data["rewards"] = np.arange(rows, dtype=np.float32)[:, None]
    dynamics = build.dynamics(fitted=False)
    seen: dict[str, np.ndarray] = {}

    def learn(inputs: Any, targets: Any, *args: Any, **kwargs: Any) -> float:
        seen["trained"] = np.unique(np.asarray(targets)[..., -1])
        return 0.0

    def validate(inputs: Any, targets: Any) -> list[float]:
        seen["held"] = np.unique(np.asarray(targets)[..., -1])
        return [0.5] * E

    dynamics.learn, dynamics.validate = learn, validate
    dynamics.train(data, build.logger("run"), max_epochs=1)
    assert len(seen["held"]) == held
    assert not np.isin(seen["trained"], seen["held"]).any()
    training = np.setdiff1d(np.arange(rows), seen["held"]).astype(int)
    expected = data["observations"][training].mean(0)
    np.testing.assert_allclose(dynamics.scaler.mu[0, :OBS], expected, rtol=1e-4, atol=1e-5)


def test_save_and_load(build: Any) -> None:
    dynamics, other = build.dynamics(), build.dynamics()
    dynamics.model.set_elites([6, 5, 4, 3, 2])
    os.mkdir("saved")
    dynamics.save("saved")
    assert sorted(os.listdir("saved")) == ["dynamics.pth", "mu.npy", "std.npy"]
    assert np.load("saved/mu.npy").shape == (1, OBS + ACT)
    other.scaler.mu = other.scaler.std = None
    other.load("saved")
    assert other.model.elites.tolist() == [6, 5, 4, 3, 2]
    x = torch.randn(4, 5)
    torch.testing.assert_close(other.model(x), dynamics.model(x))
    np.testing.assert_array_equal(other.scaler.mu, dynamics.scaler.mu)
    with pytest.raises(FileNotFoundError):
        other.load("nowhere")


def test_state_dict_keys(build: Any) -> None:
    layers = ("backbones.0", "backbones.1", "output_layer")
    expected = {f"{layer}.{p}{kind}" for layer in layers for p in ("", "saved_") for kind in ("weight", "bias")}
    state = build.model().state_dict()
    assert set(state) == expected | {"elites", "max_logvar", "min_logvar"}
    assert state["backbones.0.weight"].shape == (E, 5, 8)
    assert state["backbones.0.bias"].shape == (E, 1, 8)
    assert state["output_layer.weight"].shape == (E, 8, 2 * (OBS + 1))
    assert state["elites"].dtype == torch.int64
