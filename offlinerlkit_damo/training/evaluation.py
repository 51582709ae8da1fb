"""Evaluation in worker processes, so that training does not wait for the simulator."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import Task, make_d4rl_env, make_env
from offlinerlkit_damo.training.saved import SavedPolicy
from offlinerlkit_damo.training.trainer import play_episodes

Weights = Mapping[str, NDArray[Any]]
Episodes = tuple[NDArray[np.float64], NDArray[np.int64]]
KILLED = "a process that evaluates was killed, perhaps for its memory; --resume goes on from the last checkpoint"


class Evaluators:
    """A pool of single-threaded processes that play episodes; a context manager that ends them.

    Args:
        workers: processes at most; they start with the first evaluation.
    """

    def __init__(self, workers: int) -> None:
        # not forked: the threads of torch and of a CUDA context do not survive that
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start)

    def submit(self, actor: Mapping[str, Tensor], task: Task, env_backend: str, episodes: int) -> Future[Episodes]:
        """Play the deterministic policy of these weights ("actor.*", copied here) as a run's own evaluation does: returns and lengths."""
        weights = {name: value.detach().cpu().numpy().copy() for name, value in actor.items()}
        try:
            return self._pool.submit(_play, weights, task, env_backend, episodes)
        except BrokenProcessPool as error:
            raise UserError(KILLED) from error

    def __enter__(self) -> Evaluators:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            # a broken pool asks those that are left to end by SIGTERM, and waits for them
            for worker in list((self._pool._processes or {}).values()):
                worker.kill()
        self._pool.shutdown(cancel_futures=True)


def _start() -> None:
    torch.set_num_threads(1)
    for each in (signal.SIGINT, signal.SIGTERM):  # they come to every process of a terminal, or of a batch job; the training one decides
        signal.signal(each, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # a worker whose parent was killed would wait for work for ever


@cache
def _simulator(task: Task, env_backend: str) -> Any:
    return make_d4rl_env(task) if env_backend == "d4rl" else make_env(task)


def _play(weights: Weights, task: Task, env_backend: str, episodes: int) -> Episodes:
    policy = SavedPolicy({name: torch.from_numpy(value) for name, value in weights.items()}, task=task, algo_name=None)
    return play_episodes(policy.select_action, _simulator(task, env_backend), episodes)
