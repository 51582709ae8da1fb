"""What lies outside the data, and the means over pairs, against slow counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from offlinerlkit_damo.analysis import values as module
from offlinerlkit_damo.analysis.clouds import offline
from offlinerlkit_damo.analysis.values import Neighbours, _figure, summarised, table_of
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import OfflineDataset
from offlinerlkit_damo.tasks.dataset import assemble


def dataset(rows: int = 90, length: int = 15, seed: int = 0) -> OfflineDataset:
    """Episodes of random numbers, the rows of one near each other."""
    rng = np.random.default_rng(seed)
    centre = np.repeat(rng.normal(size=(-(-rows // length), 4)), length, 0)[:rows]
    obs = (centre + 0.1 * rng.normal(size=(rows, 4))).astype(np.float32) * 5
    return assemble(
        "toy",
        observations=obs,
        actions=rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        rewards=np.zeros(rows, np.float32),
        terminals=np.zeros(rows, bool),
        timeouts=np.arange(rows) % length == length - 1,
        next_observations=obs,
    )


def test_distances_are_to_the_nearest_pair_in_standard_deviations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)
    data = dataset()
    pairs = np.concatenate([data.observations, data.actions], 1).astype(np.float64)
    scale = pairs.std(0)
    found = Neighbours(data, np.random.default_rng(0))
    obs, actions = np.random.default_rng(1).normal(size=(12, 4)) * 3, np.random.default_rng(2).uniform(-1, 1, (12, 2))
    slow = [min(np.linalg.norm((np.append(o, a) - row) / scale) for row in pairs) for o, a in zip(obs, actions, strict=True)]
    np.testing.assert_allclose(found(obs.astype("f4"), actions.astype("f4")), slow, rtol=1e-3)
    # the data's own rows are measured against the other episodes: within their own they would all be near
    episode = np.arange(90) // 15
    np.testing.assert_array_equal(offline(data).groups, episode + 1)
    own = [min(np.linalg.norm((pairs[i] - pairs[j]) / scale) for j in range(90) if episode[i] != episode[j]) for i in range(90)]
    assert found.radius == pytest.approx(np.quantile(own, 0.95), rel=1e-3)
    assert (found(data.observations, data.actions) < 1e-2).all()  # of the data itself nothing is outside


def test_one_episode_has_no_outside() -> None:
    with pytest.raises(UserError, match="one single episode"):
        Neighbours(dataset(rows=20, length=20), np.random.default_rng(0))


def test_the_table_has_every_run_and_the_mean_over_seeds() -> None:
    def run(label: str, seed: int, value: float) -> dict[str, object]:
        ends = (("", 0), ("_low", -1), ("_high", 1))
        bounds = {f"{key}{end}": value + shift for key in ("critic", "real", "difference") for end, shift in ends}
        return {"label": label, "seed": seed, "pairs": "out", "number": 40, **bounds}

    inside = {**run("damo", 1, 1.0), "pairs": "in"}
    both = table_of(pd.DataFrame([inside, run("damo", 1, 10.0), run("mopo", 1, 5.0), run("damo", 2, 14.0)]))
    assert both.iloc[-1]["pairs"] == "inside the data (40)"
    table = both.iloc[:-1]
    assert list(table.columns) == ["pairs", "run", "critic", "real", "critic - real"]
    assert table[["run", "critic"]].to_records(index=False).tolist() == [
        ("damo, 2 seeds", "12.0 ± 2.0"), ("damo, seed 1", "10.0 [9.0, 11.0]"), ("damo, seed 2", "14.0 [13.0, 15.0]"),
        ("mopo, seed 1", "5.0 [4.0, 6.0]"),
    ]  # fmt: skip
    assert set(table["pairs"]) == {"outside the data (40)"}


def test_a_critic_that_diverged_does_not_flatten_the_others() -> None:
    runs = [{"label": str(i), "seed": 1, "pairs": "out", "number": 3, "critic": 100.0 + i, "real": 90.0 - i} for i in range(3)]
    summary = pd.DataFrame(runs)
    for name, value, scale in (("critic", -9e5, "symlog"), ("critic", -900.0, "linear")):
        summary.loc[0, name] = value
        bounds = {f"{key}_{end}": summary[key] for key in ("critic", "real") for end in ("low", "high")}
        assert _figure(summary.assign(**bounds)).axes[0].get_xscale() == scale


def test_means_are_over_pairs_and_intervals_over_episodes() -> None:
    rng = np.random.default_rng(0)
    episode = rng.integers(6, size=80)
    level = rng.normal(size=6)[episode] * 10
    table = pd.DataFrame(
        {"label": "a", "seed": 1, "pairs": "out", "episode": episode, "critic": level + rng.normal(size=80), "real": level}
    )
    row = summarised(table, 0).iloc[0]
    assert row["critic"] == pytest.approx(table["critic"].mean()) and row["number"] == 80
    assert row["difference"] == pytest.approx((table["critic"] - table["real"]).mean())
    draws = []
    values = table[["critic", "real"]].to_numpy()
    for _ in range(1500):
        drawn = np.concatenate([values[episode == e] for e in rng.integers(6, size=6)])
        draws.append([drawn[:, 0].mean(), (drawn[:, 0] - drawn[:, 1]).mean()])
    (low, low_difference), (high, high_difference) = np.quantile(draws, [0.025, 0.975], axis=0)
    assert (row["critic_low"], row["critic_high"]) == pytest.approx((low, high), abs=1.5)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((low_difference, high_difference), abs=0.08)
    assert high - low > 20 * (high_difference - low_difference) / 2  # what both share cancels
