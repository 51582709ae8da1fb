"""The gym-style adapter: interface, scores, batched episodes, and what it keeps quiet."""

from __future__ import annotations

import builtins
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import SimulatorEnv, get_task, list_tasks, make_env


@pytest.fixture(scope="module")
def hopper() -> Iterator[SimulatorEnv]:
    env = make_env("hopper-medium")
    yield env
    env.close()


def linear_policy(obs_dim: int, action_dim: int, seed: int = 2) -> Callable[[np.ndarray], np.ndarray]:
    """Deterministic, and each row of a batch is summed alone and in one order, so the batch size changes no bit."""
    weight = np.random.default_rng(seed).normal(0, 0.1, (obs_dim, action_dim)).astype("f4")
    return lambda obss: np.tanh((obss[:, :, None] * weight).sum(1))


@pytest.mark.parametrize("name", ["hopper-random", "halfcheetah-random", "walker2d-random"])
def test_dimensions_are_those_of_the_task(name: str) -> None:
    task, env = get_task(name), make_env(name)
    assert env.observation_space.shape == (task.obs_dim,) and env.action_space.shape == (task.action_dim,)
    assert np.all(env.action_space.high == 1) and np.all(env.action_space.low == -1)
    env.close()
    env.close()


def test_gym_interface(hopper: SimulatorEnv) -> None:
    hopper.seed(3)
    obs = hopper.reset()
    assert obs.dtype == np.float32 and obs in hopper.observation_space
    steps, done, info = 0, False, {}
    while not done:
        obs, reward, done, info = hopper.step(np.zeros(3, "f4"))
        assert obs.dtype == np.float32 and type(reward) is float and type(done) is bool
        steps += 1
    assert 1 < steps < 1000 and info["TimeLimit.truncated"] is False  # it fell


def test_the_time_limit_ends_an_episode_and_says_so() -> None:
    env = make_env("halfcheetah-medium")
    env.reset()
    outcomes = [env.step(np.zeros(6, "f4"))[2:] for _ in range(1000)]
    assert [done for done, _ in outcomes] == [False] * 999 + [True]
    assert outcomes[-1][1]["TimeLimit.truncated"] is True and outcomes[0][1]["TimeLimit.truncated"] is False
    env.close()


@pytest.mark.parametrize(("terminated", "truncated"), [(True, True), (True, False), (False, True), (False, False)])
def test_done_and_truncated(terminated: bool, truncated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env("hopper-medium")
    outcome = (np.zeros(11), np.float64(1), np.bool_(terminated), truncated, {"x": 1})
    monkeypatch.setattr(env, "_simulator", SimpleNamespace(step=lambda action: outcome))
    _, _, done, info = env.step(np.zeros(3))
    assert done is (terminated or truncated)
    assert info == {"x": 1, "TimeLimit.truncated": truncated and not terminated}


def test_seed_repeats_resets_and_action_samples(hopper: SimulatorEnv) -> None:
    def draws(seed: int) -> np.ndarray:
        hopper.seed(seed)
        return np.concatenate([hopper.reset(), hopper.reset(), hopper.action_space.sample()])

    first = draws(7)
    np.testing.assert_array_equal(draws(7), first)
    assert not np.array_equal(draws(8), first)
    assert not np.array_equal(first[:11], first[11:22])  # the seed starts a sequence, it does not fix the state


def test_normalised_score(hopper: SimulatorEnv) -> None:
    assert hopper.get_normalized_score(-20.272305) == 0
    assert hopper.get_normalized_score(3234.3) == 1
    assert hopper.get_normalized_score(1607.0138475) == pytest.approx(0.5)
    by_id = make_env("Hopper-v4")
    assert by_id.get_normalized_score(1000.0) == hopper.get_normalized_score(1000.0)
    by_id.close()


@pytest.mark.filterwarnings("ignore:.*out of date")
def test_batched_episodes_equal_episodes_alone(hopper: SimulatorEnv) -> None:
    policy, seeds = linear_policy(11, 3), [5, 0, 123, 5, 77]
    batched_returns, batched_lengths = hopper.run_episodes(policy, seeds)
    simulator = gymnasium.make("Hopper-v4")
    for i, seed in enumerate(seeds):
        obs, total, length, done = simulator.reset(seed=seed)[0], 0.0, 0, False
        while not done:
            obs, reward, terminated, truncated, _ = simulator.step(policy(obs.astype("f4")[None])[0])
            total, length, done = total + float(reward), length + 1, terminated or truncated
        assert (batched_returns[i], batched_lengths[i]) == (total, length)
    simulator.close()
    assert len(set(batched_lengths.tolist())) > 1  # the episodes did end at different times
    assert batched_returns.dtype == np.float64 and batched_lengths.dtype == np.int64
    assert batched_returns[0] == batched_returns[3]


def test_batched_episodes_do_not_depend_on_what_came_before(hopper: SimulatorEnv) -> None:
    policy = linear_policy(11, 3, seed=1)
    first = hopper.run_episodes(policy, [1, 2, 3])
    hopper.reset()
    hopper.run_episodes(linear_policy(11, 3, seed=3), [9, 8])
    np.testing.assert_array_equal(hopper.run_episodes(policy, [2, 3])[0], first[0][1:])


def test_batched_episodes_leave_the_running_one_alone(hopper: SimulatorEnv) -> None:
    def second_obs(between: Callable[[], Any]) -> np.ndarray:
        hopper.seed(0)
        hopper.reset()
        between()
        return hopper.step(np.ones(3, "f4"))[0]

    undisturbed = second_obs(lambda: None)
    np.testing.assert_array_equal(second_obs(lambda: hopper.run_episodes(linear_policy(11, 3), [4])), undisturbed)


def test_one_call_per_time_step_with_the_episodes_still_going(hopper: SimulatorEnv) -> None:
    policy, batches = linear_policy(11, 3), []

    def recording(obss: np.ndarray) -> np.ndarray:
        assert obss.dtype == np.float32 and obss.shape[1:] == (11,)
        batches.append(len(obss))
        return policy(obss)

    _, lengths = hopper.run_episodes(recording, [0, 1, 2, 3])
    assert batches == [int((lengths > t).sum()) for t in range(lengths.max())]


def test_no_seeds_and_wrong_action_shapes(hopper: SimulatorEnv) -> None:
    returns, lengths = hopper.run_episodes(linear_policy(11, 3), [])
    assert len(returns) == len(lengths) == 0
    with pytest.raises(ValueError, match=r"\(2, 4\) for 2 observations"):
        hopper.run_episodes(lambda obss: np.zeros((len(obss), 4)), [0, 1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hoper-medium-v2", "hopper-medium-v2"),
        ("Hoper-v4", "did you mean Hopper-v"),
        ("Hopper-v77", "Hopper-v4"),
        ("Pendulum-v1", "no reference scores are known for 'Pendulum-v1'"),
    ],
)
def test_unknown_names(name: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        make_env(name)


def test_own_reference_scores() -> None:
    env = make_env("Pendulum-v1", ref_scores=(-1200.0, -200.0))
    assert env.get_normalized_score(-700.0) == 0.5
    env.close()
    with pytest.raises(UserError, match="must differ"):
        make_env("Pendulum-v1", ref_scores=(1.0, 1.0))
    with pytest.raises(UserError, match="discrete"):
        make_env("CartPole-v1", ref_scores=(0.0, 1.0))


class Toy(gymnasium.Env[Any, Any]):
    """Three steps, rewarded by the action; its spaces are what a test makes of them."""

    def __init__(self, observations: Any = None, actions: Any = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (2,)) if observations is None else observations
        self.action_space = actions

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.taken = 0
        return np.zeros(2, "f4"), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken += 1
        return np.zeros(2, "f4"), float(action @ [1, 100]), self.taken == 3, False, {}


@pytest.fixture
def toy() -> Iterator[str]:
    gymnasium.register("Toy-v0", Toy)
    yield "Toy-v0"
    del gymnasium.registry["Toy-v0"]


def test_each_bound_of_an_action_counts(toy: str) -> None:
    actions = gymnasium.spaces.Box(np.array([-1, 0], "f4"), np.array([3, 10], "f4"))
    env = SimulatorEnv(toy, 0, 100, options={"actions": actions})
    returns, lengths = env.run_episodes(lambda obss: np.tile([0.5, -0.5], (len(obss), 1)), [0, 1])
    assert returns.tolist() == [3 * (2 + 250)] * 2 and lengths.tolist() == [3, 3]
    env.close()


def test_actions_in_the_units_of_narrow_bounds_are_noticed(toy: str) -> None:
    narrow = SimulatorEnv(toy, 0, 100, options={"actions": gymnasium.spaces.Box(-0.4, 0.4, (2,))})
    assert narrow.holds(np.array([[0.4, -0.4]], "f4")) and not narrow.holds(np.array([[0.4, -0.4], [0.41, 0]], "f4"))
    for low, high in ((-1, 1), (-2, 2), (0, 5)):
        assert not SimulatorEnv(toy, 0, 100, options={"actions": gymnasium.spaces.Box(low, high, (2,))}).holds(np.zeros((1, 2), "f4"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"actions": gymnasium.spaces.Box(-np.inf, np.inf, (2,))}, "unbounded actions"),
        ({"actions": gymnasium.spaces.Box(0, np.inf, (2,))}, "unbounded actions"),
        ({"actions": gymnasium.spaces.Box(-1, 1, (2, 2))}, "no vectors"),
        ({"actions": gymnasium.spaces.Discrete(2)}, "discrete"),
        ({"actions": gymnasium.spaces.Box(-1, 1, (2,)), "observations": gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)}, "no vectors"),
        ({"actions": gymnasium.spaces.Box(-1, 1, (2,)), "observations": gymnasium.spaces.Dict()}, "discrete"),
    ],
)
def test_simulators_that_a_policy_here_cannot_act_in(options: dict[str, Any], words: str, toy: str) -> None:
    with pytest.raises(UserError, match=words):
        SimulatorEnv(toy, 0, 100, options=options)


@pytest.mark.parametrize(("old", "newer"), [("Hopper-v3", "Hopper-v4 or Hopper-v5"), ("Pusher-v4", "Pusher-v5")])
def test_a_simulator_that_is_too_old_names_the_newer_ones(old: str, newer: str) -> None:
    with pytest.raises(UserError, match=f"too old for this Gymnasium .*; choose {newer}"):
        make_env(old, ref_scores=(0.0, 1.0))


def test_missing_mujoco_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "mujoco" or ".mujoco" in name]:
        monkeypatch.delitem(sys.modules, module)
    real_import = builtins.__import__

    def without_mujoco(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "mujoco":
            raise ImportError("No module named 'mujoco'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_mujoco)
    with pytest.raises(UserError, match=r'pip install "gymnasium\[mujoco\]"'):
        make_env("hopper-medium")


def test_expected_notices_are_silent_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    heard: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters, handler = list(warnings.filters), mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(heard.append)
        for name in ("Hopper-v4", "HalfCheetah-v4"):
            make_env(name).close()
        assert list(warnings.filters) == filters
        assert mujoco.get_mju_user_warning() == heard.append  # put back
        mujoco.set_mju_user_warning(handler)
        assert [str(w.message) for w in caught if "date" in str(w.message) or "MuJoCo" in str(w.message)] == []
        gymnasium.make("Hopper-v4").close()
        assert any("out of date" in str(w.message) for w in caught)  # anyone else still hears it
    assert heard == [] and os.listdir(tmp_path) == []  # no MUJOCO_LOG.TXT
    assert "WARNING" not in "".join(capfd.readouterr())


def test_every_task_has_a_registered_simulator() -> None:
    assert {get_task(name).env_id for name in list_tasks()} <= set(gymnasium.registry)
