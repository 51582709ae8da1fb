"""DeviceReplayBuffer holds what the host's buffer holds, and samples it uniformly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offlinerlkit_damo.engine.buffer import DeviceReplayBuffer
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import ReplayBuffer


def rows(n: int, first: int = 0) -> dict[str, np.ndarray]:
    """n transitions, each recognisable by its number."""
    number = np.arange(first, first + n, dtype=np.float32)
    return {
        "obss": np.stack([number, -number], 1),
        "next_obss": np.stack([number + 0.5, number + 0.25], 1),
        "actions": number[:, None] * 2,
        "rewards": number[:, None] * 3,
        "terminals": (number[:, None] % 3 == 0),
    }


def make(cls: type[ReplayBuffer], size: int) -> ReplayBuffer:
    return cls(size, (2,), np.float32, 1, np.float32, "cpu")


@pytest.mark.parametrize("batches", [[3, 4], [5, 5, 5], [10], [9, 9, 1]])
def test_contents_equal_the_hosts_ring(batches: list[int]) -> None:
    ours, theirs, first = make(DeviceReplayBuffer, 10), make(ReplayBuffer, 10), 0
    for n in batches:
        for buffer in (ours, theirs):
            buffer.add_batch(**rows(n, first))
        first += n
    expected = theirs.sample_all()
    for key, value in ours.sample_all().items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)


def test_batch_longer_than_the_ring_keeps_its_last_rows() -> None:
    buffer = make(DeviceReplayBuffer, 4)
    buffer.add_batch(**rows(11))
    assert sorted(buffer.sample_all()["rewards"].ravel() / 3) == [7, 8, 9, 10]


def test_load_dataset_then_add() -> None:
    ours, theirs = make(DeviceReplayBuffer, 6), make(ReplayBuffer, 6)
    data = rows(6)
    dataset = {
        "observations": data["obss"], "next_observations": data["next_obss"], "actions": data["actions"],
        "rewards": data["rewards"].ravel(), "terminals": data["terminals"].ravel(),
    }
    ours.load_dataset(dataset)
    theirs.load_dataset(dataset)
    for key, value in ours.sample_all().items():
        np.testing.assert_array_equal(value, theirs.sample_all()[key], err_msg=key)
    one = rows(1, 100)
    ours.add(*(one[key][0] for key in ("obss", "next_obss", "actions", "rewards", "terminals")))
    assert 300 in ours.sample_all()["rewards"] and len(ours.sample_all()["rewards"]) == 6


def test_sample_returns_whole_rows_uniformly() -> None:
    buffer = make(DeviceReplayBuffer, 8)
    buffer.add_batch(**rows(5))
    torch.manual_seed(0)
    batch = buffer.sample(5000)
    assert {key: (value.dtype, tuple(value.shape)) for key, value in batch.items()} == {
        "observations": (torch.float32, (5000, 2)),
        "actions": (torch.float32, (5000, 1)),
        "next_observations": (torch.float32, (5000, 2)),
        "terminals": (torch.float32, (5000, 1)),
        "rewards": (torch.float32, (5000, 1)),
    }
    number = batch["observations"][:, 0]
    torch.testing.assert_close(batch["rewards"][:, 0], number * 3)
    torch.testing.assert_close(batch["next_observations"][:, 0], number + 0.5)
    counts = torch.bincount(number.long(), minlength=5)
    assert counts.shape == (5,) and ((counts - 1000).abs() < 150).all()  # five standard deviations of a binomial


def test_normalize_obs_equals_the_hosts() -> None:
    ours, theirs = make(DeviceReplayBuffer, 9), make(ReplayBuffer, 9)
    for buffer in (ours, theirs):
        buffer.add_batch(**rows(9))
    for mine, host in zip(ours.normalize_obs(), theirs.normalize_obs(), strict=True):
        np.testing.assert_allclose(mine, host, rtol=1e-6)
    for key, value in ours.sample_all().items():
        np.testing.assert_allclose(value, theirs.sample_all()[key], rtol=1e-5, err_msg=key)


def test_sampling_an_empty_buffer_says_so() -> None:
    with pytest.raises(UserError, match="empty"):
        make(DeviceReplayBuffer, 3).sample(2)


@pytest.mark.parametrize("size", [4, 7, 10, 13])
@pytest.mark.parametrize("stored", [3, 10, 14])
def test_a_ring_of_another_size_keeps_the_newest_rows(size: int, stored: int) -> None:
    """As if the last rows had been added to it, and every later one."""
    before, after, want = make(DeviceReplayBuffer, 10), make(DeviceReplayBuffer, size), make(ReplayBuffer, size)
    before.add_batch(**rows(stored))
    after.load_state_dict(before.state_dict())
    kept = min(stored, 10, size)
    want.add_batch(**rows(kept, stored - kept))
    for added in (1, 2, 4):
        assert sorted(after.sample_all()["rewards"].ravel()) == sorted(want.sample_all()["rewards"].ravel())
        for buffer in (after, want):
            buffer.add_batch(**rows(added, 100 + added))


def test_rows_of_another_width_are_refused() -> None:
    wider = DeviceReplayBuffer(10, (3,), np.float32, 1, np.float32, "cpu")
    with pytest.raises(ValueError, match=r"rows \(0, 7\) do not fit a buffer of \(10, 9\)"):
        wider.load_state_dict(make(DeviceReplayBuffer, 10).state_dict())
