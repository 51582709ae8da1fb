"""Work on static tensors that is launched at once: a CUDA graph where there is a GPU, the plain call elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch

WARM_UP = 3
"""Calls of each kind before the capture: libraries allocate, and autograd makes its buffers, in the first ones."""


class Captured:
    """`work(*key)`, which must read and write tensors that stay where they are, return nothing and never wait for the device.

    On a CUDA device the first calls of each key run as they are, on a stream of their own; then the work is captured, and replayed from
    there on. On any other device, and with `enabled` False, every call is plain. All graphs share their memory: none may leave a result
    in a tensor that it made itself.
    """

    def __init__(self, work: Callable[..., None], device: torch.device, *, enabled: bool = True) -> None:
        self._work = work
        self.enabled = enabled and device.type == "cuda"
        self._calls: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._stream: Any = torch.cuda.Stream(device) if self.enabled else None
        self._pool: Any = None

    def __call__(self, *key: Any) -> None:
        if not self.enabled:
            self._work(*key)
        elif key in self._graphs:
            self._graphs[key].replay()
        elif self._calls.setdefault(key, 0) < WARM_UP:
            self._calls[key] += 1
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._work(*key)
            torch.cuda.current_stream().wait_stream(self._stream)
        else:
            graph = torch.cuda.CUDAGraph()
            # the capture itself computes nothing: the replay below is this call's work
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                self._work(*key)
            self._pool = graph.pool()
            self._graphs[key] = graph
            graph.replay()
