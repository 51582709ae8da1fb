"""Training on the user's own data: in a simulator of their choice, without one, in D4RL's own."""

from __future__ import annotations

import json
import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from offlinerlkit_damo import load_policy
from offlinerlkit_damo.__main__ import main
from offlinerlkit_damo.config import resolve
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import SimulatorEnv, get_task, make_d4rl_env
from offlinerlkit_damo.tasks.termination import termination_fn

TINY = shlex.split(
    "--hidden-dims 8 --batch-size 40 --epoch 2 --step-per-epoch 3 --eval-episodes 1 --dynamics-max-epochs 1 --dynamics-hidden-dims 8 "
    "--dynamics-weight-decay 0 0 --rollout-batch-size 20 --rollout-length 1 --logdir log"
)


@pytest.fixture
def pendulum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random actions in Pendulum-v1, in [-1, 1] as data must have them; the simulator itself takes [-2, 2]."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    rows = 60
    np.savez(
        tmp_path / "swings.npz", observations=rng.normal(size=(rows, 3)), next_observations=rng.normal(size=(rows, 3)),
        actions=rng.uniform(-1, 1, (rows, 1)), rewards=rng.normal(size=rows), terminals=np.arange(rows) % 20 == 19,
        timeouts=np.zeros(rows),
    )  # fmt: skip
    return tmp_path


def test_a_simulator_of_ones_own_is_scored_by_its_returns(pendulum: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--env", "Pendulum-v1", "--data", "swings.npz", *TINY])
    (run,) = pendulum.glob("log/Pendulum-v1/damo/seed_*")
    results = json.loads((run / "result" / "results.json").read_text())
    assert results["task"]["robot"] is None and results["dataset"]["source"] == "file"
    policy = load_policy(run)
    capsys.readouterr()
    main(["evaluate", str(run), "--episodes", "1", "--seed", "1000000"])
    value = results["evaluations"]["score"][-1]
    assert f"Pendulum-v1: {value:.1f} +- 0.0 points of return, mean return {value:.1f}," in capsys.readouterr().out
    # by hand: the policy's action times 2 is the simulator's
    env: Any = gymnasium.make("Pendulum-v1")
    obs, _ = env.reset(seed=1_000_000)
    total, over = 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(2 * policy.select_action(obs))
        total, over = total + float(reward), terminated or truncated
    assert total == pytest.approx(value, rel=1e-4)
    assert "no rule is known by which the states of Pendulum-v1 do" in (run / "record" / "consoleout_backup.txt").read_text()


@pytest.mark.parametrize("algo", ["damo", "odice"])
def test_without_a_simulator_there_is_a_policy_and_no_score(algo: str, pendulum: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = TINY if algo == "damo" else shlex.split("--hidden-dims 8 --batch-size 40 --epoch 2 --step-per-epoch 3 --logdir log")
    main(["train", "--algo", algo, "--no-eval", "true", "--data", "swings.npz", *flags])
    assert "not evaluated (--no-eval)" in capsys.readouterr().out
    (run,) = pendulum.glob(f"log/swings/{algo}/seed_*")
    results = json.loads((run / "result" / "results.json").read_text())
    assert results["last_10_performance"] is None and results["task"]["env_id"] is None
    assert load_policy(run).select_action(np.zeros(3)).shape == (1,)
    with pytest.raises(UserError, match="swings has no simulator; give one with --env"):
        main(["evaluate", str(run), "--episodes", "1"])
    main(["evaluate", str(run), "--episodes", "1", "--env", "Pendulum-v1"])
    assert re.search(r"swings: -\d+\.\d \+- 0\.0 points of return", capsys.readouterr().out)
    with pytest.raises(UserError, match=r"sizes \(3, 1\), the simulator of swings has \(11, 3\)"):
        main(["evaluate", str(run), "--episodes", "1", "--env", "Hopper-v4"])
    with pytest.raises(UserError, match="leave --task or --env out"):
        main(["evaluate", str(run), "--episodes", "1", "--env", "Pendulum-v1", "--task", "hopper-medium"])
    main(["train", "--resume", str(run), "--epoch", "3", "--force"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--env Pendulum-v1", "give that with --data"),
        ("--env Pendulum-v1 --no-eval true --data swings.npz", "exclude each other"),
        ("--env Pendulim-v1 --data swings.npz", "did you mean Pendulum-v1"),
        ("--env CartPole-v1 --data swings.npz", "discrete"),
        ("--env Pendulum-v0 --data swings.npz", "Gymnasium cannot make 'Pendulum-v0'"),
        ("--env 'Hopper v4' --data swings.npz", "Gymnasium cannot make 'Hopper v4'"),
        ("--env foo/bar/baz --data swings.npz", "Gymnasium cannot make 'foo/bar/baz'"),
        ("--env Hopper-v4 --data swings.npz", "has observations and actions of sizes (11, 3), the dataset (3, 1)"),
        ("--task swings --data swings.npz", "unknown task 'swings'"),
        ("--no-eval true --task swings", "unknown task 'swings'"),
        ("--env Pendulum-v1 --data swings.npz --absorbing true", "would pay for every recorded end; use --absorbing false"),
        ("--env-backend d4rl --env Pendulum-v1 --data swings.npz", "env_backend d4rl is for D4RL's own tasks"),
        ("--env-backend d4rl --data-size 50 --task hopper-random", "hopper-random is not one of them"),
    ],
)
def test_wrong_combinations_are_one_sentence(flags: str, words: str, pendulum: Path) -> None:
    with pytest.raises(UserError) as caught:
        main(["train", *TINY, *shlex.split(flags)])
    assert words in str(caught.value)
    assert not (pendulum / "log").exists()


def test_a_run_says_what_is_doubtful_about_it(pendulum: Path) -> None:
    """A preset without the task, rows out of order, and a c0 that does not go with the divergence; none of it where all is well."""
    rows = np.load(pendulum / "swings.npz")
    loose = {name: rows[name] for name in rows.files if name != "timeouts"}
    np.savez(pendulum / "loose.npz", **{**loose, "terminals": np.zeros(60)})
    odd = shlex.split("--data loose.npz --env Pendulum-v1 --divergence chi2")
    main(["train", *odd, *TINY])
    main(["train", "--task", "swings", "--data", "swings.npz", "--env", "Pendulum-v1", "--preset", "stable", *TINY])
    said = [next(pendulum.glob(f"log/{task}/damo/*/record/consoleout_backup.txt")).read_text() for task in ("Pendulum-v1", "swings")]
    for words in ("has no values for Pendulum-v1", "in 59 of 60 rows next_observations is not", "Q settles where the mean weight is 0.01 "):
        assert words in said[0], words
    assert "has no values for swings" in said[1] and "next_observations is not" not in said[1] and "Q settles" not in said[1]


class OldGymEnv:
    """What d4rl's OfflineEnv has of gym 0.2x."""

    action_space = gymnasium.spaces.Box(-1, 1, (3,))

    def seed(self, seed: int) -> list[int]:
        self.rng = np.random.default_rng(seed)
        return [seed]

    def reset(self) -> np.ndarray:
        self.steps = 0
        return self.rng.normal(size=11)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        self.steps += 1
        return self.rng.normal(size=11), 2.0, self.steps == 4, {}

    def get_normalized_score(self, value: float) -> float:
        return value / 100

    def close(self) -> None:
        pass


def test_d4rls_own_simulators_are_used_where_they_work(pendulum: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def make(name: str) -> OldGymEnv:
        made.append(name)
        return OldGymEnv()

    monkeypatch.setitem(sys.modules, "gym", types.SimpleNamespace(make=make))
    monkeypatch.setitem(sys.modules, "d4rl", types.ModuleType("d4rl"))
    rng = np.random.default_rng(0)
    np.savez(
        pendulum / "hopper.npz", observations=rng.normal(size=(60, 11)), next_observations=rng.normal(size=(60, 11)),
        actions=rng.uniform(-1, 1, (60, 3)), rewards=rng.normal(size=60), terminals=np.zeros(60),
    )  # fmt: skip
    main(["train", "--task", "hopper-medium-v2", "--env-backend", "d4rl", "--data", "hopper.npz", *TINY])
    (results,) = pendulum.glob("log/hopper-medium-v2/damo/*/result/results.json")
    assert made == ["hopper-medium-v2"] and json.loads(results.read_text())["evaluations"]["score"] == [8.0, 8.0]


def test_without_d4rl_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gym", None)
    with pytest.raises(UserError, match=r'pip install "d4rl" "gym<0.25"'):
        make_d4rl_env(get_task("hopper-medium-v2"))


def test_neorls_position_in_front_does_not_reach_the_termination_rule() -> None:
    upright = np.zeros((2, 12), np.float32)
    upright[:, 0], upright[:, 1] = 50.0, (1.25, 0.3)  # far along the track; standing and fallen
    rule = termination_fn(get_task("neorl:Hopper-v3-low-10"))
    assert rule(upright, np.zeros((2, 3)), upright).reshape(-1).tolist() == [False, True]


def test_a_name_without_a_preset_of_its_own_takes_the_options_of_all() -> None:
    assert resolve({"env": "Pendulum-v1", "data": "x.npz"}).task == "Pendulum-v1"
    near = resolve({"task": "minari:mujoco/hopper/medium-v0"})
    assert near.real_ratio == resolve({"task": "hopper-medium"}).real_ratio == 0.5
    assert resolve({"env": "Hopper-v5", "data": "x.npz"}).real_ratio == 0.5
    assert resolve({"task": "hopper-expert", "algo_name": "mobile"}).mobile.mobile_target_floor == 0


def test_scaled_actions_are_clipped_to_the_bounds() -> None:
    env = SimulatorEnv("Pendulum-v1", 0, 100)
    assert env.action_space.low == [-1] and env.action_space.high == [1]
    np.testing.assert_allclose(env._scaled(np.array([0.5])), [1.0])
    np.testing.assert_allclose(env._scaled(np.array([-3.0])), [-2.0])
    env.close()
