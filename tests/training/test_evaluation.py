"""The processes that evaluate for a fleet outlive what is meant for the training alone."""

from __future__ import annotations

import os
import signal
import time
from itertools import product

import pytest

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import get_task
from offlinerlkit_damo.training.evaluation import Evaluators


def test_evaluators_leave_a_stop_to_the_training_and_their_death_is_said() -> None:
    killed = "was killed, perhaps for its memory; --resume goes on from the last checkpoint"
    with pytest.raises(UserError, match=killed), Evaluators(2) as evaluators:
        pool = evaluators._pool
        workers = {future.result() for future in [pool.submit(_slow_pid) for _ in range(2)]}
        assert len(workers) == 2
        for worker, each in product(workers, (signal.SIGTERM, signal.SIGINT)):
            os.kill(worker, each)
        assert {future.result() for future in [pool.submit(_slow_pid) for _ in range(2)]} == workers
        os.kill(min(workers), signal.SIGKILL)
        for _ in range(600):  # until the pool has seen it
            evaluators.submit({}, get_task("hopper-random"), "gymnasium", 1)
            time.sleep(0.1)


def _slow_pid() -> int:
    time.sleep(0.5)  # so that the other one takes the next
    return os.getpid()
