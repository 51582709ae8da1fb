"""Run folders on their way between machines: what is sent, and that a cut leaves a run that can be continued."""

from __future__ import annotations

from pathlib import Path

import pytest

from offlinerlkit_damo.compare import parcel
from offlinerlkit_damo.compare.parcel import copy, pack, stamps, unpack
from offlinerlkit_damo.errors import UserError

FILES = (
    "run.json", "run.lock", "record/table.csv", "record/tb/events.1", "checkpoint/last.ckpt", "checkpoint/dynamics/facts.json",
    "checkpoint/dynamics/mu.npy", "result/results.json", ".half.0123", "checkpoint/.dynamics.0123/mu.npy",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text(name)
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_has_what_counts_and_nothing_half_written(run: Path, tmp_path: Path) -> None:
    copy(run, tmp_path / "other")
    assert contents(tmp_path / "other") == {name: name for name in FILES if name != "run.lock" and "/." not in f"/{name}"}


def test_only_what_is_new_is_sent_and_old_events_go(run: Path, tmp_path: Path) -> None:
    first, other = pack(run), tmp_path / "other"
    unpack(first, other)
    assert pack(run, first.stamps).files == {}
    (run / "record" / "table.csv").write_text("longer than before")
    (run / "record" / "tb" / "events.1").unlink()
    (run / "record" / "tb" / "events.2").write_text("again")
    (other / "notes.txt").write_text("somebody's own")
    second = pack(run, first.stamps)
    assert set(second.files) == {"record/table.csv", "record/tb/events.2"}
    unpack(second, other)
    sent = {name: content for name, content in contents(run).items() if name in stamps(run)}
    assert contents(other) == {**sent, "notes.txt": "somebody's own"}


def test_tables_are_read_after_the_checkpoint_that_counts_their_rows(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on while it is packed: the table must have the checkpoint's rows, more do no harm."""
    read = Path.read_bytes
    order: list[str] = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: order.append(path.name) or read(path))
    pack(run)
    assert order[:2] == ["results.json", "last.ckpt"] and "table.csv" in order[2:]


@pytest.mark.parametrize("writes", range(8))
def test_a_cut_never_leaves_a_checkpoint_without_its_tables(
    writes: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, whole = tmp_path / "other", pack(run)
    write, left = Path.write_bytes, [writes]

    def breaking(path: Path, content: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError("cut")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", breaking)
    if writes < len(whole.files):
        with pytest.raises((OSError, UserError)):
            unpack(whole, other)
    else:
        unpack(whole, other)
    there = set(stamps(other)) if other.exists() else set()
    model = {name for name in there if name.startswith(parcel.MODEL)}
    assert len(model) in (0, 2)  # a run takes a model's folder as it is
    others = {name for name in whole.files if name not in parcel.LATE}
    assert "checkpoint/last.ckpt" not in there or others <= there
    assert "result/results.json" not in there or there == set(whole.files)
    monkeypatch.undo()
    unpack(whole, other)  # the same again, once the machine is back
    assert set(whole.files) <= set(stamps(other))
