"""Stopping a run from outside: a signal or the end of its time, answered between two gradient steps."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from offlinerlkit_damo.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME = 1.0  # seconds within which signals are one: a batch system sends it to every process, and who started this one passes it on


class StopRequest:
    """Inside a `with` block, SIGINT and SIGTERM raise Stopped, or once `gentle` is set ask for a stop; a later second one quits at once.

    `max_minutes` asks for one as well, counted from the construction. Signals are the main thread's: elsewhere only the time counts. `when`
    ends the sentence of a stop that is raised.
    """

    asked = False
    """Whether a signal has come to any of them."""

    def __init__(self, max_minutes: float | None = None, *, when: str = " before the first step") -> None:
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.gentle = False
        """Whether the signals are asked about between steps. Before the first step there is nothing to save."""
        self._when = when
        self._signal: int | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            if time.monotonic() - self._since > SAME:
                os._exit(128 + number)
            return
        self._signal, self._since, StopRequest.asked = number, time.monotonic(), True
        if not self.gentle:
            raise Stopped(f"stopped by {signal.Signals(number).name}{self._when}", code=128 + number)
        print("stopping after this step, with a checkpoint; once more to quit at once", file=sys.stderr, flush=True)

    def __call__(self) -> Stopped | None:
        """The reason to stop, if there is one."""
        if self._signal is not None:
            return Stopped(f"stopped by {signal.Signals(self._signal).name}", code=128 + self._signal)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return Stopped("stopped at the end of --max-minutes", code=0)
        return None
