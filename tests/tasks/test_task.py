"""Task names, their spellings and their reference scores."""

from __future__ import annotations

import numpy as np
import pytest

from offlinerlkit_damo.config import presets
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import file_task, get_task, list_tasks, make_env
from offlinerlkit_damo.tasks.task import ROBOTS, SOURCES, preset_name


def test_all_tasks_resolve_to_themselves() -> None:
    names = list_tasks()
    assert len(names) == len(set(names)) == 15
    assert [get_task(name).name for name in names] == names
    theirs = list_tasks("d4rl")
    assert len(set(theirs)) == 24 and {f"{name}-v2" for name in names} < set(theirs)
    assert [f"{get_task(name).name}-v2" for name in theirs] == theirs


@pytest.mark.parametrize(
    ("name", "source", "robot", "env_id", "sizes", "options_of"),
    [
        ("minari:mujoco/hopper/medium-v0", "minari", "hopper", "Hopper-v5", (11, 3), "hopper-medium"),
        ("minari:mujoco/halfcheetah/simple-v0", "minari", "halfcheetah", "HalfCheetah-v5", (17, 6), "halfcheetah-medium-replay"),
        ("minari:mujoco/ant/expert-v0", "minari", "ant", "Ant-v5", (105, 8), "ant-medium-expert"),
        ("neorl:HalfCheetah-v3-low-1000", "neorl", "halfcheetah", "HalfCheetah-v4", (18, 6), "halfcheetah-medium-replay"),
        ("neorl:Walker2d-v3-high-37", "neorl", "walker2d", "Walker2d-v4", (18, 6), "walker2d-medium-expert"),
        ("ant-medium-v2", "d4rl", "ant", "Ant-v4", (111, 8), "ant-medium"),
        ("hopper-full-replay-v2", "d4rl", "hopper", "Hopper-v4", (11, 3), "hopper-medium-replay"),
        ("walker2d-expert-v2", "d4rl", "walker2d", "Walker2d-v4", (17, 6), "walker2d-medium-expert"),
    ],
)
def test_names_of_other_sources(name: str, source: str, robot: str, env_id: str, sizes: tuple[int, int], options_of: str) -> None:
    """Each with the simulator that it was recorded in, or the nearest, and D4RL's scores; the simulator has the sizes said."""
    task = get_task(name)
    assert (task.source, task.robot, task.env_id, (task.obs_dim, task.action_dim)) == (source, robot, env_id, sizes)
    assert (task.ref_min_score, task.ref_max_score) == (ROBOTS[robot].ref_min_score, ROBOTS[robot].ref_max_score)
    assert preset_name(name) == options_of
    env = make_env(task)
    assert (env.observation_space.shape, env.action_space.shape) == ((sizes[0],), (sizes[1],))
    env.seed(0)
    first, step = env.reset(), env.step(np.zeros(sizes[1]))[0]
    assert first.shape == step.shape == (sizes[0],)
    assert (first[sizes[0] - task.zeros :] == 0).all() and (step[sizes[0] - task.zeros :] == 0).all()
    env.close()


@pytest.mark.parametrize("source", SOURCES)
def test_damo_has_options_for_every_task_by_name(source: str) -> None:
    of_tasks = presets("damo")["stable"]["tasks"]
    assert [name for name in list_tasks(source) if preset_name(name) not in of_tasks] == []


def test_own_data_takes_the_options_of_its_robots_medium_task() -> None:
    assert preset_name("mine", "Hopper-v5") == "hopper-medium"
    assert preset_name("mine", "Pendulum-v1") == "mine"
    assert preset_name("mine") == "mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("minari:mujoco/pusher/medium-v0", "--env"),
        ("minari:pen", "--env"),
        ("neorl:Hoper-v3-low-100", "neorl:Hopper-v3-low-1000"),
        ("neorl:Hopper-v3-low", "neorl:Hopper-v3-low-1000"),
    ],
)
def test_other_sources_have_their_own_names(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        get_task(name)


def test_own_data_is_judged_as_its_simulator_is_known() -> None:
    known, unknown, none = file_task("mine", "Hopper-v5"), file_task("mine", "Pendulum-v1"), file_task("mine", None)
    assert (known.robot, known.ref_max_score) == ("hopper", 3234.3)
    assert (unknown.robot, unknown.ref_min_score, unknown.ref_max_score) == (None, 0, 100)  # a score is the return
    assert none.env_id is None and none.obs_dim is None


@pytest.mark.parametrize(("spelling", "source"), [("hopper-medium-expert", "generated"), ("hopper-medium-expert-v2", "d4rl")])
def test_both_spellings_differ_in_the_data_alone(spelling: str, source: str) -> None:
    task = get_task(spelling)
    assert task.source == source
    assert (task.name, task.robot, task.quality, task.env_id) == (
        "hopper-medium-expert",
        "hopper",
        "medium-expert",
        "Hopper-v4",
    )
    assert (task.ref_min_score, task.ref_max_score) == (-20.272305, 3234.3)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("hoper-medium-v2", "hopper-medium-v2"),
        ("walker-medium-replay", "walker2d-medium-replay"),
        ("hopper-medium-v0", "hopper-medium-v2"),
        ("hopper-full-replay", "hopper-medium-replay"),
    ],
)
def test_an_unknown_task_names_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(UserError) as caught:
        get_task(wrong)
    assert f"unknown task {wrong!r}; did you mean" in str(caught.value)
    assert right in str(caught.value)


def test_a_name_far_from_all_lists_them() -> None:
    with pytest.raises(UserError, match=r"unknown task .zzz.; choose from .*hopper-random.*walker2d-random"):
        get_task("zzz")
