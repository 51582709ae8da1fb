"""Trains for very many tiny steps and watches the process: its memory and its open files must stay what they were.

    python run_example/soak_test.py --steps 200000

Evaluations, checkpoints, rollouts and logging go on as in any run. Exits with 1 if either has grown between the first quarter and the end.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from small_run import RUN, check_empty, train

from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import save_json
from offlinerlkit_damo.flags import Parser, run_command

INTERVAL = 1.0  # seconds between looks at the process
MAX_GROWTH = 8.0  # MB: the rows of 200 epochs, kept for the results, are under one


def watch(command: Sequence[str]) -> list[tuple[float, int]]:
    """Run a command to its end; its resident memory in MB and number of open files, once every `INTERVAL`."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    seen = []
    own = psutil.Process(process.pid)
    while True:
        try:
            process.wait(INTERVAL)
            break
        except subprocess.TimeoutExpired:
            seen.append((own.memory_info().rss / 1e6, own.num_fds()))
    if process.returncode != 0:
        raise UserError(f"the run ended with code {process.returncode}; see above")
    return seen


def main(argv: Sequence[str]) -> None:
    """Run the test and print, and write, what was seen."""
    parser: argparse.ArgumentParser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200_000, help="gradient steps, in thousands [200000]")
    parser.add_argument("--out", type=Path, default=Path("soak_test"), help="folder for the run, new or empty [soak_test]")
    arguments = parser.parse_args(argv)
    if arguments.steps < 1000 or arguments.steps % 1000:
        raise UserError(f"--steps {arguments.steps} is not a multiple of 1000")
    check_empty(arguments.out)
    length = ["--step-per-epoch", "1000", "--rollout-freq", "250", "--epoch", str(arguments.steps // 1000)]
    seen = np.array(watch(train(*RUN, *length, "--logdir", str(arguments.out))))
    if len(seen) < 40:
        raise UserError(f"the run took {len(seen)} s, too short to tell; give more --steps")
    quarters = np.array_split(seen, 4)
    memory, files = [part[:, 0].max() for part in quarters], [int(part[:, 1].max()) for part in quarters]
    print("quarter   peak memory   most open files")
    for i, (size, number) in enumerate(zip(memory, files, strict=True)):
        print(f"{i + 1:7d}   {size:8.1f} MB   {number:15d}")
    # the first quarter holds the training of the model and the start
    grown = memory[3] - memory[1] > MAX_GROWTH or files[3] > files[1]
    save_json({"steps": arguments.steps, "seconds": len(seen) * INTERVAL, "memory_mb": memory, "files": files}, arguments.out / "soak.json")
    print("grown" if grown else f"flat over {arguments.steps} steps")
    if grown:
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(main)
