"""Kills a small run at random moments, again and again, resumes it each time, and compares it with an undisturbed one.

    python run_example/kill_test.py --kills 50

Every state in between must load; the end must have the same weights, evaluations and rows. Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from small_run import RUN, check_empty, train

from offlinerlkit_damo.config import MODEL_BASED
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import save_json
from offlinerlkit_damo.flags import Parser, run_command
from offlinerlkit_damo.training.checkpoint import LAST, read
from offlinerlkit_damo.training.run_folder import FACTS, is_finished, read_facts

STEPS = 20  # of an epoch


def environment(folder: Path) -> dict[str, str]:
    """A cache of its own for either run: what the first has trained must not help the second."""
    return {**os.environ, "OFFLINERLKIT_DAMO_CACHE": str(folder.absolute() / "cache")}


def the_run(folder: Path) -> Path | None:
    """The one run below a log folder; None where every one was killed before there was anything to continue."""
    return next((facts.parent for facts in folder.glob(f"*/*/seed_*/{FACTS}")), None)


def differences(first: Path, second: Path) -> list[str]:
    """What two finished runs do not share."""
    found = []
    tables = [pd.read_csv(run / "record" / "policy_training_progress.csv").drop(columns="eval/seconds") for run in (first, second)]
    if not tables[0].equals(tables[1].reindex(columns=tables[0].columns)):
        found.append("the rows of policy_training_progress.csv")
    weights = [torch.load(run / "model" / "policy.pth", weights_only=True) for run in (first, second)]
    found += [f"the weight {name}" for name, value in weights[0].items() if not torch.equal(value, weights[1][name])]
    return found


def undisturbed(command: Sequence[str], folder: Path) -> float:
    """Run a command to its end; returns the seconds until its run had a row."""
    start, first = time.monotonic(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment(folder))
    while process.poll() is None:
        if not first and any(folder.glob("*/*/seed_*/record/policy_training_progress.csv")):
            first = time.monotonic() - start
        time.sleep(0.05)
    if process.returncode != 0:
        raise UserError(f"the undisturbed run ended with code {process.returncode}; see above")
    return first


def killed(command: Sequence[str], seconds: float, folder: Path, *, from_checkpoint: bool) -> bool:
    """Run a command and kill it after so long, counted from its start or from its next checkpoint; whether it was still running."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(folder))

    def checkpoints() -> list[int]:
        return [path.stat().st_mtime_ns for path in folder.glob(f"*/*/seed_*/checkpoint/{LAST}")]

    before = checkpoints()
    while from_checkpoint and checkpoints() == before and process.poll() is None:
        time.sleep(0.01)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    if process.returncode != 0:
        raise UserError(f"a run ended with code {process.returncode} instead of being killed; see {' '.join(command)}")
    return False


def main(argv: Sequence[str]) -> None:
    """Run the test and print, and write, how it went."""
    parser: argparse.ArgumentParser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how often to kill [50]")
    parser.add_argument("--epoch", type=int, default=150, help="epochs of 20 steps [150]")
    parser.add_argument("--algo", choices=MODEL_BASED, default="damo", help="algorithm [damo]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments [0]")
    parser.add_argument("--out", type=Path, default=Path("kill_test"), help="folder for the runs, new or empty [kill_test]")
    arguments = parser.parse_args(argv)
    check_empty(arguments.out)
    whole, disturbed = arguments.out / "whole", arguments.out / "killed"
    flags = [*RUN, "--algo", arguments.algo, "--step-per-epoch", str(STEPS), "--rollout-freq", "7", "--epoch", str(arguments.epoch)]
    startup = undisturbed(train(*flags, "--logdir", str(whole)), whole)
    print(f"undisturbed run done; its first epoch came after {startup:.1f} s")

    moments, steps, finished = random.Random(arguments.seed), [], 0
    command = train(*flags, "--logdir", str(disturbed))
    for kill in range(arguments.kills):
        # every other kill may come before training has begun, the rest come in the middle of it
        early = kill % 2 == 0
        finished += not killed(command, moments.uniform(0, startup if early else 0.5), disturbed, from_checkpoint=not early)
        run = the_run(disturbed)
        if run is None:
            continue
        if is_finished(run):
            break
        read_facts(run)
        last = run / "checkpoint" / LAST
        steps.append(read(last)["state"]["timestep"] if last.exists() else 0)
        command = train("--resume", str(run))
        print(f"kill {kill + 1} of {arguments.kills}: the last checkpoint is of step {steps[-1]} of {STEPS * arguments.epoch}", flush=True)
    run = the_run(disturbed)
    if run is None or not is_finished(run):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment(disturbed))
    first, second = the_run(whole), the_run(disturbed)
    assert first is not None and second is not None  # both have come to their end
    found = differences(first, second)
    save_json({"kills": arguments.kills - finished, "checkpoints": steps, "differences": found}, arguments.out / "kill_test.json")
    print(f"{arguments.kills - finished} kills; " + ("equal to the undisturbed run" if not found else f"differs in {', '.join(found)}"))
    if found:
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(main)
