"""D4RL's files: found where they lie, else fetched; the server is a loopback one that fails in every way that servers do."""

from __future__ import annotations

import errno
import http.server
import io
import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import d4rl_dataset, get_task, resolve_dataset
from offlinerlkit_damo.tasks import download as downloading

NAME = "hopper_medium_replay-v2.hdf5"
TASK = get_task("hopper-medium-replay-v2")


def d4rl_bytes(rows: int = 40) -> bytes:
    """A small file in D4RL's format."""
    buffer, rng = io.BytesIO(), np.random.default_rng(0)
    with h5py.File(buffer, "w") as file:
        file["observations"] = rng.normal(size=(rows, 11)).astype("f4")
        file["next_observations"] = rng.normal(size=(rows, 11)).astype("f4")
        file["actions"] = rng.uniform(-1, 1, (rows, 3)).astype("f4")
        file["rewards"] = rng.normal(size=rows).astype("f4")
        file["terminals"] = np.zeros(rows, bool)
        file["timeouts"] = np.arange(rows) % 10 == 9
        file["metadata/algorithm"] = np.bytes_("SAC")
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at /NAME; `cuts` are the bytes after which successive answers break off."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = d4rl_bytes()
        self.cuts: list[int] = []
        self.ranges = True
        self.surplus = b""
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.path != f"/{NAME}":
            self.send_error(404)
            return
        content = self.server.content
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.wfile.write(content[start : start + cut] + self.server.surplus)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OFFLINERLKIT_DAMO_D4RL_URL", server.url)
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    yield server
    server.shutdown()
    server.server_close()


def fetch() -> Path:
    return d4rl_dataset(TASK, progress=False)


def left(path: Path) -> set[str]:
    return {file.name for file in path.iterdir() if not file.name.endswith(".lock")}


def test_fetched_once_and_read(server: Server, tmp_path: Path) -> None:
    data = resolve_dataset("hopper-medium-replay-v2", progress=False)
    assert (len(data), data.obs_dim, data.name) == (40, 11, "hopper-medium-replay")
    assert fetch().read_bytes() == server.content and left(tmp_path / "d4rl") == {NAME}
    assert server.asked == [None]


def test_a_file_that_is_there_is_not_fetched(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d4rl").mkdir()
    (tmp_path / "d4rl" / NAME).write_bytes(d4rl_bytes(20))
    assert len(resolve_dataset("hopper-medium-replay-v2", progress=False)) == 20
    monkeypatch.delenv("D4RL_DATASET_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    home = tmp_path / ".d4rl" / "datasets"
    home.mkdir(parents=True)
    (home / NAME).write_bytes(d4rl_bytes(30))
    assert len(resolve_dataset("hopper-medium-replay-v2", progress=False)) == 30
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "another"))  # without it: the usual folder is looked at, too
    assert fetch() == home / NAME and not (tmp_path / "another").exists()
    assert server.asked == []


def test_cut_connections_are_continued(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000, 500, 2000]
    assert fetch().read_bytes() == server.content
    assert server.asked == [None, "bytes=1000-", "bytes=1500-", "bytes=3500-"]


def test_a_later_call_continues_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000, 0, 0, 0]
    with pytest.raises(UserError, match=r"1000 bytes are kept .*; put the file http.*D4RL_DATASET_DIR.*--task hopper-medium-replay,"):
        fetch()
    assert left(tmp_path / "d4rl") == {NAME + ".part"}
    assert fetch().read_bytes() == server.content and server.asked[-1] == "bytes=1000-"


def test_a_server_without_ranges_starts_again(server: Server) -> None:
    server.cuts, server.ranges = [1000], False
    assert fetch().read_bytes() == server.content


def test_a_range_other_than_the_one_asked_for_is_not_appended(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.cuts, server.ranges = [1000], False
    send = Handler.send_response

    def partial(handler: Handler, code: int) -> None:
        send(handler, 206)
        handler.send_header("Content-Range", f"bytes 0-{len(server.content) - 1}/{len(server.content)}")

    monkeypatch.setattr(Handler, "send_response", partial)
    assert fetch().read_bytes() == server.content and server.asked == [None, "bytes=1000-"]


@pytest.mark.parametrize("length", ["many", "-5"])
def test_a_length_that_is_no_number_is_none(server: Server, length: str, monkeypatch: pytest.MonkeyPatch) -> None:
    send = Handler.send_header
    monkeypatch.setattr(Handler, "send_header", lambda self, key, value: send(self, key, length if key == "Content-Length" else value))
    assert fetch().read_bytes() == server.content


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "d4rl").mkdir()
    (tmp_path / "d4rl" / (NAME + ".part")).write_bytes(bytes(len(server.content) + 10))
    assert fetch().read_bytes() == server.content


@pytest.mark.parametrize("content", [b"<html>be right back</html>", d4rl_bytes()[:3000]])
def test_what_is_no_dataset_is_deleted(server: Server, tmp_path: Path, content: bytes) -> None:
    server.content = content
    with pytest.raises(UserError, match=r"is no HDF5 file.*deleted"):
        fetch()
    assert left(tmp_path / "d4rl") == set()


def test_another_hdf5_file_is_deleted(server: Server, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["observations"] = np.zeros(3)
    server.content = buffer.getvalue()
    with pytest.raises(UserError, match="lacks actions, rewards, terminals"):
        fetch()
    assert left(tmp_path / "d4rl") == set()


def test_missing_files_and_hosts_name_address_and_folder(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = f"put the file {server.url}/hopper_random-v2.hdf5 into {tmp_path / 'd4rl'} yourself"
    with pytest.raises(UserError, match=rf"answers 404 .*{where}"):
        d4rl_dataset(get_task("hopper-random-v2"), progress=False)
    monkeypatch.setenv("OFFLINERLKIT_DAMO_D4RL_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"cannot fetch http://127.0.0.1:9/.* \(.*refused.*\); 0 bytes are kept"):
        fetch()


def test_a_full_disk_keeps_what_came(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = downloading.os.replace

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloading.os, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        fetch()
    monkeypatch.setattr(downloading.os, "replace", replace)
    assert left(tmp_path / "d4rl") == {NAME + ".part"}
    assert fetch().read_bytes() == server.content
    assert server.asked == [None, f"bytes={len(server.content)}-"]  # answered with: that is all there is


def _fetch_into(results: Any) -> None:
    results.put(len(fetch().read_bytes()))


def test_two_processes_take_turns(server: Server) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_fetch_into, args=(results,)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=30) for _ in processes] == [len(server.content)] * 4
    for process in processes:
        process.join(30)
    assert server.asked == [None]


def test_a_task_without_generated_data_does_not_promise_it(server: Server) -> None:
    with pytest.raises(UserError) as caught:
        d4rl_dataset(get_task("hopper-full-replay-v2"), progress=False)
    assert "generated here" not in str(caught.value)


def test_the_command_fetches_and_tells_the_kinds_apart(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    from offlinerlkit_damo.__main__ import main

    main(["data", "fetch", "hopper-medium-replay-v2"])
    assert "40 of 40 transitions" in capsys.readouterr().out
    for wrong, right in (("fetch hopper-medium", "data make hopper-medium"), ("make hopper-medium-v2", "data fetch hopper-medium-v2")):
        with pytest.raises(UserError, match=right):
            main(["data", *wrong.split()])
    main(["data", "list"])
    assert "hopper-full-replay-v2" in capsys.readouterr().out
