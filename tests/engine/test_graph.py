"""Captured: the order of plain calls, capture and replays, with stand-ins for CUDA's objects; the plain call without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from offlinerlkit_damo.engine.graph import WARM_UP, Captured


def test_without_a_gpu_every_call_is_plain() -> None:
    calls: list[Any] = []
    captured = Captured(lambda *key: calls.append(key), torch.device("cpu"))
    for key in ((1, True), (0, False), (1, True)):
        captured(*key)
    assert calls == [(1, True), (0, False), (1, True)] and not captured.enabled


def test_each_key_is_warmed_up_captured_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a capture nothing is computed: only what runs plainly or is replayed counts as a step."""
    done: list[Any] = []
    capturing: list[Any] = []
    pools: list[Any] = []

    class Graph:
        key: Any = None

        def replay(self) -> None:
            done.append(self.key)

        def pool(self) -> str:
            return "the pool"

    @contextmanager
    def graph(made: Graph, pool: Any, stream: Any) -> Iterator[None]:
        pools.append(pool)
        capturing.append(made)
        yield
        capturing.pop()

    def work(*key: Any) -> None:
        if capturing:
            capturing[-1].key = key
        else:
            done.append(key)

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes = {"Stream": lambda device: stream, "stream": lambda s: nullcontext(), "current_stream": lambda: stream, "CUDAGraph": Graph}
    for name, fake in {**fakes, "graph": graph}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    captured = Captured(work, torch.device("cuda"))
    wanted = [("a",), ("b",)] * (WARM_UP + 4)
    for key in wanted:
        captured(*key)
    assert done == wanted
    assert pools == [None, "the pool"]
    plain = Captured(work, torch.device("cuda"), enabled=False)
    plain("c")
    assert done[-1] == ("c",) and len(pools) == 2
