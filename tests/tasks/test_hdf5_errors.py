"""Every bad file gets one sentence that names the file, what is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import columns, hdf5, load_dataset

RandomRows = Callable[..., dict[str, np.ndarray]]
WriteFile = Callable[..., Path]


def refusal(path: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        load_dataset(path)
    message = str(caught.value)
    assert Path(path).name in message and "\n" not in message
    return message


@pytest.fixture
def rows(random_rows: RandomRows) -> dict[str, Any]:
    return dict(random_rows(np.random.default_rng(0), 20))


def test_missing_file_names_the_nearest(tmp_path: Path, write_file: WriteFile, rows: dict[str, Any]) -> None:
    write_file(rows, "hopper-medium.hdf5")
    assert "did you mean hopper-medium.hdf5?" in refusal(tmp_path / "hoper-medium.hdf5")
    assert "has hopper-medium.hdf5" in refusal(tmp_path / "zzzzz")


def test_missing_file_in_a_folder_without_any_or_no_folder(tmp_path: Path) -> None:
    assert "has no .hdf5 file" in refusal(tmp_path / "a.hdf5")
    assert "there is no folder" in refusal(tmp_path / "nowhere" / "a.hdf5")


def test_folder(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)


def test_another_format_and_an_empty_file(tmp_path: Path) -> None:
    for content in (b"step,reward\n1,2\n", b""):
        path = tmp_path / "data.hdf5"
        path.write_bytes(content)
        assert "as HDF5" in refusal(path)


@pytest.mark.parametrize("fraction", [0.3, 0.99])
def test_truncated_file(write_file: WriteFile, rows: dict[str, Any], fraction: float) -> None:
    path = write_file(rows)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    assert "cut short" in refusal(path)


def test_damaged_compressed_data(tmp_path: Path, rows: dict[str, Any]) -> None:
    path = tmp_path / "data.hdf5"
    rows["observations"] = np.random.default_rng(0).normal(size=(20, 3)).astype("f4")
    with h5py.File(path, "w") as file:
        for key, value in rows.items():
            file.create_dataset(key, data=value, compression="gzip")
        offset = file["observations"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 40] = b"x" * 40
    path.write_bytes(content)
    assert "cut short" in refusal(path)


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "terminals"])
def test_missing_key(write_file: WriteFile, rows: dict[str, Any], key: str) -> None:
    del rows[key]
    assert f"lacks {key} (it has" in refusal(write_file(rows))


def test_group_in_place_of_a_dataset_and_file_without_keys(write_file: WriteFile, rows: dict[str, Any]) -> None:
    del rows["rewards"]
    rows["rewards/inner"] = np.zeros(20)
    assert "lacks rewards" in refusal(write_file(rows))
    assert "it has nothing" in refusal(write_file({}))


def test_a_link_that_leads_nowhere_is_no_dataset(write_file: WriteFile, rows: dict[str, Any]) -> None:
    rewards = rows.pop("rewards")
    path = write_file(rows)
    for link in (h5py.SoftLink("/nowhere"), h5py.ExternalLink("absent.hdf5", "/rewards")):
        with h5py.File(path, "a") as file:
            file["rewards"] = link
        assert "lacks rewards" in refusal(path) and "rewards that is no dataset" in refusal(path)
        with h5py.File(path, "a") as file:
            del file["rewards"]
    write_file({"rewards": rewards}, "absent.hdf5")
    with h5py.File(path, "a") as file:
        file["rewards"] = h5py.ExternalLink("absent.hdf5", "/rewards")
    np.testing.assert_array_equal(load_dataset(path).rewards, rewards)


def test_parts_of_a_virtual_dataset_must_be_there(tmp_path: Path, write_file: WriteFile, rows: dict[str, Any]) -> None:
    """HDF5 itself reads zeros for what it does not find."""
    source, path = write_file(rows, "part.hdf5"), tmp_path / "all.hdf5"
    with h5py.File(path, "w") as file:
        for key, value in rows.items():
            layout = h5py.VirtualLayout(value.shape, value.dtype)
            layout[:] = h5py.VirtualSource("part.hdf5", key, value.shape)
            file.create_virtual_dataset(key, layout)
    assert load_dataset(path).fingerprint == load_dataset(source).fingerprint
    with h5py.File(source, "a") as file:
        del file["rewards"]
    assert "rewards is put together from part.hdf5, which lacks it" in refusal(path)
    source.unlink()
    assert "observations is put together from part.hdf5" in refusal(path)


def test_neither_timeouts_nor_next_observations(write_file: WriteFile, rows: dict[str, Any]) -> None:
    del rows["timeouts"], rows["next_observations"]
    assert "add one of the two" in refusal(write_file(rows))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("observations", np.zeros(20), "observations has shape (20,)"),
        ("rewards", np.zeros((20, 2)), "rewards has shape (20, 2)"),
        ("rewards", 1.0, "rewards has shape ()"),
        ("actions", np.zeros((20, 2, 1)), "actions has shape (20, 2, 1)"),
        ("actions", np.zeros((20, 0)), "at least 1 wide"),
        ("next_observations", np.zeros((20, 4)), "4 wide but observations 3"),
        ("rewards", np.zeros(19), "rewards 19"),
        ("rewards", np.array([b"1.0"] * 20), "rewards has type |S3"),
        ("terminals", np.array(["no"] * 20, h5py.string_dtype()), "terminals has type object"),
        ("rewards", np.zeros(20, complex), "rewards has type complex128"),
        ("terminals", np.full(20, 0.5), "terminals must be 0 or 1 but row 0"),
        ("timeouts", np.arange(20), "timeouts must be 0 or 1 but row 2"),
    ],
)
def test_wrong_shapes_lengths_and_types(write_file: WriteFile, rows: dict[str, Any], key: str, value: Any, expected: str) -> None:
    rows[key] = value
    assert expected in refusal(write_file(rows))


@pytest.mark.parametrize("key", ["observations", "actions", "next_observations", "rewards", "terminals"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite_in_float32(write_file: WriteFile, rows: dict[str, Any], key: str, bad: float) -> None:
    rows[key] = rows[key].astype("f8")
    rows[key][[5, 9]] = bad
    count = 2 * int(np.prod(rows[key].shape[1:]))
    assert f"{key} has {count} NaN or infinite values, the first in row 5" in refusal(write_file(rows))


def test_actions_out_of_range(write_file: WriteFile, rows: dict[str, Any]) -> None:
    rows["actions"][4, 1], rows["actions"][8, 0] = -1.001, 1.5
    assert "2 actions lie outside [-1, 1], the first in row 4" in refusal(write_file(rows))
    rows["actions"][4, 1], rows["actions"][8, 0] = -1, np.nextafter(np.float32(1), np.float32(2))
    load_dataset(write_file(rows))


def test_no_rows(write_file: WriteFile, rows: dict[str, Any]) -> None:
    assert "holds no rows" in refusal(write_file({key: value[:0] for key, value in rows.items()}))


def test_no_usable_rows(write_file: WriteFile, rows: dict[str, Any]) -> None:
    del rows["next_observations"]
    rows["terminals"][:] = False
    rows["timeouts"][:] = True
    assert "no usable transition (20 timeout" in refusal(write_file(rows))


@pytest.mark.parametrize(("count", "width"), [(columns.MAX_ROWS + 1, 1), (3_000, 2_000)])
def test_too_large_is_refused_before_reading(tmp_path: Path, count: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MAX_BYTES", 10**9 if width == 1 else 10**6)
    monkeypatch.setattr(hdf5, "_read", None)
    path = tmp_path / "huge.hdf5"
    with h5py.File(path, "w") as file:  # chunks never written take no room
        for key, shape in {"observations": (count, width), "actions": (count, 2)}.items():
            file.create_dataset(key, shape, "f4", chunks=(1000, shape[1]))
        for key in ("rewards", "terminals", "timeouts"):
            file.create_dataset(key, (count,), "f4", chunks=(1000,))
    assert path.stat().st_size < 1e6
    assert f"holds {count:,} rows" in refusal(path)
