"""The processes that evaluate for a fleet outlive what is meant for the training alone."""

from __future__ import annotations

import os
import signal
import time

import pytest

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.tasks import get_task
from offlinerlkit_damo.training.evaluation import Evaluators


def test_evaluators_leave_a_stop_to_the_training_and_their_death_is_said() -> None:
    with Evaluators(1) as evaluators:
        pool = evaluators._pool
        worker = pool.submit(os.getpid).result()
        for each in (signal.SIGTERM, signal.SIGINT):
            os.kill(worker, each)
        assert pool.submit(os.getpid).result() == worker
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(UserError, match="was killed, perhaps for its memory; --resume goes on from the last checkpoint"):
            for _ in range(600):  # until the pool has seen it
                evaluators.submit({}, get_task("hopper-random"), "gymnasium", 1)
                time.sleep(0.1)
