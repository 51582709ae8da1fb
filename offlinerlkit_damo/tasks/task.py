"""The tasks by name: robot, quality of the data, simulator and reference scores.

Reference scores are D4RL's (Fu et al. 2020, `d4rl/infos.py`): the mean return of a random and of an expert policy,
the same for every quality and dataset version of a robot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from offlinerlkit_damo.errors import unknown

QUALITIES = ("random", "medium", "medium-replay", "medium-expert", "expert")
D4RL_QUALITIES = (*QUALITIES, "full-replay")


@dataclass(frozen=True)
class Robot:
    """What all tasks of one robot share."""

    env_id: str  # Gymnasium id of the simulator
    obs_dim: int
    action_dim: int
    ref_min_score: float  # undiscounted return that scores 0
    ref_max_score: float  # undiscounted return that scores 100


ROBOTS = {
    "halfcheetah": Robot("HalfCheetah-v4", 17, 6, -280.178953, 12135.0),
    "hopper": Robot("Hopper-v4", 11, 3, -20.272305, 3234.3),
    "walker2d": Robot("Walker2d-v4", 17, 6, 1.629008, 4592.3),
}


@dataclass(frozen=True)
class Task:
    """One offline RL task; the scores and dimensions are those of its robot."""

    name: str  # for example "hopper-medium-expert"
    robot: str  # key of ROBOTS
    quality: str  # one of D4RL_QUALITIES
    source: str  # where its dataset comes from: "generated" here, or "d4rl"
    env_id: str  # Gymnasium id of the simulator
    ref_min_score: float  # undiscounted return that scores 0
    ref_max_score: float  # undiscounted return that scores 100
    obs_dim: int
    action_dim: int


def list_tasks(source: str = "generated") -> list[str]:
    """The names of all tasks of a source, robots in alphabetical order and qualities from worst to best."""
    if source == "d4rl":
        return [f"{robot}-{quality}-v2" for robot in ROBOTS for quality in D4RL_QUALITIES]
    return [f"{robot}-{quality}" for robot in ROBOTS for quality in QUALITIES]


def get_task(name: str) -> Task:
    """The task called `name`: "hopper-medium" has a dataset generated here, "hopper-medium-v2" D4RL's.

    Raises UserError, naming the nearest tasks, when there is none.
    """
    versioned = re.search(r"-v\d+$", name) is not None
    source = "d4rl" if versioned else "generated"
    if name not in list_tasks(source):
        raise unknown("task", name, list_tasks(source))
    plain = name.removesuffix("-v2")
    robot_name, quality = plain.split("-", 1)
    robot = ROBOTS[robot_name]
    return Task(
        name=plain,
        robot=robot_name,
        quality=quality,
        source=source,
        env_id=robot.env_id,
        ref_min_score=robot.ref_min_score,
        ref_max_score=robot.ref_max_score,
        obs_dim=robot.obs_dim,
        action_dim=robot.action_dim,
    )
