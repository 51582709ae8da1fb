"""Task names, their spellings and their reference scores."""

from __future__ import annotations

import pytest

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import get_task, list_tasks


def test_all_tasks_resolve_to_themselves() -> None:
    names = list_tasks()
    assert len(names) == len(set(names)) == 15
    assert [get_task(name).name for name in names] == names
    theirs = list_tasks("d4rl")
    assert len(set(theirs)) == 18 and {f"{name}-v2" for name in names} < set(theirs)
    assert [f"{get_task(name).name}-v2" for name in theirs] == theirs


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
