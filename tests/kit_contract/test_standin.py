"""What the stand-in does better than the kit: every defect of the host that it must not have."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import replacing

OBS, ACT, E = 3, 2, 7


def test_hyperparameters_are_left_as_they_are(standin: Any) -> None:
    settings = {"action_dim": np.int64(3), "shape": (2,), "array": np.arange(2), "object": torch.device("cpu"), "n": 3}
    before = dict(settings)
    logger = standin.logger("run")
    logger.log_hyperparameters(settings)
    logger.close()
    assert all(settings[key] is value for key, value in before.items())
    written = json.loads(Path("run/record/hyper_param.json").read_text())
    assert written == {"action_dim": 3, "shape": [2], "array": [0, 1], "object": "cpu", "n": 3}


@pytest.mark.parametrize(("column", "value"), [(3, -1e6), (3, np.nan), (0, np.inf), (0, np.nan)])
@pytest.mark.parametrize("task", ["hopper", "walker2d", "halfcheetah", "ant"])
def test_diverged_states_end(standin: Any, task: str, column: int, value: float) -> None:
    state = np.zeros((1, 11))
    state[0, 0] = 0.9
    function = standin.host.get_termination_fn(task)
    assert not function(state, state, state).any()
    state[0, column] = value
    assert function(state, state, state).all() or (task == "ant" and value == -1e6)


@pytest.mark.parametrize("task", ["pendulum", "door", "pen", "humanoid", "point2denv"])
def test_every_termination_is_boolean(standin: Any, task: str) -> None:
    state = np.zeros((4, 30), np.float32)
    assert standin.host.get_termination_fn(task)(state, state, state).dtype == np.bool_


def test_unknown_task_names_the_known(standin: Any) -> None:
    with pytest.raises(ValueError, match=r"'hoper-medium-v2'.*hopper.*walker2d"):
        standin.host.get_termination_fn("hoper-medium-v2")


def test_no_weight_decay(standin: Any) -> None:
    model = standin.model(weight_decays=None)
    assert model.get_decay_loss() == 0


def test_elites_are_no_parameter(standin: Any) -> None:
    model = standin.model()
    model.set_elites([6, 1, 2])
    assert all(parameter.is_floating_point() for parameter in model.parameters())
    assert "elites" in dict(model.named_buffers())


@pytest.mark.parametrize("elites", [[], [0, 0], [7], [-1]])
def test_impossible_elites(standin: Any, elites: list[int]) -> None:
    with pytest.raises(ValueError, match="not distinct members"):
        standin.model().set_elites(elites)


@pytest.mark.parametrize("capacity", [5, 10, 30])
def test_add_after_load_dataset(standin: Any, capacity: int) -> None:
    buffer = standin.buffer(capacity, rows=10)
    before = buffer.sample_all()["rewards"]
    buffer.add(np.ones(OBS), np.ones(OBS), np.ones(ACT), 77.0, False)
    rewards = buffer.sample_all()["rewards"].ravel()
    assert len(rewards) == (11 if capacity == 30 else 10)
    assert (rewards == 77).sum() == 1
    np.testing.assert_array_equal(rewards[1:10], before.ravel()[1:10])


def test_columns_of_unequal_length(standin: Any) -> None:
    with pytest.raises(ValueError, match="'rewards': 2"):
        standin.buffer(5).add_batch(*(np.zeros((3, n)) for n in (OBS, OBS, ACT)), np.zeros(2), np.zeros(3))


def test_runs_of_one_second_get_folders_of_their_own(standin: Any) -> None:
    paths = [standin.host.make_log_dirs("t", "a", 0, {}) for _ in range(4)]
    assert len(set(paths)) == 4 and all(os.path.isdir(path) for path in paths)


def test_spread_of_the_score_is_taken_after_normalising(standin: Any, fake_env: Any) -> None:
    policy = standin.sac(dynamics=standin.dynamics())
    buffers = (standin.buffer(50, rows=50), standin.buffer(60))
    options = {"epoch": 1, "step_per_epoch": 1, "batch_size": 8, "eval_episodes": 4}
    standin.host.MBPolicyTrainer(policy, fake_env, *buffers, standin.logger("run"), (1, 5, 1), **options).train()
    header, row = (line.split(",") for line in Path("run/record/policy_training_progress.csv").read_text().splitlines())
    logged = dict(zip(header, map(float, row), strict=True))
    assert logged["eval/normalized_episode_reward_std"] == pytest.approx(np.std([80, 125, 80, 125]))


def test_no_progress_line_where_there_is_no_terminal(standin: Any, fake_env: Any, capfd: Any) -> None:
    policy = standin.sac(dynamics=standin.dynamics())
    buffers = (standin.buffer(50, rows=50), standin.buffer(60))
    options = {"epoch": 1, "step_per_epoch": 20, "batch_size": 8, "eval_episodes": 1}
    standin.host.MBPolicyTrainer(policy, fake_env, *buffers, standin.logger("run"), (20, 5, 1), **options).train()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["critic1", "critic2"])
def test_the_actor_step_leaves_no_gradient_in_the_critics(standin: Any, name: str) -> None:
    """After a step the critic whose Q is the lower one still holds the gradient of its own loss only."""
    policy = standin.sac()
    critic = getattr(policy, name)
    with torch.no_grad():
        critic.last.bias.fill_(-50.0)
    own: list[torch.Tensor] = []
    optim = getattr(policy, f"{name}_optim")
    optim.register_step_post_hook(lambda *_: own.extend(p.grad.clone() for p in critic.parameters()))
    policy.learn(standin.buffer(50, rows=50).sample(16))
    assert all(torch.equal(a, p.grad) for a, p in zip(own, critic.parameters(), strict=True))


def test_critics_learn_again_after_a_failed_actor_step(standin: Any) -> None:
    policy = standin.sac()
    policy.actor_optim.step = None  # not callable
    with pytest.raises(TypeError):
        policy.learn(standin.buffer(50, rows=50).sample(4))
    assert all(parameter.requires_grad for parameter in policy.critic1.parameters())


def test_weights_frozen_by_the_user_stay_frozen(standin: Any) -> None:
    policy = standin.sac()
    policy.critic1.backbone.requires_grad_(False)
    policy.learn(standin.buffer(50, rows=50).sample(4))
    assert not any(parameter.requires_grad for parameter in policy.critic1.backbone.parameters())
    assert all(parameter.requires_grad for parameter in policy.critic1.last.parameters())


def test_files_are_whole_or_absent() -> None:
    Path("x.pth").write_text("old")
    with pytest.raises(RuntimeError), replacing("x.pth") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert Path("x.pth").read_text() == "old"
    with replacing("x.pth") as partial:
        partial.write_text("new")
        assert Path("x.pth").read_text() == "old"
        moved = partial.stat().st_ino
    assert Path("x.pth").read_text() == "new"
    assert Path("x.pth").stat().st_ino == moved  # renamed, not copied
    assert os.listdir() == ["x.pth"]


def test_a_failed_checkpoint_keeps_the_old_one(standin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir("saved")
    standin.dynamics().save("saved")
    before = Path("saved/dynamics.pth").read_bytes()

    def disk_full(state: Any, path: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(UserError, match="disk full"):
        standin.dynamics().save("saved")
    assert Path("saved/dynamics.pth").read_bytes() == before
    assert sorted(os.listdir("saved")) == ["dynamics.pth", "mu.npy", "std.npy"]


class Env:
    _max_episode_steps = 4


def columns(**extra: Any) -> dict[str, np.ndarray]:
    base = {
        "observations": np.arange(10, dtype=np.float32)[:, None],
        "actions": np.zeros((10, 1), np.float32),
        "rewards": np.arange(10, dtype=np.float32),
        "terminals": np.isin(np.arange(10), [2, 9]),
    }
    return base | extra


def test_loader_keeps_terminal_rows(standin: Any) -> None:
    load = standin.host.qlearning_dataset
    timeouts = np.arange(10) == 5
    loaded = load(None, columns(timeouts=timeouts))
    assert loaded["rewards"].tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert loaded["terminals"].tolist() == [i in (2, 9) for i in loaded["rewards"]]
    assert loaded["next_observations"].ravel().tolist() == [1, 2, 2, 4, 5, 7, 8, 9, 9]
    following = 100 + np.arange(10)[:, None]
    loaded = load(None, columns(timeouts=timeouts, next_observations=following))
    assert loaded["next_observations"].ravel().tolist() == [100, 101, 102, 103, 104, 106, 107, 108, 109]


def test_loader_counts_every_episode_from_its_start(standin: Any) -> None:
    loaded = standin.host.qlearning_dataset(Env(), columns())
    assert loaded["rewards"].tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]  # 6 is the fourth step since the end at 2


def test_loader_names_what_is_wrong(standin: Any) -> None:
    with pytest.raises(ValueError, match="'actions': 9"):
        standin.host.qlearning_dataset(Env(), columns(actions=np.zeros((9, 1))))
    with pytest.raises(ValueError, match="no 'timeouts'"):
        standin.host.qlearning_dataset(None, columns())


def test_training_without_a_logger_reports_every_member(standin: Any) -> None:
    buffer = standin.buffer(200, rows=200)
    dynamics = standin.dynamics(fitted=False)
    dynamics.train(buffer.sample_all(), max_epochs=2)
    assert len(dynamics.holdout_losses) == E
    best = sorted(dynamics.holdout_losses)[:5]
    assert [dynamics.holdout_losses[i] for i in dynamics.model.elites.tolist()] == best


def test_training_reports_the_elites_holdout_errors(standin: Any) -> None:
    dynamics = standin.dynamics(fitted=False)
    dynamics.train(standin.buffer(200, rows=200).sample_all(), standin.logger("run"), max_epochs=1)
    line = Path("run/record/consoleout_backup.txt").read_text().splitlines()[-1]
    elites = dynamics.model.elites.tolist()
    each = ", ".join(f"{dynamics.holdout_losses[i]:.6g}" for i in elites)
    assert line.startswith(f"elites:{elites} , holdout loss: ") and line.endswith(f"({each})")


def test_holdout_in_chunks_is_the_holdout(standin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from offlinerlkit_damo.kit.standin import dynamics_training

    dynamics = standin.dynamics()
    x, y = np.random.randn(50, 5).astype(np.float32), np.random.randn(50, 4).astype(np.float32)
    whole = dynamics.validate(x, y)
    monkeypatch.setattr(dynamics_training, "HOLDOUT_CHUNK", 7)
    np.testing.assert_allclose(dynamics.validate(x, y), whole, rtol=1e-6)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_impossible_holdout(standin: Any, ratio: float) -> None:
    with pytest.raises(ValueError, match=f"holdout_ratio={ratio} of 20 rows"):
        standin.dynamics().train(standin.buffer(20, rows=20).sample_all(), holdout_ratio=ratio)


def test_divergence_is_reported(standin: Any, make_dataset: Any) -> None:
    data = standin.buffer(40, rows=40).sample_all()
    data["rewards"][:] = np.nan
    with pytest.raises(FloatingPointError, match="diverged"):
        standin.dynamics().train(data, max_epochs=2)


def test_restricting_members(standin: Any) -> None:
    model = standin.model()
    x = torch.randn(4, 5)
    for full, part in zip(model(x), model(x, [5, 0]), strict=True):
        torch.testing.assert_close(part, full[[5, 0]])


def test_unknown_uncertainty_mode(standin: Any) -> None:
    with pytest.raises(ValueError, match=r"'guess' is not one of aleatoric"):
        standin.dynamics(uncertainty_mode="guess")


def test_a_scaler_that_was_not_fitted(standin: Any) -> None:
    with pytest.raises(RuntimeError, match=r"call fit\(data\) or load_scaler"):
        standin.host.StandardScaler().transform(np.zeros((1, 3)))


def test_a_reopened_log_is_continued(standin: Any) -> None:
    outputs = {"policy_training_progress": "csv", "consoleout_backup": "stdout"}
    for step in (1, 2):
        logger = standin.host.Logger("run", outputs)
        logger.set_timestep(step)
        logger.logkv("x", step * 10)
        logger.dumpkvs()
        logger.close()
    assert Path("run/record/policy_training_progress.csv").read_text() == "timestep,x\n1,10\n2,20\n"
    assert Path("run/record/consoleout_backup.txt").read_text().count("timestep") == 2


def test_lines_below_the_level_are_ignored(standin: Any, capsys: Any) -> None:
    logger = standin.logger("run")
    logger.set_level(30)
    logger.log("hidden")
    logger.log("shown", level=40)
    assert capsys.readouterr().out == "shown\n"


def test_unknown_output(standin: Any) -> None:
    with pytest.raises(ValueError, match=r"\['parchment'\].*stdout, csv, tensorboard"):
        standin.host.Logger("other", {"x": "parchment"})
    assert not os.path.exists("other")
