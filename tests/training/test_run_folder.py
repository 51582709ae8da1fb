"""Run folders under simultaneous starts."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from offlinerlkit_damo.config import resolve
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.training import run_folder

PROCESSES = 100


def start_one(number: int, config: Any, barrier: Any) -> None:
    barrier.wait()
    folder = run_folder.make_run_folder(config)
    with run_folder.locked(folder), run_folder.recorded(folder, {"number": number}):
        barrier.wait()  # all runs are going on at the same time


def test_a_hundred_starts_at_once_have_a_hundred_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder.time, "strftime", lambda *_: "26-0101-000000")  # all within one second, however slow the machine
    config = resolve({"task": "hopper-medium", "logdir": str(tmp_path), "seed": 3})
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(PROCESSES)
    processes = [context.Process(target=start_one, args=(number, config, barrier)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    folders = list((tmp_path / "hopper-medium" / "damo").iterdir())
    numbers = sorted(json.loads((folder / "run.json").read_text())["number"] for folder in folders)
    assert numbers == list(range(PROCESSES)) and all(folder.name.startswith("seed_3&timestamp_") for folder in folders)


def test_a_folder_has_one_process_and_says_why_it_ended(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"config": {}}
    with (
        run_folder.locked(tmp_path),
        run_folder.recorded(tmp_path, facts),
        pytest.raises(UserError, match="another process is working on"),
        run_folder.locked(tmp_path),
    ):
        raise AssertionError("two processes in one folder")
    with pytest.raises(ZeroDivisionError), run_folder.recorded(tmp_path, facts):
        raise ZeroDivisionError("x")
    parts = run_folder.read_facts(tmp_path)["parts"]
    assert [part["exit"] for part in parts] == ["finished", "ZeroDivisionError('x')"]
    assert all(part["machine"] and part["started"] <= part["ended"] for part in parts)
