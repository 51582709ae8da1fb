"""The tasks by name: robot, quality of the data, simulator and reference scores.

Reference scores are D4RL's (Fu et al. 2020, `d4rl/infos.py`): the mean return of a random and of an expert policy,
the same for every quality, dataset version and source of a robot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from offlinerlkit_damo.errors import UserError, unknown

QUALITIES = ("random", "medium", "medium-replay", "medium-expert", "expert")
D4RL_QUALITIES = (*QUALITIES, "full-replay")
NEORL_QUALITIES = ("low", "medium", "high")
NEAREST = {
    **dict.fromkeys(("full-replay", "simple", "low"), "medium-replay"),
    **dict.fromkeys(("expert", "high"), "medium-expert"),
}
"""The quality whose options one takes for which neither the paper nor the kit has any."""
SOURCES = ("generated", "d4rl", "minari", "neorl")
MINARI, NEORL = "minari:", "neorl:"


@dataclass(frozen=True)
class Robot:
    """What all tasks of one robot share."""

    gym_name: str  # Gymnasium's name of the simulator, without its version
    obs_dim: int
    action_dim: int
    ref_min_score: float  # undiscounted return that scores 0
    ref_max_score: float  # undiscounted return that scores 100

    @property
    def env_id(self) -> str:
        """The Gymnasium id of the simulator that is nearest to D4RL's."""
        return f"{self.gym_name}-v4"


ROBOTS = {
    "ant": Robot("Ant", 27, 8, -325.6, 3879.7),
    "halfcheetah": Robot("HalfCheetah", 17, 6, -280.178953, 12135.0),
    "hopper": Robot("Hopper", 11, 3, -20.272305, 3234.3),
    "walker2d": Robot("Walker2d", 17, 6, 1.629008, 4592.3),
}
GENERATED_ROBOTS = ("halfcheetah", "hopper", "walker2d")
ANT_CONTACT_FORCES = 84
"""Columns of D4RL's Ant observations that are always 0: MuJoCo 2.0 did not compute what Ant-v2 put there."""
TIME_LIMIT = 1000
"""Steps of an episode of every robot above."""


@dataclass(frozen=True)
class Task:
    """One offline RL task: where its data comes from, and what a policy of it is judged by."""

    name: str  # for example "hopper-medium-expert"
    source: str  # where its dataset comes from: one of SOURCES, or "file" for one that the user names
    robot: str | None  # key of ROBOTS; None for a simulator of the user's own
    quality: str | None  # one of D4RL_QUALITIES or NEORL_QUALITIES
    env_id: str | None  # Gymnasium id of the simulator; None where there is none
    ref_min_score: float  # undiscounted return that scores 0
    ref_max_score: float  # undiscounted return that scores 100
    obs_dim: int | None  # None: what the dataset has
    action_dim: int | None
    positions: int = 0  # coordinates at the front of an observation that the robots' own observations leave out
    zeros: int = 0  # columns of zeros at the end of an observation, beside the simulator's

    @property
    def unit(self) -> str:
        """What a score is counted in."""
        return "normalised points" if self.robot is not None else "points of return"

    @property
    def env_options(self) -> dict[str, Any]:
        """The arguments that Gymnasium makes the simulator with."""
        return {"exclude_current_positions_from_observation": False} if self.positions else {}

    def points(self, returns: Any) -> Any:
        """Undiscounted returns, a number or an array, as D4RL's normalised points: 0 and 100 at the two references."""
        return 100 * (returns - self.ref_min_score) / (self.ref_max_score - self.ref_min_score)


def list_tasks(source: str = "generated") -> list[str]:
    """The names of the tasks of a source, robots in alphabetical order and qualities from worst to best; NeoRL's with 1000 trajectories."""
    if source == "d4rl":
        return [f"{robot}-{quality}-v2" for robot in ROBOTS for quality in D4RL_QUALITIES]
    if source == "minari":
        return [f"{MINARI}mujoco/{robot}/{quality}-v0" for robot in ROBOTS for quality in ("simple", "medium", "expert")]
    if source == "neorl":
        robots = [robot.gym_name for name, robot in ROBOTS.items() if name != "ant"]
        return [f"{NEORL}{robot}-v3-{quality}-1000" for robot in robots for quality in NEORL_QUALITIES]
    return [f"{robot}-{quality}" for robot in GENERATED_ROBOTS for quality in QUALITIES]


def get_task(name: str) -> Task:
    """The task called `name`: "hopper-medium" has a dataset generated here, "hopper-medium-v2" D4RL's, "minari:mujoco/hopper/medium-v0"
    Minari's and "neorl:Hopper-v3-low-1000" NeoRL's, of any number of trajectories.

    Raises UserError, naming the nearest tasks, when there is none.
    """
    if name.startswith(MINARI):
        return _minari_task(name)
    if name.startswith(NEORL):
        return _neorl_task(name)
    versioned = re.search(r"-v\d+$", name) is not None
    source = "d4rl" if versioned else "generated"
    if name not in list_tasks(source):
        raise unknown("task", name, list_tasks(source))
    plain = name.removesuffix("-v2")
    robot, quality = plain.split("-", 1)
    return _robot_task(plain, source, robot, quality, zeros=ANT_CONTACT_FORCES if robot == "ant" else 0)


def _minari_task(name: str) -> Task:
    found = re.fullmatch(rf"{MINARI}mujoco/(\w+)/([\w-]+)-v\d+", name)
    if found is None or found[1] not in ROBOTS:
        raise UserError(
            f"no simulator and reference scores are known for {name!r}; give the simulator with --env and the dataset with --data {name}, "
            f"or choose from {', '.join(list_tasks('minari'))}"
        )
    # Gymnasium's v5, which they were recorded in, has Ant's contact forces, without those of the world's own body
    extra = ANT_CONTACT_FORCES - 6 if found[1] == "ant" else 0
    return _robot_task(name, "minari", found[1], found[2], extra=extra)


def _neorl_task(name: str) -> Task:
    found = re.fullmatch(rf"{NEORL}(\w+)-v3-(\w+)-(\d+)", name)
    robots = {ROBOTS[robot].gym_name: robot for robot in GENERATED_ROBOTS}
    if found is None or found[1] not in robots or found[2] not in NEORL_QUALITIES or int(found[3]) < 1:
        raise unknown("task", name, list_tasks("neorl"))
    # its simulators do not leave the horizontal position out
    return _robot_task(name, "neorl", robots[found[1]], found[2], positions=1)


def _robot_task(name: str, source: str, robot: str, quality: str, *, positions: int = 0, zeros: int = 0, extra: int = 0) -> Task:
    about = ROBOTS[robot]
    return Task(
        name=name,
        source=source,
        robot=robot,
        quality=quality,
        env_id=f"{about.gym_name}-v5" if source == "minari" else about.env_id,
        ref_min_score=about.ref_min_score,
        ref_max_score=about.ref_max_score,
        obs_dim=about.obs_dim + positions + zeros + extra,
        action_dim=about.action_dim,
        positions=positions,
        zeros=zeros,
    )


def robot_of(env_id: str) -> str | None:
    """The robot of a Gymnasium id such as "Hopper-v5", None for any other simulator."""
    name = env_id.rsplit("-v", 1)[0]
    return next((robot for robot, about in ROBOTS.items() if about.gym_name == name), None)


def file_task(name: str, env_id: str | None) -> Task:
    """A task for the user's own data, judged in `env_id`, or not at all without one.

    Of a simulator without known reference scores the score is the return itself.
    """
    robot = robot_of(env_id) if env_id is not None else None
    scores = (ROBOTS[robot].ref_min_score, ROBOTS[robot].ref_max_score) if robot else (0.0, 100.0)
    return Task(name, "file", robot, None, env_id, *scores, obs_dim=None, action_dim=None)


def preset_name(task: str, env_id: str | None = None) -> str:
    """The task whose options in configs/ a task takes: of the same robot, and the nearest quality. The name itself where none is near.

    `env_id`: the simulator of the user's own data, whose quality is not known and taken for medium.
    """
    if env_id is not None:
        robot = robot_of(env_id)
        return task if robot is None else f"{robot}-medium"
    try:
        about = get_task(task)
    except UserError:  # the user's own data without a simulator
        return task
    return f"{about.robot}-{NEAREST.get(about.quality or '', about.quality)}"
