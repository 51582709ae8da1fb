"""A run of a comparison: the package's command line, in a process that ends when the one that started it does.

    python -m offlinerlkit_damo.compare.child PID train ...

PID is the starting process. However that ends, no run goes on without somebody who watches it: it checkpoints and stops, as on SIGTERM.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence

from offlinerlkit_damo.flags import run_command
from offlinerlkit_damo.training.stopping import StopRequest

INTERVAL = 1.0  # seconds


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(INTERVAL)
    if not StopRequest.asked:  # by who started it, perhaps: a second signal would quit without the checkpoint
        os.kill(os.getpid(), signal.SIGTERM)


def main(argv: Sequence[str]) -> None:
    """Run the command line after the starting process's number."""
    parent, *words = argv
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    # after the thread has begun to watch: the imports take seconds
    from offlinerlkit_damo.__main__ import main as command

    command(words)


if __name__ == "__main__":
    run_command(main)
