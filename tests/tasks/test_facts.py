"""data info and data check: what they find in datasets with known faults."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from offlinerlkit_damo.__main__ import main
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import OfflineDataset, get_task, load_dataset, make_dataset
from offlinerlkit_damo.tasks.dataset import assemble
from offlinerlkit_damo.tasks.facts import check_dataset, dataset_facts

WriteFile = Callable[..., Path]


@pytest.fixture
def hopper(cache: Path) -> OfflineDataset:
    return load_dataset(make_dataset("hopper-random", size=2000, progress=False))


def changed(data: OfflineDataset, **columns: Any) -> OfflineDataset:
    return dataclasses.replace(data, **columns)


def problems(data: OfflineDataset, task: str | None = "hopper-random") -> list[str]:
    return [remark.text for remark in check_dataset(data, get_task(task) if task else None) if remark.problem]


def test_facts_are_those_of_a_slow_count(hopper: OfflineDataset) -> None:
    twice = changed(hopper, observations=np.concatenate([hopper.observations[:-3], hopper.observations[:3]]),
                    actions=np.concatenate([hopper.actions[:-3], hopper.actions[:3]]))  # fmt: skip
    facts = dataset_facts(twice, get_task("hopper-random"))
    assert facts["duplicate_transitions"] == 3 and dataset_facts(hopper)["duplicate_transitions"] == 0
    assert facts["saturated_actions"] == np.mean([abs(x) >= 0.99 for x in twice.actions.ravel()])
    assert facts["terminal_rate"] == sum(hopper.terminals) / 2000
    assert facts["return"]["mean"] == pytest.approx(sum(hopper.episode_returns) / len(hopper.episode_returns))
    assert facts["score"]["max"] == pytest.approx(100 * (max(hopper.episode_returns) + 20.272305) / (3234.3 + 20.272305))
    assert facts["observation_columns"][4]["min"] == min(twice.observations[:, 4]) and len(facts["observation_columns"]) == 11


def test_sound_data_has_no_problem(hopper: OfflineDataset) -> None:
    assert check_dataset(hopper, get_task("hopper-random")) == []


def test_faults_are_found(hopper: OfflineDataset) -> None:
    order = np.random.default_rng(0).permutation(2000)
    shuffled = {name: getattr(hopper, name)[order] for name in ("observations", "next_observations", "actions", "rewards")}
    assert "rows shuffled" in problems(changed(hopper, **shuffled))[0]
    assert "rule of hopper differs" in problems(changed(hopper, terminals=~hopper.terminals))[0]
    assert "every row is terminal" in problems(changed(hopper, terminals=np.ones(2000, bool)), None)[0]
    assert "every reward is 2;" in problems(changed(hopper, rewards=np.full(2000, 2, np.float32)))[0]
    long = changed(hopper, episode_lengths=np.array([1500]))
    assert "1500 steps and Hopper-v4 stops after 1000" in problems(long)[0]
    still = hopper.actions.copy()
    still[:] = 0.25
    assert "actions do not vary in columns 0, 1, 2" in problems(changed(hopper, actions=still))[0]
    one = hopper.observations.copy()
    one[:, 3] = 7
    remarks = check_dataset(changed(hopper, observations=one, next_observations=one))
    assert any("observations do not vary in columns 3" in remark.text and not remark.problem for remark in remarks)


def test_without_timeouts_rows_out_of_order_are_found(write_file: WriteFile, random_rows: Any) -> None:
    """Every gap is taken for an episode's end then; a few are notes, most of the rows a problem."""
    rows = random_rows(np.random.default_rng(0), 1000, obs_dim=11, action_dim=3, end_rate=0)
    del rows["timeouts"]
    rows["next_observations"][99::100] += 1
    ordered = load_dataset(write_file(rows))
    assert ordered.report.inferred == 9 and not ordered.report.torn and "9 episode ends inferred" in ordered.report.summary()
    assert problems(ordered, None) == [] and "in 9 of 1000 rows" in check_dataset(ordered)[0].text
    order = np.random.default_rng(0).permutation(1000)
    shuffled = load_dataset(write_file({name: array[order] for name, array in rows.items()}))
    assert shuffled.report.torn and "are the rows shuffled, or next_observations rounded?" in problems(shuffled, None)[0]


def test_missing_timeouts_are_a_problem_with_and_without_next_observations(write_file: WriteFile, random_rows: Any) -> None:
    rng = np.random.default_rng(0)
    rows = random_rows(rng, 5000, obs_dim=11, action_dim=3, end_rate=0)
    rows["timeouts"][499::500] = True
    rows["next_observations"][499::500] += 1
    assert check_dataset(load_dataset(write_file(rows))) == []
    rows["timeouts"][:] = False  # nine breaks in five thousand rows
    assert "in 9 of 4999 rows next_observations is not the following" in problems(load_dataset(write_file(rows)), None)[0]
    del rows["next_observations"]
    assert "an episode has 4999 steps and Hopper-v4 stops after 1000" in problems(load_dataset(write_file(rows)))[0]


def test_timeouts_in_the_wrong_rows_are_told(write_file: WriteFile, random_rows: Any) -> None:
    rows = random_rows(np.random.default_rng(0), 200, end_rate=0)
    rows["next_observations"][49::50] += 1
    rows["timeouts"][48::50] = True  # one too early
    texts = [remark.text for remark in check_dataset(load_dataset(write_file(rows)))]
    assert any("after 4 of 4 timeouts the episode goes on in the following row" in text for text in texts)


def test_what_the_loader_did_is_told() -> None:
    rng = np.random.default_rng(0)
    ends = np.arange(20) % 5 == 4
    data = assemble(
        "x", observations=rng.normal(size=(20, 2)).astype("f4"), actions=rng.uniform(-1, 1, (20, 1)).astype("f4"),
        rewards=rng.normal(size=20).astype("f4"), terminals=ends & (np.arange(20) < 10), timeouts=ends & (np.arange(20) >= 10),
        next_observations=None,
    )  # fmt: skip
    texts = [remark.text for remark in check_dataset(data) if not remark.problem]
    assert texts == [
        "2 rows dropped: timeout, next observation not recorded",
        "2 terminal rows have no recorded next observation; their own stands in",
    ]


def test_info_prints_draws_and_writes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_dataset("hopper-random", size=1000, progress=False)
    monkeypatch.chdir(tmp_path)
    main(["data", "info", str(path), "--task", "hopper-medium", "--json", "facts.json"])
    out = capsys.readouterr().out
    assert "1000 of 1000 transitions" in out and "score of an episode" in out
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["transitions"] == 1000 and len(facts["action_columns"]) == 3
    with PIL.Image.open(tmp_path / f"{path.stem}.png") as image:
        assert image.size == (1440, 840)
    main(["data", "check", str(path), "--task", "hopper-random"])
    assert "nothing that would spoil a training" in capsys.readouterr().out


@pytest.mark.parametrize(("obs_dim", "action_dim", "reward"), [(400, 60, 3e38), (1, 1, 1e8), (3, 2, 0.0)])
def test_any_dataset_can_be_drawn(
    obs_dim: int, action_dim: int, reward: float, tmp_path: Path, write_file: WriteFile, random_rows: Any
) -> None:
    """Hundreds of columns, equal rewards too large for numpy's own bins, no complete episode."""
    rows = random_rows(np.random.default_rng(0), 12, obs_dim=obs_dim, action_dim=action_dim, end_rate=0)
    rows["rewards"][:] = reward
    out = tmp_path / "new" / "figure.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout without room warns
        main(["data", "info", str(write_file(rows)), "--out", str(out)])
    with PIL.Image.open(out) as image:
        assert image.size == (1440, 840)


def test_refusals_of_the_command(tmp_path: Path, write_file: WriteFile, random_rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_file(random_rows(np.random.default_rng(0), 12)))
    for words, message in (
        (["list", "hopper-medium"], "data list takes no name"),
        (["info", path, "--json", str(tmp_path)], "is a folder; give the name of a file"),
        (["info", path, "--out", str(tmp_path)], "is a folder; give the name of a file"),
        (["info", "."], "is a folder, not a dataset"),
    ):
        with pytest.raises(UserError, match=message):
            main(["data", *words])
    assert capsys.readouterr().out == ""


def test_check_exits_with_1_for_a_problem(write_file: WriteFile, random_rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = random_rows(np.random.default_rng(0), 50)
    rows["rewards"][:] = 1
    with pytest.raises(SystemExit) as caught:
        main(["data", "check", str(write_file(rows))])
    assert caught.value.code == 1 and "problem: every reward is 1;" in capsys.readouterr().out
